"""Every endpoint; the work is run by Celery workers, to which it is handed before the response."""

from typing import Annotated
from uuid import UUID

from celery import chain
from fastapi import APIRouter, Depends, HTTPException, Path, UploadFile
from fastapi.responses import JSONResponse

from celery_app import broker_health, tasks
from celery_app.publisher import publish
from webapi import documented, health
from webapi.request_id import RequestId, check_request_id
from webapi.uploads import filed
from workload import answers, ids, jobs
from workload.journal import accepted
from workload.schemas import (
    Action,
    ActionAccepted,
    AsyncTask,
    ChatAccepted,
    ChatMessage,
    DocumentStatus,
    Health,
    MessageAccepted,
    Nothing,
    Probe,
    Registration,
    Steps,
    TasksAccepted,
    Turn,
    UploadAccepted,
    UserId,
)
from workload.settings import settings
from workload.store import store

router = APIRouter(dependencies=[Depends(check_request_id)])


@router.post("/action", status_code=202, responses=documented.WORK)
async def action(
    body: Action,
    request_id: RequestId,
) -> ActionAccepted:
    """Append one line to the action log."""
    (task_id,) = ids.task_ids(request_id, 1)
    await publish(tasks.write_log.si(body.message).set(task_id=str(task_id)))
    accepted(jobs.write_log, task_id)
    return ActionAccepted(status="accepted", task_ids=[task_id])


@router.post("/register", status_code=202, responses=documented.WORK)
async def register(
    body: Registration,
    request_id: RequestId,
) -> MessageAccepted:
    """Welcome a user by mail."""
    (task_id,) = ids.task_ids(request_id, 1)
    subject = f"Welcome, {body.username}"
    text = f"Hello {body.username}, your registration is complete."
    await publish(tasks.send_email.si(body.email, subject, text).set(task_id=str(task_id)))
    accepted(jobs.send_email, task_id)
    return MessageAccepted(message="A mail is on its way.", task_ids=[task_id])


@router.post("/multi-tasks", status_code=202, responses=documented.WORK)
async def multi_tasks(
    body: Steps,
    request_id: RequestId,
) -> MessageAccepted:
    """Do three steps strictly in order; a step that fails stops the later ones."""
    one, two, three = ids.task_ids(request_id, 3)
    step_1 = tasks.step.si(1, body.fail_step == 1).set(task_id=str(one))
    step_2 = tasks.step.si(2, body.fail_step == 2).set(task_id=str(two))
    step_3 = tasks.step.si(3, body.fail_step == 3).set(task_id=str(three))
    await publish(chain(step_1, step_2, step_3))
    accepted(jobs.step, one, two, three)
    return MessageAccepted(message="Three steps follow.", task_ids=[one, two, three])


@router.post("/async-task", status_code=202, responses=documented.WORK)
async def async_task(
    body: AsyncTask,
    request_id: RequestId,
) -> MessageAccepted:
    """Await for a while."""
    (task_id,) = ids.task_ids(request_id, 1)
    await publish(tasks.async_task.si(body.name, body.seconds).set(task_id=str(task_id)))
    accepted(jobs.async_task, task_id)
    return MessageAccepted(message="The task waits.", task_ids=[task_id])


@router.post("/upload", status_code=202, responses=documented.UPLOAD)
async def upload(
    file: UploadFile,
    request_id: RequestId,
) -> UploadAccepted:
    """Take in a document; its text becomes searchable in the background."""
    (task_id,) = ids.task_ids(request_id, 1)
    document_id = ids.document_id(request_id)
    async with filed(document_id, task_id, file) as path:
        await publish(tasks.process_document.si(str(document_id), str(path)).set(task_id=str(task_id)))
    accepted(jobs.process_document, task_id)
    return UploadAccepted(message="The document is being processed.", document_id=document_id, task_ids=[task_id])


@router.get("/documents/{document_id}", responses=documented.DOCUMENT)
async def document(document_id: UUID) -> DocumentStatus:
    """Return how far a document is."""
    found = await store().document(document_id)
    if found is None:
        raise HTTPException(404, "There is no document with this id.")
    return DocumentStatus(status=found.status, chunks=found.chunks, error=found.error)


@router.post("/chat", status_code=202, responses=documented.WORK)
async def chat(
    body: ChatMessage,
    request_id: RequestId,
) -> ChatAccepted:
    """Answer from the uploaded documents, and log the conversation."""
    (task_id,) = ids.task_ids(request_id, 1)
    answer = await answers.answer(body.message)
    await publish(tasks.log_conversation.si(body.user_id, body.message, answer.response).set(task_id=str(task_id)))
    accepted(jobs.log_conversation, task_id)
    return ChatAccepted(response=answer.response, sources=answer.sources, task_ids=[task_id])


@router.get("/conversations/{user_id:path}", responses=documented.CONVERSATIONS)
async def conversations(user_id: Annotated[UserId, Path()]) -> list[Turn]:
    """Return the logged turns of a user, oldest first."""
    return [Turn.model_validate(turn, from_attributes=True) for turn in await store().conversations(user_id)]


@router.post("/probe", status_code=202, responses=documented.PROBE)
async def probe(
    body: Probe,
    request_id: RequestId,
) -> TasksAccepted:
    """Run a task of known cost."""
    if body.work == "crash" and not settings().allow_crash:
        raise HTTPException(403, "A crash is only allowed where ALLOW_CRASH=1.")
    (task_id,) = ids.task_ids(request_id, 1)
    await publish(tasks.PROBES[body.work].si(body.seconds).set(task_id=str(task_id)))
    accepted(jobs.PROBES[body.work], task_id)
    return TasksAccepted(task_ids=[task_id])


@router.get("/ping/loop")
async def ping_loop() -> Nothing:
    """Do nothing, on the event loop."""
    return Nothing()


@router.get("/ping/thread")
def ping_thread() -> Nothing:
    """Do nothing, in a thread."""
    return Nothing()


@router.get("/health", response_model=Health, responses=documented.HEALTH)
async def get_health() -> JSONResponse:
    """Return what this app depends on, each up or down."""
    return health.report(await health.servers() | await broker_health.states())
