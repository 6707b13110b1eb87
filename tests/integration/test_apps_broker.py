"""What the Celery API answers while its broker is away, silent, killed or back, and what is left behind."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import psutil
import pytest
import redis

from celery_app.publisher import PUBLISHERS
from lab.environment import PROJECT
from lab.stacks.servers import MailSink, Postgres, Redis, free_port
from lab.stacks.supervisor import Supervisor
from tests.apps import App, running, task_ids_of
from tests.support import until

ANSWERS_WITHIN_S = 3.0
ESTABLISHED = "01"
HANGING = 2 * PUBLISHERS  # two rounds of a second each
MANY = 40 + 1  # where they hung in the forty threads of the API's other routes, none would be left

Start = Callable[[str], App]


@pytest.fixture
def start(supervisor: Supervisor, postgres: Postgres, mail_sink: MailSink, tmp_path: Path) -> Iterator[Start]:
    """Start a Celery API without a worker on a broker of the test's."""
    started = []

    def run(broker_url: str) -> App:
        env = {"DATABASE_URL": postgres.create_database(f"broker_{uuid4().hex}"), "REDIS_URL": broker_url}
        started.append(running("celery", tmp_path / "app", supervisor, env, mail_sink, worker=None))
        app = started[-1].__enter__()
        assert until(lambda: app.health().get("postgres") == "up", 30), app.log()
        return app

    yield run
    for context in started:
        context.__exit__(None, None, None)


def post_action(app: App) -> httpx2.Response:
    return app.client.post("/action", json={"message": "x"})


def post_sequence(app: App) -> httpx2.Response:
    return app.client.post("/multi-tasks", json={})


def post_file(app: App) -> httpx2.Response:
    return app.client.post("/upload", files={"file": ("a.txt", b"A text to keep.")})


@contextmanager
def within_the_bound() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < ANSWERS_WITHIN_S


def kill(broker: Redis) -> None:
    """Kill a broker with SIGKILL, and wait until it is gone."""
    os.kill(broker.pid, signal.SIGKILL)
    assert until(lambda: broker.child is not None and broker.child.poll() is not None)


def start_again(supervisor: Supervisor, broker: Redis, binary: str) -> None:
    """Start a killed broker again on its port."""
    assert broker.child is not None
    command = [binary, str(broker.child.log.parent / "redis.conf")]
    supervisor.start(broker.name, command, {}, log=broker.child.log, cwd=PROJECT)
    assert until(lambda: _answers(broker))


def _answers(broker: Redis) -> bool:
    with broker.connect() as client, suppress(redis.RedisError):
        return bool(client.ping())
    return False


def assert_refused(answer: httpx2.Response) -> None:
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), answer.text


def test_a_broker_that_never_was_is_a_503_and_an_upload_leaves_nothing(start: Start) -> None:
    app = start(f"redis://127.0.0.1:{free_port()}/0")
    with within_the_bound():
        assert_refused(post_action(app))
    with within_the_bound():
        assert_refused(post_file(app))
    assert app.uploads() == []
    assert app.query("SELECT id FROM documents") == []
    assert app.health() == {"postgres": "up", "smtp": "up", "broker": "down", "workers": "down"}


def test_a_broker_that_cannot_be_reached_is_a_503(start: Start) -> None:
    """No connection comes about with a port whose queue is full: the kernel drops what asks for one."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        app = start(f"redis://127.0.0.1:{port}/0")
        with within_the_bound():
            assert_refused(post_action(app))
        for one in crowd:
            one.close()


def test_a_killed_broker_is_a_503_and_a_restarted_one_takes_work_again(
    start: Start, supervisor: Supervisor, make_redis: Callable[[], Redis]
) -> None:
    broker = make_redis()
    app = start(broker.url)
    assert post_action(app).status_code == 202
    binary = psutil.Process(broker.pid).exe()
    kill(broker)
    with within_the_bound():
        assert_refused(post_file(app))
    assert app.uploads() == []
    start_again(supervisor, broker, binary)
    assert post_action(app).status_code == 202


def test_connections_that_a_restart_has_broken_are_not_used(
    start: Start, supervisor: Supervisor, make_redis: Callable[[], Redis]
) -> None:
    """A pooled connection whose other end is gone is replaced before anything is sent on it."""
    broker = make_redis()
    app, binary = start(broker.url), psutil.Process(broker.pid).exe()
    with ThreadPoolExecutor(8) as crowd:
        assert {answer.status_code for answer in crowd.map(lambda _: post_action(app), range(16))} == {202}
        kill(broker)
        start_again(supervisor, broker, binary)
        assert {answer.status_code for answer in crowd.map(lambda _: post_action(app), range(16))} == {202}
    with broker.connect() as client:
        assert client.llen("celery") == 16


def bystanders_while(app: App, still: Callable[[], bool]) -> dict[str, list[float]]:
    """Return, by path, how long each request that needs no broker took which was answered while a condition held."""
    times_s: dict[str, list[float]] = {"/ping/loop": [], "/ping/thread": []}
    for path in cycle(times_s):
        begun = time.monotonic()
        assert app.client.get(path).status_code == 200
        took_s = time.monotonic() - begun
        if not still():
            break
        times_s[path].append(took_s)
    return times_s


def connections(api: psutil.Process, broker: Redis) -> int:
    """Return how many connections to the broker a process has."""
    port = urlsplit(broker.url).port
    return sum(1 for one in api.net_connections() if one.raddr and one.raddr[1] == port)


@pytest.mark.alone  # the last of so many is answered after two of the three seconds
@pytest.mark.parametrize("post", [post_action, post_sequence])
def test_a_stopped_broker_is_a_504_that_holds_nobody_else_up(
    start: Start, supervisor: Supervisor, make_redis: Callable[[], Redis], post: Callable[[App], httpx2.Response]
) -> None:
    broker = make_redis()
    app = start(broker.url)
    assert post(app).status_code == 202
    os.kill(broker.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(HANGING) as crowd:
        hanging = [crowd.submit(_timed, post, app) for _ in range(HANGING)]
        api = psutil.Process(supervisor.children[app.service].pid)
        assert until(lambda: connections(api, broker) >= 60)
        bystanders_s = bystanders_while(app, lambda: sum(not one.done() for one in hanging) >= MANY)
        health = app.health()
        answers = [one.result() for one in hanging]
    assert {answer.status_code for answer, _ in answers} == {504}
    assert all("Retry-After" in answer.headers for answer, _ in answers)
    assert max(took_s for _, took_s in answers) < ANSWERS_WITHIN_S
    assert all(bystanders_s.values()), "bystanders of either kind were to be answered while many hang"
    assert max(map(median, bystanders_s.values())) < 0.1
    assert (health["broker"], health["postgres"]) == ("down", "up")
    answer, took_s = _timed(post, app)
    assert (answer.status_code, took_s < ANSWERS_WITHIN_S) == (504, True), "those that hung hold no thread any more"
    os.kill(broker.pid, signal.SIGCONT)
    assert until(lambda: app.health().get("broker") == "up")
    assert post(app).status_code == 202


def _timed(post: Callable[[App], httpx2.Response], app: App) -> tuple[httpx2.Response, float]:
    begun = time.monotonic()
    answer = post(app)
    return answer, time.monotonic() - begun


def test_after_a_504_the_work_may_be_done_and_the_document_stays(start: Start, make_redis: Callable[[], Redis]) -> None:
    broker = make_redis()
    app = start(broker.url)
    assert post_action(app).status_code == 202
    os.kill(broker.pid, signal.SIGSTOP)
    with within_the_bound():
        answer = post_file(app)
    os.kill(broker.pid, signal.SIGCONT)
    assert (answer.status_code, "Retry-After" in answer.headers) == (504, True)
    assert len(app.uploads()) == 1
    assert [row["status"] for row in app.query("SELECT status FROM documents")] == ["processing"]
    with broker.connect() as client:
        assert until(lambda: client.llen("celery") == 2), "the publish that was not answered has happened all the same"
    assert task_ids_of(answer) == []


def unread_bytes(broker: Redis) -> int:
    """Return how much a broker has been sent that it has not read, by the kernel's table of connections."""
    port = f"{urlsplit(broker.url).port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{port}") and row[3] == ESTABLISHED)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel does not show what is unread")
def test_a_broker_that_dies_with_a_publish_in_hand_is_a_504(start: Start, make_redis: Callable[[], Redis]) -> None:
    """A second try would find the connection refused and call it a 503, though the first may have been delivered."""
    broker = make_redis()
    app = start(broker.url)
    assert post_action(app).status_code == 202
    os.kill(broker.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as sender:
        in_hand = sender.submit(post_file, app)
        assert until(lambda: unread_bytes(broker) > 0)
        kill(broker)
        answer = in_hand.result()
    assert (answer.status_code, len(app.uploads())) == (504, 1)
