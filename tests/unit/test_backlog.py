"""The backlog of blocks in which it is known beforehand, and how the report shows it."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from lab import ledger, report
from lab.report import tables, words
from lab.report.backlog import backlog
from lab.report.levels import level_charts
from lab.report.metrics import spread
from lab.report.summary import Summary
from lab.rundir import RunDir
from tests.blockmaker import Block, record
from tests.runmaker import empty_run, finish, loaded_block, make_run, plan

START_NS = 10_000_000_000


def at(second: float) -> int:
    """Return a moment so many seconds after the window's start."""
    return START_NS + round(second * 1e9)


def task(block: Block, told_s: float, ended_s: float | None, how: str = "succeeded", **fields: Any) -> None:
    """Add a task whose request was answered and that ended at these moments, or never."""
    (one,) = block.request("POST /action", ended_ns=at(told_s), **fields)
    if ended_s is not None:
        block.event(one, "write_log", "started", t_ns=at(ended_s) - 1)
        if how == "succeeded":
            block.effect(one, "write_log")
        block.event(one, "write_log", how, t_ns=at(ended_s))


def test_a_task_is_in_the_backlog_from_its_yes_to_its_end(tmp_path: Path) -> None:
    """A change on a moment counts at it; what had ended before its yes, or never got one, is in it at no time."""
    block = Block("celery")
    task(block, -1.0, 0.3, phase="warmup")
    task(block, 0.1, 0.6)
    task(block, 0.5, 1.0)
    task(block, 0.6, 0.2)
    task(block, 0.8, None)
    task(block, 0.1, 0.3, how="failed")
    task(block, 0.1, 1.9, outcome="indeterminate")
    ledger.settle(block.write(tmp_path))
    bounds: dict[str, Any] = {"window_start_ns": START_NS, "window_end_ns": at(1.5), "drained_ns": at(1.9)}
    found = backlog(tmp_path, record(block, **bounds))
    assert found.tasks == [1, 3, 2, 1, 1, 1, 1, 1, 1]
    assert found.at_window_end == 1
    assert found.window_s == 1.5
    assert found.injected_s == []


def killed(path: Path) -> Summary:
    """Return the summary of a run of `celery`: a round with everything done, and a fault that loses five tasks."""
    run_dir = RunDir(make_run(path, {"celery": 1.0}, rounds=1))
    run = run_dir.read()
    block = loaded_block("celery", Random(3), 1.0, losses=5)
    start_ns = block.requests[0]["intended_ns"]
    block.faults = [
        {"fault": "worker-kill", "injected_ns": start_ns + at_ns, "healed_ns": None, "pids": [1], "confirmed": happened}
        for at_ns, happened in ((100_000_000, True), (200_000_000, False))
    ]
    changes = {"number": 9, "round": 0, "fault": "worker-kill", "folder": "blocks/09-celery-worker-kill"}
    run.blocks.append(run.blocks[0].model_copy(update=changes))
    finish(run_dir, run.blocks[-1], block)
    run.blocks[-1].valid = True
    run.plan.faults = ["worker-kill"]
    run_dir.write(run)
    return report.write(path)


def test_what_a_fault_left_behind_stays_in_the_backlog(tmp_path: Path) -> None:
    """The block with the fault stands alone, with the injections that came about; the round ends with nothing."""
    summary = killed(tmp_path / "r")
    usual, hit = summary.backlogs
    assert (usual.fault, usual.block, usual.median[-1], usual.injected_s) == (None, None, 0, [])
    assert (hit.fault, hit.block, hit.median[-1], hit.injected_s) == ("worker-kill", 9, 5, [0.1])
    assert hit.largest.median is not None
    assert hit.largest.median >= 5
    rows = tables.backlogs(summary).rows
    assert [row[:3] for row in rows] == [["celery", "mixed", words.NONE], ["celery", "mixed + worker-kill", "9"]]
    assert rows[1][3:] == [words.tasks(hit.largest), "5"]


def test_each_scenario_and_fault_has_a_chart_within_its_box(tmp_path: Path) -> None:
    """The faults are marked where they came; no line leaves the box."""
    summary = killed(tmp_path / "r")
    usual, hit = level_charts(summary)
    assert [level.hits for level in usual.levels] == [[]]
    (level,) = hit.levels
    last_s = hit.levels[0].backlog.every_s * (len(level.backlog.median) - 1)
    assert level.hits == [pytest.approx(0.1 / last_s)]
    places = [tuple(map(float, point.split(","))) for point in f"{level.line} {level.band}".split()]
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in places)
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("<polyline") == 2
    assert page.count('class="hit"') == page.count("The upright lines are the faults.") == 1


def test_rounds_are_put_together(tmp_path: Path) -> None:
    """At each moment the median, the smallest and the largest of the blocks, to the end of the longest."""
    summary = report.write(make_run(tmp_path / "r", {"inline": 1.0, "celery": 2.0}, rounds=3))
    assert [(one.contender, one.largest.blocks) for one in summary.backlogs] == [("inline", 3), ("celery", 3)]
    for one in summary.backlogs:
        assert len(one.median) == len(one.low) == len(one.high)
        assert all(low <= middle <= high for low, middle, high in zip(one.low, one.median, one.high, strict=True))
        assert one.high[-1] == 0


def test_tasks_are_whole_or_between_two() -> None:
    """No digits that say nothing; the range where there are several blocks."""
    assert [words.tasks(spread(counts)) for counts in ([], [3], [1000, 1001])] == [
        words.NONE,
        "3",
        "1,000.5 (1,000–1,001)",
    ]


def test_without_a_journal_the_backlog_is_not_known(tmp_path: Path) -> None:
    """Neither a figure nor a chart, and a sentence that says why; beside it another contender that has one."""
    run = empty_run(plan(["inline", "celery"], rounds=1))
    run.plan.contenders[0].journal = False
    for block in run.blocks:
        finish(RunDir(tmp_path), block, loaded_block(block.contender, Random(1), 1.0))
    RunDir(tmp_path).write(run)
    summary = report.write(tmp_path)
    assert [one.contender for one in summary.backlogs] == ["celery"]
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text().replace("<code>", "`").replace("</code>", "`")
        assert "The backlog of `inline` is not known: it has no journal." in text
        assert "The backlog of `celery`" not in text
