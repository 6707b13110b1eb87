"""`lab compare` as a user runs it: real apps, real servers, real load, and real Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psutil
import pytest

from lab.cli import choose_scenarios
from lab.compare import begin, place_or_refuse
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.globs import no_glob
from lab.run import plan_blocks
from lab.rundir import Plan, RunDir
from lab.scenario import load_scenarios
from tests.support import alive, until

SHORT = ["--rate", "10", "--rounds", "1", "--void-repeats", "0", "--seed", "7"]


@contextmanager
def started_lab(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `lab` while the test does something to it; its output is in a pipe that the test reads at the end."""
    command = [sys.executable, "-m", "lab", *map(str, arguments)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as lab:
        try:
            yield lab
        finally:
            lab.kill()


def the_run(out: Path) -> RunDir:
    """Return the only run directory in a folder."""
    (run,) = out.iterdir()
    return RunDir(run)


def wait_for_load(out: Path) -> None:
    """Wait until a block is under load."""
    assert until(lambda: list(out.glob("*/blocks/*/requests.jsonl")), within_s=60), "no block came under load"


def family(lab: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return all that the lab has started, and check that it is a whole stack."""
    processes = psutil.Process(lab.pid).children(recursive=True)
    assert len(processes) > 5
    return processes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, subprocess.CompletedProcess[str]]:
    """One short run of two contenders, in a folder with all that DuckDB takes for a pattern in its name."""
    out = tmp_path_factory.mktemp("runs") / "[1]*?"
    command = [sys.executable, "-m", "lab", "compare", "--contender", "inline", "--contender", "celery", *SHORT]
    command += ["--duration", "4", "--fault", "none", "--out", str(out)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=170)
    return the_run(out), done


def test_a_run_ends_measured_or_says_why_it_is_void(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """On a machine that is busy with other things the blocks may be void; then the status is 3 and the why is there."""
    directory, done = finished
    blocks = directory.read().blocks
    assert {block.state for block in blocks} == {"finished"}
    assert {block.contender for block in blocks} == {"inline", "celery"}
    measured = {block.contender for block in blocks if block.valid} == {"inline", "celery"}
    assert done.returncode == (0 if measured else 3)
    assert all(block.valid or block.why for block in blocks)
    assert "Traceback" not in done.stdout + done.stderr


def test_every_acknowledged_task_was_done_by_journal_and_effects(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """Nothing was disturbed, so nothing may be missing, in either app."""
    directory, _ = finished
    for block in directory.read().blocks:
        tasks = no_glob(directory.block(block) / "tasks.parquet")
        counted = duckdb.execute(
            "SELECT request_outcome, fate, agreement, count(*) FROM read_parquet($tasks) GROUP BY ALL", {"tasks": tasks}
        ).fetchall()
        ((outcome, fate, agreement, count),) = counted
        assert (outcome, fate, agreement) == ("acknowledged", "done", "equal"), block.contender
        assert count > 20


def test_both_contenders_got_the_same_requests_at_the_same_times(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """A round is a pair: what is compared differs in the contender only."""
    directory, _ = finished
    seen = []
    for block in directory.read().blocks:
        rows = duckdb.execute(
            "SELECT request_id, route, intended_ns - min(intended_ns) OVER () AS at_ns "
            "FROM read_parquet($requests) ORDER BY seq",
            {"requests": no_glob(directory.block(block) / "requests.parquet")},
        ).fetchall()
        seen.append(rows)
    assert all(rows == seen[0] for rows in seen)


def test_what_a_broker_used_is_of_the_contender_that_has_one_and_not_too_small(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """Each task went through it, in and out."""
    directory, _ = finished
    for block in directory.read().blocks:
        if block.contender == "inline":
            assert block.broker is None
            continue
        if block.broker is None:
            continue  # the lab came too late to ask: other tests run beside this one
        tasks = no_glob(directory.block(block) / "tasks.parquet")
        (count,) = duckdb.execute(
            "SELECT count(*) FROM read_parquet($tasks) WHERE phase = 'window'", {"tasks": tasks}
        ).fetchone() or (0,)
        assert block.broker.memory_bytes > 0
        assert block.broker.net_bytes > 200 * count, "the ids alone of each task are longer"


def test_the_report_can_be_rendered_again_and_says_the_same(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]],
) -> None:
    """`lab report` is a pure function of the run directory."""
    directory, _ = finished
    files = [directory.path / name for name in ("summary.json", "report.html", "report.md")]
    before = [file.read_text() for file in files]
    done = subprocess.run(
        [sys.executable, "-m", "lab", "report", str(directory.path)],
        cwd=PROJECT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 3)
    assert [file.read_text() for file in files] == before


def test_a_task_can_be_followed(finished: tuple[RunDir, subprocess.CompletedProcess[str]]) -> None:
    """`lab task` shows request, events and effect of one id."""
    directory, _ = finished
    block = directory.read().blocks[0]
    (task_id,) = duckdb.execute(
        "SELECT task_id FROM read_parquet($tasks) WHERE route = 'POST /action' LIMIT 1",
        {"tasks": no_glob(directory.block(block) / "tasks.parquet")},
    ).fetchone() or ("",)
    done = subprocess.run(
        [sys.executable, "-m", "lab", "task", str(directory.path), task_id],
        cwd=PROJECT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    for word in ("accepted", "started", "succeeded", "done"):
        assert word in done.stdout, done.stdout


def test_a_damaged_file_of_a_task_is_named(
    finished: tuple[RunDir, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """One sentence, exit status 1."""
    copy = RunDir(Path(shutil.copytree(finished[0].path, tmp_path / "run")))
    block = copy.block(copy.read().blocks[0])
    (block / "evidence" / "broker.json").write_text('{"queue": [')
    done = subprocess.run(
        [sys.executable, "-m", "lab", "task", str(copy.path), "6f1c1f4e-5c0f-4d7b-9a35-3f0b0b7a7c11"],
        cwd=PROJECT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert " ".join(done.stderr.split()).startswith(f"lab: {block / 'evidence' / 'broker.json'} is damaged: ")
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_in_order_and_reports(tmp_path: Path) -> None:
    """The block in hand is dropped with the deploy that goes on, the report is written, and nothing is left running."""
    deploy = ["--contender", "celery", "--fault", "deploy", "--scenario", "long-tasks", "--grace", "600"]
    with started_lab("faults", *deploy, *SHORT, "--duration", "4", "--out", tmp_path) as lab:
        wait_for_load(tmp_path)
        processes = family(lab)
        assert until(lambda: "Shutting down" in "".join(log.read_text() for log in tmp_path.glob("*/blocks/*/logs/*")))
        lab.send_signal(signal.SIGINT)
        output, _ = lab.communicate(timeout=60)
    directory = the_run(tmp_path)
    assert lab.returncode == 1
    assert directory.read().interrupted
    assert (directory.path / "report.html").exists()
    assert "Traceback" not in output
    assert not alive(processes)


@pytest.mark.alone  # beside others the tests are of the lab's rank, and so is all that they start
def test_sigterm_ends_in_order_too(tmp_path: Path) -> None:
    """As a shutdown or `timeout` sends it: reported, and nothing is left running.

    Until then no thread of the lab's, the sampler's among them, may run on the contender's CPUs; and nothing that is
    measured stands back for others, as the lab itself does, and what keeps the generator's CPUs awake.
    """
    alone = ["--contender", "inline", "--fault", "none"]
    with started_lab("compare", *alone, *SHORT, "--duration", "30", "--out", tmp_path) as lab:
        wait_for_load(tmp_path)
        processes = family(lab)
        threads = [int(thread.name) for thread in Path(f"/proc/{lab.pid}/task").iterdir()]
        allowed = [os.sched_getaffinity(thread) for thread in threads]
        assert len(threads) > 1
        environment = the_run(tmp_path).read().environment
        assert not set().union(*allowed) & set(environment.placement.contender)
        assert os.SCHED_IDLE in map(os.sched_getscheduler, threads)
        measured = [process.pid for process in processes if "lab.awake" not in process.cmdline()]
        kept_awake = len(environment.placement.generator) if environment.kept_awake else 0
        assert len(measured) == len(processes) - kept_awake
        assert os.SCHED_IDLE not in map(os.sched_getscheduler, measured)
        lab.send_signal(signal.SIGTERM)
        output, _ = lab.communicate(timeout=60)
    directory = the_run(tmp_path)
    assert lab.returncode == 1
    assert directory.read().interrupted
    assert (directory.path / "report.html").exists()
    assert "Traceback" not in output
    assert not alive(processes)


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    """The second one does not wait for anything, and still nothing is left running."""
    with started_lab("compare", "--quick", *SHORT, "--duration", "30", "--out", tmp_path) as lab:
        wait_for_load(tmp_path)
        processes = family(lab)
        lab.send_signal(signal.SIGINT)
        lab.send_signal(signal.SIGINT)
        output, _ = lab.communicate(timeout=10)
    assert lab.returncode != 0
    assert "Traceback" not in output
    assert until(lambda: not alive(processes), within_s=5)


GRID = """
description = "two loads"
users = "probe"
warmup_s = 0
duration_s = 1
horizon_s = 3
[grid]
probe_work = ["io"]
probe_seconds = [0.01]
rate = [5, 20]
"""


def test_a_grid_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    """As if the lab had died before its first block: each cell is measured under its own load."""
    (tmp_path / "map.toml").write_text(GRID)
    cells = choose_scenarios(["map"], None, None, load_scenarios(tmp_path))
    contenders = [load_contenders(PROJECT / "contenders.toml")["inline"]]
    plan = Plan(
        command="compare", seed=7, rounds=1, quick=False, stack="local", contenders=contenders, scenarios=cells,
        horizon_s=15,
    )  # fmt: skip
    directory, _ = begin(plan, plan_blocks(plan), place_or_refuse("local"), tmp_path / "runs")
    command = [sys.executable, "-m", "lab", "resume", str(directory.path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert {block.state for block in directory.read().blocks} == {"finished"}
    requests = {
        block.scenario: duckdb.execute(
            "SELECT count(*) FROM read_parquet($file) WHERE stream = 'load' AND phase = 'window'",
            {"file": no_glob(directory.block(block) / "requests.parquet")},
        ).fetchone()
        for block in directory.read().blocks
        if block.repeat_of is None
    }
    slow, fast = (requests[f"map-io-0.01s-{rate}"] or (0,) for rate in (5, 20))
    assert 0 < slow[0] < fast[0]
