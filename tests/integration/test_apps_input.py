"""What both apps refuse, how they say so, and that a refused request has caused nothing."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from lab.stacks.servers import MailSink, Postgres, Redis
from lab.stacks.supervisor import Supervisor
from tests.apps import NAMES, App, running
from tests.support import until
from webapi.app import MAX_JSON_BYTES
from webapi.uploads import MAX_FILE_BYTES

DATABASE = 7  # of the session's Redis
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=NAMES)
def shared(
    request: pytest.FixtureRequest,
    supervisor: Supervisor,
    postgres: Postgres,
    redis_server: Redis,
    mail_sink: MailSink,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """Each app in turn; the Celery one without a worker, so that what is enqueued stays in sight."""
    env = {
        "DATABASE_URL": postgres.create_database(f"input_{uuid4().hex}"),
        "REDIS_URL": redis_server.url.replace("/0", f"/{DATABASE}"),
    }
    with running(request.param, tmp_path_factory.mktemp("app"), supervisor, env, mail_sink, worker=None) as started:
        assert until(lambda: started.health().get("postgres") == "up", 30), started.log()
        yield started


Traces = dict[str, object]


def traces(app: App, broker: Redis) -> Traces:
    """Return what shows that a request has been accepted: events, the queue, files and documents; and tracebacks."""
    with broker.connect() as client:
        client.execute_command("SELECT", DATABASE)
        queued = client.llen("celery")
    return {
        "events": app.events(),
        "queued": queued,
        "files": app.uploads(),
        "documents": app.query("SELECT id FROM documents"),
        "tracebacks": app.log().count("Traceback"),
    }


@pytest.fixture
def app(shared: App, redis_server: Redis) -> Iterator[App]:
    """An app that must have nothing to show for what a test sends it."""
    before = traces(shared, redis_server)
    yield shared
    assert traces(shared, redis_server) == before


INVALID = {
    "NUL": ("/action", r'{"message": "a\u0000b"}'),
    "lone surrogate": ("/action", r'{"message": "\ud800"}'),
    "surrogate as a key": ("/action", r'{"\udfff": 1}'),
    "NUL in a name": ("/register", r'{"email": "a@example.com", "username": "\u0000"}'),
    "two addresses": ("/register", '{"email": "a@example.com, b@example.com", "username": "x"}'),
    "an address with a header": ("/register", r'{"email": "a@example.com\nBcc: b@example.com", "username": "x"}'),
    "no fourth step": ("/multi-tasks", '{"fail_step": 4}'),
    "too long": ("/async-task", '{"name": "x", "seconds": 61}'),
    "negative": ("/async-task", '{"name": "x", "seconds": -1}'),
    "not a number": ("/async-task", '{"name": "x", "seconds": NaN}'),
    "infinite": ("/probe", '{"work": "io", "seconds": 1e999}'),
    "unknown work": ("/probe", '{"work": "sleep", "seconds": 0}'),
    "half a document": ("/chat", '{"user_id": '),
    "not an object": ("/chat", "[]"),
    "nothing": ("/chat", ""),
}


@pytest.mark.parametrize(("path", "body"), INVALID.values(), ids=INVALID)
def test_bad_json_is_a_422_that_says_where(app: App, path: str, body: str) -> None:
    answer = app.client.post(path, content=body, headers=JSON)
    assert answer.status_code == 422
    assert all(problem["loc"][0] == "body" and problem["msg"] for problem in answer.json()["detail"])


UNPARSABLE = {"not UTF-8": b'{"message": "\xff"}', "too deep": b"[" * 60_000, "a number without end": b"9" * 60_000}


@pytest.mark.parametrize("body", UNPARSABLE.values(), ids=UNPARSABLE)
def test_json_that_cannot_be_parsed_is_a_400(app: App, body: bytes) -> None:
    answer = app.client.post("/action", content=body, headers=JSON)
    assert (answer.status_code, type(answer.json()["detail"])) == (400, str)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
def test_json_under_another_name_is_a_422(app: App, content_type: str) -> None:
    answer = app.client.post("/action", content=b'{"message": "x"}', headers={"Content-Type": content_type})
    assert answer.status_code == 422


def test_a_crash_is_refused_unless_it_is_allowed(app: App) -> None:
    answer = app.client.post("/probe", json={"work": "crash", "seconds": 0})
    assert (answer.status_code, app.client.get("/ping/loop").status_code) == (403, 200)


FILES = {
    "empty": (b"", 422),
    "a program": (b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)) * 16, 415),
    "an image by another name": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16, 415),
    "one byte too many": (b"a" * (MAX_FILE_BYTES + 1), 413),
}


@pytest.mark.parametrize(("content", "status"), FILES.values(), ids=FILES)
def test_a_file_is_judged_by_its_content(app: App, content: bytes, status: int) -> None:
    answer = app.client.post("/upload", files={"file": ("report.pdf", content, "application/pdf")})
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)


MULTIPART = {
    "NUL in the file name": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\x00b"\r\n\r\nA text.\r\n--b--\r\n',
        422,
    ),
    "no boundary": ("multipart/form-data", b"x", 400),
    "no parts": ("multipart/form-data; boundary=b", b"x", 400),
    "no name": ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400),
    "another name": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\nx\r\n--b--\r\n',
        422,
    ),
    "a field": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
        422,
    ),
    "JSON": ("application/json", b'{"file": "x"}', 422),
}


@pytest.mark.parametrize(("content_type", "body", "status"), MULTIPART.values(), ids=MULTIPART)
def test_a_bad_form_is_refused(app: App, content_type: str, body: bytes, status: int) -> None:
    answer = app.client.post("/upload", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)


def connected(app: App) -> socket.socket:
    """Return a socket to the app, for what no HTTP client would send."""
    address = urlsplit(app.url)
    return socket.create_connection((address.hostname, address.port), timeout=5)


def answer_and_end(wire: socket.socket) -> tuple[int, dict[str, str]]:
    """Read until the server closes; return the status and the body."""
    received = b""
    while data := wire.recv(65536):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("path", "declared"), [("/action", MAX_JSON_BYTES + 1), ("/upload", 2 * MAX_FILE_BYTES), ("/action", 10**12)]
)
def test_a_declared_length_that_is_too_large_is_a_413_before_the_body_has_come(
    app: App, path: str, declared: int
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {declared}\r\n\r\n"
    with connected(app) as wire:
        wire.sendall(head.encode() + b"{")
        status, body = answer_and_end(wire)
    assert (status, list(body)) == (413, ["detail"])


@pytest.mark.parametrize("path", ["/ping/loop", "/documents/x", "/health"])
def test_a_body_that_nobody_asked_for_is_a_413_as_announced(app: App, path: str) -> None:
    answer = app.client.request("GET", path, content=b"x" * (MAX_JSON_BYTES + 1))
    assert (answer.status_code, answer.json()["detail"]) == (413, f"The body is larger than {MAX_JSON_BYTES} bytes.")
    paths = app.client.get("/openapi.json").json()["paths"]
    unannounced = [path for path, methods in paths.items() for one in methods.values() if "413" not in one["responses"]]
    assert unannounced == []


@pytest.mark.parametrize(("path", "limit"), [("/action", MAX_JSON_BYTES), ("/upload", MAX_FILE_BYTES)])
def test_chunks_without_end_are_a_413_once_they_are_too_many(app: App, path: str, limit: int) -> None:
    """The client sends on until it is refused; the server must have read little more than the limit by then."""
    kind = "application/json" if path == "/action" else "multipart/form-data; boundary=b"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="y"\r\n\r\n'
    chunk = b"a" * 32768
    sent = 0
    with connected(app) as wire:
        wire.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        try:
            while sent < 20 * limit + 100 * 2**20:
                wire.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                sent += len(chunk)
        except OSError:
            pass  # the server has closed: its answer has come before
        assert limit < sent < limit + 20 * 2**20
        status = int(wire.recv(65536).split()[1])
    assert status == 413


def test_a_client_that_sends_everything_before_it_reads_meets_the_answer(app: App) -> None:
    """As most clients do: a body somewhat over the limit must not end in a reset connection."""
    answer = httpx2.post(f"{app.url}/action", content=b"x" * (40 * MAX_JSON_BYTES), headers=JSON, timeout=5)
    assert answer.status_code == 413


@pytest.mark.parametrize("user", ["%00", "x" * 201, ""])
def test_a_user_that_cannot_be_is_a_422(app: App, user: str) -> None:
    assert app.client.get(f"/conversations/{user}").status_code == 422


@pytest.mark.parametrize("user", ["a%2Fb", "%ED%A0%80", "..%2f..", "%20"])
def test_a_user_of_any_other_name_has_said_nothing_yet(app: App, user: str) -> None:
    answer = app.client.get(f"/conversations/{user}")
    assert (answer.status_code, answer.json()) == (200, [])


def test_an_unknown_document_is_a_404_and_a_nonsensical_one_a_422(app: App) -> None:
    assert app.client.get(f"/documents/{uuid4()}").status_code == 404
    assert app.client.get("/documents/nonsense").status_code == 422


@pytest.mark.parametrize(
    ("path", "request_"),
    [("/action", {"json": {"message": "x"}}), ("/upload", {"files": {"file": ("a.txt", b"A text to keep.")}})],
)
def test_what_an_accepted_request_causes_would_be_seen(
    shared: App, redis_server: Redis, path: str, request_: dict[str, Any]
) -> None:
    before = traces(shared, redis_server)
    assert shared.client.post(path, **request_).status_code == 202
    assert traces(shared, redis_server) != before
