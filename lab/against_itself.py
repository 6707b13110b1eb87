"""`lab calibrate --aa`: a contender against itself, and against itself with more work, judged as any two are."""

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

from lab import stats
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.report.metrics import PRIMARY, Measured, finished, paired
from lab.report.summary import AgainstItself, Calibration, Compared
from lab.rundir import CALIBRATE_AA, Plan, RunDir, RunRecord, ScenarioRecord

# Rounds of one comparison; where no block is void, a group of rounds has two of either kind.
ROUNDS = stats.ROUNDS_NEEDED
GROUPS = 11
COMPARISONS_NEEDED = 20
# Past the first full collection of the API's garbage under load. It holds up just as many as p95 is about in a window
# of four seconds: whether it falls into that is chance.
WARMUP_S = 6
EXTRA_WORK = 0.1
EXTRA = f"{EXTRA_WORK * 100:g} %"
TASK_S = 0.1
FALSE_ALARMS = 1 - stats.CONFIDENCE  # that many may be
MUST_BE_FOUND = 0.5  # more often than not, by the whole of the interval
DONE = "done_p95_ms"

Arm = tuple[str, str]  # contender, scenario


class Group(NamedTuple):
    """The rounds of one comparison: figures of either side, by primary metric."""

    paired: dict[str, stats.Paired]

    def verdicts(self) -> dict[str, stats.Verdict]:
        """Return the verdict on each metric, with Holm's correction over them, as if they were those of a run."""
        return {
            metric: judgement.verdict
            for metric, judgement in zip(self.paired, stats.judge_all(list(self.paired.values())), strict=True)
        }


def plan_against_itself(seed: int, groups: int = GROUPS) -> Plan:
    """Return the plan: one contender under two names, each under two loads, the second with a tenth more work a task.

    In every round each of the two comes under each load, so that a group of rounds compares the contender with itself
    twice, once under either load, and the two loads twice, once with either contender.
    """
    contender = load_contenders(PROJECT / "contenders.toml")["inline"]
    again = contender.model_copy(update={"name": f"{contender.name}-again", "title": f"{contender.title}, once more"})
    work = ScenarioRecord(
        name="work",
        users="probe",
        rate=50,
        arrivals="poisson",
        warmup_s=WARMUP_S,
        duration_s=4,
        probe_work="blocking",
        probe_seconds=TASK_S,
        description=f"a task of {TASK_S * 1e3:g} ms",
    )
    more = {"name": "more-work", "probe_seconds": round(TASK_S * (1 + EXTRA_WORK), 6)}
    plan = Plan(
        command=CALIBRATE_AA,
        seed=seed,
        rounds=groups * ROUNDS,
        quick=False,
        stack="local",
        contenders=[contender, again],
        scenarios=[work, work.model_copy(update=more | {"description": f"a task with {EXTRA} more work"})],
        horizon_s=15,
    )
    blocks = plan.rounds * len(plan.contenders) * len(plan.scenarios)
    return plan.model_copy(update={"void_repeats": blocks // 10})


def judge(directory: RunDir, run: RunRecord) -> Calibration:
    """Return what became of the verdicts of a run whose every block was measured, as a calibration."""
    made_at = run.ended_at or datetime.now(UTC)
    alike, unlike = compare(run, [block for block in finished(directory, run) if block.record.valid])
    aa = AgainstItself(run=directory.path.name, made_at=made_at, rounds=ROUNDS, alike=alike, unlike=unlike)
    return Calibration(
        run=directory.path.name,
        made_at=made_at,
        git_commit=run.git_commit,
        environment=run.environment,
        aa=aa.model_copy(update={"wrong": wrong(aa)}),
    )


def compare(run: RunRecord, valid: list[Measured]) -> tuple[Compared, Compared]:
    """Return how often the verdicts called different what is alike, and what is not."""
    one, again = (contender.name for contender in run.plan.contenders)
    work, more = (scenario.name for scenario in run.plan.scenarios)
    alike = [group for load in (work, more) for group in _groups(valid, (one, load), (again, load))]
    unlike = [group for name in (one, again) for group in _groups(valid, (name, work), (name, more))]
    planned = 2 * ceil(run.plan.rounds / ROUNDS)
    return counted(alike, planned, PRIMARY, {"faster", "slower"}), counted(unlike, planned, [DONE], {"slower"})


def _groups(valid: list[Measured], baseline: Arm, other: Arm) -> Iterator[Group]:
    """Yield the comparisons of two arms: each is of the next five rounds in which both blocks are valid.

    So a void block costs a round, not a comparison. What voids it is the machine's doing, whichever of the two it was.
    """
    arms = [
        {block.record.round: block for block in valid if (block.record.contender, block.record.scenario) == arm}
        for arm in (baseline, other)
    ]
    rounds = sorted(arms[0].keys() & arms[1].keys())
    for last in range(ROUNDS, len(rounds) + 1, ROUNDS):
        one, another = ([arm[number] for number in rounds[last - ROUNDS : last]] for arm in arms)
        yield Group({metric: paired(one, another, "all", metric, ROUNDS)[1] for metric in PRIMARY})


def counted(groups: list[Group], planned: int, metrics: list[str], different: set[stats.Verdict]) -> Compared:
    """Return in how many comparisons at least one of the verdicts on these metrics is among ``different``.

    A comparison counts where no verdict on them is unknown.
    """
    verdicts = [[group.verdicts()[metric] for metric in metrics] for group in groups]
    judged = [found for found in verdicts if "unknown" not in found]
    count = sum(not different.isdisjoint(found) for found in judged)
    low, high = stats.wilson(count, len(judged)) if judged else (None, None)
    ratio = stats.paired_ratio([ratio for group in groups for ratio in group.paired[DONE].ratios()])
    return Compared(
        planned=planned,
        judged=len(judged),
        different=count,
        low=low,
        high=high,
        done_ratio=ratio.mean if ratio else None,
        done_ratio_low=ratio.low if ratio else None,
        done_ratio_high=ratio.high if ratio else None,
    )


def wrong(found: AgainstItself) -> list[str]:
    """Return what is wrong with the verdicts, or why it cannot be told, one sentence each."""
    kinds = {"A against A": found.alike, f"{EXTRA} more work": found.unlike}
    said = [
        f"{what}: {one.judged} of {one.planned} comparisons could be judged, and {COMPARISONS_NEEDED} are needed."
        for what, one in kinds.items()
        if one.judged < COMPARISONS_NEEDED
    ]
    if _above(found.alike, FALSE_ALARMS):
        said.append(f"A against A: {_told(found.alike)} found a difference; more than 5 % of all would.")
    if not _above(found.unlike, MUST_BE_FOUND) and found.unlike.judged >= COMPARISONS_NEEDED:
        said.append(f"{EXTRA} more work: only {_told(found.unlike)} found it.")
    return said


def _above(one: Compared, share: float) -> bool:
    return one.low is not None and one.low > share


def _told(one: Compared) -> str:
    return f"{one.different} of {one.judged} comparisons"
