"""The report: figures against a plain recomputation, verdicts, what is missing, and the three outputs."""

import json
import math
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from random import Random
from uuid import UUID

import duckdb
import pytest
from rich.console import Console

from lab import report, stats
from lab.errors import LabError
from lab.globs import no_glob
from lab.history import history
from lab.report import tables, terminal, words
from lab.report.metrics import spread
from lab.report.schema import schema_text
from lab.report.summary import Calibration, Comparison, RouteFigures, Summary
from lab.rundir import RunDir, RunRecord
from tests.blockmaker import MS, PLANTS, Block
from tests.runmaker import empty_run, finish, loaded_block, make_run, plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run: `celery` takes half as long again, `again` as long as `inline`."""
    return make_run(tmp_path_factory.mktemp("run") / "r", {"inline": 1.0, "celery": 1.5, "again": 1.0})


@pytest.fixture(scope="module")
def summary(run: Path) -> Summary:
    """Return its summary."""
    return report.write(run)


def figures(summary: Summary, contender: str, route: str = "all") -> RouteFigures:
    """Return the figures of a contender on a route."""
    (row,) = [row for row in summary.routes if (row.contender, row.route) == (contender, route)]
    return row


def primary(summary: Summary, other: str, metric: str = "response_p95_ms") -> Comparison:
    """Return the primary comparison of a contender with `inline`."""
    (found,) = [
        c for c in summary.comparisons if c.primary and (c.baseline, c.other, c.metric) == ("inline", other, metric)
    ]
    return found


def one_round(path: Path, **blocks: Block) -> tuple[RunDir, RunRecord]:
    """Write a run of one round with the blocks given by contender."""
    path.mkdir()
    directory, run = RunDir(path), empty_run(plan(list(blocks), rounds=1))
    for record in run.blocks:
        finish(directory, record, blocks[record.contender])
    directory.write(run)
    return directory, run


def test_the_figures_are_those_of_a_plain_recomputation(run: Path, summary: Summary) -> None:
    """Percentiles inside each block, the median over the blocks."""
    by_block = []
    for record in RunDir(run).read().blocks:
        if record.contender == "celery":
            sql = "SELECT ended_ns - intended_ns, ended_ns - sent_ns FROM read_parquet($f) WHERE stream = 'load'"
            rows = duckdb.execute(sql, {"f": str(run / record.folder / "requests.parquet")}).fetchall()
            by_block.append([stats.percentile([row[i] / 1e6 for row in rows], 0.95) for i in (0, 1)])
    row = figures(summary, "celery")
    assert row.response_p95_ms.median == stats.median([block[0] for block in by_block])
    assert row.response_p95_ms.high == max(block[0] for block in by_block)
    assert row.service_p95_ms.median == stats.median([block[1] for block in by_block])
    assert row.response_p99_ms.median is None


def test_a_difference_is_found_and_likeness_is_not_called_one(summary: Summary) -> None:
    """Both primary figures; the sentence says it in words."""
    for metric in ("response_p95_ms", "done_p95_ms"):
        assert primary(summary, "celery", metric).verdict == "slower"
        assert primary(summary, "again", metric).verdict == "no significant difference"
    assert any(re.search(r"`celery` acknowledged with .* 5 rounds: slower by ×1\.", s) for s in summary.sentences)


def test_only_primary_comparisons_get_a_verdict(summary: Summary) -> None:
    """Three pairs and two figures; all others have an interval and none."""
    with_verdict = [c for c in summary.comparisons if c.verdict]
    assert len(with_verdict) == 6
    assert all(c.primary for c in with_verdict)
    others = [c for c in summary.comparisons if not c.primary]
    assert others
    assert all(c.low is not None and c.high is not None for c in others)


def test_resources_are_those_of_the_window(summary: Summary) -> None:
    """Two of three CPU seconds fell into it; memory is the proportional share."""
    tasks = figures(summary, "celery").tasks // 5
    api = next(r for r in summary.resources if (r.contender, r.role) == ("celery", "api"))
    assert api.cpu_s_per_1000_done.median == pytest.approx(2.0 / tasks * 1000)
    assert api.peak_memory_bytes.median == 100_000_000
    both = next(r for r in summary.resources if (r.contender, r.role) == ("celery", "all"))
    assert both.cpu_s_per_1000_done.median == pytest.approx(4.0 / tasks * 1000)
    assert both.peak_memory_bytes.median == 150_000_000
    assert both.cpu_s.median == pytest.approx(4.0)


def test_what_a_broker_used_is_told_of_those_that_have_one(run: Path, summary: Summary, tmp_path: Path) -> None:
    """In all and for every 1,000 tasks done; of one that did not answer a dash."""
    (broker,) = summary.brokers
    tasks = figures(summary, "celery").tasks // 5
    assert broker.contender == "celery"
    assert broker.peak_used_bytes.median == 4_000_000
    assert broker.net_bytes.median == 600_000
    assert broker.net_bytes_per_1000_done.median == pytest.approx(600_000 / tasks * 1000)
    assert "| celery | mixed | 4,000 (4,000–4,000) | 600 (600–600) |" in (run / "report.md").read_text()
    directory, record = one_round(tmp_path / "r", celery=loaded_block("celery", Random(1), 1.0))
    record.blocks[0].broker = None
    directory.write(record)
    assert tables.brokers(report.write(directory.path)).rows == [["celery", "mixed", *[words.NONE] * 3]]


def test_bystanders_are_apart_from_the_load(summary: Summary) -> None:
    """They have rows of their own and none among the routes."""
    assert {b.route for b in summary.bystanders} == {"GET /ping/loop", "GET /ping/thread"}
    assert not any("ping" in row.route for row in summary.routes)


def test_what_the_work_does_to_everybody_else_is_said_and_compared_without_a_verdict(summary: Summary) -> None:
    """One sentence for each contender, from its figures; an interval for each pair."""
    own = [b for b in summary.bystanders if b.contender == "celery"]
    (sentence,) = [
        one for one in summary.sentences if one.startswith("What the work of `celery` does to everybody else: ")
    ]
    for row in own:
        p50 = words.milliseconds(row.response_p50_ms.median, "")
        assert f"`{row.route}` took {p50} (p95 {words.milliseconds(row.response_p95_ms.median, '')})" in sentence
    compared = [c for c in summary.comparisons if c.bystander]
    assert len(compared) == 3 * 2 * 2
    assert all(c.verdict is None and not c.primary and c.low is not None for c in compared)
    assert len(tables.bystander_ratios(summary).rows) == len(compared)
    assert not any("ping" in row[1] for row in tables.ratios(summary, "all".__ne__).rows)


def test_bystanders_of_a_fault_are_told_apart(tmp_path: Path) -> None:
    """Those that failed while it was on count; they are not among the figures of the rounds."""
    block = loaded_block("celery", Random(1), 1.0)
    for _ in range(100):
        block.request("GET /ping/loop", "indeterminate", stream="bystander")
    directory, run = one_round(tmp_path / "r", celery=block)
    run.plan.faults, run.plan.rounds = ["broker-pause"], 0
    run.blocks[0].fault, run.blocks[0].round = "broker-pause", 0
    directory.write(run)
    summary = report.write(directory.path)
    assert [(b.fault, b.requests - b.acknowledged) for b in summary.bystanders] == [
        ("broker-pause", 100),
        ("broker-pause", 0),
    ]
    assert any("everybody else with broker-pause: `GET /ping/loop` mostly failed" in s for s in summary.sentences)
    assert "Bystanders" in (directory.path / "report.html").read_text()


def test_what_was_not_acknowledged_is_infinite_and_the_verdict_unknown(tmp_path: Path) -> None:
    """One in ten requests refused at once: a fast no is not fast."""
    path = tmp_path / "r"
    path.mkdir()
    directory, run = RunDir(path), empty_run(plan(["inline", "celery"], rounds=5))
    for record in run.blocks:
        block = loaded_block(record.contender, Random(record.number), 1.0)
        if record.contender == "celery":
            for _ in range(4):
                block.request("POST /action", "refused")
            block.request("POST /action", "indeterminate", ended_ns=block.now_ns + 10_000 * MS)
        finish(directory, record, block)
    directory.write(run)
    summary = report.write(path)
    row = figures(summary, "celery")
    assert row.response_p95_ms.median == math.inf
    assert (row.refused, row.timed_out) == (20, 5)
    assert primary(summary, "celery").verdict == "unknown"
    text = (path / "summary.json").read_text()
    assert '"inf"' in text
    assert "failed" in (path / "report.md").read_text()
    assert Summary.model_validate_json(text) == summary


def test_only_time_outs_are_printed_as_such(tmp_path: Path) -> None:
    """Where everything not acknowledged took 10 s, the percentile is "> 10 s"."""
    block = loaded_block("celery", Random(1), 1.0)
    for _ in range(9):
        block.request("POST /action", "indeterminate", ended_ns=block.now_ns + 10_000 * MS)
    directory, _ = one_round(tmp_path / "r", celery=block)
    report.write(directory.path)
    page = (directory.path / "report.html").read_text()
    assert "&gt; 10 s" in page.split("At a glance")[1].split("Ratios")[0]


def test_lost_tasks_never_look_done(tmp_path: Path) -> None:
    """A tenth is lost: time to done p95 lies beyond the horizon, and the share has its interval."""
    directory, _ = one_round(tmp_path / "r", inline=loaded_block("inline", Random(1), 1.0, losses=6))
    summary = report.write(directory.path)
    row = figures(summary, "inline")
    assert row.done_p95_ms.median == math.inf
    assert row.fates["lost"] == 6
    share = next(s for s in summary.shares if s.fate == "lost")
    assert (share.count, share.of) == (6, row.tasks)
    assert (share.low, share.high) == pytest.approx(stats.wilson(6, row.tasks))
    assert "&gt; horizon" in (directory.path / "report.html").read_text()


def test_what_ends_after_the_drain_was_not_done_in_time(tmp_path: Path) -> None:
    """One contender finishes in the time that it gets to stop, the other is killed: neither had done it by the horizon.

    Its time is infinite and it is no part of goodput, though it was not lost.
    """
    block = Block("inline")
    for _ in range(3):
        (task,) = block.request("POST /action")
        block.event(task, "write_log", "accepted", block.api)
        block.run(task, "write_log")
    horizon_ns = block.tick()
    (late,) = block.request("POST /action")
    block.event(late, "write_log", "accepted", block.api)
    block.run(late, "write_log")
    directory, run = RunDir(tmp_path), empty_run(plan(["inline"], 1))
    finish(directory, run.blocks[0], block)
    run.blocks[0].drained_ns = horizon_ns
    directory.write(run)
    summary = report.write(tmp_path)
    (row,) = (row for row in summary.routes if row.route == "all")
    assert row.fates["done"] == row.tasks == 4
    assert (row.done_p50_ms.median is not None, row.done_p95_ms.median) == (True, math.inf)
    start_ns = run.blocks[0].window_start_ns
    assert start_ns is not None
    assert row.goodput_per_s.median == pytest.approx(3 / ((horizon_ns - start_ns) / 1e9))


def test_tasks_that_failed_never_look_fast(tmp_path: Path) -> None:
    """A job that raises at once is no faster than one that does its work: it is never done."""
    block = Block("inline")
    for _ in range(10):
        (task,) = block.request("POST /action")
        block.event(task, "write_log", "accepted", block.api)
        block.event(task, "write_log", "started", block.api)
        block.event(task, "write_log", "failed", block.api)
    directory, run = RunDir(tmp_path), empty_run(plan(["inline"], 1))
    finish(directory, run.blocks[0], block)
    directory.write(run)
    (row,) = (row for row in report.write(tmp_path).routes if row.route == "all")
    assert row.fates["failed"] == row.tasks == 10
    assert (row.done_p50_ms.median, row.done_p95_ms.median, row.goodput_per_s.median) == (math.inf, math.inf, 0)


def test_others_on_the_contenders_cpus_are_told(tmp_path: Path) -> None:
    """Above 5 %, with how many blocks it was and the worst of them; those of fault blocks cannot be told."""
    directory, run = RunDir(tmp_path), empty_run(plan(["inline"], 3))
    for record, share in zip(run.blocks, (0.02, 0.31, 0.12), strict=True):
        finish(directory, record, loaded_block("inline", Random(1), 1.0), others_share=share)
    directory.write(run)
    summary = report.write(tmp_path)
    said = "Others used more than 5 % of the contender's CPUs in 2 of 3 blocks, at most 31.0 % (block 2)"
    assert any(sentence.startswith(said) for sentence in summary.limitations)
    run.blocks[1].instrument["others_share"] = run.blocks[2].instrument["others_share"] = 0.04
    directory.write(run)
    assert not any("Others used" in sentence for sentence in report.write(tmp_path).limitations)


def test_queue_wait_of_a_later_step_counts_from_the_end_of_the_step_before(tmp_path: Path) -> None:
    """Steps of 20 ms: the third does not wait 40 ms."""
    block = Block("celery")
    tasks = block.request("POST /multi-tasks")
    for task in tasks:
        block.event(task, "step", "accepted", block.api)
    for task in tasks:
        block.run(task, "step", ms=20)
    directory, _ = one_round(tmp_path / "r", celery=block)
    wait = figures(report.write(directory.path), "celery").queue_wait_p95_ms.median
    assert wait is not None
    assert wait < 1


def test_a_task_nobody_asked_for_is_counted(tmp_path: Path) -> None:
    """It belongs to no route, and to every route together."""
    block = loaded_block("inline", Random(1), 1.0)
    PLANTS["never_asked_for"](block, "POST /action")
    directory, _ = one_round(tmp_path / "r", inline=block)
    summary = report.write(directory.path)
    assert figures(summary, "inline").fates["unexpected"] == 1
    assert figures(summary, "inline", "POST /action").fates["unexpected"] == 0
    assert next(s for s in summary.shares if s.fate == "unexpected").of is None


def test_a_void_block_takes_no_part_and_is_named(tmp_path: Path) -> None:
    """Two of five rounds void: fewer than two thirds are left."""
    path = make_run(tmp_path / "r", {"inline": 1.0, "celery": 1.5})
    directory = RunDir(path)
    run = directory.read()
    for record in [block for block in run.blocks if block.contender == "celery"][:2]:
        record.valid, record.why = False, ["The clock stepped."]
    directory.write(run)
    summary = report.write(path)
    assert figures(summary, "celery").response_p95_ms.blocks == 3
    comparison = primary(summary, "celery")
    assert comparison.verdict == "unknown"
    assert "two thirds" in comparison.reason
    assert sum("is void: The clock stepped." in limitation for limitation in summary.limitations) == 2


def test_a_fault_block_counts_for_fates_and_not_for_figures(tmp_path: Path) -> None:
    """Its response times are those of a broken stack."""
    path = make_run(tmp_path / "r", {"inline": 1.0}, rounds=1)
    directory = RunDir(path)
    run = directory.read()
    extra = run.blocks[0].model_copy(
        update={"number": 9, "round": 0, "fault": "api-sigkill", "folder": "blocks/09-inline-api-sigkill"}
    )
    broken = loaded_block("inline", Random(3), 50.0, losses=5)
    broken.faults = [
        {"fault": "api-sigkill", "injected_ns": 5, "ended_ns": 6, "healed_ns": 7, "pids": [1], "confirmed": True}
    ]
    finish(directory, extra, broken)
    run.blocks.append(extra)
    run.plan.faults = ["api-sigkill"]
    directory.write(run)
    summary = report.write(path)
    assert "Faults" in printed(summary)
    assert [f.fates["lost"] for f in summary.faults] == [5]
    assert figures(summary, "inline").response_p95_ms.blocks == 1
    assert figures(summary, "inline").fates["lost"] == 0
    assert [s.count for s in summary.shares if (s.fault, s.fate) == ("api-sigkill", "lost")] == [5]
    assert any("`inline` with api-sigkill" in sentence for sentence in summary.sentences)


def test_fates_are_counted_of_acknowledged_tasks_and_apart_from_those_of_other_requests(tmp_path: Path) -> None:
    """A duplicate without an answer is none of an acknowledged task, and what was recovered is nobody's “other”."""
    block = Block("celery")
    told = ["done", "done", "lost_in_the_middle", "stranded", "duplicated", "duplicated", "failed"]
    for plant in [*told, "not_done", "recovered", "duplicated_without_a_yes", "unexpected", "never_asked_for"]:
        PLANTS[plant](block, "POST /action")
    directory, run = one_round(tmp_path / "r", celery=block)
    glance = tables.glance(report.write(directory.path), "mixed").rows
    assert [row[-4:] for row in glance] == [["7", "2", "1", "4"]]
    run.plan.faults = ["worker-kill"]
    run.blocks[0].fault, run.blocks[0].round = "worker-kill", 0
    directory.write(run)
    table = tables.faults(report.write(directory.path))
    cells = dict(zip(table.head, table.rows[0], strict=True))
    columns = ("acknowledged", "done", "lost", "stranded", "duplicated", "other", "recovered")
    assert [cells[column] for column in columns] == ["7", "2", "1", "1", "2", "1", "1"]
    shown = printed(report.write(directory.path))
    assert "recov-" in shown
    assert re.search(r"^ +celery +7 +2 +1 +1 +2 +1 +1 ", shown, re.MULTILINE), shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    (sentence,) = [one for one in report.write(directory.path).sentences if "worker-kill" in one]
    assert re.search(r"stranded 1 of 7 \([^)]*\), due again after the visibility timeout of 1 h", sentence), sentence
    assert cells["without a yes"] == "1 duplicated, 1 not done, 1 recovered, 2 unexpected"


def test_a_run_is_read_by_its_name_whatever_is_in_it(tmp_path: Path) -> None:
    """Beside another one that the name would match as a pattern, with the same result as under a plain name."""
    odd = make_run(tmp_path / "run[1]*?", {"inline": 1.0, "celery": 1.5}, rounds=1)
    make_run(tmp_path / "run1ab", {"inline": 9.0, "celery": 9.0}, rounds=1)
    plain = make_run(tmp_path / "plain", {"inline": 1.0, "celery": 1.5}, rounds=1)
    assert report.write(odd).model_dump(exclude={"run"}) == report.write(plain).model_dump(exclude={"run"})
    block = odd / RunDir(odd).read().blocks[0].folder
    sql = "SELECT task_id FROM read_parquet($tasks) WHERE route = 'POST /multi-tasks' LIMIT 1"
    (task_id,) = duckdb.execute(sql, {"tasks": no_glob(block / "tasks.parquet")}).fetchone() or ("",)
    assert any("is done" in sentence for sentence in history(block, UUID(task_id)))


def faulted(
    tmp_path: Path,
    injected_s: list[float],
    disturbed_s: list[float],
    every_s: float = 0.1,
    lost_s: Sequence[float] = (),
    slow_s: Sequence[float] = (),
    warmup_s: float = 0,
    until_s: float = 20,
) -> float | None:
    """Return how long it took to be back to normal: a request every so often, some refused, lost or slow."""
    block = Block("inline")
    for number in range(round(until_s / every_s)):
        block.now_ns = 1_000 * MS + round(number * every_s * 1000) * MS
        wrong, lost, slow = (
            any(abs(number * every_s - at) < 0.01 for at in times) for times in (disturbed_s, lost_s, slow_s)
        )
        phase = "warmup" if number * every_s < warmup_s else "window"
        tasks = block.request("POST /action", "refused" if wrong else "acknowledged", phase=phase)
        if not wrong and not lost:
            block.run(tasks[0], "write_log", ms=500 if slow else 1)
    start_ns = block.requests[0]["intended_ns"] - 1
    block.faults = [
        {
            "fault": "api-kill",
            "injected_ns": start_ns + int(at * 1e9),
            "healed_ns": None,
            "pids": [1],
            "confirmed": True,
        }
        for at in injected_s
    ]
    path = tmp_path / "r"
    path.mkdir()
    run = empty_run(plan(["inline"], rounds=1, faults=["api-kill"]))
    run.blocks[0].fault, run.blocks[0].round = "api-kill", 0
    finish(RunDir(path), run.blocks[0], block)
    RunDir(path).write(run)
    (fault,) = report.write(path).faults
    assert fault.injections == len(injected_s)
    return fault.back_to_normal_s.median


@pytest.mark.parametrize(
    ("injected_s", "disturbed_s", "back_s"),
    [
        ([5], [5.0, 5.5, 6.4], 1.4),
        ([5], [], 0.0),
        ([5], [5.5, 9.0], 0.5),
        ([5, 10, 15], [5.5, 10.7, 15.9], 0.7),
        ([5], [5 + 0.9 * step for step in range(17)], math.inf),
        ([5], [6.2 + 0.1 * step for step in range(138)], math.inf),
        ([5], [6.2 + 0.1 * step for step in range(31)], 4.2),
        ([5, 10], [6.2 + 0.1 * step for step in range(38)], math.inf),
    ],
)
def test_back_to_normal_is_the_last_disturbed_request_before_a_quiet_second(
    injected_s: list[float], disturbed_s: list[float], back_s: float, tmp_path: Path
) -> None:
    """Counted from each injection, the median over them."""
    assert faulted(tmp_path, injected_s, disturbed_s) == pytest.approx(back_s, abs=0.02)


def test_a_second_without_requests_is_not_normal(tmp_path: Path) -> None:
    """At a low rate as at a high one."""
    assert faulted(tmp_path, [5], [6, 7.5, 9, 10.5, 12, 13.5], every_s=1.5) == pytest.approx(8.5, abs=0.02)


def test_a_slow_warm_up_makes_nothing_normal(tmp_path: Path) -> None:
    """What is cold at the beginning may be slow; a task of 500 ms after the fault is disturbed all the same."""
    cold = [0.1 * number for number in range(20)]
    assert faulted(tmp_path, [5], [], slow_s=[*cold, 5.5], warmup_s=2) == pytest.approx(0.5, abs=0.02)


def test_what_was_slow_before_the_fault_is_normal(tmp_path: Path) -> None:
    """Nobody asks a contender to be faster after a fault than it was."""
    slow = [0.1 * number for number in range(200)]
    assert faulted(tmp_path, [5], [], slow_s=slow, warmup_s=2) == 0


def test_what_was_not_normal_before_is_never_back(tmp_path: Path) -> None:
    """No task is done, neither before the fault nor after it."""
    assert faulted(tmp_path, [5], [], lost_s=[0.1 * number for number in range(200)]) == math.inf


@pytest.mark.parametrize("slow", [True, False])
def test_after_an_infinite_p95_nothing_is_normal(slow: bool, tmp_path: Path) -> None:
    """One task in ten is lost before the faults, none after the first one: slow or fast, there is no normal."""
    late = [5 + 0.1 * number for number in range(150)] if slow else []
    lost = [0.1 * number for number in range(0, 50, 10)]
    assert faulted(tmp_path, [5, 12], [], lost_s=lost, slow_s=late) == math.inf


def test_without_a_request_after_the_fault_it_is_never_back(tmp_path: Path) -> None:
    """What nobody asked for shows nothing, be it for a window or for too little of one."""
    (tmp_path / "none").mkdir()
    (tmp_path / "few").mkdir()
    assert faulted(tmp_path / "none", [5], [], until_s=5) == math.inf
    assert faulted(tmp_path / "few", [5], [], until_s=5.9) == math.inf


def fault_with(**values: object) -> str:
    """Return faults.json of one fault, right but for these values."""
    return json.dumps([{"fault": "api-kill", "injected_ns": 5, "healed_ns": 6, "confirmed": True} | values])


DAMAGED = [fault_with(injected_ns="now"), fault_with(confirmed="no"), fault_with(healed_ns=4), fault_with(healed=True)]


@pytest.mark.parametrize("text", ["{", "[1]", "[{}]", "{}", '""', '[{"confirmed": true}]', *DAMAGED])
def test_damaged_faults_are_named(tmp_path: Path, text: str) -> None:
    """One sentence names the file."""
    faulted(tmp_path, [5], [])
    (faults,) = tmp_path.glob("r/blocks/*/faults.json")
    faults.write_text(text)
    with pytest.raises(LabError, match=r"^\S*/faults\.json is damaged: .+\.$"):
        report.write(tmp_path / "r")


def test_bystanders_of_a_fault_are_those_that_came_while_it_was_on(tmp_path: Path) -> None:
    """Beside those of before; not those just before, of the warm-up, or after it. One without an answer is infinite."""
    block = Block("celery")
    # Seconds from the start, and how long a bystander waits then: the fault is on from 5 to 8, and from 12 to the end.
    waits_ms = [(0.5, 900), (2, 10), (3, 10), (4.8, 700), (5.5, 2500), (6.5, 1500), (8.5, 800), (13, 1500)]
    for at_s, wait_ms in waits_ms:
        block.now_ns = 1_000 * MS + round(at_s * 1000) * MS
        for ping in ("GET /ping/loop", "GET /ping/thread"):
            lost = ping == "GET /ping/thread" and at_s == 5.5
            phase = "warmup" if at_s < 1 else "window"
            block.request(
                ping, "indeterminate" if lost else "acknowledged", stream="bystander", phase=phase, status=200
            )
            block.requests[-1]["ended_ns"] = block.requests[-1]["intended_ns"] + wait_ms * MS
    block.request("POST /action")
    start_ns = 1_000 * MS
    block.faults = [
        {"fault": "broker-pause", "injected_ns": start_ns + 5_000 * MS, "healed_ns": start_ns + 8_000 * MS},
        {"fault": "broker-pause", "injected_ns": start_ns + 12_000 * MS, "healed_ns": None},
    ]
    block.faults = [fault | {"pids": [1], "confirmed": True} for fault in block.faults]
    directory, run = one_round(tmp_path / "r", celery=block)
    run.plan.faults = ["broker-pause"]
    run.blocks[0].fault, run.blocks[0].round = "broker-pause", 0
    directory.write(run)
    summary = report.write(directory.path)
    loop, thread = summary.fault_bystanders
    assert (loop.route, loop.requests_before, loop.requests) == ("GET /ping/loop", 2, 3)
    assert (loop.before_p50_ms.median, loop.before_p95_ms.median) == (10, 10)
    assert (loop.response_p50_ms.median, loop.response_p95_ms.median) == (1500, 2500)
    assert (thread.response_p50_ms.median, thread.response_p95_ms.median) == (1500, math.inf)
    (cells,) = [row for row in tables.beside_faults(summary).rows if row[2] == "GET /ping/thread"]
    assert cells[-2:] == ["1,500", "failed"]
    for text in (printed(summary), (directory.path / "report.md").read_text()):
        assert "ping/thread" in text
    assert max(len(line) for line in printed(summary).splitlines()) <= 80


def test_a_sentence_says_of_each_fate_how_many_had_it_also_where_none_did(tmp_path: Path) -> None:
    """Done, lost, stranded, duplicated, recovered: none is left to be guessed."""
    whole, hit = Block("inline"), Block("celery")
    for block in (whole, hit):
        for _ in range(10):
            block.run(block.request("POST /action")[0], "write_log")
    PLANTS["stranded"](hit, "POST /action")
    PLANTS["duplicated"](hit, "POST /action")
    directory, _ = one_round(tmp_path / "r", inline=whole, celery=hit)
    of_inline, of_celery = (
        next(said for said in report.write(directory.path).sentences if said.startswith(f"`{name}`: "))
        for name in ("inline", "celery")
    )
    assert "10 done; lost none in 10: " in of_inline
    assert of_inline.endswith("; none stranded, duplicated or recovered.")
    assert "stranded 1 of 12" in of_celery
    assert "duplicated 1 of 12" in of_celery
    assert of_celery.endswith("; none recovered.")


@pytest.mark.parametrize(
    ("times_s", "in_a_cell", "in_words"),
    [
        ([1.0, 2.0, 4.0], "2.0", "ready again after 2.0 s (1.0 to 4.0 s)"),
        ([1.0, 2.0, math.inf], "2.0", "ready again in 2 of 3 injections, 1.0 s after them at the soonest"),
        ([1.0, 2.0, math.inf, math.inf], "in 2 of 4", "ready again in 2 of 4 injections, 1.0 s after"),
        ([math.inf, math.inf], "never", "never ready again before the next of 2 injections"),
    ],
)
def test_says_how_often_a_contender_came_back(times_s: list[float], in_a_cell: str, in_words: str) -> None:
    """A median of which half is infinite is neither a time nor never."""
    assert words.after(spread(times_s)) == in_a_cell
    assert words.reached("ready again", spread(times_s)).startswith(in_words)


def test_a_quick_run_gives_no_verdict(tmp_path: Path) -> None:
    """It says so, above the numbers and at each ratio."""
    summary = report.write(make_run(tmp_path / "r", {"inline": 1.0, "celery": 5.0}, rounds=1, quick=True))
    assert all(c.verdict is None for c in summary.comparisons)
    assert "quick run" in summary.limitations[0]
    assert any(sentence.endswith("no verdict.") for sentence in summary.sentences)


def test_a_run_without_a_finished_block_still_renders(tmp_path: Path) -> None:
    """It says which blocks are missing."""
    run = empty_run(plan(["inline", "celery"], rounds=2))
    run.interrupted = True
    RunDir(tmp_path).write(run)
    summary = report.write(tmp_path)
    assert "No block was finished" in summary.limitations[0]
    assert "4 of 4 blocks are missing (1: inline, mixed, round 1" in summary.limitations[1]
    assert "No block was finished" in (tmp_path / "report.html").read_text()
    assert "No block was finished" in printed(summary)


def test_a_contender_that_never_finished_a_block_leaves_unknowns(tmp_path: Path) -> None:
    """The others are reported."""
    path = make_run(tmp_path / "r", {"inline": 1.0, "celery": 1.0})
    directory = RunDir(path)
    run = directory.read()
    for block in run.blocks:
        if block.contender == "celery":
            block.state, block.valid, block.why = "failed", False, ["The worker did not start."]
    directory.write(run)
    summary = report.write(path)
    assert figures(summary, "inline").response_p95_ms.blocks == 5
    assert primary(summary, "celery").verdict == "unknown"
    assert any("failed: The worker did not start." in limitation for limitation in summary.limitations)


def test_a_command_in_a_limit_is_shown_as_one(run: Path, summary: Summary) -> None:
    """As code on the page, bare in the terminal; without backticks in either."""
    terminal.show(summary, Console(file=(printed := StringIO()), width=300))
    assert (
        "<code>lab calibrate</code> under the same <code>--out</code> makes one." in (run / "report.html").read_text()
    )
    assert "lab calibrate under the same --out makes one." in printed.getvalue()


def test_limits_of_the_machine_stand_above_the_numbers(summary: Summary, tmp_path: Path) -> None:
    """One core, not pinned, no calibration; and none of it where it does not hold."""
    assert any("one core" in limitation for limitation in summary.limitations)
    assert any("No calibration of this machine lay beside" in limitation for limitation in summary.limitations)
    run = empty_run(plan(["inline"], rounds=1), cpus=2)
    run.environment.placement.pinned = False
    RunDir(tmp_path).write(run)
    calibration = Calibration(
        run="r",
        made_at=run.started_at,
        git_commit="0",
        environment=run.environment,
        servers=[],
        planted=[],
        costs=[],
        not_judged=[],
    )
    (tmp_path / "calibration.json").write_text(calibration.model_dump_json())
    limitations = " ".join(report.write(tmp_path).limitations)
    assert "cannot pin" in limitations
    assert "one core" not in limitations
    assert "calibrated" not in limitations


@pytest.mark.parametrize(
    ("real_time", "said"),
    [([None, None], ""), ([1, 1], ""), ([0, 0], "took turns with the shared servers:"), ([1, 0], "in 1 of 2 blocks:")],
)
def test_a_generator_that_took_turns_stands_above_the_numbers(
    real_time: list[int | None], said: str, tmp_path: Path
) -> None:
    """Where its samples say so; those of older runs say nothing."""
    run = empty_run(plan(["inline", "celery"], rounds=1))
    for block, granted in zip(run.blocks, real_time, strict=True):
        block.instrument = {} if granted is None else {"real_time": granted}
    limitations = " ".join(words.limitations(run, None))
    assert ("took turns" in limitations) == bool(said)
    assert said in limitations
    run.plan.exploratory = True
    assert "took turns" not in " ".join(words.limitations(run, None))


def test_of_contenders_that_ran_already_no_cores_are_told(tmp_path: Path) -> None:
    """On one core each where the lab had started them, as the table and the limitations then say."""
    run = empty_run(plan(["inline"], rounds=1), cpus=1)
    assert cores(run) == "0"
    assert any("one core" in limitation for limitation in words.limitations(run, None))
    run.plan.stack, run.plan.contenders[0].url = "running", "http://127.0.0.1:1"
    assert cores(run) == "not known: the lab did not start the contenders"
    limitations = " ".join(words.limitations(run, None))
    assert "one core" not in limitations
    assert "does not know on which CPUs they run" in limitations


def test_of_one_that_ran_already_beside_one_that_was_started_both_are_told(tmp_path: Path) -> None:
    """What one of them leaves open is said of that one alone."""
    path = make_run(tmp_path / "run", {"inline": 1.0, "celery": 1.0}, rounds=1)
    run, pending = RunDir(path).read(), {"inline": 3, "celery": 2}
    assert words.untold(run, pending) == []
    run.plan.contenders[1].url = "http://127.0.0.1:1"
    (said,) = words.untold(run, pending)
    assert "Of celery, 2 acknowledged tasks were not done by the horizon" in said
    assert "whether they wait or are lost cannot be told of what the lab did not start" in said
    limitations = " ".join(words.limitations(run, None))
    assert "Each contender had one core" in limitations
    assert "The lab did not start celery: it does not know on which CPUs it runs" in limitations


def cores(run: RunRecord) -> str:
    return {row[0]: row[1] for row in tables.environment(run).rows}["contender's cores"]


def test_the_page_is_whole_and_escapes_what_it_shows(tmp_path: Path) -> None:
    """One file, no request to anywhere, no markup from a name."""
    run = empty_run(plan(["inline"], rounds=1))
    run.plan.contenders[0].title = "<script>alert(1)</script> | `x`"
    RunDir(tmp_path).write(run)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?://|<link|<img|src=|url\(|@import", page)


def test_every_markdown_row_has_the_columns_of_its_head(run: Path, summary: Summary) -> None:
    """GitHub drops or adds cells silently."""
    text = (run / "report.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def printed(summary: Summary, width: int = 80) -> str:
    """Return what a terminal without colour shows."""
    console = Console(file=StringIO(), width=width, force_terminal=False)
    terminal.show(summary, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_all_in_80_columns_without_colour(summary: Summary) -> None:
    """No name or figure is cut short, no escape sequence is printed."""
    text = printed(summary)
    assert "\x1b" not in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "slower by" in text
    for word in ("every route", "/multi-tasks", "inline", "celery", "lost"):
        assert word in text


def test_the_summary_is_json_and_reads_back(run: Path, summary: Summary) -> None:
    """Versioned by `schema`; no NaN and no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (run / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["schema"] == 1
    assert Summary.model_validate_json(text) == summary


def test_the_published_schema_is_current() -> None:
    """Made by `python -m lab.report.schema > docs/summary.schema.json`."""
    assert (ROOT / "docs" / "summary.schema.json").read_text() == schema_text()


def test_the_command_makes_a_run_of_the_same_plan(summary: Summary) -> None:
    """Seed, rounds, contenders, scenario and load."""
    assert summary.reproduce.startswith("lab compare --seed 7 --rounds 5 --contender inline --contender celery")
    assert summary.reproduce.endswith("--scenario mixed --fault none --rate 20 --duration 12")


def test_the_command_that_repeats_a_run_of_faults_names_no_duration_that_was_not_given() -> None:
    """Without one each fault has a time of its own."""
    faults = plan(["inline"], rounds=0, command="faults", faults=["deploy"], fault_repeats=3, fault_duration_s=None)
    assert words.reproduce(faults).endswith("--fault deploy --rate 20")
    assert "--rounds 3" in words.reproduce(faults)
    assert "--grace" not in words.reproduce(faults)
    own = {"contenders_file": "my.toml", "scenarios_folder": "mine", "may_load": ["far.example"], "generators": 2}
    elsewhere = words.reproduce(faults.model_copy(update=own | {"stack": "running"}))
    for option in ("--stack running", "--contenders my.toml", "--scenarios mine", "--generators 2"):
        assert option in elsewhere
    assert "--i-may-load far.example" in elsewhere
    assert "running" not in words.reproduce(faults)


def test_a_grace_period_that_was_asked_for_is_said(tmp_path: Path) -> None:
    """Beside every deploy, and in the command that repeats the run; the usual one and other faults are not touched."""
    block = Block("inline")
    PLANTS["done"](block, "POST /action")
    directory, run = one_round(tmp_path / "r", inline=block)
    run.plan.faults, run.plan.grace_s = ["deploy"], 0.1
    run.blocks[0].fault, run.blocks[0].round = "deploy", 0
    directory.write(run)
    summary = report.write(directory.path)
    assert "--grace 0.1" in summary.reproduce
    assert any("with deploy (grace 0.1 s)" in sentence for sentence in summary.sentences)
    for text in (printed(summary), (directory.path / "report.md").read_text()):
        assert "deploy (grace 0.1 s)" in text
    assert "…" not in printed(summary)
    assert words.fault("deploy", 10) == "deploy"
    assert words.fault("api-kill", 0.1) == "api-kill"
