"""`lab compare`, `lab faults` and `lab resume`: the plan, the run, and what it says at the end."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from rich.console import Console

from lab import against_itself, environment, report, stats
from lab.calibration import FILE, cite
from lab.errors import COULD_NOT_MEASURE, MEASURED, VOID, LabError, UsageError
from lab.faults import FAULTS, check_users_own
from lab.interrupt import Interrupt
from lab.priority import off_the_contenders_cpus, stepped_back
from lab.progress import Progress, duration
from lab.report import terminal, words
from lab.run import Experiment, fault_window_s, plan_blocks, planned_seconds
from lab.rundir import CALIBRATE, CALIBRATE_AA, CALIBRATIONS, BlockRecord, Placement, Plan, RunDir, RunRecord
from lab.scenario import choices
from lab.search import Search, described
from lab.stacks.compose import ComposeTestbed
from lab.stacks.local import Servers
from lab.stacks.running import RunningTestbed
from lab.stacks.stack import Testbed
from lab.stacks.supervisor import Supervisor

TESTBEDS: dict[str, Callable[[Supervisor, Placement], Testbed]] = {
    "local": Servers,
    "compose": ComposeTestbed,
    "running": RunningTestbed,
}


def run_plan(plan: Plan, out: Path, console: Console, as_json: bool) -> int:
    """Run a plan in a new run directory under ``out``; return the exit status of the contract."""
    interrupt = Interrupt()
    placement = place_or_refuse(plan.stack)
    blocks = plan_blocks(plan)
    show_plan(plan, blocks, placement, console)
    directory, run = begin(plan, blocks, placement, out)
    with directory.claim():
        measure(directory, run, interrupt, console)
    return conclude(directory, console, as_json)


def begin(plan: Plan, blocks: list[BlockRecord], placement: Placement, out: Path) -> tuple[RunDir, RunRecord]:
    """Make the run directory of a plan under ``out``, with the machine's calibration; return it and its record."""
    run = RunRecord(
        started_at=datetime.now(UTC),
        git_commit=environment.git_commit(),
        plan=plan,
        environment=environment.describe(placement, servers={}),
        blocks=blocks,
    )
    directory = RunDir.create(out.resolve(), plan.command, run)
    if plan.command not in CALIBRATIONS:
        cite(directory, run.environment)
    return directory, run


def resume(directory: RunDir, console: Console, as_json: bool) -> int:
    """Go on with an interrupted run: finished blocks are kept, the others measured. Return the exit status.

    Raises UsageError where this machine does not have the CPUs on which the run was begun.
    """
    with directory.claim():
        _go_on(directory, console)
    return conclude(directory, console, as_json)


def _go_on(directory: RunDir, console: Console) -> None:
    run = directory.read()
    if run.plan.command == CALIBRATE:
        raise UsageError(f"{directory.path.name} is a calibration, which is begun anew: lab calibrate.")
    interrupt = Interrupt()
    placement = run.environment.placement
    if place_or_refuse(run.plan.stack) != placement:
        raise UsageError(f"{directory.path.name} was begun with other CPUs than this process may use now.")
    if (now := environment.git_commit()) != run.git_commit:
        raise UsageError(
            f"{directory.path.name} was begun with commit {run.git_commit}, and this is {now}: what is compared must "
            "be the same throughout."
        )
    if changes := environment.machine_changes(run.environment):
        raise UsageError(
            f"{directory.path.name} was begun on another machine ({changes}): what is compared must be the same "
            "throughout."
        )
    if unknown := [fault for fault in run.plan.faults if fault not in FAULTS]:
        raise UsageError(f"{directory.path.name} has a fault that this lab does not know: {unknown[0]}.")
    check_users_own(run.plan.faults, run.plan.stack)
    for block in run.blocks:
        if block.state == "failed":
            block.state, block.valid, block.why = "planned", None, []
    left = remaining(run)
    if run.plan.slo:  # the search plans anew what comes next
        run.blocks = [block for block in run.blocks if block.state == "finished"]
        console.print(f"{len(run.blocks)} blocks are finished" + (", and the search goes on." if left else "."))
    else:
        console.print(f"{len(left)} of {len(run.blocks)} blocks are left, about {duration(sum(left.values()))}.")
    if left or run.ended_at is None:
        run.interrupted, run.ended_at = False, None
        measure(directory, run, interrupt, console)


def measure(directory: RunDir, run: RunRecord, interrupt: Interrupt, console: Console) -> None:
    """Start the servers, and measure every block of a run that is still planned.

    The supervisor's warden starts all that is measured, and is started at the usual rank.
    """
    with (
        off_the_contenders_cpus(run.environment.placement),
        Supervisor(directory.path / "supervisor") as supervisor,
        TESTBEDS[run.plan.stack](supervisor, run.environment.placement) as testbed,
    ):
        check_same_servers(run, testbed.versions)
        run.environment.servers = testbed.versions
        kind = Search if run.plan.slo else Experiment
        experiment = kind(directory, run, supervisor, testbed, interrupt, Progress(console, remaining(run)))
        stepped_back(experiment.measure)


def check_same_servers(run: RunRecord, servers: dict[str, str]) -> None:
    """Raise UsageError where a run was begun with servers of other versions; before its first block none are known."""
    if run.environment.servers and (changes := environment.differences(run.environment.servers, servers)):
        raise UsageError(
            f"The run was begun with other servers ({changes}): what is compared must be the same throughout."
        )


def remaining(run: RunRecord) -> dict[int, float]:
    """Return how long each block that is still to be measured should take, by its number."""
    return planned_seconds(run.plan, [block for block in run.blocks if block.state == "planned"])


def place_or_refuse(stack: str) -> Placement:
    """Return which CPUs each side gets: all of them to the generator where the lab starts no contender.

    Raises LabError where there is only one.
    """
    cpus = environment.available_cpus()
    if stack == "running":
        return Placement(contender=[], generator=cpus, pinned=False)
    if len(cpus) < 2:
        raise LabError(
            f"Only CPU {cpus[0]} is available to this process: the load and the contender would disturb each other, "
            "so nothing is measured; at least two are needed."
        )
    return environment.place(cpus)


def show_plan(plan: Plan, blocks: list[BlockRecord], placement: Placement, console: Console) -> None:
    """Say what will be run, and for how long, before it begins."""
    in_rounds = sum(block.fault is None for block in blocks)
    sharing = "" if placement.pinned else "; this system cannot pin, so they share"
    where = f"CPUs: contender {placement.contender}, generator and shared servers {placement.generator}{sharing}"
    if plan.stack == "running":
        where = f"CPUs: generator {placement.generator}; the contenders run already, the lab does not know where"
    contenders = f"Contenders: {', '.join(contender.name for contender in plan.contenders)}"
    lines = [contenders, *(described(plan, plan.slo) if plan.slo else _loads(plan)), where]
    if plan.slo is None:
        lines.append(
            f"{in_rounds} blocks in {plan.rounds} round{'' if plan.rounds == 1 else 's'},"
            f" {len(blocks) - in_rounds} with faults: about {duration(sum(planned_seconds(plan, blocks).values()))}."
            f" Seed {plan.seed}."
        )
    lines.append("Ctrl-C ends in order and reports what is finished.")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _loads(plan: Plan) -> list[str]:
    """Return a line for each scenario, and for the faults where there are any."""
    lines = [
        f"Scenario: {name}, {words.rates(loads)} ({loads[0].arrivals})"
        f" for {loads[0].duration_s:g} s after {loads[0].warmup_s:g} s of warm-up"
        for name, loads in choices(plan.scenarios).items()
    ]
    if plan.faults:
        faults = [f"{fault} in {fault_window_s(plan, fault, plan.scenarios[0]):g} s" for fault in plan.faults]
        lines.append(f"Faults, {plan.injections} times each: {', '.join(faults)}")
    if "deploy" in plan.faults:
        lines.append(f"Grace period of a deploy: {plan.grace_s:g} s")
    return lines


def conclude(directory: RunDir, console: Console, as_json: bool) -> int:
    """Write the report of a run, show it, and return the exit status."""
    run = directory.read()
    if run.plan.command == CALIBRATE_AA and not remaining(run):
        directory.write_text(FILE, against_itself.judge(directory, run).model_dump_json(indent=2))
    summary = report.write(directory.path)
    if as_json:
        print((directory.path / "summary.json").read_text(), end="")
    else:
        terminal.show(summary, console)
        for name in ("report.html", "report.md"):
            console.print(f"Report: {shown(directory.path / name)}", soft_wrap=True, highlight=False)
    status = exit_status(run)
    out_of_bounds = run.plan.command in CALIBRATIONS and summary.calibration and summary.calibration.wrong
    return VOID if status == MEASURED and out_of_bounds else status


def shown(path: Path) -> Path:
    """Return a path as the user would write it: relative where it is below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def exit_status(run: RunRecord) -> int:
    """Return 0 measured; 1 where a block is missing or has failed, or nothing was asked for; 3 void.

    A search tries again what has failed, and a calibration judges what there is: there each needs a finished block.
    What was asked for is each contender under each scenario and under each fault. The result as a whole is void where
    no block of a contender under a scenario is valid; in a run of faults alone, under a fault; and where void blocks
    leave no two contenders enough rounds to be compared. In a search for capacities a ramp does not count.
    """
    blocks = [block for block in run.blocks if run.plan.slo is None or block.rate is not None]
    asked_for = {_what(block) for block in blocks} | _cells(run.plan)
    finished = {_what(block) for block in blocks if block.state == "finished"}
    missing = {"planned", "failed"} if run.plan.command in {"compare", "faults"} else {"planned"}
    if run.interrupted or any(block.state in missing for block in blocks) or asked_for != finished or not asked_for:
        return COULD_NOT_MEASURE
    decide = {_what(block) for block in blocks if block.fault is None} or asked_for
    measured = decide <= {_what(block) for block in blocks if block.valid} and not _nothing_to_compare(run)
    return MEASURED if measured else VOID


def _nothing_to_compare(run: RunRecord) -> bool:
    """Return whether void blocks leave every two contenders, under every load, less than two thirds of their rounds."""
    void: dict[tuple[str, str], set[int]] = {
        (c.name, s.name): set() for c in run.plan.contenders for s in run.plan.scenarios
    }
    for block in run.blocks:  # a repeat comes after what it repeats
        if block.round:
            change = set.discard if block.valid else set.add
            change(void[block.contender, block.scenario], block.round)
    needed = stats.SHARE_OF_ROUNDS_NEEDED * run.plan.rounds
    left = [
        run.plan.rounds - len(void[one.name, scenario.name] | void[other.name, scenario.name])
        for scenario in run.plan.scenarios
        for one, other in combinations(run.plan.contenders, 2)
    ]
    return bool(left) and max(left) < needed


def _cells(plan: Plan) -> set[tuple[str, str, str | None]]:
    """Return what a search for capacities was asked for; it plans its blocks as it goes."""
    return {(c.name, s.name, None) for c in plan.contenders for s in plan.scenarios} if plan.slo else set()


def _what(block: BlockRecord) -> tuple[str, str, str | None]:
    return block.contender, block.scenario, block.fault
