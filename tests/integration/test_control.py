"""The control API of `lab up` on real stacks: it counts their tasks, does faults to them, and refuses what is wrong."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4, uuid5

import duckdb
import pytest

from lab import exploratory
from lab.contenders import load_contenders
from lab.control import TOKEN_HEADER, Control, ControlServer
from lab.environment import PROJECT, available_cpus, place
from lab.exploratory import Seen
from lab.globs import no_glob
from lab.rundir import RunDir
from lab.stacks.local import LocalStack, Servers
from tests.support import until

KNOWN = load_contenders(PROJECT / "contenders.toml")
PLACEMENT = place(available_cpus())


class Client:
    """Asks the API, and keeps the samples file as a load of the web UI does."""

    def __init__(self, server: ControlServer, stacks: list[LocalStack], samples: Path) -> None:
        self.environment = server.environment
        self.stacks = {stack.contender.name: stack for stack in stacks}
        self.samples = samples

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        address = urlsplit(self.environment["LAB_CONTROL_URL"]).netloc
        token = self.environment["LAB_CONTROL_TOKEN"] if token is None else token
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request(method, path, json.dumps(body), {TOKEN_HEADER: token})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        return answer.status, said

    def state(self) -> Any:
        """Return the state."""
        status, said = self.ask("GET", "/state")
        assert status == 200
        return said

    def begin(self, *contenders: str) -> None:
        """Write the header of a new load, of all contenders where none is named."""
        now_ns = time.monotonic_ns()
        urls = {name: self.stacks[name].base_url for name in contenders or self.stacks}
        header = {"contenders": urls, "start_ns": now_ns}
        header |= {"window_start_ns": now_ns, "wall_ns": time.time_ns(), "seed": 7, "bystanders": 0.0}
        header |= {"scenario": "probe", "arrivals": "poisson"}
        self.samples.write_text(json.dumps(header) + "\n")

    def write(self, line: dict[str, Any]) -> None:
        """Append a line to the samples."""
        with self.samples.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def send(self, contender: str, work: str = "io", seconds: float = 0.01) -> UUID:
        """Have a contender do a task, and write the sample."""
        request_id = uuid4()
        sent_ns = time.monotonic_ns()
        connection = http.client.HTTPConnection(urlsplit(self.stacks[contender].base_url).netloc, timeout=10)
        headers = {"Content-Type": "application/json", "X-Request-ID": str(request_id)}
        connection.request("POST", "/probe", json.dumps({"work": work, "seconds": seconds}), headers)
        assert connection.getresponse().status == 202
        connection.close()
        row = {"seq": 0, "request_id": str(request_id), "tasks": 1, "outcome": "acknowledged", "contender": contender}
        row |= {"stream": "load", "phase": "window", "route": "POST /probe", "status": 202, "error": None}
        self.write(row | {"intended_ns": sent_ns, "sent_ns": sent_ns, "ended_ns": time.monotonic_ns()})
        return request_id


@pytest.fixture(scope="module")
def client(shared: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The API over both contenders."""
    folder = tmp_path_factory.mktemp("up") / "[1]*?"  # which DuckDB takes for a pattern
    with (
        LocalStack(shared.supervisor, KNOWN["inline"], shared, folder / "inline", PLACEMENT) as inline,
        LocalStack(shared.supervisor, KNOWN["celery"], shared, folder / "celery", PLACEMENT) as celery,
    ):

        def save(samples: Path, seen: list[Seen]) -> RunDir:
            return exploratory.save(samples, seen, folder / "runs", PLACEMENT, shared.versions)

        control = Control([inline, celery], folder / "samples.jsonl", save)
        with ControlServer(control) as server:
            yield Client(server, [inline, celery], folder / "samples.jsonl")
        control.wait(5)


@pytest.mark.parametrize("token", ["", "wrong", "\u00e9"])
def test_without_the_token_nothing_is_said_or_done(client: Client, token: str) -> None:
    """No route answers, and the token is not told."""
    for method, path in [("GET", "/state"), ("POST", "/fault"), ("POST", "/save")]:
        assert client.ask(method, path, {}, token) == (403, {"message": "The token is missing or wrong."})


def test_a_fault_without_load_is_refused(client: Client) -> None:
    """Before the first load and after the end of one."""
    asked = {"contender": "inline", "fault": "api-kill"}
    client.samples.unlink(missing_ok=True)
    before = client.stacks["inline"].instances(["inline-api"])
    for _ in range(2):
        status, said = client.ask("POST", "/fault", asked)
        assert (status, said["message"]) == (409, "No load is running: a fault now would show nothing.")
        client.begin()
        client.write({"loop_lag_p99_ms": 0.1})
    assert client.stacks["inline"].instances(["inline-api"]) == before


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"contender": "nobody", "fault": "api-kill"}, 404, "There is no contender 'nobody' here."),
        ({"contender": "inline", "fault": "flood"}, 404, "There is no fault 'flood' that can be done to 'inline'."),
        ({"contender": "inline", "fault": "worker-kill"}, 404, "There is no fault 'worker-kill' that can be done"),
        ({"contender": "inline"}, 400, "Expected JSON"),
        (["inline"], 400, "Expected JSON"),
        ({"contender": "inline", "fault": "x" * 10_000}, 400, "Expected JSON"),
    ],
)
def test_what_is_not_known_is_refused(client: Client, asked: object, status: int, says: str) -> None:
    """With a sentence, and the status of the kind of error."""
    client.begin()
    answered, said = client.ask("POST", "/fault", asked)
    assert answered == status
    assert said["message"].startswith(says)


def test_only_faults_that_apply_are_offered(client: Client) -> None:
    """Without workers nothing can be done to workers."""
    contenders = client.state()["contenders"]
    assert set(contenders["inline"]["faults"]) == {"api-kill", "deploy"}
    assert set(contenders["celery"]["faults"]) == {"api-kill", "worker-kill", "deploy", "worker-pause", "broker-pause"}
    assert contenders["inline"]["backlog"] is None


def test_a_broker_of_ones_own_is_not_offered_for_a_pause(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1/0")
    assert set(client.state()["contenders"]["celery"]["faults"]) == {
        "api-kill",
        "worker-kill",
        "deploy",
        "worker-pause",
    }


def test_tasks_are_counted_to_their_end_by_contender(client: Client) -> None:
    """Acknowledged and done agree, each contender's own; a new load begins at nothing."""
    client.begin()
    for _ in range(3):
        client.send("celery")
    client.send("inline")

    def counts() -> dict[str, tuple[int, int, int]]:
        return {name: (c["acknowledged"], c["done"], c["not_done"]) for name, c in client.state()["contenders"].items()}

    assert until(lambda: counts() == {"inline": (1, 1, 0), "celery": (3, 3, 0)}, within_s=20), counts()
    seconds = {name: one["succeeded_in"] for name, one in client.state()["contenders"].items()}
    assert {name: sum(counted) for name, counted in seconds.items()} == {"inline": 1, "celery": 3}
    client.begin()
    assert counts() == {"inline": (0, 0, 0), "celery": (0, 0, 0)}


def test_a_line_that_is_not_whole_is_waited_for_and_a_broken_one_told(client: Client) -> None:
    """In a sentence, whoever asks for what, until the next load replaces the file."""
    client.begin()
    sent = {"seq": 0, "request_id": str(uuid4()), "tasks": 1, "outcome": "acknowledged", "contender": "inline"}
    line = json.dumps(sent).encode() + b"\n"
    for part, acknowledged in ((line[:9], 0), (line[9:], 1)):
        with client.samples.open("ab") as file:
            file.write(part)
        assert client.state()["contenders"]["inline"]["acknowledged"] == acknowledged
    with client.samples.open("ab") as file:
        file.write(bytes(40) + b'\xff"tasks":1}\n' + line)
    says = f"{client.samples} has a line that is none of a load's: start another load."
    for method, path in (("GET", "/state"), ("POST", "/save"), ("GET", "/state")):
        assert client.ask(method, path) == (500, {"message": says})
    client.samples.write_bytes(b"\0\0\n")
    assert client.ask("GET", "/state") == (500, {"message": says})
    client.begin()
    assert client.state()["running"]


def test_a_fault_is_done_once_at_a_time_and_what_waits_is_counted(client: Client) -> None:
    """The workers are killed and come again; until then a second fault is refused; the other stack is left alone."""
    client.begin()
    celery = client.stacks["celery"]
    inline_before = client.stacks["inline"].instances(["inline-api"])
    before = celery.instances(celery.workers)
    asked = {"contender": "celery", "fault": "worker-pause"}
    assert client.ask("POST", "/fault", asked)[0] == 200
    status, said = client.ask("POST", "/fault", asked)
    assert (status, said["message"]) == (409, "The fault before is not over for 'celery' yet.")
    client.send("celery")
    contender = client.state()["contenders"]["celery"]
    assert (contender["acknowledged"], contender["not_done"]) == (1, 1)
    assert until(lambda: client.state()["faults"][-1]["over"], within_s=40)
    assert client.ask("POST", "/fault", asked | {"fault": "worker-kill"})[0] == 200
    assert until(lambda: client.state()["faults"][-1]["over"], within_s=40)
    faults = client.state()["faults"]
    assert [(fault["fault"], fault["confirmed"], fault["error"]) for fault in faults] == [
        ("worker-pause", True, None),
        ("worker-kill", True, None),
    ]
    assert all(0 < fault["at_s"] < fault["healed_s"] for fault in faults)
    assert until(lambda: celery.instances(celery.workers).keys() == before.keys())
    assert celery.instances(celery.workers) != before
    assert client.stacks["inline"].instances(["inline-api"]) == inline_before


def test_a_fault_of_whom_nobody_loads_is_refused(client: Client) -> None:
    """It would be in no chart and in no saved run."""
    client.begin("celery")
    before = client.stacks["inline"].instances(["inline-api"])
    status, said = client.ask("POST", "/fault", {"contender": "inline", "fault": "api-kill"})
    assert (status, said["message"]) == (409, "'inline' is not under load: a fault now would show nothing.")
    assert client.state()["faults"] == []
    assert client.stacks["inline"].instances(["inline-api"]) == before


def test_a_load_is_saved_once_it_is_over_without_the_tasks_of_others(client: Client) -> None:
    """The run holds this load's tasks and faults alone, gives no verdict, and the stack goes on."""
    client.begin()
    client.send("celery")  # of a load before, which must not be seen
    client.begin()
    own = [client.send("celery") for _ in range(3)]
    client.send("inline")
    assert client.ask("POST", "/fault", {"contender": "inline", "fault": "api-kill"})[0] == 200
    assert client.ask("POST", "/save")[0] == 409
    client.write({"loop_lag_p99_ms": 0.1})
    status, said = client.ask("POST", "/save")
    if status == 409:
        assert said["message"] == "A fault is not over yet: save once it is."
        assert until(lambda: client.state()["faults"][-1]["over"], within_s=40)
        status, said = client.ask("POST", "/save")
    assert status == 200, said
    directory = RunDir(client.samples.parent / "runs" / said["run"])
    run = directory.read()
    assert run.plan.exploratory
    assert {block.contender: block.injections for block in run.blocks} == {"inline": 1, "celery": 0}
    tasks = {block.contender: fates(directory.block(block) / "tasks.parquet") for block in run.blocks}
    assert tasks["celery"] == {str(uuid5(request_id, "0")): "done" for request_id in own}
    assert len(tasks["inline"]) == 1
    assert client.state()["saved"] == [{"run": said["run"], "report": str(directory.path / "report.html")}]
    written = (directory.path / "report.md").read_text()
    assert "This run is exploratory" in written
    assert "CPU and memory were not sampled" in written
    assert "## Resources\n\nNothing was measured.\n" in written
    assert not list(client.samples.parent.glob(".saving-*"))
    client.begin()
    client.send("celery")
    assert until(lambda: client.state()["contenders"]["celery"]["done"] == 1, within_s=20)


def save(client: Client) -> dict[str, Path]:
    """End the load and save it; return the table of each contender's tasks."""
    client.write({"loop_lag_p99_ms": 0.1})
    status, said = client.ask("POST", "/save")
    assert status == 200, said
    directory = RunDir(client.samples.parent / "runs" / said["run"])
    return {block.contender: directory.block(block) / "tasks.parquet" for block in directory.read().blocks}


def test_a_line_that_cannot_be_read_is_told_where_a_load_is_saved(client: Client) -> None:
    """Whatever it is; the others of its file count."""
    client.begin()
    task = str(uuid5(client.send("celery"), "0"))
    foreign = client.stacks["celery"].journal / "shop-host-4194304-0.jsonl"  # a pid that no process has
    event = {"task_id": task, "job": "probe", "event": "started", "t_ns": time.monotonic_ns(), "by": "\u2028"}
    foreign.write_bytes(b"{}\n\xff\n[]\n" + json.dumps(event, ensure_ascii=False).encode() + b"\n")
    try:
        table = save(client)["celery"]
    finally:
        foreign.unlink()
    with duckdb.cursor() as db:
        found = db.execute("SELECT attempts, n_journal FROM read_parquet($f)", {"f": no_glob(table)}).fetchall()
    assert found == [(2, 1)]
    report = table.parents[2] / "report.md"
    assert "2 lines of the journal cannot be read" in report.read_text()


def started(stack: LocalStack) -> set[str]:
    """Return the tasks that a stack has begun, of whatever load."""
    lines = [json.loads(line) for path in stack.journal.glob("*.jsonl") for line in path.read_text().splitlines()]
    return {line["task_id"] for line in lines if line.get("event") == "started"}


def test_what_is_under_way_when_a_load_is_saved_is_pending(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs, and what waits in the app, with the worker or in the queue; after that all of it is done."""
    monkeypatch.setattr(exploratory, "HORIZON_S", 0.2)
    client.begin()
    for _ in range(43):  # 40 have a thread each
        client.send("inline", "blocking", 3)
    for _ in range(8):  # of which the worker takes four, if it has one child, besides the one that it runs
        client.send("celery", "blocking", 0.7)
    for name, table in save(client).items():
        assert set(fates(table).values()) <= {"done", "pending"}, name
        sql = "SELECT DISTINCT split_part(last_seen, ' in ', 1) FROM read_parquet($f) WHERE fate = 'pending'"
        seen = {row[0] for row in duckdb.execute(sql, {"f": no_glob(table)}).fetchall()}
        assert {"accepted", "started"} <= seen if name == "inline" else "taken, unacknowledged" in seen

    def not_done() -> int:
        return sum(one["not_done"] for one in client.state()["contenders"].values())

    assert until(lambda: not_done() == 0, within_s=40)


def test_nothing_is_missed_that_changes_places_while_a_load_is_saved(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the queue to the worker, and there to its end: it is one or the other, and its effect is explained."""
    monkeypatch.setattr(exploratory, "HORIZON_S", 0)
    client.begin("celery")
    for _ in range(200):
        client.send("celery", seconds=0.002)
    table = save(client)["celery"]
    sql = "SELECT DISTINCT fate, agreement FROM read_parquet($f)"
    found = set(duckdb.execute(sql, {"f": no_glob(table)}).fetchall())
    assert found <= {("done", "equal"), ("done", "explained"), ("pending", "equal")}


def test_what_a_killed_worker_had_begun_stays_lost(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it had taken stranded; what was asked for after it came again is pending."""
    monkeypatch.setattr(exploratory, "HORIZON_S", 0.2)
    client.begin("celery")
    celery = client.stacks["celery"]
    before = {str(uuid5(client.send("celery", "blocking", 30), "0")) for _ in range(6)}
    assert until(lambda: before & started(celery), within_s=20)
    client.ask("POST", "/fault", {"contender": "celery", "fault": "worker-kill"})
    begun = before & started(celery)
    assert until(lambda: client.state()["faults"][-1]["over"], within_s=40)
    after = {str(uuid5(client.send("celery", "blocking", 0.5), "0")) for _ in range(6)}
    assert until(lambda: (before | after) & started(celery) - begun, within_s=20)
    found = fates(save(client)["celery"])
    assert {found[task] for task in begun} == {"lost"}
    assert {found[task] for task in before - begun} <= {"stranded", "pending"}
    assert "stranded" in found.values()
    assert {found[task] for task in after} <= {"pending", "done"}


def fates(table: Path) -> dict[str, str]:
    """Return the fate of each task of a block."""
    return dict(duckdb.execute("SELECT task_id, fate FROM read_parquet($f)", {"f": no_glob(table)}).fetchall())
