"""Documents: what kind a file is, by its content, and how it becomes searchable."""

from pathlib import Path
from typing import BinaryIO, Literal
from uuid import UUID

Kind = Literal["pdf", "docx", "html", "text"]


class EmptyFileError(Exception):
    """The file has no content: 422."""


class UnknownKindError(Exception):
    """The file is of no kind that can be parsed: 415."""


class DocumentError(Exception):
    """A document cannot be made searchable; the message is a reason that its user understands."""


def sniff(file: BinaryIO) -> Kind:
    """Return a file's kind by its content, never by its name. Raises EmptyFileError or UnknownKindError, with a reason.

    ``file`` is a whole upload of at most 10 MiB, open and seekable; it is read, and left at its start.
    Takes milliseconds, but reads a disk: call it in a thread.
    """
    raise NotImplementedError


async def process(document_id: UUID, path: Path) -> None:
    """Do what ``jobs.process_document`` says."""
    raise NotImplementedError
