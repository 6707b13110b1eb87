"""Uploads: a file is taken in whole or not at all, and leaves nothing behind when its request is refused."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from fastapi import HTTPException, UploadFile
from fastapi.concurrency import run_in_threadpool

from webapi.refusals import NotHandedOver, invalid
from workload import documents
from workload.settings import settings
from workload.store import storable, store

MAX_FILE_BYTES = 10 * 1024 * 1024


@asynccontextmanager
async def filed(document_id: UUID, task_id: UUID, file: UploadFile) -> AsyncIterator[Path]:
    """Store an upload's file and its document, and yield the file's path for the work to be handed over.

    Raises what refuses the upload (413, 415, 422, StoreUnavailable). If the work was surely not handed over, file
    and document are removed again; if that is not known they stay, since the task may run.
    """
    await _check(file)
    upload = str(uuid4())
    # The client's file name is a label in the database, never a path.
    path = settings().data_dir.absolute() / "uploads" / upload
    try:
        await run_in_threadpool(_keep, file.file, path)
        await store().create_document(document_id, task_id, file.filename or "", upload)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    try:
        yield path
    except NotHandedOver:
        path.unlink(missing_ok=True)
        await store().discard_document(document_id, upload)
        raise


async def _check(file: UploadFile) -> None:
    """Raise where a file is too large, empty or of no kind that can be read, or its name cannot be stored."""
    if file.filename and storable(file.filename) != file.filename:
        raise invalid("file", "The file's name has a character that cannot be stored.")
    if file.size is None or file.size > MAX_FILE_BYTES:
        raise HTTPException(413, f"The file is larger than {MAX_FILE_BYTES} bytes.")
    try:
        await run_in_threadpool(documents.sniff, file.file)
    except documents.EmptyFileError as error:
        raise invalid("file", str(error)) from error
    except documents.UnknownKindError as error:
        raise HTTPException(415, str(error)) from error


def _keep(file: BinaryIO, path: Path) -> None:
    with path.open("wb") as kept:
        shutil.copyfileobj(file, kept)
