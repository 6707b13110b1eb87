"""One's own apps: described in a file, started or running already, with a journal or without."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lab import ledger
from lab.drain import JournalTail
from lab.environment import PROJECT
from lab.errors import COULD_NOT_MEASURE, VOID, LabError
from lab.left_over import LeftOver
from lab.rundir import ContenderRecord, RunDir
from lab.stacks import living
from lab.stacks.running import RunningStack
from lab.stacks.servers import MailSink, Postgres, Redis, free_port
from lab.stacks.supervisor import Supervisor
from tests import apps
from tests.blockmaker import REQUEST_COLUMNS, Block, as_lines, write_parquet
from tests.support import until

LAB = [sys.executable, "-m", "lab"]
EXAMPLE = PROJECT / "examples" / "event_loops"


def run_lab(out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `lab compare` without faults for a short time."""
    command = [*LAB, "compare", "--out", out, "--rounds", "1", "--duration", "2", "--void-repeats", "0", *arguments]
    return subprocess.run([str(part) for part in command], cwd=PROJECT, capture_output=True, text=True, timeout=120)


def summary_of(out: Path) -> dict[str, Any]:
    """Return the summary of the only run in a folder."""
    (run,) = out.iterdir()
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def test_the_example_compares_something_else(tmp_path: Path) -> None:
    """Both contenders answer every kind of request; nothing is said of tasks, and that is said."""
    done = run_lab(
        tmp_path, "--contenders", EXAMPLE / "contenders.toml", "--scenarios", EXAMPLE / "scenarios", "--rate", "40"
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "Of uvloop and asyncio there is no journal" in " ".join(done.stdout.split())
    summary = summary_of(tmp_path)
    blocks = [block for block in summary["blocks"] if block["valid"]]
    routes = [row for row in summary["routes"] if row["contender"] in {block["contender"] for block in blocks}]
    for row in routes:
        assert row["acknowledged"] == row["requests"] > 0
        assert row["goodput_per_s"]["median"] is None
    assert {row["route"] for row in routes} == ({"all", "GET /items", "POST /orders"} if blocks else set())
    assert not [comparison for comparison in summary["comparisons"] if comparison["metric"].startswith("done")]
    assert summary["bystanders"] == []


def test_an_own_app_is_not_measured_in_containers(tmp_path: Path) -> None:
    """It is not in the image: that is said at once, and no run directory is made."""
    done = run_lab(tmp_path / "runs", "--contenders", EXAMPLE / "contenders.toml", "--stack", "compose")
    assert done.returncode == 2
    sentence = "lab: 'uvloop' is not in the image: --stack compose runs the lab's own contenders."
    assert done.stderr.splitlines() == [sentence]
    assert not (tmp_path / "runs").exists()


def describe(path: Path, **contenders: dict[str, str]) -> Path:
    """Write a file of contenders that run already."""
    tables = [
        f'[{name}]\ntitle = "T"\nslots = "?"\n' + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        for name, keys in contenders.items()
    ]
    path.write_text("\n".join(tables))
    return path


def test_what_runs_already_is_followed_where_its_journal_can_be_read(
    supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """The same app, once with its data and once without; what it did before does not count, and it runs on."""
    env = {"DATABASE_URL": postgres.create_database("own_apps")}
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        before = app.client.post("/action", json={"message": "before"})
        app.settle(before.json()["task_ids"])
        file = describe(
            tmp_path / "contenders.toml", seen={"url": app.url, "data": str(app.data_dir)}, unseen={"url": app.url}
        )
        out = tmp_path / "runs"
        done = run_lab(out, "--stack", "running", "--contenders", file, "--rate", "20")
        assert done.returncode in (0, 3), done.stdout + done.stderr
        assert app.is_ready()
    said = " ".join(done.stdout.split())
    assert "The lab did not start the contenders" in said
    assert "Of unseen there is no journal" in said
    (run,) = out.iterdir()
    blocks = {block.contender: block for block in RunDir(run).read().blocks}
    assert {"steal_share", "clock_step_ms"} <= blocks["seen"].instrument.keys(), "of the lab's CPUs it is known"
    summary = summary_of(out)
    shares = {(share["contender"], share["fate"]): share["count"] for share in summary["shares"]}
    if blocks["seen"].valid:
        assert set(shares) == {("seen", "done")}
        assert shares["seen", "done"] > 20
    tasks = str(run / blocks["seen"].folder / "tasks.parquet")
    ids = {row[0] for row in duckdb.execute("SELECT task_id FROM read_parquet($tasks)", {"tasks": tasks}).fetchall()}
    assert len(ids) > 20
    assert not ids & set(before.json()["task_ids"])


def test_what_a_living_process_runs_at_the_horizon_is_pending(
    supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """The app is not stopped: its task has not ended, and is not lost; what is not the block's is left out."""
    env = {"DATABASE_URL": postgres.create_database("own_apps_horizon")}
    block = Block("inline")
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        record = ContenderRecord(name="mine", title="T", slots="?", url=app.url, data=str(app.data_dir))
        with RunningStack(record, tmp_path / "block", None) as stack:
            (pending,) = block.request("POST /probe")
            headers = {"X-Request-ID": block.requests[0]["request_id"]}
            app.client.post("/probe", json={"work": "io", "seconds": 5}, headers=headers)
            app.settle(app.client.post("/probe", json={"work": "io", "seconds": 0}).json()["task_ids"])
            stack.stop()
            stack.collect()
    assert settled(block, tmp_path / "block") == {str(pending): "pending"}


def settled(block: Block, folder: Path) -> dict[str, str]:
    """Settle a block of which the evidence is there, and return fates by task id."""
    write_parquet(block.requests, REQUEST_COLUMNS, folder / "requests.parquet")
    ledger.settle(folder)
    return fates(folder)


def fates(folder: Path) -> dict[str, str]:
    """Return fates by task id."""
    query = "SELECT task_id, fate FROM read_parquet($tasks)"
    return dict(duckdb.execute(query, {"tasks": str(folder / "tasks.parquet")}).fetchall())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_waits_in_a_broker_that_cannot_be_asked_is_pending(
    elsewhere: bool,
    supervisor: Supervisor,
    mail_sink: MailSink,
    postgres: Postgres,
    make_redis: Callable[[], Redis],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And so is what a worker runs, also one in a container, whose journal has another host's name than the lab's."""
    if elsewhere:
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    name = f"own_apps_backlog_{elsewhere}".lower()
    env = {"DATABASE_URL": postgres.create_database(name), "REDIS_URL": make_redis().url}
    block = Block("celery")
    with apps.running("celery", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        record = ContenderRecord(name="mine", title="T", slots="?", url=app.url, data=str(app.data_dir))
        with RunningStack(record, tmp_path / "block", None) as stack:
            tasks = [block.request("POST /probe")[0] for _ in range(4)]
            for request in block.requests:
                headers = {"X-Request-ID": request["request_id"]}
                app.client.post("/probe", json={"work": "blocking", "seconds": 3}, headers=headers)
            assert until(lambda: [event for event in app.events() if event["event"] == "started"])
            stack.stop()
            stack.collect()
        assert settled(block, tmp_path / "block") == dict.fromkeys(map(str, tasks), "pending")
        app.settle([str(task) for task in tasks])


def test_a_block_waits_for_the_tasks_of_the_one_before_and_no_longer_than_it_may(tmp_path: Path) -> None:
    """Where they do not end in that time, it is said how many; of one that nobody has heard of nothing is."""
    (tmp_path / "journal").mkdir()
    journal = tmp_path / "journal" / "celery-worker-some-host-1-0.jsonl"
    block, left = Block("celery"), LeftOver()
    (ended,), (going_on,) = block.request("POST /probe"), block.request("POST /probe")
    (begun,), _ = (block.request("POST /probe", "indeterminate") for _ in range(2))
    for task in (ended, begun):
        block.event(task, "probe_io", "started")
    journal.write_text(as_lines(block.journals[block.runner]))
    (tmp_path / "samples").write_text(as_lines(block.requests))
    left.add(JournalTail(tmp_path / "journal"), tmp_path / "samples")

    def end_one() -> None:
        block.event(ended, "probe_io", "succeeded")
        with journal.open("a") as file:
            file.write(as_lines(block.journals[block.runner][-1:]))

    assert left.wait(0.3, check=end_one) == 2
    block.event(begun, "probe_io", "succeeded")
    block.event(going_on, "probe_io", "succeeded")
    journal.write_text(as_lines(block.journals[block.runner]))
    assert left.wait(60, check=lambda: pytest.fail("it waits although all have ended")) == 0


def long_tasks(folder: Path, horizon_s: float) -> Path:
    """Return a folder with a scenario whose tasks outlast its block, and the next."""
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "long.toml").write_text(
        'description = "longer than the horizon"\nusers = "probe"\nprobe_work = "io"\nprobe_seconds = 30\n'
        f"rate = 5\nwarmup_s = 0.5\nduration_s = 2\nhorizon_s = {horizon_s}\n"
    )
    return folder / "scenarios"


def test_what_one_block_leaves_undone_is_told_in_the_next_and_not_taken_for_its_own(
    supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """The app is not stopped, and does the tasks of the first block in the second."""
    scenarios = long_tasks(tmp_path, horizon_s=0.5)
    env, out = {"DATABASE_URL": postgres.create_database("own_apps_left_over")}, tmp_path / "runs"
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        file = describe(tmp_path / "contenders.toml", mine={"url": app.url, "data": str(app.data_dir)})
        run_lab(out, "--stack", "running", "--contenders", file, "--scenarios", scenarios, "--rounds", "2")
    (run,) = out.iterdir()
    first, second = (block for block in RunDir(run).read().blocks if block.repeat_of is None)
    assert first.left_over == 0 < second.left_over
    assert set(fates(run / second.folder).values()) == {"pending"}
    said = summary_of(out)["limitations"]
    assert any(f"began, {second.left_over} tasks of earlier blocks had not ended" in one for one in said)
    if second.valid:
        assert any("of mine" in one.lower() and "whether they wait or are lost cannot be told" in one for one in said)


def test_what_an_interrupted_block_left_is_not_taken_for_that_of_the_block_measured_anew(
    supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """It has the same seed, and the app is still busy with the first try: nothing is done twice, or unasked for."""
    scenarios = long_tasks(tmp_path, horizon_s=2)
    env, out = {"DATABASE_URL": postgres.create_database("own_apps_resumed")}, tmp_path / "runs"
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        file = describe(tmp_path / "contenders.toml", mine={"url": app.url, "data": str(app.data_dir)})
        arguments = ["--contenders", file, "--scenarios", scenarios, "--rounds", "1", "--void-repeats", "0"]
        command = [*LAB, "compare", "--stack", "running", "--out", out, *arguments]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, cwd=PROJECT) as lab:
            assert until(lambda: [event for event in app.events() if event["event"] == "started"], 60)
            lab.send_signal(signal.SIGINT)
            assert lab.wait(60) == 1
        (run,) = out.iterdir()
        subprocess.run([*LAB, "resume", run], stdout=subprocess.DEVNULL, cwd=PROJECT, check=False)
        begun = {event["task_id"] for event in app.events() if event["event"] == "started"}
    (block,) = (block for block in RunDir(run).read().blocks if block.repeat_of is None)
    found = fates(run / block.folder)
    assert set(found.values()) == {"pending"}
    assert begun - found.keys(), "the first try had begun none"


SHOP = ["-m", "uvicorn", "tests.journaling_app:app", "--port"]


def shop_files(folder: Path, keys: str) -> list[str | Path]:
    """Describe the app that journals and what is asked of it; return the options of the lab that say where."""
    (folder / "contenders.toml").write_text(f'[shop]\ntitle = "T"\nslots = "?"\n{keys}')
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "orders.toml").write_text(
        'description = "orders"\nusers = "requests"\nrate = 20\nwarmup_s = 0.5\nduration_s = 2\nbystanders = false\n'
        '[[requests]]\nmethod = "POST"\npath = "/orders"\ntasks = 1\n'
    )
    return ["--contenders", folder / "contenders.toml", "--scenarios", folder / "scenarios"]


@pytest.mark.parametrize("effects", ["", "1"])
@pytest.mark.parametrize("runs_already", [True, False])
def test_an_app_that_only_journals_is_followed_to_the_end_of_its_tasks(
    runs_already: bool, effects: str, supervisor: Supervisor, tmp_path: Path
) -> None:
    """It has none of the lab's jobs, tables and effects: its journal stands for these, or its log of effects does."""
    port, data = free_port(), tmp_path / "data"
    keys = f'env = {{ PYTHONPATH = "{PROJECT}", EFFECTS = "{effects}" }}\n'
    if runs_already:
        env = {"DATA_DIR": str(data), "EFFECTS": effects}
        supervisor.start(f"shop-{port}", [sys.executable, *SHOP, str(port)], env, cwd=PROJECT, log=tmp_path / "log")
        assert until(lambda: "startup complete" in (tmp_path / "log").read_text(), 30)
        keys = f'url = "http://127.0.0.1:{port}"\ndata = "{data}"\n'
    else:
        keys += f"api = {json.dumps(['{python}', *SHOP, '{port}'])}\n"
    stack = ["--stack", "running"] if runs_already else []
    done = run_lab(tmp_path / "runs", *shop_files(tmp_path, keys), *stack)
    if runs_already:
        supervisor.stop(f"shop-{port}", 5)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    for block in RunDir(run).read().blocks:
        assert not [why for why in block.why if "Journal" in why], block.why
        assert set(fates(run / block.folder).values()) == {"done"}


def test_a_journal_of_another_clock_voids_its_block(tmp_path: Path) -> None:
    """Its times would be believed, and figures made of them."""
    keys = f'env = {{ PYTHONPATH = "{PROJECT}", CLOCK = "us" }}\napi = {json.dumps(["{python}", *SHOP, "{port}"])}\n'
    done = run_lab(tmp_path / "runs", *shop_files(tmp_path, keys))
    assert done.returncode == VOID, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    (block,) = RunDir(run).read().blocks
    assert any(why.startswith("Journal or effects are of another clock") for why in block.why), block.why


@pytest.mark.parametrize("when", ["requests.jsonl", "tasks.parquet"])
def test_a_journal_of_another_name_costs_no_other_contender_its_blocks(
    when: str, supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """The app begins it while the load runs, which is ended, or when that block is over: others have theirs."""
    env = {"DATABASE_URL": postgres.create_database(f"own_apps_names_{when[:5]}")}
    out = tmp_path / "runs"
    (tmp_path / "bad" / "journal").mkdir(parents=True)
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        file = describe(
            tmp_path / "contenders.toml",
            bad={"url": app.url, "data": str(tmp_path / "bad")},
            good={"url": app.url, "data": str(app.data_dir)},
        )
        scenarios = long_tasks(tmp_path, horizon_s=0.5)
        arguments = ["--contenders", file, "--scenarios", scenarios, "--rounds", "2", "--void-repeats", "0"]
        command = [*LAB, "compare", "--stack", "running", "--out", out, *arguments]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, cwd=PROJECT) as lab:
            assert until(lambda: list(out.glob(f"*/blocks/*bad*/{when}")), 60)
            (tmp_path / "bad" / "journal" / "mine.jsonl").write_text('{"event": "started"}\n')
            assert lab.wait(120) == COULD_NOT_MEASURE
    (run,) = out.iterdir()
    blocks = RunDir(run).read().blocks
    assert {(block.contender, block.state) for block in blocks} >= {("bad", "failed"), ("good", "finished")}
    assert {block.state for block in blocks if block.contender == "good"} == {"finished"}
    why = [block.why[-1] for block in blocks if block.state == "failed"]
    assert all("mine.jsonl is no journal" in one for one in why), why


@pytest.mark.parametrize("name", ["mine", "a-1", "a-host-1732900000123-0", "a-host-٣-0", "a-host--0"])
def test_what_has_no_pid_in_its_name_is_no_journal(tmp_path: Path, name: str) -> None:
    """Neither a number that no process can have."""
    (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(LabError, match=r"is no journal: its name must end in -<pid>-<nonce>\.jsonl\.$"):
        JournalTail(tmp_path).read()


@pytest.mark.parametrize("line", ["", "null", "7", "{", "[" * 100_000, '{"boot_id": 1}'])
def test_who_wrote_a_journal_without_an_anchor_is_not_known(tmp_path: Path, line: str) -> None:
    """However it begins: an app of one's own writes anything."""
    (tmp_path / f"app-{socket.gethostname()}-{os.getpid()}-0.jsonl").write_text(line + "\n")
    assert list(living.writers(tmp_path)) == []


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """And it costs its own contender's blocks: what it has left is no longer known, and nobody waits for that."""
    block, left, samples = Block("celery"), LeftOver(), tmp_path / "samples"
    block.request("POST /probe")
    samples.write_text(as_lines(block.requests))
    left.add(JournalTail(tmp_path), samples)
    (tmp_path / "app-host-1-0.jsonl").mkdir()
    with pytest.raises(LabError, match=r"app-host-1-0\.jsonl cannot be read: Is a directory\.$"):
        JournalTail(tmp_path).read()
    assert left.wait(60, check=lambda: pytest.fail("it waits although nothing is known")) == 0


@pytest.mark.parametrize(
    ("keys", "arguments", "says"),
    [
        (
            {"url": "http://192.0.2.1:80"},
            [],
            "'mine' is not on this machine; if you may load it, say --i-may-load 192.0.2.1.",
        ),
        ({"url": "http://127.0.0.1:1"}, ["--fault", "api-kill"], "Faults cannot be done to 'mine', which runs already"),
        ({"api": "serve {port}"}, [], "contenders.toml: 'mine.api'"),
        ({"url": "http://127.0.0.1:99999"}, [], "contenders.toml: 'mine.url': must look like http://127.0.0.1:8000."),
    ],
)
def test_what_cannot_be_asked_for_is_bad_usage(
    tmp_path: Path, keys: dict[str, str], arguments: list[str], says: str
) -> None:
    """One sentence, exit status 2, no run directory."""
    file = describe(tmp_path / "contenders.toml", mine=keys)
    out = tmp_path / "runs"
    out.mkdir()
    done = run_lab(out, "--stack", "running", "--contenders", file, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.iterdir())


def test_an_app_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """The block fails, and says of whom."""
    file = describe(tmp_path / "contenders.toml", mine={"url": f"http://127.0.0.1:{free_port()}"})
    done = run_lab(tmp_path / "runs", "--stack", "running", "--contenders", file)
    assert done.returncode == 1
    assert "cannot be measured: " in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
