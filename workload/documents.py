"""Documents: what kind a file is, judged by its content, and how it becomes searchable."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from workload import embeddings
from workload.embeddings import Vectors
from workload.extract import OLE_MAGIC, DocumentError, Kind, extract
from workload.store import StoreUnavailable, storable, store

__all__ = ["DocumentError", "EmptyFileError", "UnknownKindError", "process", "sniff", "split"]

CHUNK_CHARS = 400
CHINESE_WEIGHT = 4  # a Chinese character says about as much as four letters
MAX_CHUNKS = 5_000  # a book of two million characters

TOO_MANY_CHUNKS = f"The document is too long: it has more than {MAX_CHUNKS:,} passages."
NO_TEXT = "The document has no text (a scanned page is a picture, not text)."

AT_ONCE = 2  # documents read and embedded at the same time in one process; each may take extract.CHILD_MEMORY_BYTES

BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # the control characters that no text has
# One way to match only, or what almost matches would be tried for ever: a comment ends at its first "-->".
HTML = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--(?:(?!-->).)*-->\s*)*<(!doctype\s+html|(html|head|body|title|meta|h1|div|p|table)[\s>/])",
    re.IGNORECASE | re.DOTALL,
)
ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")

# Between sentences, and at line ends; Chinese sentences have no space between them.
BOUNDARY = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])|\n")
CHINESE = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")
SPACE_IN_CHINESE = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])")


class EmptyFileError(Exception):
    """The file has no content."""


class UnknownKindError(Exception):
    """The file is of no kind that can be parsed."""


def sniff(file: BinaryIO) -> Kind:
    """Return a file's kind by its content, never by its name. Raises EmptyFileError or UnknownKindError, with a reason.

    ``file`` is a whole upload, open and seekable; it is read, and left at its start. This takes milliseconds, but reads
    a disk: call it in a thread. Whether the file can be read is for `process` to find out.
    """
    file.seek(0)
    data = file.read()
    file.seek(0)
    if not data:
        raise EmptyFileError("The file is empty.")
    if kind := _binary_kind(data):
        return kind
    if not _is_text(data):
        raise UnknownKindError("The file is none of: PDF, Word document (DOCX), HTML, Markdown, plain text.")
    head = data[:4096]
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return "html" if HTML.match(head.decode(encoding, errors="replace")) else "text"


def _binary_kind(data: bytes) -> Kind | None:
    """Return the kind that a file's first bytes announce, if it is one of ours."""
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-"):
        return "pdf"
    if data.startswith(b"PK\x03\x04") and b"word/document" in data:
        return "docx"
    # An encrypted Word document is no zip: it lies in an OLE container.
    if data.startswith(OLE_MAGIC) and ENCRYPTED_PACKAGE in data:
        return "docx"
    return None


def _is_text(data: bytes) -> bool:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 is full of NULs
        try:
            return "\x00" not in data.decode("utf-16")
        except UnicodeDecodeError:
            return False
    return BINARY.search(data) is None and not data.startswith((b"{\\rtf", b"PK\x03\x04"))


def split(text: str) -> list[str]:
    """Return a text in chunks of at most CHUNK_CHARS letters, or the like in Chinese, cut between sentences."""
    chunks: list[str] = []
    sentences: list[str] = []
    length = 0
    for sentence in _sentences(text):
        if sentences and length + _length(sentence) > CHUNK_CHARS:
            chunks.append(" ".join(sentences))
            sentences, length = [], 0
        sentences.append(sentence)
        length += _length(sentence) + 1
    chunks.append(" ".join(sentences))
    return [SPACE_IN_CHINESE.sub("", chunk) for chunk in chunks if chunk]


def _length(text: str) -> int:
    return len(text) + (CHINESE_WEIGHT - 1) * len(CHINESE.findall(text))


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, cut where they are longer than a chunk."""
    for sentence in BOUNDARY.split(text):
        words = " ".join(sentence.split())
        limit = CHUNK_CHARS // CHINESE_WEIGHT if CHINESE.search(words) else CHUNK_CHARS
        for start in range(0, len(words), limit):
            yield words[start : start + limit]


async def process(document_id: UUID, path: Path) -> None:
    """Make an uploaded file searchable, as `workload.jobs.process_document` says."""
    try:
        await _make_searchable(document_id, path)
    except (StoreUnavailable, asyncio.CancelledError):
        raise
    except Exception:
        _remove(path)
        raise
    _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _make_searchable(document_id: UUID, path: Path) -> None:
    try:
        chunks, vectors = await asyncio.get_running_loop().run_in_executor(_threads(), _read, path)
        await store().store_chunks(document_id, chunks, vectors)
    except FileNotFoundError:
        await _find_done(document_id)
    except StoreUnavailable:
        raise
    except DocumentError as error:
        await store().fail_document(document_id, str(error))
        raise
    except Exception:
        await store().fail_document(document_id, "The document could not be processed: an error of ours, not of yours.")
        raise


def _read(path: Path) -> tuple[list[str], Vectors]:
    """Return a file's chunks and their vectors. Raises DocumentError, or FileNotFoundError."""
    with path.open("rb") as file:
        try:
            kind = sniff(file)
        except (EmptyFileError, UnknownKindError) as error:
            raise DocumentError(str(error)) from error
    chunks = split(storable(extract(path, kind)))
    if not chunks:
        raise DocumentError(NO_TEXT)
    if len(chunks) > MAX_CHUNKS:
        raise DocumentError(TOO_MANY_CHUNKS)
    return chunks, embeddings.embed(chunks)


async def _find_done(document_id: UUID) -> None:
    """Judge a task whose file is gone: an earlier attempt has removed it, and its outcome stands."""
    document = await store().document(document_id)
    if document is not None and document.status == "ready":
        return
    if document is not None and document.status == "failed":
        raise DocumentError(document.error)
    reason = "The uploaded file is gone."
    await store().fail_document(document_id, reason)
    raise DocumentError(reason)


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads that read documents: not the loop's own, where a slow document would hold up the chats."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="documents")


# Threads do not survive a fork, an executor that counts on them would wait for ever.
_forget: Callable[[], None] = _threads.cache_clear
os.register_at_fork(after_in_child=_forget)
