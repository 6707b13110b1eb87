"""`lab compare`: the plan, the run, and what it says at the end."""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from lab import environment, report
from lab.errors import COULD_NOT_MEASURE, MEASURED, VOID, LabError
from lab.interrupt import Interrupt
from lab.progress import Progress, duration
from lab.report import terminal
from lab.run import Experiment, plan_blocks, planned_seconds
from lab.rundir import Placement, Plan, RunDir, RunRecord
from lab.stacks.local import Servers
from lab.stacks.supervisor import Supervisor


def run_comparison(plan: Plan, out: Path, console: Console, as_json: bool) -> int:
    """Run a plan in a new run directory under ``out``; return the exit status of the contract."""
    interrupt = Interrupt()
    placement = place_or_refuse()
    blocks = plan_blocks(plan)
    planned_s = planned_seconds(plan, blocks)
    show_plan(plan, len(blocks), sum(planned_s.values()), placement, console)
    directory = RunDir.create(out.resolve(), plan.command)
    with Supervisor(directory.path / "supervisor") as supervisor, Servers(supervisor, placement) as servers:
        run = RunRecord(
            started_at=datetime.now(UTC),
            git_commit=environment.git_commit(),
            plan=plan,
            environment=environment.describe(placement, servers.versions),
            blocks=blocks,
        )
        directory.write(run)
        Experiment(directory, run, supervisor, servers, interrupt, Progress(console, planned_s)).measure()
    return conclude(directory, console, as_json)


def place_or_refuse() -> Placement:
    """Return which CPUs each side gets. Raises LabError where there is only one."""
    cpus = environment.available_cpus()
    if len(cpus) < 2:
        raise LabError(
            f"Only CPU {cpus[0]} is available to this process: the load and the contender would disturb each other, "
            "so nothing is measured; at least two are needed."
        )
    return environment.place(cpus)


def show_plan(plan: Plan, blocks: int, planned_s: float, placement: Placement, console: Console) -> None:
    """Say what will be run, and for how long, before it begins."""
    names = ", ".join(contender.name for contender in plan.contenders)
    console.print(f"Contenders: {names}", highlight=False)
    for scenario in plan.scenarios:
        console.print(
            f"Scenario: {scenario.name}, {scenario.rate:g} requests/s ({scenario.arrivals})"
            f" for {scenario.duration_s:g} s after {scenario.warmup_s:g} s of warm-up",
            highlight=False,
        )
    console.print(
        f"CPUs: contender {placement.contender}, generator and shared servers {placement.generator}"
        + ("" if placement.pinned else "; this system cannot pin, so they share"),
        highlight=False,
        markup=False,
    )
    console.print(
        f"{blocks} blocks in {plan.rounds} round{'s' if plan.rounds > 1 else ''}, about {duration(planned_s)}; "
        f"seed {plan.seed}. Ctrl-C ends in order and reports what is finished.",
        highlight=False,
    )


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
    """Return 0 measured; 1 where the run was cut short or no block could be finished; 3 where the result is void."""
    finished = [block for block in run.blocks if block.state == "finished"]
    if run.interrupted or not finished:
        return COULD_NOT_MEASURE
    if not any(block.valid for block in finished):
        return VOID
    return MEASURED
