"""What a search for capacities reports, on made blocks of contenders with one slot for tasks of 0.1 s."""

import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from lab import report
from lab.compare import exit_status
from lab.errors import COULD_NOT_MEASURE, MEASURED, VOID
from lab.report import terminal
from lab.report.summary import Capacity, Summary
from lab.rundir import BlockRecord, RampStep, RunDir, RunRecord, Slo, block_folder
from lab.search import cells_left, work_to_do
from lab.sustained import guess
from tests.queuemaker import END_NS, HORIZON_NS, START_NS, queue_block
from tests.runmaker import empty_run, plan

LATE = "The load generator was late: requests were sent late by 5.0 ms (p99)."
STOLEN = "The CPU was taken away: 20% of it went to others (steal)."


def new_run(path: Path, contenders: list[str]) -> tuple[RunDir, RunRecord]:
    """Return the record of a search that has just begun."""
    path.mkdir()
    work = work_to_do(["blocking"], seconds=None, duration_s=8)
    searched = plan(contenders, rounds=0, command="capacity", scenarios=work, slo=Slo(), budget_s=600)
    return RunDir(path), empty_run(searched)


def add(
    run: tuple[RunDir, RunRecord], contender: str, rate: float | None, void: str = "", busy: float = 0.5, slots: int = 1
) -> BlockRecord:
    """Add a block of a contender with so many slots; without a rate it is a ramp, with one load of 5/s."""
    directory, record = run
    number = len(record.blocks) + 1
    block = BlockRecord(
        number=number, round=0, contender=contender, scenario="blocking", rate=rate, seed=number,
        folder=block_folder(number, contender, "blocking"), state="finished", valid=not void, why=[void] * bool(void),
        window_start_ns=START_NS, window_end_ns=END_NS, drained_ns=HORIZON_NS,
    )  # fmt: skip
    if rate is None:
        block.ramp = [
            RampStep(rate=5, window_start_ns=START_NS, window_end_ns=END_NS, drained_ns=HORIZON_NS, held=True)
        ]
    queue_block(directory.block(block), rate or 5, slots, busy=busy)
    record.blocks.append(block)
    return block


def over(run: tuple[RunDir, RunRecord], *contenders: str) -> None:
    """Write down that the searches of these contenders are over."""
    run[1].searched += [(contender, "blocking") for contender in contenders]


def reported(run: tuple[RunDir, RunRecord]) -> tuple[Summary, dict[str, Capacity]]:
    """Write the run and its report; return the summary, and its capacities by contender."""
    directory, record = run
    directory.write(record)
    summary = report.write(directory.path)
    return summary, {found.contender: found for found in summary.capacities}


def texts(run: tuple[RunDir, RunRecord], summary: Summary) -> list[str]:
    """Return the three reports, without the breaks of lines."""
    console = Console(file=(printed := StringIO()), width=80)
    terminal.show(summary, console)
    files = [(run[0].path / name).read_text() for name in ("report.md", "report.html")]
    return [re.sub(r"\s+", " ", text) for text in (printed.getvalue(), *files)]


@dataclass(frozen=True)
class Searched:
    """A search, its summary, its capacities by contender, and its three reports."""

    run: tuple[RunDir, RunRecord]
    summary: Summary
    found: dict[str, Capacity]
    texts: list[str]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Return a search: `slow` has one slot, `busy` has no CPU left, above 20/s the generator is late for `fast`."""
    run = new_run(tmp_path_factory.mktemp("capacity") / "run", ["slow", "busy", "fast"])
    add(run, "slow", None)
    for rate in (14.1, 7.07, 9.9, 9.9, 10.8, 10.8):
        add(run, "slow", rate)
    add(run, "busy", None)
    add(run, "busy", 8)
    add(run, "busy", 12, busy=0.97)
    add(run, "fast", None)
    add(run, "fast", 19, slots=40)
    add(run, "fast", 19, slots=40)
    add(run, "fast", 20.5, void=LATE)
    add(run, "fast", 20.5, void=LATE)
    over(run, "slow", "busy", "fast")
    summary, found = reported(run)
    return Searched(run, summary, found, texts(run, summary))


def test_each_capacity_is_an_interval_with_its_limit(searched: Searched) -> None:
    """Slots, CPU, and the generator, where the figure is a lower bound; each is said in all three reports."""
    slow, busy, fast = (searched.found[name] for name in ("slow", "busy", "fast"))
    assert (slow.low, slow.high, slow.low_blocks, slow.high_blocks) == (9.9, 10.8, 2, 2)
    assert (slow.limit, slow.ended) == ("slots", "narrow")
    assert (busy.low, busy.high, busy.limit, busy.ended) == (8, 12, "cpu", "time")
    assert (fast.low, fast.high, fast.limit, fast.ended) == (19, None, "generator", "narrow")
    assert (fast.high_blocks, fast.cpu_share, fast.running_at_once) == (0, None, None), "those of the ramp are no end"
    sentences = [
        "under blocking: 9.9–10.8 requests/s; limit: slots, 1 task at once (CPU 50 % busy).",
        "under blocking: 8–12 requests/s; limit: CPU, 97 % busy; the time was used up before the interval was narrow.",
        "under blocking: at least 19 requests/s; a lower bound, the load generator could not send more; could not be "
        "measured at 20.5.",
    ]
    for text in searched.texts:
        for sentence in sentences:
            assert sentence in text
        assert "…" not in text


def test_the_curve_has_every_window_in_the_order_of_rates(searched: Searched) -> None:
    """Those of ramps and void blocks without a verdict."""
    slow = searched.found["slow"].curve
    assert [point.rate for point in slow] == [5, 7.07, 9.9, 9.9, 10.8, 10.8, 14.1]
    assert [point.broken for point in slow] == [None, [], [], [], *[["backlog grows"]] * 3]
    assert [point.broken for point in searched.found["fast"].curve] == [None, [], [], None, None]
    grown = [(point.backlog_end or 0) - (point.backlog_mid or 0) > 2 for point in slow]
    assert grown == [False, False, False, False, True, True, True]
    _, markdown, page = searched.texts
    for text in (markdown, page):
        assert "broken: backlog grows" in text
        assert "Capacity" in text
        assert "What became of the tasks" not in text


def test_the_command_makes_the_same_search(searched: Searched) -> None:
    """With its SLO, its work and its time."""
    assert searched.summary.reproduce == (
        "lab capacity --seed 7 --budget 10 --slo-response-ms 250 --slo-errors 0.005 --slo-done-s 5 --duration 8 "
        "--seconds 0.1 --contender slow --contender busy --contender fast --work blocking"
    )


def test_rates_that_disagree_are_said(tmp_path: Path) -> None:
    """12 held in a block with more slots: it is neither end."""
    made = new_run(tmp_path / "run", ["moody"])
    add(made, "moody", 9)
    add(made, "moody", 12)
    add(made, "moody", 12, slots=2)
    add(made, "moody", 14)
    summary, found = reported(made)
    assert (found["moody"].low, found["moody"].high, found["moody"].undecided) == (9, 14, [12])
    assert "undecided at 12" in " ".join(summary.sentences)


def test_a_broken_slo_under_a_late_generator_decides_nothing(tmp_path: Path) -> None:
    """Whoever was late may have broken it; where it held in spite of that, it held."""
    made = new_run(tmp_path / "run", ["one"])
    for rate, lag_ms in ((9.9, 13.0), (9.9, 13.0), (10.8, 13.0), (10.8, 12.0)):
        add(made, "one", rate).instrument["loop_lag_p99_ms"] = lag_ms
    summary, found = reported(made)
    assert (found["one"].low, found["one"].high, found["one"].high_blocks) == (9.9, 10.8, 1)
    assert [point.broken for point in found["one"].curve] == [[], [], None, ["backlog grows"]]
    assert "generator late" in texts(made, summary)[1]
    made[1].blocks[-1].instrument["loop_lag_p99_ms"] = 13.0
    found = reported(made)[1]
    assert (found["one"].low, found["one"].high, found["one"].not_measured) == (9.9, None, [10.8])
    assert found["one"].limit == "generator"


@pytest.mark.parametrize("undecided", [False, True])
def test_the_generator_is_no_limit_where_something_else_ended_the_search(tmp_path: Path, undecided: bool) -> None:
    """The time, before anything between 9 and 40 was tried; or a rate that held once and failed once."""
    made = new_run(tmp_path / "run", ["one"])
    add(made, "one", 9.9)
    add(made, "one", 9.9)
    if undecided:
        add(made, "one", 10.8, slots=2)
        add(made, "one", 10.8)
    add(made, "one", 11.5 if undecided else 40, void=LATE)
    add(made, "one", 11.5 if undecided else 40, void=LATE)
    over(made, "one")
    summary, found = reported(made)
    assert (found["one"].low, found["one"].high, found["one"].limit) == (9.9, None, "not known")
    assert found["one"].ended == ("narrow" if undecided else "time")
    assert "could not send more" not in " ".join(summary.sentences)


def test_blocks_at_the_upper_end_that_met_different_limits_leave_it_unknown(tmp_path: Path) -> None:
    """Slots in one, the CPU in the other."""
    made = new_run(tmp_path / "run", ["one"])
    add(made, "one", 9)
    add(made, "one", 12, busy=0.99)
    add(made, "one", 12, busy=0.3)
    assert reported(made)[1]["one"].limit == "not known"


def test_an_interrupted_search_says_what_is_missing(tmp_path: Path) -> None:
    """The search in hand and those not begun were interrupted; those before it had used their time up."""
    made = directory, record = new_run(tmp_path / "run", ["before", "in-hand", "after"])
    add(made, "before", 9)
    over(made, "before")
    add(made, "in-hand", 9)
    record.blocks.append(
        record.blocks[-1].model_copy(update={"number": 3, "rate": 9.8, "state": "planned", "valid": None})
    )
    killed = reported(made)[1]
    record.interrupted = True
    summary, found = reported(made)
    for each in (killed, found):
        assert [each[name].ended for name in ("before", "in-hand", "after")] == ["time", "interrupted", "interrupted"]
    assert "after` under blocking: not known; the search was interrupted" in " ".join(summary.sentences)
    assert any("1 of 3 blocks are missing (3: in-hand, blocking, 9.8/s)" in line for line in summary.limitations)
    assert exit_status(directory.read()) == COULD_NOT_MEASURE


def test_the_exit_status_asks_for_a_valid_fresh_block_of_every_search(tmp_path: Path) -> None:
    """A ramp alone is no measurement; nothing but void blocks is a void result."""
    made = new_run(tmp_path / "run", ["one", "two"])
    add(made, "one", None)
    add(made, "one", 9)
    add(made, "two", None)
    assert exit_status(made[1]) == COULD_NOT_MEASURE
    add(made, "two", 9, void=STOLEN)
    assert exit_status(made[1]) == VOID
    assert reported(made)[1]["two"].limit == "not known"
    add(made, "two", 9)
    assert exit_status(made[1]) == MEASURED


def test_what_is_left_of_an_interrupted_search(tmp_path: Path) -> None:
    """The search in hand and those after it, and one of which all blocks failed: `lab resume` has dropped these.

    One that it has taken up again, in the middle, is left as long as nobody has written that it is over.
    """
    made = new_run(tmp_path / "run", ["one", "two", "three", "four"])
    assert [contender.name for contender, _ in cells_left(made[1])] == ["one", "two", "three", "four"]
    add(made, "one", 9)
    add(made, "three", 9)
    over(made, "one", "two")
    assert [contender.name for contender, _ in cells_left(made[1])] == ["two", "three", "four"]
    made[1].searched.remove(("two", "blocking"))
    add(made, "two", None)
    assert [contender.name for contender, _ in cells_left(made[1])] == ["two", "three", "four"]


def test_where_a_search_begins_after_a_ramp(tmp_path: Path) -> None:
    """Between its last load and the one before it or after it; where there was no ramp, at the load's own rate."""
    ramp = add(new_run(tmp_path / "run", ["one"]), "one", None)
    assert 5 < guess([ramp], 3) < 10
    ramp.ramp[-1].held = False
    assert 2.5 < guess([ramp], 3) < 5
    ramp.ramp = []
    assert guess([ramp], 3) == guess([], 3) == 3
