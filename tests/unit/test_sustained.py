"""What a window says of the SLO and of what set the limit, on contenders with a known number of slots."""

import math
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from lab.rundir import Slo
from lab.search import work_to_do
from lab.sustained import Sustained, Window, broken, limit_of, sustained
from tests.blockmaker import MS, REQUEST_COLUMNS, write_parquet
from tests.queuemaker import END_NS, START_NS, WINDOW_S, queue_block


def seen(folder: Path, rate: float, cpus: int = 1, journal: bool = True) -> Sustained:
    """Return what the whole window says."""
    return sustained(folder, Window(rate, START_NS, END_NS, END_NS + 500 * MS), journal, cpus)


def test_the_figures_are_those_of_the_queue(tmp_path: Path) -> None:
    """Half the capacity: each task waits for nobody, and by Little's law rate times 0.1 s of them are there at once."""
    found = seen(queue_block(tmp_path, rate=20, slots=4), rate=20)
    assert (found.requests, found.errors, found.response_p95_ms) == (160, 0, 5)
    assert found.done_p95_s == pytest.approx(0.105)
    assert found.backlog_mid == pytest.approx(2, abs=0.1)
    assert found.backlog_end == pytest.approx(2, abs=0.1)
    assert found.running_end == pytest.approx(2, abs=0.1)
    assert found.running_most in (2, 3)
    assert found.goodput_per_s == pytest.approx(160 / 8.5)
    assert found.cpu_share == pytest.approx(0.5)
    assert broken(found, Slo(), WINDOW_S) == []


@pytest.mark.parametrize("slots", [1, 4, 40])
def test_a_backlog_grows_just_above_the_slots_and_not_just_below(tmp_path: Path, slots: int) -> None:
    """What 8 s can tell: a tenth more than the slots carry grows, and a tenth less does not."""
    carried = slots / 0.1
    below = seen(queue_block(tmp_path / "below", 0.9 * carried, slots), 0.9 * carried)
    above = seen(queue_block(tmp_path / "above", 1.1 * carried, slots), 1.1 * carried)
    assert broken(below, Slo(), WINDOW_S) == []
    assert broken(above, Slo(), WINDOW_S) == ["backlog grows"]


@pytest.mark.parametrize("task_s", [0.1, 2, 4.5])
def test_no_backlog_grows_where_there_are_slots_to_spare(tmp_path: Path, task_s: float) -> None:
    """However long the tasks are: the warm-up of a search is long enough for the first of them to have ended."""
    (load,) = work_to_do(["io"], task_s, WINDOW_S)
    found = seen(queue_block(tmp_path, 20, 1_000, task_s, warmup_s=load.warmup_s), 20)
    assert found.requests == 20 * WINDOW_S
    assert not found.grows(WINDOW_S)
    if task_s > WINDOW_S / 4:
        assert seen(queue_block(tmp_path, 20, 1_000, task_s), 20).grows(WINDOW_S)


def test_each_limit_of_the_slo_is_named(tmp_path: Path) -> None:
    """A slow answer, and tasks of which more than one in twenty never end."""
    assert broken(seen(queue_block(tmp_path / "slow", 10, 4, response_ms=251), 10), Slo(), WINDOW_S) == ["response"]
    overloaded = seen(queue_block(tmp_path / "late", 60, 1), 60)
    assert overloaded.done_p95_s == math.inf
    assert broken(overloaded, Slo(), WINDOW_S) == ["time to done", "backlog grows"]


def test_requests_without_a_yes_are_errors_and_infinitely_slow(tmp_path: Path) -> None:
    """One in a hundred breaks the SLO by its errors, one in ten by its p95 too."""
    for share, expected in ((100, ["errors"]), (10, ["response", "errors"])):
        folder = queue_block(tmp_path / str(share), 25, 4)
        rows = [
            {"seq": n, "stream": "load", "phase": "window", "route": "POST /probe", "request_id": str(n), "tasks": 1,
             "intended_ns": START_NS + n * 40 * MS, "sent_ns": START_NS + n * 40 * MS,
             "ended_ns": START_NS + n * 40 * MS + MS, "status": 503 if n % share == 0 else 202,
             "outcome": "refused" if n % share == 0 else "acknowledged", "error": None}
            for n in range(200)
        ]  # fmt: skip
        write_parquet(rows, REQUEST_COLUMNS, folder / "requests.parquet")
        assert broken(seen(folder, 25), Slo(), WINDOW_S) == expected


def test_without_a_journal_only_what_the_client_sees_is_judged(tmp_path: Path) -> None:
    """Its tasks are not known, so they break nothing, and no slots can be named."""
    found = seen(queue_block(tmp_path, 60, 1), 60, journal=False)
    assert (found.done_p95_s, found.backlog_end, found.running_most) == (None, None, None)
    assert broken(found, Slo(), WINDOW_S) == []
    assert limit_of(found) == "not known"


@pytest.mark.parametrize("slots", [1, 40])
def test_full_slots_are_the_limit_while_the_cpu_has_time(tmp_path: Path, slots: int) -> None:
    """Tasks wait, and as many run as ever did at once."""
    rate = 11 * slots
    assert limit_of(seen(queue_block(tmp_path, rate, slots, busy=0.6), rate)) == "slots"


def test_a_busy_cpu_is_the_limit_whatever_the_slots_are(tmp_path: Path) -> None:
    """Full slots of a contender whose CPU has no time left are no limit of their own; half of two CPUs are none."""
    folder = queue_block(tmp_path, 44, 4, busy=0.95)
    assert limit_of(seen(folder, 44)) == "cpu"
    assert limit_of(seen(folder, 44, cpus=2)) == "slots"


def test_slots_are_no_limit_where_one_process_uses_a_whole_cpu(tmp_path: Path) -> None:
    """More threads in it would help nobody, however idle the other CPUs are."""
    folder = queue_block(tmp_path, 44, 4, busy=1.9)
    assert limit_of(seen(folder, 44, cpus=4)) == "not known"


def test_slots_are_no_limit_where_others_use_what_the_cpu_has_left(tmp_path: Path) -> None:
    """A contender that cannot have the CPU shows nothing of its slots."""
    found = seen(queue_block(tmp_path, 44, 4, busy=0.75), 44)
    assert limit_of(found) == "slots"
    assert limit_of(replace(found, others_share=0.2)) == "not known"


def test_a_task_that_failed_has_no_time_to_done(tmp_path: Path) -> None:
    """However fast it did: whoever asked for the work waits for ever."""
    folder = queue_block(tmp_path, rate=20, slots=4)
    with duckdb.connect() as db:
        db.execute(f"CREATE TABLE tasks AS SELECT * REPLACE ('failed' AS fate) FROM '{folder / 'tasks.parquet'}'")
        db.execute(f"COPY tasks TO '{folder / 'tasks.parquet'}' (FORMAT parquet)")
    found = seen(folder, rate=20)
    assert (found.done_p95_s, found.goodput_per_s) == (math.inf, 0)
    assert broken(found, Slo(), WINDOW_S) == ["time to done"]


def test_where_nothing_is_full_the_limit_is_not_known(tmp_path: Path) -> None:
    """Slow answers of an idle contender: neither its CPU nor its slots; nor where nobody knows its CPUs."""
    idle = seen(queue_block(tmp_path / "idle", 10, 40, response_ms=300), 10)
    assert limit_of(idle) == "not known"
    assert limit_of(seen(queue_block(tmp_path / "unseen", 44, 4), 44, cpus=0)) == "not known"
