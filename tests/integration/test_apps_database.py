"""What both apps answer while PostgreSQL is away or silent, and that they leave nothing behind."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from lab.stacks.servers import MailSink, Postgres, Redis
from lab.stacks.supervisor import Supervisor
from tests.apps import NAMES, App, Name, running
from tests.support import until

ANSWERS_WITHIN_S = 3.0

REQUESTS: dict[str, Callable[[App], httpx2.Response]] = {
    "upload": lambda app: app.client.post("/upload", files={"file": ("a.txt", b"A text to keep.")}),
    "document": lambda app: app.client.get(f"/documents/{uuid4()}"),
    "chat": lambda app: app.client.post("/chat", json={"user_id": "u", "message": "Where?"}),
    "conversations": lambda app: app.client.get("/conversations/u"),
}


@contextmanager
def on(name: Name, database: Postgres, redis_url: str, sink: MailSink, runs: Supervisor, folder: Path) -> Iterator[App]:
    env = {"DATABASE_URL": database.create_database(f"app_{uuid4().hex}"), "REDIS_URL": redis_url}
    with running(name, folder, runs, env, sink, worker=None) as app:
        assert until(lambda: app.health().get("postgres") == "up", 30), app.log()
        yield app


def assert_all_refused(app: App) -> None:
    for name, send in REQUESTS.items():
        begun = time.monotonic()
        answer = send(app)
        took_s = time.monotonic() - begun
        assert (name, answer.status_code, "Retry-After" in answer.headers) == (name, 503, True), answer.text
        assert took_s < ANSWERS_WITHIN_S
    assert app.uploads() == []
    assert app.events() == []


@pytest.mark.parametrize("name", NAMES)
def test_without_a_database_what_needs_it_is_a_503_and_nothing_is_left(
    name: Name,
    make_postgres: Callable[[], Postgres],
    redis_server: Redis,
    mail_sink: MailSink,
    supervisor: Supervisor,
    tmp_path: Path,
) -> None:
    """First PostgreSQL is silent, then back, then gone: what needs no database goes on all the while."""
    database = make_postgres()
    with on(name, database, redis_server.url, mail_sink, supervisor, tmp_path) as app:
        supervisor.signal(database.name, signal.SIGSTOP, tree=True)
        assert_all_refused(app)
        assert app.client.get("/ping/loop").status_code == 200
        assert app.health()["postgres"] == "down"
        supervisor.signal(database.name, signal.SIGCONT, tree=True)
        assert until(lambda: app.health()["postgres"] == "up")
        assert app.query("SELECT id FROM documents") == []
        assert REQUESTS["conversations"](app).status_code == 200
        supervisor.signal(database.name, signal.SIGKILL, tree=True)
        assert until(lambda: database.child is not None and database.child.poll() is not None)
        assert_all_refused(app)
        assert app.client.post("/action", json={"message": "x"}).status_code == 202
