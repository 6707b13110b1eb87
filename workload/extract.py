"""The text of a file: PDF, DOCX, HTML, Markdown and plain text.

Hostile files are bounded in memory and time. What could need much more memory than it has bytes is read by this module
run as a program, a short-lived child with resource limits: PDFium unpacks 3 GB from a PDF of 2 MB, an HTML tree takes
150 times its source. PDFium is not thread-safe either; a process of its own needs no lock.
"""

import codecs
import ctypes
import io
import re
import resource
import signal
import subprocess
import sys
import zipfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

Kind = Literal["pdf", "docx", "html", "text"]

MAX_CHARS = 800_000  # a book of 400 pages
MAX_PAGES = 5_000
MAX_PARTS = 10_000  # of a DOCX
MAX_UNPACKED_BYTES = 100 * 2**20
IN_PROCESS_HTML_BYTES = 64 * 2**10  # a tree of 10 MB at most, in 0.2 s
IN_PROCESS_DOCX_BYTES = 2**20  # unpacked

CHILD_MEMORY_BYTES = 512 * 2**20
CHILD_CPU_S = 10
CHILD_WALL_S = 30.0
REFUSED = 3  # the child's exit status when its output is a reason and not a text

TOO_LONG = f"The document is too long: it has more than {MAX_CHARS:,} characters of text."
TOO_COSTLY = "The document takes too much memory or time to read."
PASSWORD = "The document is protected by a password."  # noqa: S105 - a sentence
UNPACKS_TOO_MUCH = f"The document is too large: it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB."

BROKEN_DOCX = "The Word document is broken, or its XML takes too much memory to read."  # lxml does not say which

OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
PR_SET_PDEATHSIG = 1


class DocumentError(Exception):
    """A document cannot be made searchable; the message is a reason that its user understands."""


def load() -> None:
    """Import what `extract` reads with in this process; a child imports only what its kind needs."""
    import docx  # noqa: F401
    import selectolax.lexbor  # noqa: F401

    _decode_by_detection("长城".encode("gb18030"))  # which tries the encodings, and so imports them
    for encoding in ("cp437", "utf-8-sig"):  # of zipfile, and of looking for tags
        codecs.lookup(encoding)


def extract(path: Path, kind: Kind) -> str:
    """Return the text of a file, at most MAX_CHARS.

    It takes a child process for a PDF and for what is large, 0.1 s; a few milliseconds otherwise. Raises DocumentError,
    or FileNotFoundError.
    """
    data = path.read_bytes()
    text = _in_child(data, kind) if _needs_child(data, kind) else read(data, kind)
    if len(text) > MAX_CHARS:
        raise DocumentError(TOO_LONG)
    return text


def read(data: bytes, kind: Kind) -> str:
    """Return the text of a file's bytes, in this process and without its limits. Raises DocumentError."""
    return {"pdf": _pdf_text, "docx": _docx_text, "html": _html_text, "text": _plain_text}[kind](data)


def decode(data: bytes) -> str:
    """Return text in the encoding that a byte order mark names, in UTF-8, or else in the detected one."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _decode_by_detection(data)


def _decode_by_detection(data: bytes) -> str:
    """Return a guess, the better the longer the text is: the Western encodings differ in a few letters only."""
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise DocumentError("The encoding of the text could not be recognised.")
    return str(best)


def _plain_text(data: bytes) -> str:
    if len(data) > 4 * MAX_CHARS:  # no encoding takes more bytes for a character
        raise DocumentError(TOO_LONG)
    return decode(data)


def _html_text(data: bytes) -> str:
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(_decode_html(data))
    page.strip_tags(["script", "style", "noscript", "template"])
    return page.root.text(separator="\n") if page.root is not None else ""


def _decode_html(data: bytes) -> str:
    """Return a page in the encoding that it declares, where it does."""
    declared = re.search(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]+)", data[:1024], re.IGNORECASE)
    if declared is not None and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        name = declared[1].decode("ascii", errors="replace").lower()
        with suppress(LookupError, UnicodeDecodeError):
            return data.decode("gb18030" if name in ("gb2312", "gbk") else name)
    return decode(data)


def _docx_text(data: bytes) -> str:
    from docx import Document
    from docx.oxml.ns import qn
    from docx.text.paragraph import Paragraph

    if data.startswith(OLE_MAGIC):
        raise DocumentError(PASSWORD)
    if _unpacked_bytes(data) > MAX_UNPACKED_BYTES:
        raise DocumentError(UNPACKS_TOO_MUCH)
    try:
        document = Document(io.BytesIO(data))
        paragraphs = document.element.body.iter(qn("w:p"))  # those in tables too
        return "\n".join(Paragraph(paragraph, document).text for paragraph in paragraphs)
    except MemoryError:
        raise
    except Exception as error:  # python-docx raises what zipfile, lxml and its own code come upon
        raise DocumentError(BROKEN_DOCX) from error


def _unpacked_bytes(data: bytes) -> int:
    """Return what the parts of a zip say they unpack to; zipfile reads no more of a part than it said."""
    if data.count(b"PK\x01\x02") > MAX_PARTS:  # before zipfile makes an object of each
        raise DocumentError(UNPACKS_TOO_MUCH)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise DocumentError(BROKEN_DOCX) from error


def _pdf_text(data: bytes) -> str:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        reason = PASSWORD if "password" in str(error).lower() else "The PDF is broken."
        raise DocumentError(reason) from error
    with pdf:
        if len(pdf) > MAX_PAGES:
            raise DocumentError(f"The PDF is too long: it has more than {MAX_PAGES:,} pages.")
        try:
            return _pages_text(pdf)
        except pypdfium2.PdfiumError as error:
            raise DocumentError("The PDF is broken.") from error


def _pages_text(pdf: Any) -> str:
    """Return the text of the pages, up to the first that exceeds MAX_CHARS."""
    texts: list[str] = []
    length = 0
    for number in range(len(pdf)):
        with closing(pdf[number]) as page, closing(page.get_textpage()) as text:
            texts.append(text.get_text_bounded())
            length += len(texts[-1])
        if length > MAX_CHARS:
            break
    return "\n\n".join(texts)


def _needs_child(data: bytes, kind: Kind) -> bool:
    if kind == "docx" and not data.startswith(OLE_MAGIC):
        return _unpacked_bytes(data) > IN_PROCESS_DOCX_BYTES
    return kind == "pdf" or (kind == "html" and len(data) > IN_PROCESS_HTML_BYTES)


def _in_child(data: bytes, kind: Kind) -> str:
    """Return what a child process reads, or raise its reason. It ends with this process, however that ends."""
    command = [sys.executable, "-P", __file__, kind]
    try:
        child = subprocess.run(command, input=data, capture_output=True, timeout=CHILD_WALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DocumentError(TOO_COSTLY) from error
    output = child.stdout.decode(errors="replace")
    if child.returncode == 0:
        return output
    raise DocumentError(output if child.returncode == REFUSED else TOO_COSTLY)


def _limit_this_process() -> None:
    """Bound this process's memory and CPU time, and let it die with its parent (where the system can)."""
    for limit, value in (
        (resource.RLIMIT_AS, CHILD_MEMORY_BYTES),
        (resource.RLIMIT_CPU, CHILD_CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(kind: Kind) -> int:
    """Read a file from standard input, write its text or why it has none; return the exit status."""
    _limit_this_process()
    try:
        text, status = read(sys.stdin.buffer.read(), kind)[: MAX_CHARS + 1], 0
    except DocumentError as error:
        text, status = str(error), REFUSED
    sys.stdout.buffer.write(text.encode(errors="ignore"))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))  # type: ignore[arg-type]
