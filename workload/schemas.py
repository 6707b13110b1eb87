"""The bodies of every request and answer of the API, and what is refused in them.

Text may hold neither NUL nor lone surrogates, which PostgreSQL and UTF-8 refuse: the pattern keeps out the first,
pydantic itself the second. Types are strict (``"2"`` is no number, ``true`` no integer); unknown keys are ignored.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

MAX_SECONDS = 60.0

NO_NUL = r"^[^\x00]*$"

Message = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=NO_NUL)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=MAX_SECONDS)]

ProbeWork = Literal["io", "blocking", "cpu", "async_blocking", "fail", "crash"]


def _mailbox(value: str) -> str:
    """Return an address that any mail server takes: one recipient, an ASCII name, the domain in its ASCII form."""
    try:
        address = validate_email(value, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError as error:
        raise ValueError(str(error)) from error
    return address.ascii_email or value


Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254, pattern=NO_NUL),
    AfterValidator(_mailbox),
    Field(json_schema_extra={"format": "email"}),
]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)


class Action(_Request):
    """Body of ``POST /action``."""

    message: Message


class Registration(_Request):
    """Body of ``POST /register``."""

    email: Email
    username: Name


class Steps(_Request):
    """Body of ``POST /multi-tasks``: which of the three steps shall fail, if any."""

    fail_step: Annotated[int, Field(ge=1, le=3)] | None = None


class AsyncTask(_Request):
    """Body of ``POST /async-task``."""

    name: Name
    seconds: Seconds = 2.0


class ChatMessage(_Request):
    """Body of ``POST /chat``."""

    user_id: UserId
    message: Message


class Probe(_Request):
    """Body of ``POST /probe``: what the task does, and for how long."""

    work: ProbeWork
    seconds: Seconds


class TasksAccepted(BaseModel):
    """Answer of ``POST /probe``: the ids of the tasks, in order."""

    task_ids: list[UUID]


class ActionAccepted(TasksAccepted):
    """Answer of ``POST /action``."""

    status: str


class MessageAccepted(TasksAccepted):
    """Answer of ``POST /register``, ``/multi-tasks`` and ``/async-task``."""

    message: str


class UploadAccepted(MessageAccepted):
    """Answer of ``POST /upload``."""

    document_id: UUID


class DocumentStatus(BaseModel):
    """Answer of ``GET /documents/{id}``: ``error`` is a reason that a user understands, where it failed."""

    status: Literal["processing", "ready", "failed"]
    chunks: int
    error: str | None


class Source(BaseModel):
    """Where a passage of an answer stands: the ``position``-th passage of a document, from 0."""

    document_id: UUID
    name: str
    position: int
    similarity: float
    text: str


class Answer(BaseModel):
    """An answer from the documents: the best passage, and the passages it rests on; none if nothing is known."""

    response: str
    sources: list[Source]


class ChatAccepted(Answer):
    """Answer of ``POST /chat``."""

    task_ids: list[UUID]


class Turn(BaseModel):
    """One logged turn of a conversation."""

    user_id: str
    message: str
    response: str
    timestamp: datetime


class Nothing(BaseModel):
    """Answer of the bystanders ``GET /ping/loop`` and ``GET /ping/thread``: ``{}``."""


class Refusal(BaseModel):
    """What is wrong with a request, or which server is away, in one sentence."""

    detail: str


Health = dict[str, Literal["up", "down"]]
