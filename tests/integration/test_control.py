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

    def send(self, contender: str) -> UUID:
        """Have a contender do a task, and write the sample."""
        request_id = uuid4()
        sent_ns = time.monotonic_ns()
        connection = http.client.HTTPConnection(urlsplit(self.stacks[contender].base_url).netloc, timeout=10)
        headers = {"Content-Type": "application/json", "X-Request-ID": str(request_id)}
        connection.request("POST", "/probe", json.dumps({"work": "io", "seconds": 0.01}), headers)
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


def fates(table: Path) -> dict[str, str]:
    """Return the fate of each task of a block."""
    return dict(duckdb.execute("SELECT task_id, fate FROM read_parquet($f)", {"f": no_glob(table)}).fetchall())
