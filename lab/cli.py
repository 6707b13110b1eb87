"""The `lab` command."""

import re
import secrets
import sys
from contextlib import suppress
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import duckdb
import typer
from rich.console import Console
from rich.table import Table

from lab import doctor
from lab.contenders import load_contenders
from lab.environment import PROJECT, software_changes
from lab.errors import COULD_NOT_MEASURE, LabError, UsageError
from lab.faults import FAULTS, check_users_own
from lab.rundir import GRACE_S, ContenderRecord, Plan, RunDir, ScenarioRecord, Slo
from lab.scenario import choices, load_scenarios
from lab.stacks.override import services_of

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # an error is a sentence, not a box
    help="BackgroundTasks vs Celery: measure latency, throughput and failure behaviour of both, honestly.",
)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

CONTENDERS = PROJECT / "contenders.toml"
SCENARIOS = PROJECT / "scenarios"
QUICK_CONTENDERS = ["inline", "celery"]
DEFAULT_CONTENDERS = ["inline", "celery", "celery-threads"]
DEFAULT_SCENARIOS = ["mixed"]
CAPACITY_CONTENDERS = ["inline", "inline-workers", "celery", "celery-threads"]
DEFAULT_ROUNDS = 5
DEFAULT_FAULTS = ["api-kill", "worker-kill", "deploy"]
HORIZON_S = 15.0
# Of a long run more blocks are measured again where they are void: one in twenty.
VOID_REPEATS = 2
BLOCKS_PER_REPEAT = 20
MOST_GRACE_S = 600.0
# What typer makes of a Ctrl-C that nobody else takes.
INTERRUPTED = 130


class Stack(StrEnum):
    """Where the contenders run."""

    local = "local"
    compose = "compose"
    running = "running"


Contenders = Annotated[list[str] | None, typer.Option("--contender", help="Which contender to run; repeatable.")]
Scenarios = Annotated[list[str] | None, typer.Option("--scenario", help="Which scenario to run; repeatable.")]
Faults = Annotated[
    list[str] | None, typer.Option("--fault", help="Which fault to inject; repeatable; `none` for none.")
]
Rate = Annotated[float | None, typer.Option(min=0.1, max=10_000, help="Requests per second.")]
StackOption = Annotated[
    Stack,
    typer.Option(
        help="Where the contenders run: as processes of the lab's, in containers, or already, at their `url`."
    ),
]
ContendersFile = Annotated[
    Path, typer.Option("--contenders", help="The file that describes the contenders; its own are all run by default.")
]
ScenariosFolder = Annotated[
    Path, typer.Option("--scenarios", help="The folder with the scenarios; its own are all run by default.")
]
MayLoad = Annotated[
    list[str] | None,
    typer.Option("--i-may-load", help="A host other than this machine that may be loaded; repeatable."),
]
Generators = Annotated[
    int,
    typer.Option(min=1, max=64, help="Locust workers that share the load; each needs a CPU on the generator's side."),
]
VoidRepeats = Annotated[
    int | None,
    typer.Option(
        "--void-repeats",
        min=0,
        max=1000,
        help="How many void blocks are measured again at most; 2 by default, of a long comparison one in 20.",
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Fixes arrivals, requests and the order of blocks.")]
Run = Annotated[Path, typer.Argument(help="A run directory.")]
Out = Annotated[Path, typer.Option("--out", help="The folder in which the run directory is made.")]
Json = Annotated[bool, typer.Option("--json", help="Print summary.json on standard output instead of the table.")]


@app.command()
def compare(
    contender: Contenders = None,
    scenario: Scenarios = None,
    fault: Faults = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=1000, help="Rounds; a verdict needs five.")] = None,
    rate: Rate = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration", min=1, max=86_400, help="Seconds of the measured window of a block.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two contenders, one round, 90 s at most without --fault; no verdicts.")
    ] = False,
    stack: StackOption = Stack.local,
    contenders_file: ContendersFile = CONTENDERS,
    scenarios_folder: ScenariosFolder = SCENARIOS,
    i_may_load: MayLoad = None,
    generators: Generators = 1,
    void_repeats: VoidRepeats = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Measure the contenders against each other, and write a report."""
    known = load_contenders(contenders_file)
    own = contenders_file != CONTENDERS
    names = contender or (list(known) if own else QUICK_CONTENDERS if quick else DEFAULT_CONTENDERS)
    chosen = choose_contenders(names, known)
    scenarios = load_scenarios(scenarios_folder)
    loads = choose_scenarios(
        scenario or (DEFAULT_SCENARIOS if scenarios_folder == SCENARIOS else list(choices(scenarios.values()))),
        rate,
        duration_s,
        scenarios,
    )
    grid = any(load.grid for load in loads)
    no_faults = not fault and (quick or own or grid or stack is Stack.running)
    rounds = rounds or (1 if quick else DEFAULT_ROUNDS)
    default_repeats = max(VOID_REPEATS, len(chosen) * len(loads) * rounds // BLOCKS_PER_REPEAT)
    plan = Plan(
        command="compare",
        seed=draw_seed(seed),
        rounds=rounds,
        quick=quick,
        stack=stack.value,
        contenders=chosen,
        scenarios=loads,
        horizon_s=HORIZON_S,
        faults=[] if no_faults else choose_faults(fault, chosen, stack),
        contenders_file=str(contenders_file) if own else None,
        scenarios_folder=str(scenarios_folder) if scenarios_folder != SCENARIOS else None,
        may_load=i_may_load or [],
        generators=generators,
        void_repeats=default_repeats if void_repeats is None else void_repeats,
    )
    check_one_load_for_faults(plan)
    check_contenders_fit(plan)
    measure(plan, out, as_json)


@app.command()
def faults(
    contender: Contenders = None,
    fault: Faults = None,
    scenario: Annotated[str, typer.Option(help="The load while the faults are injected.")] = "mixed",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Blocks per contender and fault.")] = 1,
    rate: Rate = None,
    duration_s: Annotated[
        float | None,
        typer.Option("--duration", min=4, max=86_400, help="Seconds of the window in which a fault comes four times."),
    ] = None,
    grace_s: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            help=f"What a deploy gives each process between SIGTERM and SIGKILL: up to {MOST_GRACE_S:g}.",
        ),
    ] = GRACE_S,
    stack: StackOption = Stack.local,
    generators: Generators = 1,
    void_repeats: VoidRepeats = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Inject faults while the load goes on, and account for every task."""
    chosen = choose_contenders(contender or DEFAULT_CONTENDERS)
    plan = Plan(
        command="faults",
        seed=draw_seed(seed),
        rounds=0,
        quick=False,
        stack=stack.value,
        contenders=chosen,
        scenarios=choose_scenarios([scenario], rate, None),
        horizon_s=HORIZON_S,
        faults=choose_faults(fault, chosen, stack),
        fault_repeats=rounds,
        fault_duration_s=duration_s,
        grace_s=grace_s,
        generators=generators,
        void_repeats=VOID_REPEATS if void_repeats is None else void_repeats,
    )
    check_one_load_for_faults(plan)
    if not plan.faults:
        raise UsageError("`lab faults` needs a fault; without one, `lab compare --fault none` measures.")
    check_contenders_fit(plan)
    check_grace(plan)
    measure(plan, out, as_json)


@app.command("resume")
def go_on(run: Run, as_json: Json = False) -> None:
    """Go on with an interrupted run; finished blocks are kept."""
    from lab.compare import resume

    directory = open_run(run)
    check_same_software(directory)
    raise typer.Exit(resume(directory, Console(stderr=as_json), as_json))


@app.command()
def task(
    run: Run,
    task_id: Annotated[UUID, typer.Argument(metavar="ID", help="A task's or a request's id.")],
    block: Annotated[
        int | None, typer.Option(help="The number of a block: those of a round have the same requests.")
    ] = None,
) -> None:
    """Say everything that is known about one task or request."""
    from lab.history import history

    directory = open_run(run)
    finished = [one for one in directory.read().blocks if one.state == "finished"]
    asked = finished if block is None else [one for one in finished if one.number == block]
    if not asked:
        raise UsageError(f"{run} has no finished block" + ("." if block is None else f" with the number {block}."))
    found = False
    for one in asked:
        if lines := history(directory.block(one), task_id):
            found = True
            print(f"Block {one.number}: {one.contender}, {one.fault or one.scenario}")
            print("\n".join(f"  {line}" for line in lines))
    if not found:
        raise UsageError(f"No finished block of {run} knows {task_id}.")


@app.command("report")
def render(run: Run, as_json: Json = False) -> None:
    """Render a run directory again."""
    from lab.compare import conclude

    raise typer.Exit(conclude(open_run(run), Console(stderr=as_json), as_json))


@app.command()
def up(
    contender: Contenders = None,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Locust web UI.")] = 8089,
    out: Out = Path("runs"),
) -> None:
    """Keep the stacks and the Locust web UI running to play with, until Ctrl-C."""
    from lab.up import keep_running

    keep_running(choose_contenders(contender or QUICK_CONTENDERS), web_port, out, Console())


@app.command("doctor")
def examine(out: Out = Path("runs")) -> None:
    """Say whether this machine can be trusted to measure."""
    findings = doctor.examine(out)
    table = Table(box=None, show_header=False)
    marks = {"good": "[green]good[/green]", "limit": "[yellow]limit[/yellow]", "bad": "[red]bad[/red]"}
    for finding in findings:
        table.add_row(marks[finding.verdict], finding.subject, finding.sentence)
    console = Console()
    console.print(table)
    bad = [finding.subject for finding in findings if finding.verdict == "bad"]
    if bad:
        console.print(f"This machine cannot be trusted to measure now: {', '.join(bad)}.")
        raise typer.Exit(COULD_NOT_MEASURE)
    console.print("This machine can be trusted to measure, within the limits above.")


@app.command()
def calibrate(
    against_itself: Annotated[
        bool, typer.Option("--aa", help="Try the verdicts instead: a contender against itself, in about an hour.")
    ] = False,
    seed: Seed = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Test the instrument on this machine, against servers whose latency is known exactly."""
    from lab import calibrate as calibration
    from lab.against_itself import plan_against_itself

    if against_itself:
        return measure(plan_against_itself(draw_seed(seed)), out, as_json)
    plan = calibration.calibration_plan(draw_seed(seed))
    raise typer.Exit(calibration.calibrate(plan, out, Console(stderr=as_json), as_json))


@app.command()
def capacity(
    contender: Contenders = None,
    work: Annotated[
        list[str] | None, typer.Option(help="What a task does: io, blocking or cpu; repeatable, all by default.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, max=60, help="Seconds of a task; by default 0.1, and 0.01 of cpu.")
    ] = None,
    slo_response_ms: Annotated[float, typer.Option(help="Highest p95 of response time.")] = Slo().response_p95_ms,
    slo_errors: Annotated[float, typer.Option(help="Highest share of requests without a yes.")] = Slo().errors,
    slo_done_s: Annotated[float, typer.Option(help="Highest p95 of time to done.")] = Slo().done_p95_s,
    duration_s: Annotated[
        float, typer.Option("--duration", min=1, max=600, help="Seconds of the measured window of a block.")
    ] = 8.0,
    budget_min: Annotated[float, typer.Option("--budget", metavar="MINUTES", help="What all of it may take.")] = 40.0,
    seed: Seed = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Find the highest rate at which each contender keeps the SLO, for each kind of work."""
    from lab.search import capacity_plan, work_to_do

    slo = Slo(response_p95_ms=slo_response_ms, errors=slo_errors, done_p95_s=slo_done_s)
    chosen = choose_contenders(contender or CAPACITY_CONTENDERS)
    scenarios = work_to_do(work, seconds, duration_s)
    measure(capacity_plan(chosen, scenarios, slo, budget_min, draw_seed(seed)), out, as_json)


@app.command("list")
def show_choices() -> None:
    """List contenders, scenarios and faults."""
    console = Console()
    table = Table("contender", "what it is", "tasks at once", box=None, title="Contenders", title_justify="left")
    for contender in load_contenders(CONTENDERS).values():
        table.add_row(contender.name, contender.title, contender.slots)
    console.print(table)
    table = Table("scenario", "requests/s", "what it is", box=None, title="\nScenarios", title_justify="left")
    for name, loads in choices(load_scenarios(SCENARIOS).values()).items():
        rates = sorted({load.rate for load in loads})
        table.add_row(name, ", ".join(f"{rate:g}" for rate in rates), loads[0].description)
    console.print(table)
    table = Table("fault", "what is done", "stacks; contenders", box=None, title="\nFaults", title_justify="left")
    for fault in FAULTS.values():
        table.add_row(fault.name, fault.description, fault.where)
    console.print(table)


def choose_contenders(names: list[str], known: dict[str, ContenderRecord] | None = None) -> list[ContenderRecord]:
    """Return the contenders of these names. Raises UsageError for one that does not exist, or comes twice."""
    known = known or load_contenders(CONTENDERS)
    return [known[name] for name in check_names("contender", names, list(known))]


def choose_faults(names: list[str] | None, contenders: list[ContenderRecord], stack: Stack) -> list[str]:
    """Return the faults of these names, none for ``none``; where none is named, the usual ones that can be done.

    Raises UsageError for one that does not exist or comes twice, or cannot be done to the stack, any contender, or a
    broker of the user's own.
    """
    if names == ["none"]:
        return []
    can_be_done = [name for name, fault in FAULTS.items() if any(fault.applies_to(one) for one in contenders)]
    if not names:
        return [name for name in DEFAULT_FAULTS if name in can_be_done]
    for name in check_names("fault", names, list(FAULTS)) if stack is not Stack.running else []:
        if stack not in FAULTS[name].stacks:
            stacks = " or ".join(FAULTS[name].stacks)
            raise UsageError(f"The fault '{name}' is for --stack {stacks}, not for {stack.value}.")
        if name not in can_be_done:
            asked_for = ", ".join(contender.name for contender in contenders)
            raise UsageError(
                f"The fault '{name}' can be done to none of the contenders that were asked for: {asked_for}."
            )
        check_users_own([name], stack)
    return names


def check_contenders_fit(plan: Plan) -> None:
    """Raise UsageError where a contender cannot be measured in this way, or must not be."""
    for contender in plan.contenders:
        if plan.stack == "compose":
            services_of(contender)
        if contender.url is None and plan.stack == "running":
            raise UsageError(f"--stack running needs contenders that run already, and '{contender.name}' has no `url`.")
        if contender.url is None:
            continue
        if plan.faults:
            raise UsageError(f"Faults cannot be done to '{contender.name}', which runs already: say --fault none.")
        host = urlsplit(contender.url).hostname or ""
        if not is_loopback(host) and host not in plan.may_load:
            raise UsageError(f"'{contender.name}' is not on this machine; if you may load it, say --i-may-load {host}.")


def check_one_load_for_faults(plan: Plan) -> None:
    """Raise UsageError where faults are to come under a grid of loads: they come under one."""
    if plan.faults and (grids := [load.grid for load in plan.scenarios if load.grid]):
        raise UsageError(f"Faults come under one load, and the scenario '{grids[0]}' is a grid of many.")


def check_grace(plan: Plan) -> None:
    """Raise UsageError for a grace period that is none, that nothing would use, or that no container engine counts."""
    if not 0 < plan.grace_s <= MOST_GRACE_S:
        raise UsageError(f"--grace {plan.grace_s:g}: a grace period is above 0 and at most {MOST_GRACE_S:g} seconds.")
    if plan.grace_s != GRACE_S and "deploy" not in plan.faults:
        raise UsageError("--grace is for the fault 'deploy', which was not asked for.")
    if plan.stack == "compose" and not plan.grace_s.is_integer():
        raise UsageError(f"--grace {plan.grace_s:g}: with --stack compose a grace period has whole seconds.")


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address means this machine."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def draw_seed(seed: int | None) -> int:
    """Return the seed that was given, or one drawn at random."""
    return secrets.randbelow(2**31) if seed is None else seed


def measure(plan: Plan, out: Path, as_json: bool) -> None:
    """Run a plan, and leave with the exit status that goes with the result."""
    from lab.compare import run_plan  # DuckDB and what the report needs take a second to load

    raise typer.Exit(run_plan(plan, out, Console(stderr=as_json), as_json))


def choose_scenarios(
    names: list[str], rate: float | None, duration_s: float | None, known: dict[str, ScenarioRecord] | None = None
) -> list[ScenarioRecord]:
    """Return the scenarios of these names, with the rate and duration asked for in place of their own.

    Of a grid they are its cells, which keep their rates: UsageError where another one is asked for.
    """
    known_by_name = choices((known or load_scenarios(SCENARIOS)).values())
    chosen = [load for name in check_names("scenario", names, list(known_by_name)) for load in known_by_name[name]]
    if rate is not None and (grids := [load.grid for load in chosen if load.grid]):
        raise UsageError(f"--rate {rate:g}: the scenario '{grids[0]}' is a grid that has rates of its own.")
    changes = {"rate": rate, "duration_s": duration_s}
    asked = {key: value for key, value in changes.items() if value is not None}
    return [load.model_copy(update=asked) for load in chosen]


def check_names(kind: str, names: list[str], known: list[str]) -> list[str]:
    """Return the names if all exist and none comes twice; else raise UsageError."""
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {kind} '{name}'; there are: {', '.join(known)}.")
        if names.count(name) > 1:
            raise UsageError(f"The {kind} '{name}' is named twice.")
    return names


def open_run(path: Path) -> RunDir:
    """Return a run directory. Raises UsageError where there is none, or its run.json cannot be read."""
    directory = RunDir(path)
    try:
        directory.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} is not a run directory: it has no run.json.") from None
    except ValueError as error:
        raise UsageError(f"{path / 'run.json'} cannot be read: {str(error).splitlines()[0]}.") from error
    return directory


def check_same_software(run: RunDir) -> None:
    """Raise UsageError where a run was begun with another Python or other packages than are installed now."""
    if changes := software_changes(run.read().environment):
        raise UsageError(
            f"{run.path.name} was begun with other software ({changes}): what is compared must be the same throughout."
        )


def main() -> None:
    """Run the command; an error that a user can cause is one sentence and an exit status."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            give_up("Interrupted.", COULD_NOT_MEASURE)
        raise
    except LabError as error:
        give_up(str(error), error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        give_up(f"{where}{error.strerror or error}.", COULD_NOT_MEASURE)
    except duckdb.Error as error:
        # It has the system's own words in JSON, inside its message.
        said = re.search(r'"exception_message":"(.+?)","errno"', str(error))
        give_up((said[1].replace('\\"', "'") if said else str(error).splitlines()[0]) + ".", COULD_NOT_MEASURE)


def give_up(sentence: str, status: int) -> None:
    """Say why in one sentence, and leave."""
    errors.print(f"lab: {sentence}", markup=False)
    sys.exit(status)
