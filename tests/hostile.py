"""Files that are small, and that an unguarded reader would need gigabytes or minutes for."""

import io
import zipfile
import zlib

from workload.extract import MAX_CHARS

MIB = 2**20


def pdf(objects: list[bytes]) -> bytes:
    """Return a PDF of these objects, numbered from 1, the first its catalogue."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out) + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(offsets) + 1, start)


PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
HELLO = b"<</Length 35>>stream\nBT /F1 12 Tf 10 10 Td (hello) Tj ET  \nendstream"


def flate_bomb() -> bytes:
    """Return a PDF of some KB whose page unpacks to 1 GiB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b" " * MIB) for _ in range(1024)) + packer.flush()
    twice = zlib.compress(packed, 9)
    stream = b"<</Length %d/Filter[/FlateDecode/FlateDecode]>>stream\n%s\nendstream" % (len(twice), twice)
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[5 0 R]/Count 1>>", FONT, stream, PAGE])


def many_pages(count: int = 100_000) -> bytes:
    """Return a PDF of many pages with a word each."""
    kids = b" ".join(b"%d 0 R" % (5 + number) for number in range(count))
    pages = b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, count)
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", pages, FONT, HELLO, *[PAGE] * count])


def endless_page_tree() -> bytes:
    """Return a PDF whose page tree contains itself."""
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R]/Count 99999999>>"])


WORD = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>%s</w:body></w:document>'
TYPES = b"""<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>"""
RELATIONS = b"""<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
 Target="word/document.xml"/></Relationships>"""


def docx(body: bytes, prolog: bytes = b"") -> bytes:
    """Return a Word document with this body."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        archive.writestr("word/document.xml", prolog + WORD % body)
    return file.getvalue()


def zip_bomb() -> bytes:
    """Return a Word document of some hundred KB that unpacks to 200 MB."""
    return docx(b"<w:p/>" * (200 * 10**6 // 6))


def tree_bomb() -> bytes:
    """Return a Word document that unpacks to less than the cap, and whose tree takes gigabytes."""
    return docx(b"<w:p/>" * (80 * 10**6 // 6))


def lying_zip() -> bytes:
    """Return a zip bomb whose directory says that its parts are small."""
    honest = zip_bomb()
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        size = archive.getinfo("word/document.xml").file_size
    return honest.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))


def billion_laughs() -> bytes:
    """Return a Word document whose XML entities unpack to 10^9 characters."""
    entities = b'<!ENTITY e0 "ha ha ha ha">' + b"".join(
        b'<!ENTITY e%d "%s">' % (level, b"&e%d;" % (level - 1) * 10) for level in range(1, 9)
    )
    return docx(b"<w:p><w:r><w:t>&e8;</w:t></w:r></w:p>", b"<!DOCTYPE w:document [%s]>" % entities)


def nested_tags(tag: bytes, size: int = 10 * MIB) -> bytes:
    """Return a page of one tag, over and over, each inside the one before."""
    head = b"<html><body>"
    return head + tag * ((size - len(head)) // len(tag))


def many_parts() -> bytes:
    """Return a zip that looks like a Word document and has more parts than any has."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"word/document{number}.xml", b"")
    return file.getvalue()


def many_comments() -> bytes:
    """Return a text that could be cut into the comments of a page in 2^585 ways, and is none."""
    return b"<!---->" * 585 + b"x"


def wide_gaps() -> str:
    """Return a text, as long as a document may be, that is a gap of spaces, with no line end in sight."""
    return "a" + " " * (MAX_CHARS - 2) + "b"
