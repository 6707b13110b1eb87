"""What `lab calibrate --aa` makes of its verdicts: false alarms, work that is missed, too few comparisons."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from lab import report, stats
from lab.against_itself import COMPARISONS_NEEDED, Arm, Group, compare, counted, plan_against_itself, wrong
from lab.calibration import FILE, cite
from lab.report.backlog import BlockBacklog
from lab.report.measure import BlockMeasures
from lab.report.metrics import Measured
from lab.report.summary import AgainstItself, Calibration, Compared, Planted
from lab.run import plan_blocks
from lab.rundir import BlockRecord, RunDir, RunRecord
from tests.runmaker import empty_run, make_run, plan

NOW = datetime.now(UTC)
METRICS = ["response_p95_ms", "done_p95_ms"]


NO_BACKLOG = BlockBacklog([0], 0.0, [])
MORE = {("inline", "more-work"): 2.0, ("inline-again", "more-work"): 2.0}


def compared(
    slowness: dict[Arm, float], void: Collection[tuple[int, Arm]] = (), first_slow: int = 1
) -> tuple[Compared, Compared]:
    """Return what is made of ten rounds in which blocks differ by their slowness, 1 unless it is given, and noise.

    ``void`` are those that are not valid, by round; before the first slow round all are alike.
    """
    random = Random(1)
    run = empty_run(plan_against_itself(seed=3, groups=2))
    run.blocks = plan_blocks(run.plan)
    blocks = []
    for record in run.blocks:
        slow = slowness.get(_arm(record), 1.0) if record.round >= first_slow else 1.0
        figures = {metric: slow * random.lognormvariate(0, 0.02) for metric in METRICS}
        blocks.append(Measured(record, BlockMeasures({"all": figures}, {}, {}, [], [], [], {}, None, NO_BACKLOG)))
    valid = [block for block in blocks if (block.record.round, _arm(block.record)) not in void]
    return compare(run, valid)


def _arm(block: BlockRecord) -> Arm:
    return block.contender, block.scenario


def counts(one: Compared) -> tuple[int, int, int]:
    """Return how many comparisons were planned, judged, and found different."""
    return one.planned, one.judged, one.different


def test_what_is_alike_raises_no_alarm_and_more_work_is_found() -> None:
    """Each contender under each load is compared with its twin, and with itself under the other load."""
    alike, unlike = compared(MORE)
    assert (counts(alike), counts(unlike)) == ((4, 4, 0), (4, 4, 4))
    assert (alike.done_ratio, unlike.done_ratio) == pytest.approx((1, 2), rel=0.02)


def test_a_twin_that_is_slower_is_an_alarm() -> None:
    """Under one of the loads; and its more work, which is less then, is not found."""
    alike, unlike = compared(MORE | {("inline-again", "work"): 4.0})
    assert (counts(alike), counts(unlike)) == ((4, 4, 2), (4, 4, 2))


def test_a_void_block_costs_a_round_and_not_a_comparison() -> None:
    """Of ten rounds two leave eight, wherever and whose they are: one comparison of five. Six leave four: none."""
    one, again = ("inline", "work"), ("inline-again", "work")
    two = [(1, one), (6, again)]
    six = [*((number, one) for number in (1, 2, 3)), *((number, again) for number in (4, 5, 6))]
    assert [counts(each) for each in compared(MORE, void=two)] == [(4, 3, 0), (4, 2, 2)]
    assert [counts(each) for each in compared(MORE, void=six)] == [(4, 2, 0), (4, 2, 2)]


def test_each_round_is_of_one_comparison() -> None:
    """A twin that is slower from the sixth round on, under one load: one alarm in four, in a quarter of the rounds."""
    alike, unlike = compared({("inline-again", "work"): 4.0}, first_slow=6)
    assert (counts(alike), counts(unlike)) == ((4, 4, 1), (4, 4, 0))
    assert (alike.done_ratio, unlike.done_ratio) == pytest.approx((4**0.25, 4**-0.25), rel=0.02)


def group(response: list[float], done: list[float]) -> Group:
    """Return a comparison of five rounds; the other's figures, where the baseline's are 1."""
    figures = zip(METRICS, (response, done), strict=True)
    return Group({metric: stats.Paired([1.0] * len(other), other, 5) for metric, other in figures})


SAME, SLOWER = [1.01, 0.99, 1.0, 1.02, 0.98], [1.2, 1.21, 1.19, 1.22, 1.2]


def test_one_verdict_of_two_is_an_alarm_and_an_unknown_one_is_no_comparison() -> None:
    """A block is void in one, and in another a figure infinite: neither is called the same."""
    groups = [group(SAME, SAME), group(SLOWER, SAME), group(SAME, SLOWER), group(SLOWER, SLOWER)]
    unknown = [group(SAME[:4], SAME[:4]), group(SAME, [*SAME[:4], float("inf")])]
    found = counted(groups + unknown, 8, METRICS, {"faster", "slower"})
    assert counts(found) == (8, 4, 3)
    assert (found.low, found.high) == stats.wilson(3, 4)
    assert counts(counted(unknown, 2, METRICS, {"slower"})) == (2, 0, 0)


def of(different: int, judged: int) -> Compared:
    """Return so many differences in so many comparisons."""
    low, high = stats.wilson(different, judged) if judged else (None, None)
    return Compared(
        planned=30, judged=judged, different=different, low=low, high=high,
        done_ratio=1.0, done_ratio_low=0.99, done_ratio_high=1.01,
    )  # fmt: skip


def tried(alike: Compared, unlike: Compared, run: str = "1-calibrate-aa", made_at: datetime = NOW) -> AgainstItself:
    """Return what came of trying the verdicts."""
    found = AgainstItself(run=run, made_at=made_at, rounds=5, alike=alike, unlike=unlike)
    return found.model_copy(update={"wrong": wrong(found)})


@pytest.mark.parametrize("alarms", [0, 1, 3])
def test_few_false_alarms_are_within_bounds(alarms: int) -> None:
    """One in twenty is meant to be; three in thirty may be that."""
    assert tried(of(alarms, 30), of(30, 30)).wrong == []


@pytest.mark.parametrize(
    ("alike", "unlike", "said"),
    [
        (of(5, 30), of(30, 30), ["A against A: 5 of 30 comparisons found a difference; more than 5 % of all would."]),
        (of(0, 30), of(19, 30), ["10 % more work: only 19 of 30 comparisons found it."]),
        (of(0, 30), of(0, 30), ["10 % more work: only 0 of 30 comparisons found it."]),
        (
            of(0, COMPARISONS_NEEDED - 1),
            of(20, COMPARISONS_NEEDED),
            ["A against A: 19 of 30 comparisons could be judged, and 20 are needed."],
        ),
        (
            of(0, 30),
            of(0, 0),
            ["10 % more work: 0 of 30 comparisons could be judged, and 20 are needed."],
        ),
    ],
)
def test_what_is_out_of_bounds_is_told(alike: Compared, unlike: Compared, said: list[str]) -> None:
    """Too many alarms, more work that is missed, and too few comparisons, which is not the same as being right."""
    assert tried(alike, unlike).wrong == said


# who cites it


def calibration(run: RunRecord, name: str, made_at: datetime, **parts: object) -> Calibration:
    """Return a calibration of a run's machine."""
    return Calibration.model_validate(
        {"run": name, "made_at": made_at, "git_commit": "0" * 40, "environment": run.environment} | parts
    )


def leave(out: Path, found: Calibration) -> None:
    """Leave a calibration among the runs."""
    (out / found.run).mkdir(parents=True)
    (out / found.run / FILE).write_text(found.model_dump_json())


KNOWN = {"planted": [Planted(contender="inline", what="losses", planted=5, found=5, invented=0)]}


def test_a_run_cites_the_verdicts_beside_the_instrument(tmp_path: Path) -> None:
    """The newest of either, and neither in place of the other."""
    out, run = tmp_path / "runs", empty_run(plan(["inline"], rounds=1))
    for age in (1, 2):
        at = NOW - timedelta(hours=age)
        name = f"{age}-calibrate-aa"
        leave(out, calibration(run, name, at, aa=tried(of(0, 30), of(30, 30), name, at)))
        leave(out, calibration(run, f"{age}-calibrate", at - timedelta(days=1), **KNOWN))
    directory = RunDir.create(out, "compare", run)
    cite(directory, run.environment)
    found = Calibration.model_validate_json((directory.path / FILE).read_text())
    assert (found.run, len(found.planted)) == ("1-calibrate", 1)
    assert found.aa is not None
    assert found.aa.run == "1-calibrate-aa"


def test_verdicts_alone_do_not_calibrate_the_instrument(tmp_path: Path) -> None:
    """The report says so above the numbers, and whose sentence is whose."""
    path = make_run(tmp_path / "r", {"inline": 1.0}, rounds=1)
    run = RunDir(path).read()
    aa = tried(of(9, 30), of(30, 30))
    (path / FILE).write_text(calibration(run, "1-calibrate-aa", NOW, aa=aa).model_dump_json())
    limits = report.write(path).limitations
    assert "No calibration beside this run tried the instrument on known latencies." in limits
    (path / FILE).write_text(calibration(run, "2-calibrate", NOW, aa=aa, **KNOWN).model_dump_json())
    limits = report.write(path).limitations
    assert not any("known latencies" in sentence for sentence in limits)
    assert "The calibration of this machine (1-calibrate-aa) says: " + aa.wrong[0] in limits
    for text in ((path / "report.md").read_text(), (path / "report.html").read_text()):
        assert "the same contender twice" in text
        assert "9 of 30 (16.7 %–47.9 %)" in text
