"""The `lab` command."""

import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lab import doctor
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.errors import COULD_NOT_MEASURE, LabError, UsageError
from lab.rundir import ContenderRecord, Plan, RunDir, ScenarioRecord
from lab.scenario import load_scenarios

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="BackgroundTasks vs Celery: measure latency, throughput and failure behaviour of both, honestly.",
)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

QUICK_CONTENDERS = ["inline", "celery"]
DEFAULT_CONTENDERS = ["inline", "celery", "celery-threads"]
DEFAULT_SCENARIOS = ["mixed"]
DEFAULT_ROUNDS = 5
HORIZON_S = 15.0


class Stack(StrEnum):
    """Where the contenders run."""

    local = "local"


Contenders = Annotated[list[str] | None, typer.Option("--contender", help="Which contender to run; repeatable.")]
Scenarios = Annotated[list[str] | None, typer.Option("--scenario", help="Which scenario to run; repeatable.")]
Out = Annotated[Path, typer.Option("--out", help="The folder in which the run directory is made.")]
Json = Annotated[bool, typer.Option("--json", help="Print summary.json on standard output instead of the table.")]


@app.command()
def compare(
    contender: Contenders = None,
    scenario: Scenarios = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=1000, help="Rounds; a verdict needs five.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, max=10_000, help="Requests per second.")] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration", min=1, max=86_400, help="Seconds of the measured window of a block.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Two contenders, one round, at most 90 s; gives no verdicts.")] = False,
    stack: Annotated[Stack, typer.Option(help="Where the contenders run.")] = Stack.local,
    seed: Annotated[int | None, typer.Option(min=0, help="Fixes arrivals and the order of blocks.")] = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Measure the contenders against each other, and write a report."""
    from lab.compare import run_comparison  # the work's libraries take a second to load

    plan = Plan(
        command="compare",
        seed=secrets.randbelow(2**31) if seed is None else seed,
        rounds=rounds or (1 if quick else DEFAULT_ROUNDS),
        quick=quick,
        stack=stack.value,
        contenders=choose_contenders(contender or (QUICK_CONTENDERS if quick else DEFAULT_CONTENDERS)),
        scenarios=choose_scenarios(scenario or DEFAULT_SCENARIOS, rate, duration_s),
        horizon_s=HORIZON_S,
    )
    console = Console(stderr=as_json)
    raise typer.Exit(run_comparison(plan, out, console, as_json))


@app.command("report")
def render(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: Json = False,
) -> None:
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


@app.command("list")
def show_choices() -> None:
    """List contenders, scenarios and faults."""
    console = Console()
    table = Table("contender", "what it is", "tasks at once", box=None, title="Contenders", title_justify="left")
    for contender in load_contenders(PROJECT / "contenders.toml").values():
        table.add_row(contender.name, contender.title, contender.slots)
    console.print(table)
    table = Table("scenario", "requests/s", "what it is", box=None, title="\nScenarios", title_justify="left")
    for scenario in load_scenarios(PROJECT / "scenarios").values():
        table.add_row(scenario.name, f"{scenario.rate:g}", scenario.description)
    console.print(table)


def choose_contenders(names: list[str]) -> list[ContenderRecord]:
    """Return the contenders of these names. Raises UsageError for one that does not exist, or comes twice."""
    known = load_contenders(PROJECT / "contenders.toml")
    return [known[name] for name in check_names("contender", names, list(known))]


def choose_scenarios(names: list[str], rate: float | None, duration_s: float | None) -> list[ScenarioRecord]:
    """Return the scenarios of these names, with the rate and duration asked for in place of their own."""
    known = load_scenarios(PROJECT / "scenarios")
    changes = {"rate": rate, "duration_s": duration_s}
    asked = {key: value for key, value in changes.items() if value is not None}
    return [known[name].model_copy(update=asked) for name in check_names("scenario", names, list(known))]


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
    except FileNotFoundError:
        raise UsageError(f"{path} is not a run directory: it has no run.json.") from None
    except ValueError as error:
        raise UsageError(f"{path / 'run.json'} cannot be read: {str(error).splitlines()[0]}.") from error
    return directory


def main() -> None:
    """Run the command; an error that a user can cause is one sentence and an exit status."""
    try:
        app()
    except LabError as error:
        errors.print(f"lab: {error}", markup=False)
        sys.exit(error.exit_status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"lab: {where}{error.strerror or error}.", markup=False)
        sys.exit(COULD_NOT_MEASURE)
