"""The locustfile as people and the lab run it: by the command line, without and with the web UI."""

import json
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from loadtests.users import ScenarioName
from tests.loadserver import LoadServer, free_port, load_server, status
from tests.support import until

PROJECT = Path(__file__).parent.parent.parent
LOCUST = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--only-summary"]
SCHEDULE = ["--rate", "60", "--warmup", "0.5", "--duration", "1", "--seed", "7", "--bystanders", "20"]


class Samples(NamedTuple):
    """A samples file in its three parts."""

    header: dict[str, Any]
    rows: list[dict[str, Any]]
    footer: dict[str, Any]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def locust() -> Iterator[Start]:
    """Start Locust on the locustfile: ``locust(host, *options)``, the host being "" where contenders are named.

    What still runs at the end of the test is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(host: str, *options: str, headless: bool = True) -> "subprocess.Popen[str]":
        command = [*LOCUST, *(["--host", host] if host else []), *(["--headless"] if headless else []), *options]
        started.append(
            subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]", within_s: float = 40) -> tuple[int, str]:
    """Wait for Locust and return its exit status and all that it printed."""
    output, _ = process.communicate(timeout=within_s)
    return process.returncode, output


def read(path: Path) -> Samples:
    """Read a samples file whose load is over."""
    header, *rows, footer = [json.loads(line) for line in path.read_text().splitlines()]
    return Samples(header, sorted(rows, key=lambda row: row["seq"]), footer)


def play(locust: Start, server: LoadServer, path: Path, *options: str) -> Samples:
    """Play a schedule to its end and return its samples."""
    code, output = ended(locust(server.host, *SCHEDULE, "--samples", str(path), *options))
    assert code == 0, output
    return read(path)


def test_every_scenario_sends_what_it_says_and_each_request_once(locust: Start, tmp_path: Path) -> None:
    """Each scenario's rows and the requests that reached the server are the same, one to one."""
    names = [name for name in get_args(ScenarioName) if name != "requests"]  # which a file describes
    with load_server() as server:
        running = {
            name: locust(server.host, *SCHEDULE, "--scenario", name, "--samples", str(tmp_path / name))
            for name in names
        }
        for process in running.values():
            code, output = ended(process)
            assert code == 0, output
        samples = {name: read(tmp_path / name) for name in names}
    received = Counter((request.request_id, f"{request.method} {request.path}") for request in server.received)
    sent = Counter((row["request_id"], row["route"]) for name in names for row in samples[name].rows)
    assert received == sent
    for name in names:
        assert_whole(samples[name], name)


def assert_whole(samples: Samples, name: str) -> None:
    """Fail unless header, rows and last line are what the contract says of a schedule that was played."""
    header, rows, footer = samples
    assert (header["schema"], header["scenario"], header["seed"], header["rate"]) == (1, name, 7, 60.0)
    assert header["window_end_ns"] - header["window_start_ns"] == 1_000_000_000
    assert header["window_start_ns"] - header["start_ns"] == 500_000_000
    assert [row["seq"] for row in rows] == list(range(len(rows)))
    assert {row["outcome"] for row in rows} == {"acknowledged"}
    assert (footer["sent"], footer["unsent"]) == (len(rows), 0)
    assert footer["loop_lag_p99_ms"] <= footer["loop_lag_max_ms"]
    for row in rows:
        assert header["start_ns"] <= row["intended_ns"] < header["window_end_ns"]
        assert row["intended_ns"] <= row["sent_ns"] <= row["ended_ns"]
        assert (row["phase"] == "window") == (row["intended_ns"] >= header["window_start_ns"])
        assert (row["stream"] == "bystander") == (row["tasks"] == 0) == row["route"].startswith("GET /ping/")
    routes = Counter(row["route"] for row in rows)
    assert (routes["GET /ping/loop"], routes["GET /ping/thread"]) == (30, 30)
    if name != "mixed":
        assert set(routes) == {"GET /ping/loop", "GET /ping/thread", f"POST /{name}"}


def test_the_same_seed_sends_the_same_requests_at_the_same_times(locust: Start, tmp_path: Path) -> None:
    """Two runs of one seed differ in nothing but their start; another seed differs."""
    runs = []
    for number, seed in enumerate(("7", "7", "8")):
        with load_server() as server:
            header, rows, _ = play(locust, server, tmp_path / str(number), "--scenario", "chat", "--seed", seed)
        plan = [(row["request_id"], row["route"], row["intended_ns"] - header["start_ns"]) for row in rows]
        runs.append((plan, {request.request_id: request.body for request in server.received}))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def named(**servers: LoadServer) -> list[str]:
    """Return the options that name contenders."""
    return [part for name, server in servers.items() for part in ("--contender-url", f"{name}={server.host}")]


def test_side_by_side_each_contender_gets_the_same_requests_at_the_same_times(locust: Start, tmp_path: Path) -> None:
    """One of them is dead, which the other does not notice."""
    path = tmp_path / "samples"
    dead = LoadServer(free_port())
    with load_server() as server:
        code, output = ended(
            locust("", *SCHEDULE, "--scenario", "mixed", "--samples", str(path), *named(inline=server, celery=dead))
        )
    assert code == 0, output
    header, rows, footer = read(path)
    assert header["contenders"] == {"inline": server.host, "celery": dead.host}
    plans = {
        name: [
            (row["seq"], row["request_id"], row["route"], row["intended_ns"])
            for row in rows
            if row["contender"] == name
        ]
        for name in header["contenders"]
    }
    assert plans["inline"] == plans["celery"]
    assert len(rows) == 2 * len(plans["inline"]) == footer["sent"]
    outcomes = {(row["contender"], row["outcome"]) for row in rows}
    assert outcomes == {("inline", "acknowledged"), ("celery", "refused")}
    assert sorted(r.request_id for r in server.received) == sorted(plan[1] for plan in plans["inline"])
    assert "celery /action" in output


def test_without_a_schedule_named_contenders_get_bystanders(locust: Start, tmp_path: Path) -> None:
    """At 20 a second to each of two routes, and the same requests to each contender."""
    path = tmp_path / "samples"
    users = ["-u", "10", "-r", "100", "-t", "3s", "--samples", str(path), "--scenario", "action"]
    with load_server() as one, load_server() as other:
        code, output = ended(locust("", *users, *named(one=one, other=other)))
    assert code == 0, output
    rows = read(path).rows
    routes = Counter((row["contender"], row["route"]) for row in rows)
    for name in ("one", "other"):
        assert routes[name, "GET /ping/loop"] == pytest.approx(56, abs=20)
        assert abs(routes[name, "GET /ping/loop"] - routes[name, "GET /ping/thread"]) <= 1
    ids = {name: {row["request_id"] for row in rows if row["contender"] == name} for name in ("one", "other")}
    assert ids["one"] == ids["other"]


def test_a_dead_server_is_a_result_and_no_failure_of_the_load(locust: Start, tmp_path: Path) -> None:
    """With nobody listening every request is refused, and Locust ends with status 0."""
    samples = play(locust, LoadServer(free_port()), tmp_path / "samples", "--scenario", "action")
    assert {(row["outcome"], row["error"]) for row in samples.rows} == {("refused", "connection refused")}


def test_a_server_in_trouble_is_a_result_too(locust: Start, tmp_path: Path) -> None:
    """504 is indeterminate, and Locust ends with status 0."""
    with load_server(lambda _: status(504)) as server:
        samples = play(locust, server, tmp_path / "samples", "--scenario", "action")
    assert {(row["outcome"], row["status"]) for row in samples.rows} == {("indeterminate", 504)}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopped_early_every_intended_request_still_has_its_row(
    locust: Start, tmp_path: Path, how: signal.Signals
) -> None:
    """What was in flight is indeterminate, what was to come is unsent, and the status says that it was cut short."""
    path = tmp_path / "samples"
    schedule = ["--rate", "50", "--arrivals", "constant", "--duration", "20", "--samples", str(path)]
    with load_server(lambda _: "silence") as server:
        process = locust(server.host, *schedule, "--scenario", "action")
        assert until(lambda: len(server.received) >= 25, 20)
        process.send_signal(how)
        code, output = ended(process)
    assert code == 1, output
    assert "Traceback" not in output
    rows = read(path).rows
    assert [row["seq"] for row in rows] == list(range(1000))
    indeterminate = {row["request_id"] for row in rows if row["outcome"] == "indeterminate"}
    assert len(indeterminate) >= 25
    assert {request.request_id for request in server.received} <= indeterminate
    assert {row["outcome"] for row in rows} == {"indeterminate", "unsent"}


def test_killed_the_samples_so_far_are_there_and_the_last_line_says_that_it_was_cut_off(
    locust: Start, tmp_path: Path
) -> None:
    """SIGKILL costs the rows of the last quarter of a second, and every line that is there is whole."""
    path = tmp_path / "samples"
    with load_server() as server:
        process = locust(server.host, *SCHEDULE, "--duration", "20", "--samples", str(path), "--scenario", "action")
        assert until(lambda: path.exists() and len(path.read_text().splitlines()) >= 100, 20)
        process.kill()
        ended(process)
    _header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) >= 99
    assert all("seq" in row for row in rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_load_with_a_sentence(locust: Start) -> None:
    """Samples that cannot be written are no measurement: status 1, no traceback."""
    with load_server() as server:
        code, output = ended(locust(server.host, *SCHEDULE, "--samples", "/dev/full", "--scenario", "action"))
    assert code == 1, output
    assert "No space left" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scenario", "nonsense"], "nonsense"),
        (["--scenario", "action", "--rate", "0", "--duration", "1"], "--rate 0"),
        (["--scenario", "action", "--rate", "5"], "--duration"),
        (["--scenario", "action", "--rate", "5", "--duration", "1", "--samples", "/no/such/folder/file"], "folder"),
        (["--scenario", "action", "--rate", "5", "--duration", "1", "--samples", "/proc/file"], "/proc/file"),
        (["--scenario", "action", "--host", "http://192.0.2.1:8000"], "not this machine"),
        (["--scenario", "action", "--host", "nonsense"], "http://127.0.0.1:8000"),
        (["--scenario", "action", "--contender-url", "a=http://127.0.0.1:1"], "exclude each other"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence_before_anything_is_sent(
    locust: Start, options: list[str], sentence: str
) -> None:
    """Exit status 2, no traceback, nothing on the wire."""
    with load_server() as server:
        code, output = ended(locust(server.host, *options))
    assert code == 2, output
    assert sentence in output
    assert "Traceback" not in output
    assert server.connections == 0


def test_a_data_folder_that_is_not_there_is_refused(locust: Start) -> None:
    """In a sentence that names it."""
    code, output = ended(
        locust("", "--contender-url", "one=http://127.0.0.1:1", "--contender-data", "one=/no/such/folder")
    )
    assert code == 2, output
    assert "--contender-data one=/no/such/folder: there is no such folder." in output
    assert "Traceback" not in output


def test_without_a_schedule_each_user_is_one_arrival_a_second(locust: Start, tmp_path: Path) -> None:
    """Forty users for four seconds are about 160 requests, at random times, in Locust's own table too."""
    path = tmp_path / "samples"
    with load_server() as server:
        users = ["-u", "40", "-r", "100", "-t", "4s", "--seed", "3", "--samples", str(path)]
        code, output = ended(locust(server.host, *users, "--scenario", "action"))
    assert code == 0, output
    samples = read(path)
    assert len(samples.rows) == pytest.approx(150, abs=65)  # less up to a second of Locust's start; five sigma
    assert Counter(row["request_id"] for row in samples.rows) >= Counter(r.request_id for r in server.received)
    assert "/action" in output
    assert samples.header["rate"] is None


class WebUi:
    """Locust with its web UI, driven as the page does it."""

    def __init__(self, locust: Start, host: str, *options: str) -> None:
        self.port = free_port()
        web = ["--web-host", "127.0.0.1", "--web-port", str(self.port), "--scenario", "action"]
        self.process = locust(host, *web, *options, headless=False)
        assert until(self._up, 20)

    def _up(self) -> bool:
        try:
            self.get("/")
        except OSError:
            return False
        return True

    def get(self, path: str) -> str:
        """Return a page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            page: bytes = answer.read()
            return page.decode()

    def post(self, path: str, **form: object) -> dict[str, Any]:
        """Send a form and return the answer."""
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    def state(self) -> str:
        """Return what the page Comparison says of the load."""
        state: str = json.loads(self.get("/comparison/state"))["load"]["state"]
        return state

    def swarm(self, **form: object) -> dict[str, Any]:
        """Send the start form, or the one that changes the number of users."""
        return self.post("/swarm", **form)


def test_the_web_ui_picks_the_scenario_and_its_users_are_the_rate(locust: Start, tmp_path: Path) -> None:
    """Start, change and stop the load from the form; another machine or a file's name in it is refused."""
    with load_server() as server:
        ui = WebUi(locust, server.host)
        assert "multi-tasks" in ui.get("/")
        refused = ui.swarm(user_count=5, spawn_rate=5, host="http://192.0.2.1:80", scenario="action")
        assert (refused["success"], "not this machine" in refused["message"]) == (False, True)
        assert not ui.swarm(user_count=5, spawn_rate=5, host=server.host, seed="x")["success"]
        assert not ui.swarm(user_count=5, spawn_rate=5, host=server.host, samples=tmp_path / "samples")["success"]
        assert not (tmp_path / "samples").exists()
        for count in (0, -5):
            nothing = ui.swarm(user_count=count, spawn_rate=5, host=server.host)
            assert (nothing["success"], "send nothing" in nothing["message"]) == (False, True)
        nobody = ui.swarm(user_count=5, spawn_rate=5, host=server.host, user_classes="Nobody")
        assert (nobody["success"], "no users 'Nobody'" in nobody["message"]) == (False, True)

        form = {"host": server.host, "scenario": "register", "seed": "", "probe_seconds": "0.05"}
        assert ui.swarm(user_count=10, spawn_rate=100, **form)["success"]
        other = ui.swarm(user_count=100, spawn_rate=100, **form | {"scenario": "action"})
        assert (other["success"], "A load is running" in other["message"]) == (False, True)
        few_per_s = rate_seen(server)
        assert ui.swarm(user_count=100, spawn_rate=100)["success"]
        many_per_s = rate_seen(server)
        ui.post("/stop")
        stopped_at = len(server.received)
        assert {request.path for request in server.received} == {"/register"}
        assert '"num_requests":0' not in ui.get("/stats/requests").replace(" ", "")
        ui.process.send_signal(signal.SIGTERM)
        _, output = ended(ui.process)
    assert few_per_s == pytest.approx(10, abs=8)
    assert many_per_s == pytest.approx(100, abs=40)
    assert len(server.received) - stopped_at < 5  # on the wire when it stopped; a second of load would be 100
    assert "Traceback" not in output


def test_the_web_ui_offers_the_contenders_and_both(locust: Start) -> None:
    """The form's field has their names, and one that is not there is refused; the host field does not matter."""
    with load_server() as one, load_server() as other:
        ui = WebUi(locust, "", *named(one=one, other=other))
        assert '"choices": ["both", "one", "other"]' in ui.get("/")
        form = {"user_count": 20, "spawn_rate": 100, "host": "", "scenario": "action"}
        assert not ui.swarm(**form, contender="nobody")["success"]
        assert not ui.swarm(**form, contender_url="x=http://127.0.0.1:1")["success"]
        assert not ui.swarm(**form, contender_data="one=/etc")["success"]
        with ThreadPoolExecutor() as browsers:  # both press Start at once: the load is of one of them alone
            names = ["other", "one"]
            started = [told["success"] for told in browsers.map(lambda name: ui.swarm(**form, contender=name), names)]
        assert sorted(started) == [False, True]
        loaded, spared = (other, one) if started[0] else (one, other)
        assert until(lambda: len(loaded.received) > 20)
        ui.post("/stop")
        assert spared.received == []
        seen = len(one.received)
        assert ui.swarm(**form, contender="both")["success"]
        assert until(lambda: len(one.received) > seen + 20)
        ui.post("/stop")
        ui.process.send_signal(signal.SIGTERM)
        _, output = ended(ui.process)
    assert "Traceback" not in output


def test_while_a_load_ends_no_other_begins(locust: Start, tmp_path: Path) -> None:
    """Neither while its users end nor while its last answers are awaited; once they are there, one does."""
    path = tmp_path / "samples.jsonl"
    users = {"user_count": 10, "spawn_rate": 100}
    with load_server(delay_s=4) as server:  # Locust's own state is up to two seconds old
        form = {**users, "scenario": "action", "arrivals": "constant", "host": server.host}
        ui = WebUi(locust, server.host, "--stop-timeout", "6", "--samples", str(path))

        def refused() -> bool:
            told = [ui.swarm(**form), ui.swarm(**users)]  # the start form, and the one that changes a load
            return all(not one["success"] and "still ending" in one["message"] for one in told)

        assert ui.swarm(**form)["success"]
        assert until(lambda: len(server.received) > 10)
        with ThreadPoolExecutor(1) as browser:
            stopped = browser.submit(ui.post, "/stop")
            assert until(lambda: ui.state() == "ending")
            assert refused()
            assert until(lambda: json.loads(ui.get("/stats/requests"))["state"] == "stopped")
            assert ui.state() == "ending"
            assert refused()
            assert stopped.result()["success"]
        assert ui.state() == "stopped"
        samples, sent = read(path), len(server.received)
        assert ui.swarm(**form)["success"]
        assert until(lambda: len(server.received) > sent + 10)
        assert ui.state() == "running"
        ui.process.kill()
        _, output = ended(ui.process)
    assert "Traceback" not in output
    assert Counter(row["request_id"] for row in samples.rows) == Counter(r.request_id for r in server.received[:sent])
    assert {row["outcome"] for row in samples.rows} == {"acknowledged"}, "there was time for every answer"


def rate_seen(server: LoadServer, over_s: float = 4.0) -> float:
    """Return how many requests per second reach a server, once the first has."""
    before = len(server.received)
    assert until(lambda: len(server.received) > before + 3)
    before = len(server.received)
    until(lambda: False, over_s)
    return (len(server.received) - before) / over_s


def test_loads_of_one_seed_ask_for_the_same_but_never_with_the_same_ids(locust: Start, tmp_path: Path) -> None:
    """What became of the tasks of the second is not what became of those of the first, on the same apps."""
    users = ["-u", "10", "-r", "100", "-t", "2s", "--seed", "7", "--scenario", "action"]
    ids: list[set[str]] = []
    bodies: list[list[bytes]] = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        with load_server() as server:
            code, output = ended(locust(server.host, *users, "--samples", str(path)))
            assert code == 0, output
            body_of = {request.request_id: request.body for request in server.received}
        first = [row["request_id"] for row in read(path).rows if row["status"]][:5]
        ids.append(set(body_of))
        bodies.append([body_of[request_id] for request_id in first])
    assert bodies[0] == bodies[1]
    assert len(set(bodies[0])) > 1
    assert not ids[0] & ids[1]
