"""The Celery worker as anyone would type it, in its pools: coroutines, connections, an orderly end, and a crash."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psutil
import pytest

from lab.stacks.servers import MailSink, Postgres, Redis
from lab.stacks.supervisor import Supervisor
from tests.apps import App, running, task_ids_of
from tests.support import until
from webapi.app import DATABASE_CONNECTIONS

DATABASE = 10  # of the session's Redis

CHILDREN = 2
# What PostgreSQL notes, at this level, of a client that is gone without a goodbye.
BROKEN_OFF = "unexpected EOF on client connection"
POOLS = {
    "prefork": ("--concurrency", str(CHILDREN)),
    "threads": ("--pool", "threads", "--concurrency", "8"),
    "solo": ("--pool", "solo"),
}

Start = Callable[..., AbstractContextManager[App]]


@pytest.fixture
def start(
    supervisor: Supervisor, postgres: Postgres, redis_server: Redis, mail_sink: MailSink, tmp_path: Path
) -> Start:
    """Run the Celery app with a worker, ready for work."""

    @contextmanager
    def run(worker: tuple[str, ...], **env: str) -> Iterator[App]:
        database = postgres.create_database(f"worker_{uuid4().hex}")
        env["DATABASE_URL"] = f"{database}?options={quote('-c log_min_messages=debug1')}"
        env["REDIS_URL"] = redis_server.url.replace("/0", f"/{DATABASE}")
        with running("celery", tmp_path, supervisor, env, mail_sink, worker=worker) as app:
            assert until(app.is_ready, 40), (app.health(), (tmp_path / "worker.log").read_text())
            yield app

    return run


def connections(app: App) -> list[dict[str, Any]]:
    """Return the connections to the app's database, of API, worker and this test."""
    return app.query("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")


def chat(app: App, count: int) -> list[str]:
    """Log some turns of a conversation; return the ids of the tasks."""
    body = {"user_id": "u", "message": "hello"}
    return [task_id for _ in range(count) for task_id in task_ids_of(app.client.post("/chat", json=body))]


@pytest.mark.parametrize("worker", POOLS.values(), ids=POOLS)
def test_every_pool_runs_coroutines_and_chains_and_ends_in_order(
    start: Start, postgres: Postgres, worker: tuple[str, ...]
) -> None:
    """Each slot has a connection before its first task, keeps it for all, and says goodbye to PostgreSQL at the end."""
    assert postgres.child is not None
    said_before = len(postgres.child.log.read_text())
    with start(worker) as app:
        slots = int(worker[-1]) if worker[-1].isdigit() else 1
        assert len(connections(app)) == slots + 1 + 1, "the worker's, the API's first and this test's"
        assert app.settle(chat(app, 40)) == [("log_conversation", "succeeded")] * 40
        assert len(connections(app)) <= slots + DATABASE_CONNECTIONS + 1
        ids = task_ids_of(app.client.post("/multi-tasks", json={"fail_step": 2}))
        assert app.settle(ids) == [("step", "succeeded"), ("step", "failed"), ("step", "skipped")]
        ids = task_ids_of(app.client.post("/multi-tasks", json={}))
        assert app.settle(ids) == [("step", "succeeded")] * 3
    assert BROKEN_OFF not in postgres.child.log.read_text()[said_before:]
    log = (app.folder / "worker.log").read_text()
    assert "Warm shutdown" in log
    assert log.count("Traceback") == 1, "only the step's that was asked to fail"


def test_a_worker_that_says_no_goodbye_is_found_out(start: Start, supervisor: Supervisor, postgres: Postgres) -> None:
    with start(POOLS["solo"]) as app:
        assert postgres.child is not None
        said_before = len(postgres.child.log.read_text())
        app.settle(chat(app, 1))
        supervisor.signal(f"{app.service}-worker", signal.SIGKILL)
        log = postgres.child.log
        assert until(lambda: BROKEN_OFF in log.read_text()[said_before:])


def test_children_have_a_journal_beforehand_and_one_that_is_killed_takes_only_its_task(
    start: Start, supervisor: Supervisor
) -> None:
    """Each prefork child has a journal before its first task; a crash leaves that task started."""
    with start(POOLS["prefork"], ALLOW_CRASH="1") as app:
        journals = (app.data_dir / "journal").glob("celery-worker-*.jsonl")
        assert len({journal.stem.split("-")[-2] for journal in journals}) == 1 + CHILDREN
        worker = psutil.Process(supervisor.children[f"{app.service}-worker"].pid)
        (crashed,) = task_ids_of(app.client.post("/probe", json={"work": "crash", "seconds": 0}))
        assert until(lambda: any(e["task_id"] == crashed for e in app.events() if e["event"] == "started"))
        assert app.settle(chat(app, 4)) == [("log_conversation", "succeeded")] * 4
        assert (app.ends([crashed]), worker.is_running()) == ([], True)
