"""`lab compare`, `lab faults` and `lab resume`: the plan, the run, and what it says at the end."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from lab import environment, report
from lab.calibration import cite
from lab.errors import COULD_NOT_MEASURE, MEASURED, VOID, LabError, UsageError
from lab.faults import FAULTS
from lab.interrupt import Interrupt
from lab.priority import step_back
from lab.progress import Progress, duration
from lab.report import terminal
from lab.run import Experiment, fault_window_s, plan_blocks, planned_seconds
from lab.rundir import BlockRecord, Placement, Plan, RunDir, RunRecord
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
    if plan.command != "calibrate":
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
    if run.plan.command == "calibrate":
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
    for block in run.blocks:
        if block.state == "failed":
            block.state, block.valid, block.why = "planned", None, []
    left = remaining(run)
    console.print(f"{len(left)} of {len(run.blocks)} blocks are left, about {duration(sum(left.values()))}.")
    if left or run.ended_at is None:
        run.interrupted, run.ended_at = False, None
        measure(directory, run, interrupt, console)


def measure(directory: RunDir, run: RunRecord, interrupt: Interrupt, console: Console) -> None:
    """Start the servers, and measure every block of a run that is still planned."""
    step_back()
    with (
        Supervisor(directory.path / "supervisor") as supervisor,
        TESTBEDS[run.plan.stack](supervisor, run.environment.placement) as testbed,
    ):
        check_same_servers(run, testbed.versions)
        run.environment.servers = testbed.versions
        Experiment(directory, run, supervisor, testbed, interrupt, Progress(console, remaining(run))).measure()


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
    lines = [f"Contenders: {', '.join(contender.name for contender in plan.contenders)}"]
    lines += [
        f"Scenario: {scenario.name}, {scenario.rate:g} requests/s ({scenario.arrivals})"
        f" for {scenario.duration_s:g} s after {scenario.warmup_s:g} s of warm-up"
        for scenario in plan.scenarios
    ]
    if plan.faults:
        faults = [f"{fault} in {fault_window_s(plan, fault, plan.scenarios[0]):g} s" for fault in plan.faults]
        lines.append(f"Faults, {plan.injections} times each: {', '.join(faults)}")
    if "deploy" in plan.faults:
        lines.append(f"Grace period of a deploy: {plan.grace_s:g} s")
    lines += [
        where,
        f"{in_rounds} blocks in {plan.rounds} round{'' if plan.rounds == 1 else 's'},"
        f" {len(blocks) - in_rounds} with faults: about {duration(sum(planned_seconds(plan, blocks).values()))}."
        f" Seed {plan.seed}.",
        "Ctrl-C ends in order and reports what is finished.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def conclude(directory: RunDir, console: Console, as_json: bool) -> int:
    """Write the report of a run, show it, and return the exit status."""
    summary = report.write(directory.path)
    if as_json:
        print((directory.path / "summary.json").read_text(), end="")
    else:
        terminal.show(summary, console)
        for name in ("report.html", "report.md"):
            console.print(f"Report: {shown(directory.path / name)}", soft_wrap=True, highlight=False)
    return exit_status(directory.read())


def shown(path: Path) -> Path:
    """Return a path as the user would write it: relative where it is below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def exit_status(run: RunRecord) -> int:
    """Return 0 measured; 1 where a block is missing, or what was asked for could not be measured at all; 3 void.

    What was asked for is each contender under each scenario and under each fault. The result as a whole is void where
    no block of a contender under a scenario is valid; in a run of faults alone, under a fault.
    """
    asked_for = {_what(block) for block in run.blocks}
    finished = {_what(block) for block in run.blocks if block.state == "finished"}
    if (
        run.interrupted
        or any(block.state == "planned" for block in run.blocks)
        or asked_for != finished
        or not asked_for
    ):
        return COULD_NOT_MEASURE
    decide = {_what(block) for block in run.blocks if block.fault is None} or asked_for
    return MEASURED if decide <= {_what(block) for block in run.blocks if block.valid} else VOID


def _what(block: BlockRecord) -> tuple[str, str, str | None]:
    return block.contender, block.scenario, block.fault
