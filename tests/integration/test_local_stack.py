"""The local stack: a contender comes up on servers of its own, leaves its evidence, and then nothing."""

import http.client
import json
import signal
import smtplib
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus, place
from lab.rundir import ContenderRecord
from lab.stacks import servers
from lab.stacks.local import LocalStack, Servers
from lab.stacks.supervisor import StackError
from tests.realblocks import gets, measure_block
from tests.support import until

PLACEMENT = place(available_cpus())
KNOWN = load_contenders(PROJECT / "contenders.toml")

# An API that is healthy when it is told so, and says with what it was started.
STUB = """
import http.server, json, os, pathlib, sys
class Stub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.end_headers()
        self.wfile.write(json.dumps({"env": dict(os.environ), "cpus": list(os.sched_getaffinity(0))}).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Stub).serve_forever()
"""


def stub(status: int = 200, **fields: Any) -> ContenderRecord:
    """Return a contender whose API is the stub."""
    api = ["{python}", "-c", STUB, "{port}", str(status)]
    return ContenderRecord.model_validate({"name": "stub", "title": "Stub", "slots": "none", "api": api} | fields)


def stack(shared: Servers, contender: ContenderRecord, folder: Path) -> LocalStack:
    """Return a stack that is not yet up."""
    return LocalStack(shared.supervisor, contender, shared, folder, PLACEMENT)


def ask(running: LocalStack, method: str, path: str, body: object = None, request_id: UUID | None = None) -> Any:
    """Send a request and return the JSON of its answer."""
    connection = http.client.HTTPConnection(urlsplit(running.base_url).netloc, timeout=10)
    headers = {"Content-Type": "application/json"} | ({"X-Request-ID": str(request_id)} if request_id else {})
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status < 300, text
    return json.loads(text)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def databases(shared: Servers) -> set[str]:
    """Return the databases that stacks have made and not dropped."""
    with psycopg.connect(shared.postgres.url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'lab_%'")}


def running_names(shared: Servers) -> set[str]:
    """Return the names of all processes that run."""
    return {name for name, child in list(shared.supervisor.children.items()) if child.poll() is None}


def test_the_environment_and_the_cpus_are_the_contenders(shared: Servers, tmp_path: Path) -> None:
    """The API gets its servers' addresses, the contender's own settings and the contender's CPUs."""
    with stack(shared, stub(env={"COLOUR": "blue"}, broker="redis"), tmp_path / "block") as running:
        told = ask(running, "GET", "/")
        (database,) = databases(shared)
        assert told["env"]["COLOUR"] == "blue"
        assert told["env"]["DATA_DIR"] == str(tmp_path / "block" / "data")
        assert told["env"]["DATABASE_URL"].endswith(f"/{database}")
        assert told["env"]["SMTP_URL"] == shared.mail.url
        assert told["env"]["REDIS_URL"].startswith("redis://")
        assert told["cpus"] == PLACEMENT.contender
        assert sorted(running.roles().values()) == ["api", "broker", "lab", "mail", "postgres", "supervisor"]
    assert databases(shared) == set()
    assert running_names(shared) == {"postgres", "mail"}


def test_two_stacks_in_turn_start_from_nothing(shared: Servers, tmp_path: Path) -> None:
    """The second stack of a contender has another database and another broker."""
    seen = []
    for number in range(2):
        with stack(shared, stub(broker="redis"), tmp_path / str(number)) as running:
            told = ask(running, "GET", "/")["env"]
            seen.append((told["DATABASE_URL"], told["REDIS_URL"]))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_a_redis_of_ones_own_must_be_empty_and_is_emptied(
    shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database with something in it is refused and left alone; an empty one is left empty."""
    own = servers.redis(shared.supervisor, tmp_path / "redis", name="redis-own")
    monkeypatch.setenv("REDIS_URL", own.url)
    with own.connect() as client:
        client.set("mine", "1")
        with pytest.raises(StackError, match=r"^The database at REDIS_URL is not empty"):
            stack(shared, stub(broker="redis"), tmp_path / "refused").__enter__()
        assert client.get("mine") == b"1"
        client.delete("mine")
        with stack(shared, stub(broker="redis"), tmp_path / "block"):
            client.set("of the block", "1")
        assert client.dbsize() == 0
    own.stop()


@pytest.mark.parametrize(
    ("contender", "says"),
    [
        (
            stub(api=["{python}", "-c", "raise SystemExit(3)", "{port}"]),
            "stub-api ended with status 3 before it was up",
        ),
        (stub(api=["/no/such/program", "{port}"]), "stub-api could not be started: .*No such file"),
        (stub(workers=[["{python}", "-c", "1"]], status=503), "stub-worker-1 ended with status 0 before it was up"),
        (stub(status=503), r"stub-api was not up within 1 s \(GET /health says 503 "),
    ],
)
def test_what_does_not_come_up_is_named_and_leaves_nothing(
    shared: Servers, tmp_path: Path, contender: ContenderRecord, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the process and its log; database and processes are gone."""
    monkeypatch.setattr(servers, "UP_WITHIN_S", 1)
    with pytest.raises(StackError, match=says) as caught, stack(shared, contender, tmp_path / "block"):
        pass
    assert "\n" not in str(caught.value)
    assert databases(shared) == set()
    assert running_names(shared) == {"postgres", "mail"}


def test_a_port_that_is_taken_meanwhile_is_named(
    shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of a port and its use another process can take it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        monkeypatch.setattr(servers, "free_port", lambda: port)
        with pytest.raises(StackError, match=f"^inline-api could not start: port {port} is in use by another process"):
            stack(shared, KNOWN["inline"], tmp_path / "block").__enter__()
    assert running_names(shared) == {"postgres", "mail"}


def test_the_inline_app_leaves_its_evidence(shared: Servers, tmp_path: Path) -> None:
    """Journal, action log, effects, mails of this block alone, rows and processes lie in the block's folder."""
    address = urlsplit(shared.mail.url)
    with smtplib.SMTP(address.hostname or "", address.port or 0) as client:
        client.sendmail("a@example.org", ["b@example.org"], "X-Task-ID: before\r\n\r\nan earlier block's mail")
    action, mail, chat, probe = (uuid4() for _ in range(4))
    with stack(shared, KNOWN["inline"], tmp_path) as running:
        ask(running, "POST", "/action", {"message": "hello"}, action)
        ask(running, "POST", "/register", {"email": "c@example.org", "username": "c"}, mail)
        ask(running, "POST", "/chat", {"user_id": "u", "message": "hello"}, chat)
        ask(running, "POST", "/probe", {"work": "io", "seconds": 0.2}, probe)
        assert running.broker_is_empty()
        running.stop()
        running.collect()
    evidence = tmp_path / "evidence"
    (journal,) = (evidence / "journal").iterdir()
    assert {event["job"] for event in lines(journal)[1:] if event["event"] == "succeeded"} == {
        "write_log", "send_email", "log_conversation", "probe_io"
    }  # fmt: skip
    assert [line["task_id"] for line in lines(evidence / "actions.log")] == [str(uuid5(action, "0"))]
    assert [line["task_id"] for line in lines(evidence / "effects.log")] == [str(uuid5(probe, "0"))]
    assert [line["task_id"] for line in lines(evidence / "mail.jsonl")] == [str(uuid5(mail, "0"))]
    (row,) = lines(evidence / "rows.jsonl")
    assert (row["kind"], row["task_id"]) == ("conversation", str(uuid5(chat, "0")))
    assert abs(row["t_wall"] - time.time()) < 60
    assert json.loads((evidence / "broker.json").read_text()) == {"queue": [], "unacked": []}
    ended = [record for record in lines(evidence / "processes.jsonl") if record["event"] == "ended"]
    assert [(record["name"], record["status"], record["signal"]) for record in ended] == [("inline-api", None, 15)]
    assert not running.data.exists()


def test_what_is_left_in_the_broker_is_read(shared: Servers, tmp_path: Path) -> None:
    """Messages in the queue, those that a killed worker had taken, and the later steps inside of both are found."""
    with stack(shared, KNOWN["celery"], tmp_path) as running:
        request_ids = [uuid4() for _ in range(12)]
        for request_id in request_ids:
            ask(running, "POST", "/probe", {"work": "blocking", "seconds": 60}, request_id)
        steps = uuid4()
        ask(running, "POST", "/multi-tasks", {}, steps)
        assert until(lambda: any("started" in path.read_text() for path in running.journal.glob("celery-worker-*")))
        assert not running.broker_is_empty()
        shared.supervisor.stop(running.workers[0], grace_s=0)
        running.stop()
        running.collect()
        left = json.loads((tmp_path / "evidence" / "broker.json").read_text())
    started = {event["task_id"] for path in (tmp_path / "evidence" / "journal").glob("celery-worker-*")
               for event in lines(path)[1:]}  # fmt: skip
    unacked = {message["task_id"] for message in left["unacked"]}
    queued = {message["task_id"] for message in left["queue"]}
    probes = {str(uuid5(request_id, "0")) for request_id in request_ids}
    assert unacked, "prefetched and not begun"
    assert started | unacked | queued == probes | {str(uuid5(steps, "0"))}
    assert len(started) + len(unacked) + len(queued) == len(probes) + 1, "each is in one place only"
    assert all(abs(message["visible_since_wall_s"] - time.time()) < 60 for message in left["unacked"])
    chains = [message["chain"] for message in left["queue"] if message["chain"]]
    assert chains == [[str(uuid5(steps, "1")), str(uuid5(steps, "2"))]]


# Answers after 20 ms, and has from the beginning what a worker would have taken from the broker, if any.
HOLDING = """
import os, runpy, sys
import redis
if holds := sys.argv.pop():
    redis.Redis.from_url(os.environ["REDIS_URL"]).hset("unacked", "tag", holds)
runpy.run_module("lab.known_servers", run_name="__main__")
"""


@pytest.mark.parametrize("holds", ["", '[{"headers": {}}, "", "celery"]'])
def test_nobody_is_in_a_hurry_while_a_worker_holds_what_it_has_taken(
    shared: Servers, tmp_path: Path, holds: str
) -> None:
    """Though it runs nothing at this moment, and nothing waits in the queue: it may be between two tasks."""
    contender = stub(api=["{python}", "-c", HOLDING, "constant", "{port}", holds], broker="redis", journal=False)
    _, folder = measure_block(shared, tmp_path, contender, gets(rate=20))
    (stopping,) = [line for line in lines(folder / "evidence" / "processes.jsonl") if line["event"] == "stopping"]
    assert stopping["hurried"] == (not holds)


def test_a_killed_worker_is_restarted_and_works_on(shared: Servers, tmp_path: Path) -> None:
    """As in production: the tree is killed, a second later there is a new one, and the queue is worked off.

    The task is sent when the old worker is surely gone: what Redis hands to a dying one is lost.
    """
    with stack(shared, KNOWN["celery-threads"], tmp_path) as running:
        (worker,) = running.workers
        killed = shared.supervisor.signal(worker, signal.SIGKILL, tree=True)
        assert until(lambda: shared.supervisor.children[worker].starts == 2)
        ask(running, "POST", "/action", {"message": "hello"})
        assert until(lambda: (running.data / "actions.log").exists(), within_s=20)
        running.stop()
        running.collect()
    records = [record for record in lines(tmp_path / "evidence" / "processes.jsonl") if record["name"] == worker]
    assert [record["event"] for record in records if record["kind"] == "service"] == ["started", "ended"] * 2
    assert {record["pid"] for record in records if record.get("signal") == signal.SIGKILL} == set(killed)
