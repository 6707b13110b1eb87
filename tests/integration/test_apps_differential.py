"""Both apps are given the same sequences of requests, good and bad, and must do the same in the same order.

Each request's tasks have ended before the next is sent: the inline app runs the tasks of several requests at once, so
only then is the order of effects defined.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx2
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.stacks import servers
from lab.stacks.servers import Postgres, Redis
from lab.stacks.supervisor import Supervisor
from loadtests import make_documents
from loadtests.make_documents import Sample
from tests.apps import NAMES, App, read_lines, running, task_ids_of
from tests.support import until
from webapi.app import MAX_JSON_BYTES
from webapi.uploads import MAX_FILE_BYTES

EXAMPLES = int(os.environ.get("DIFFERENTIAL_EXAMPLES", "25"))
DATABASE = 8  # of the session's Redis

Pair = tuple[App, App]
Request = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def pair(
    supervisor: Supervisor, postgres: Postgres, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Both apps with everything of their own; the mails too, since the same ids come from both."""
    folder = tmp_path_factory.mktemp("pair")
    broker = redis_server.url.replace("/0", f"/{DATABASE}")
    sinks = [servers.mail_sink(supervisor, folder / f"{name}-mail", name=f"{name}-mail") for name in NAMES]
    envs = [{"DATABASE_URL": postgres.create_database(f"{name}_{uuid4().hex}"), "REDIS_URL": broker} for name in NAMES]
    inline, celery = (
        running(name, folder / name, supervisor, env, sink) for name, env, sink in zip(NAMES, envs, sinks, strict=True)
    )
    with inline as one, celery as other:
        for app in (one, other):
            assert until(app.is_ready, 40), (app.health(), app.log())
        yield one, other
    for sink in sinks:
        sink.stop()


# --- requests ---------------------------------------------------------------------------------------------------------

text = st.text(max_size=40) | st.sampled_from(["line\nbreak", "\x00", "\ud800", "z\u0301\u4f60\u597d", "\x1b[31m", ""])
message = st.text(min_size=1, max_size=40, alphabet=st.characters(codec="utf-8", exclude_characters="\0"))
seconds = st.sampled_from([0, 0.01, 0.02]) | st.sampled_from([-1, 61, "1", None])
user = st.sampled_from(["ann", "bob", "\u5f20/x"])
topic = st.sampled_from(
    ["The ferry to the island sails at nine in the morning.", "Bread needs flour, water, salt and time.", "长城很长。"]
)


class TooLarge(bytes):
    """A body over its limit, which the report of a failing sequence need not print."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


KINDS: list[Callable[[str, UUID], bytes]] = [
    lambda words, mark: f"{words} {mark}".encode(),
    lambda words, mark: f"<html><body><p>{words}</p><p>{mark}</p></body></html>".encode(),
    lambda words, mark: f"# {mark}\n\n{words}\n".encode("utf-16"),
    lambda words, mark: make_documents.pdf(sample(words, mark)),
    lambda words, mark: make_documents.docx(sample(words, mark)),
    lambda words, mark: b"%PDF-1.7 " + f"{words} {mark}".encode(),
    lambda words, mark: b"PK\x03\x04" + f"{words} {mark}".encode(),
    lambda _words, _mark: b"\x7fELF\x00\x01\x02",
    lambda _words, _mark: b"",
]
TOO_LARGE: list[Request] = [
    ("POST", "/action", {"content": TooLarge(MAX_JSON_BYTES + 1)}),
    ("POST", "/upload", {"files": {"file": ("a.txt", TooLarge(b"a" * (MAX_FILE_BYTES + 1)))}}),
    ("GET", "/ping/loop", {"content": TooLarge(MAX_JSON_BYTES + 1)}),
]
names = st.sampled_from(["notes.txt", "../../etc/passwd", "\u62a5\u544a.pdf", 'quo"te', ""])


def sample(words: str, mark: UUID) -> Sample:
    """Return what a real document is made of; its font has to have the words' characters."""
    return Sample("en" if words.isascii() else "zh", str(mark), (words,))


def posted(path: str, body: Any) -> Request:
    return ("POST", path, {"content": json.dumps(body)})


def post(path: str, body: st.SearchStrategy[Any]) -> st.SearchStrategy[Request]:
    return body.map(lambda value: posted(path, value))


def file_of(words: str, kind: Callable[[str, UUID], bytes], name: str, mark: UUID) -> Request:
    """Every file's text is its own, so that no two passages are equally near to a question."""
    return ("POST", "/upload", {"files": {"file": (name, kind(words, mark), "application/octet-stream")}})


work = st.one_of(
    post("/action", st.fixed_dictionaries({"message": text})),
    post(
        "/register",
        st.fixed_dictionaries(
            {"email": st.sampled_from(["a@example.com", "b@example.com, c@example.com", "x"]), "username": text}
        ),
    ),
    post("/multi-tasks", st.fixed_dictionaries({}, optional={"fail_step": st.integers(0, 4) | st.none()})),
    # Always with seconds: that both have the same default (2 s of waiting) is in their OpenAPI documents.
    post("/async-task", st.fixed_dictionaries({"name": message, "seconds": seconds})),
    post("/chat", st.fixed_dictionaries({"user_id": user, "message": topic | text})),
    post(
        "/probe",
        st.fixed_dictionaries(
            {
                "work": st.sampled_from(["io", "blocking", "cpu", "async_blocking", "fail", "crash", "?"]),
                "seconds": seconds,
            }
        ),
    ),
    st.builds(file_of, topic, st.sampled_from(KINDS), names, st.uuids()),
)
asking: st.SearchStrategy[Request] = st.one_of(
    user.map(lambda who: ("GET", f"/conversations/{who}", {})),
    st.sampled_from(["/ping/loop", "/ping/thread", "/documents/x", "/nowhere"]).map(lambda path: ("GET", path, {})),
    st.sampled_from(["/action", "/upload"]).map(lambda path: ("POST", path, {"content": b"{"})),
    st.sampled_from(TOO_LARGE),
)
request_id = st.uuids() | st.just(UUID(int=7)) | st.just("no uuid")
sequences = st.lists(st.tuples(work | work | asking, request_id), min_size=1, max_size=8)


# --- what they do -----------------------------------------------------------------------------------------------------

Sequence_ = list[tuple[Request, UUID | str]]


class Play:
    """One sequence put to one app: its answers, and what it left behind beyond what was there before."""

    def __init__(self, app: App) -> None:
        self.app = app
        with psycopg.connect(app.env["DATABASE_URL"]) as connection:
            connection.execute("TRUNCATE documents, chunks, conversations")
        self.before = {name: len(lines) for name, lines in self.lines().items()}
        self.answers: list[Any] = []

    def lines(self) -> dict[str, list[dict[str, Any]]]:
        """Return all there is in the files, in order."""
        folder = self.app.data_dir
        return {
            "events": self.app.events(),
            "action": read_lines(folder / "actions.log"),
            "effect": read_lines(folder / "effects.log"),
            "mail": self.app.mail_sink.mails(),
        }

    def send(self, request: Request, request_id: UUID | str) -> None:
        """Send a request, and wait until all that it has caused is over; then ask for its document."""
        method, path, content = request
        ended = len(self.ends())
        headers = {"X-Request-ID": str(request_id)} | (
            {"Content-Type": "application/json"} if "content" in content else {}
        )
        answer = self.app.client.request(method, path, headers=headers, **content)
        assert until(lambda: len(self.ends()) == ended + len(task_ids_of(answer)), 20), self.app.log()
        self.answers.append((answer.status_code, _comparable(answer)))
        if path == "/upload" and answer.status_code == 202:
            document = self.app.client.get(f"/documents/{uuid5(UUID(str(request_id)), 'document')}")
            self.answers.append((document.status_code, document.json()))

    def ends(self) -> list[dict[str, Any]]:
        return [event for event in self.app.events() if event["event"] in ("succeeded", "failed", "skipped")]

    def outcome(self) -> dict[str, Any]:
        """Return what is to be the same: answers, events, effects in the order in which they came, and rows."""
        new = {name: lines[self.before[name] :] for name, lines in self.lines().items()}
        effects = [(line["t_ns"], name, line) for name in ("action", "effect", "mail") for line in new[name]]
        # Whether `accepted` is written before or after `started` is not defined for Celery, only that it is.
        accepted = sorted(event["task_id"] for event in new["events"] if event["event"] == "accepted")
        return {
            "answers": self.answers,
            "accepted": accepted,
            "events": [_without_time(event) for event in new["events"] if event["event"] != "accepted"],
            "effects": [(name, _without_time(line)) for _, name, line in sorted(effects, key=lambda one: one[0])],
            "documents": self.rows("documents", "created_at"),
            "chunks": self.rows("chunks", "document_id, position"),
            "conversations": self.rows("conversations", "created_at"),
            "files": len(self.app.uploads()),
        }

    def rows(self, table: str, order: str) -> list[dict[str, Any]]:
        """Return a table in an order, without what no id fixes: times, and the name of the uploaded file."""
        left_out = "'{created_at, finished_at, upload}'::text[]"
        return self.app.query(f"SELECT to_jsonb(one) - {left_out} AS row FROM {table} one ORDER BY {order}")


def _comparable(answer: httpx2.Response) -> Any:
    """Return a body without the one thing in it that no id fixes: the time of a turn."""
    body = answer.json()
    return [_without_time(turn) for turn in body] if isinstance(body, list) else body


def _without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("t_ns", "timestamp")}


def played(app: App, sequence: Sequence_) -> Play:
    play = Play(app)
    for request, request_id in sequence:
        play.send(request, request_id)
    return play


@settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=sequences)
def test_both_apps_do_the_same(pair: Pair, sequence: Sequence_) -> None:
    inline, celery = (played(app, sequence).outcome() for app in pair)
    assert inline == celery


WORDS = "Bread needs flour, water, salt and time."
EVERY_BODY: Sequence_ = [
    *((file_of(WORDS, kind, "a.pdf", UUID(int=number)), UUID(int=number)) for number, kind in enumerate(KINDS)),
    *((request, UUID(int=99)) for request in TOO_LARGE),
]
PROCESSED: list[tuple[int, str | None]] = [(202, None), (200, "ready")]
BROKEN: list[tuple[int, str | None]] = [(202, None), (200, "failed")]
REFUSED: list[tuple[int, str | None]] = [(415, None), (415, None), (422, None), *[(413, None)] * len(TOO_LARGE)]


def test_both_apps_take_every_kind_of_file_and_refuse_what_is_too_large(pair: Pair) -> None:
    inline, celery = (played(app, EVERY_BODY) for app in pair)
    assert inline.outcome() == celery.outcome()
    assert [(status, body.get("status")) for status, body in inline.answers] == 5 * PROCESSED + BROKEN + REFUSED


# --- the comparison can fail ------------------------------------------------------------------------------------------

ONE_OF_EACH: Sequence_ = [
    (posted("/action", {"message": "one"}), UUID(int=1)),
    (posted("/action", {"message": "two"}), UUID(int=2)),
    (posted("/register", {"email": "a@example.com", "username": "x"}), UUID(int=3)),
    (posted("/multi-tasks", {"fail_step": 3}), UUID(int=4)),
    (file_of(WORDS, KINDS[0], "a.txt", UUID(int=9)), UUID(int=5)),
    (posted("/chat", {"user_id": "u", "message": "What does bread need?"}), UUID(int=6)),
]


def _rewrite(app: App, change: Callable[[list[str]], list[str]]) -> None:
    log = app.data_dir / "actions.log"
    log.write_text("".join(change(log.read_text().splitlines(keepends=True))))


def _execute(app: App, query: str) -> None:
    with psycopg.connect(app.env["DATABASE_URL"]) as connection:
        connection.execute(query)


def _swap_times(lines: list[str]) -> list[str]:
    return [
        *lines[:-2],
        *(line.replace('"one"', '"?"').replace('"two"', '"one"').replace('"?"', '"two"') for line in lines[-2:]),
    ]


PLANTS: dict[str, Callable[[Play], None]] = {
    "another status": lambda play: play.answers.append((500, {})),
    "another body": lambda play: play.answers[0][1].update(status="done"),
    "an effect less": lambda play: _rewrite(play.app, lambda lines: lines[:-1]),
    "an effect twice": lambda play: _rewrite(play.app, lambda lines: [*lines, lines[-1]]),
    "effects in another order": lambda play: _rewrite(play.app, _swap_times),
    "a row less": lambda play: _execute(play.app, "DELETE FROM conversations"),
    "another chunk": lambda play: _execute(play.app, "UPDATE chunks SET position = position + 1"),
    "a document that is not done": lambda play: _execute(play.app, "UPDATE documents SET status = 'processing'"),
    "a file left": lambda play: (play.app.data_dir / "uploads" / "left").touch(),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_difference_is_seen(pair: Pair, plant: Callable[[Play], None]) -> None:
    inline, celery = (played(app, ONE_OF_EACH) for app in pair)
    assert inline.outcome() == celery.outcome()
    plant(celery)
    assert inline.outcome() != celery.outcome()
    for left in celery.app.uploads():
        left.unlink()
