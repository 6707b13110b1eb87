"""What kind a file is, what text it has, and how that is cut; hostile files are bounded."""

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import make_documents
from tests import hostile
from tests.support import alive, until
from workload import documents, extract
from workload.documents import CHUNK_CHARS, EmptyFileError, UnknownKindError, sniff, split
from workload.extract import DocumentError, Kind

SAMPLES = make_documents.make()
KINDS: dict[str, Kind] = {".pdf": "pdf", ".docx": "docx", ".html": "html", ".md": "text", ".txt": "text"}
TEXTS = {
    "tides.pdf": "Bay of Fundy",
    "tea.pdf": "西湖龙井",
    "bees.docx": "varroa mite",  # in a table
    "panda.docx": "竹林",
    "volcanoes.html": "Pompeii",
    "railway.html": "复兴号",
    "bread.md": "sourdough starter",
    "festival.md": "月饼",
    "lighthouse.txt": "Augustin Fresnel",
    "wall.txt": "烽火台",
}


def kind_of(data: bytes) -> Kind:
    """Return what `sniff` says of these bytes."""
    return sniff(io.BytesIO(data))


def text_of(data: bytes, tmp_path: Path) -> str:
    """Return the text of an upload with these bytes."""
    path = tmp_path / "upload"
    path.write_bytes(data)
    return extract.extract(path, kind_of(data))


def test_the_samples_in_the_repository_are_what_their_script_makes() -> None:
    """The same bytes, so that the script is their source."""
    kept = {path.name: path.read_bytes() for path in make_documents.DOCUMENTS.iterdir()}
    assert kept == SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_reads_every_sample(name: str, tmp_path: Path) -> None:
    """Five formats in English and Chinese, known by their content."""
    assert kind_of(SAMPLES[name]) == KINDS[Path(name).suffix]
    text = text_of(SAMPLES[name], tmp_path)
    assert TEXTS[name] in "".join(split(text))
    assert "not text" not in text


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"just text", "text"),
        (b"# Markdown with <b>tags</b>", "text"),
        (b"what starts with %PDF- is a PDF", "text"),
        (b"\xef\xbb\xbf<!DOCTYPE html><p>x", "html"),
        (b"<!-- a comment -->\n<html><p>x", "html"),
        (b"<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'/>", "html"),
        ("<html><p>欢迎".encode("utf-16"), "html"),
        ("欢迎".encode("utf-16"), "text"),
        ("Stra\xdfe".encode("latin-1"), "text"),
        (b"\r\n%PDF-1.4 broken", "pdf"),
        (hostile.docx(b""), "docx"),
        (hostile.docx(b"")[:-30], "docx"),
        (extract.OLE_MAGIC + documents.ENCRYPTED_PACKAGE, "docx"),
    ],
)
def test_knows_a_kind_by_its_content(data: bytes, kind: Kind) -> None:
    """Broken and encrypted files have a kind too; what is wrong with them is found when they are read."""
    assert kind_of(data) == kind


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\x7fELF\x02\x01\x01",
        b"text with a NUL\x00",
        b"PK\x03\x04 a zip of something else",
        b"PK\x05\x06" + b"\x00" * 18,
        extract.OLE_MAGIC + b"an old Word document",
        b"{\\rtf1 hello}",
        b"\xff\xfe\x00",
        "NUL \x00".encode("utf-16"),
        b"\x1f\x8b\x08\x00",
    ],
)
def test_refuses_what_it_cannot_parse(data: bytes) -> None:
    """Pictures, programs, archives and other word processors' files are none of ours."""
    with pytest.raises(UnknownKindError):
        kind_of(data)


def test_refuses_an_empty_file() -> None:
    """No bytes, no kind."""
    with pytest.raises(EmptyFileError):
        kind_of(b"")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5", "euc_kr"])
def test_detects_encodings(encoding: str, tmp_path: Path) -> None:
    """Text in the encodings of East Asia arrives as it was written."""
    text = {
        "euc_kr": "등대는 배에 위험을 알리기 위해 빛을 내는 건물이다. 밤에는 멀리서도 보인다.",
        "big5": "燈塔是位於海岸、港口或河道，用以指引船隻方向的建築物。夜間可以從很遠的地方看到。",
    }.get(encoding, "灯塔是位于海岸、港口或河道，用以指引船只方向的建筑物。夜间可以从很远的地方看到。")
    assert text_of((text * 3).encode(encoding), tmp_path) == text * 3


def test_detects_a_western_encoding(tmp_path: Path) -> None:
    """Umlauts of a Windows machine are umlauts."""
    text = "Die Fähre fährt täglich über den großen Fluß. Am Wochenende gibt es zusätzliche Fahrten für Ausflügler. "
    assert text_of(text.encode("cp1252"), tmp_path) == text


def test_believes_a_page_that_declares_its_encoding(tmp_path: Path) -> None:
    """Three characters are too few to detect anything by."""
    assert "欢迎" in text_of('<html><meta charset="GB2312"><p>欢迎</p>'.encode("gbk"), tmp_path)
    assert "caf\xe9" in text_of(b'<html><meta charset="no-such-thing"><p>caf\xc3\xa9</p>', tmp_path)


@given(st.text(max_size=3_000))
def test_cutting_keeps_every_word(text: str) -> None:
    """What is cut and put together again is the text, but for its spaces; no chunk is empty or too long."""
    chunks = split(text)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    assert all(chunk and len(chunk) <= CHUNK_CHARS for chunk in chunks)


def test_cuts_between_sentences() -> None:
    """A sentence that fits is not cut."""
    sentence = "A sentence of some words that is not so long. "
    assert all(chunk.endswith(".") for chunk in split(sentence * 50))
    assert all(chunk.endswith("。") for chunk in split("一个不太长的句子。" * 50))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7 and then nothing", "broken"),
        (SAMPLES["tides.pdf"][:700], "broken"),
        (hostile.docx(b"")[:-30], "broken"),
        (hostile.docx(b"<w:p>"), "broken"),
        (extract.OLE_MAGIC + documents.ENCRYPTED_PACKAGE, "password"),
        (hostile.endless_page_tree(), "broken"),
    ],
)
def test_says_why_it_cannot_read_a_file(data: bytes, reason: str, tmp_path: Path) -> None:
    """The reason is a sentence for the user."""
    with pytest.raises(DocumentError, match=reason):
        text_of(data, tmp_path)


def test_says_that_a_pdf_is_encrypted(tmp_path: Path) -> None:
    """A PDF with a user password is not broken."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, encrypt="secret")
    canvas.drawString(10, 10, "hidden")
    canvas.save()
    with pytest.raises(DocumentError, match="password"):
        text_of(file.getvalue(), tmp_path)


READ = """
import json, resource, sys
from pathlib import Path
from workload.documents import sniff
from workload.extract import DocumentError, extract

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
with path.open("rb") as file:
    kind = sniff(file)
try:
    reason = extract(path, kind)[:20]
except DocumentError as error:
    reason = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([reason, grown // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024]))
"""

COSTLY = extract.TOO_COSTLY


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (hostile.flate_bomb, COSTLY),
        (hostile.many_pages, "more than 5,000 pages"),
        (hostile.zip_bomb, extract.UNPACKS_TOO_MUCH),
        (hostile.tree_bomb, "too much memory"),
        (hostile.lying_zip, "broken"),
        (hostile.billion_laughs, "broken"),
        (hostile.many_parts, extract.UNPACKS_TOO_MUCH),
        (lambda: hostile.nested_tags(b"<b>"), COSTLY),
        (lambda: hostile.nested_tags(b"<b><p>"), COSTLY),
        (lambda: hostile.nested_tags(b"<p a b c d e f g h>"), COSTLY),
        (lambda: b"text " * (2 * hostile.MIB), extract.TOO_LONG),
        (lambda: b"no encoding \xff\xfe\x81 " * 400_000, extract.TOO_LONG),
    ],
)
def test_a_hostile_file_takes_bounded_memory(make: Callable[[], bytes], reason: str, tmp_path: Path) -> None:
    """This process grows by less than 100 MB, its child stays below its limit, and the user is told why."""
    path = tmp_path / "upload"
    path.write_bytes(make())
    reader = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=60)
    said, grown_mib, child_mib = json.loads(reader.stdout)
    assert reason in said
    assert grown_mib < 100
    assert child_mib <= extract.CHILD_MEMORY_BYTES // 2**20


CUT = """
import io, json, resource
from tests import hostile
from workload.documents import sniff, split

resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
print(json.dumps([sniff(io.BytesIO(hostile.many_comments())), split(hostile.wide_gaps())]))
"""


def test_what_is_not_read_in_a_child_takes_no_pattern_for_ever() -> None:
    """Judging and cutting hold up all else in the process: they end, where trying every way would take hours."""
    cutter = subprocess.run([sys.executable, "-c", CUT], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(cutter.stdout) == ["text", ["a b"]]


def test_a_reader_that_computes_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The wall clock bounds what the CPU limit does not."""
    path = tmp_path / "upload"
    path.write_bytes(hostile.nested_tags(b"<div>"))
    monkeypatch.setattr(extract, "CHILD_WALL_S", 0.5)
    with pytest.raises(DocumentError, match="memory or time"):
        extract.extract(path, "html")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a child die with its parent")
def test_a_reader_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    """Even if that is killed: nobody would wait for its text."""
    path = tmp_path / "upload"
    path.write_bytes(hostile.nested_tags(b"<div>"))
    program = (
        "import sys; from pathlib import Path; from workload.extract import extract; extract(Path(sys.argv[1]), 'html')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, path])
    process = psutil.Process(parent.pid)
    # Its CPU time shows that it is reading, and so has set its limits.
    assert until(lambda: any(child.cpu_times().user > 0.5 for child in process.children()))
    children = process.children()
    parent.kill()
    parent.wait()
    assert until(lambda: not alive(children), within_s=3)


def test_the_limits_are_of_the_child_only() -> None:
    """The process that asks keeps its own limits."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != extract.CHILD_MEMORY_BYTES
