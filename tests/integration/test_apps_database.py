"""What both apps answer while PostgreSQL is away or silent, and that they leave nothing behind."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from lab.stacks.servers import MailSink, Postgres, Redis
from lab.stacks.supervisor import Supervisor
from tests.apps import NAMES, App, running
from tests.support import until

ANSWERS_WITHIN_S = 3.0

REQUESTS: dict[str, Callable[[App], httpx2.Response]] = {
    "upload": lambda app: app.client.post("/upload", files={"file": ("a.txt", b"A text to keep.")}),
    "document": lambda app: app.client.get(f"/documents/{uuid4()}"),
    "chat": lambda app: app.client.post("/chat", json={"user_id": "u", "message": "Where?"}),
    "conversations": lambda app: app.client.get("/conversations/u"),
}


@pytest.fixture
def database(make_postgres: Callable[[], Postgres]) -> Postgres:
    """A PostgreSQL that may be stopped and killed."""
    return make_postgres()


@pytest.fixture
def apps(
    database: Postgres, redis_server: Redis, mail_sink: MailSink, supervisor: Supervisor, tmp_path: Path
) -> Iterator[list[App]]:
    """Both APIs on that database server."""
    with ExitStack() as stack:
        started = []
        for name in NAMES:
            env = {"DATABASE_URL": database.create_database(name), "REDIS_URL": redis_server.url}
            started.append(stack.enter_context(running(name, tmp_path / name, supervisor, env, mail_sink, worker=None)))
        for app in started:
            assert until(partial(has_database, app), 30), app.log()
        yield started


def has_database(app: App) -> bool:
    """Return what the app says of its database."""
    return app.health().get("postgres") == "up"


def assert_all_refused(apps: list[App]) -> None:
    """Send every request that needs the database, all at once; each must be refused in time and leave nothing."""
    with ThreadPoolExecutor() as crowd:
        sent = [(app.name, what, crowd.submit(timed, send, app)) for app in apps for what, send in REQUESTS.items()]
        for name, what, one in sent:
            answer, took_s = one.result()
            assert (name, what, answer.status_code, "Retry-After" in answer.headers) == (name, what, 503, True)
            assert took_s < ANSWERS_WITHIN_S
    for app in apps:
        assert (app.uploads(), app.events()) == ([], [])


def timed(send: Callable[[App], httpx2.Response], app: App) -> tuple[httpx2.Response, float]:
    """Return an answer and how long it took, in seconds."""
    begun = time.monotonic()
    return send(app), time.monotonic() - begun


def test_without_a_database_what_needs_it_is_a_503_and_nothing_is_left(
    apps: list[App], database: Postgres, supervisor: Supervisor
) -> None:
    """First PostgreSQL is silent, then back, then gone: what needs no database goes on all the while."""
    supervisor.signal(database.name, signal.SIGSTOP, tree=True)
    assert_all_refused(apps)
    for app in apps:
        assert app.client.get("/ping/loop").status_code == 200
        assert not has_database(app)
    supervisor.signal(database.name, signal.SIGCONT, tree=True)
    for app in apps:
        assert until(partial(has_database, app))
        assert app.query("SELECT id FROM documents") == []
        assert REQUESTS["conversations"](app).status_code == 200
    supervisor.signal(database.name, signal.SIGKILL, tree=True)
    assert until(lambda: database.child is not None and database.child.poll() is not None)
    assert_all_refused(apps)
    for app in apps:
        assert app.client.post("/action", json={"message": "x"}).status_code == 202
