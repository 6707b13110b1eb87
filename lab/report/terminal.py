"""The result in a terminal: a table at a glance and what it means; readable in 80 columns and without colour."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.report import crossover, tables
from lab.report.summary import Summary
from lab.rundir import CALIBRATIONS

HEAD = ["resp.\np50", "\np95", "\np99", "done\np50", "\np95", "good-\nput/s", "tasks\nackd", "\ndone", "\nlost"]
FAULTS_HEAD = [
    "tasks\nackd",
    "\ndone",
    "\nlost",
    "stran-\nded",
    "dupl.",
    "other",
    "recov-\nered",
    "ready\nafter",
    "normal\nafter",
]
BESIDE_FAULTS_HEAD = ["bystander", "before\np50", "\np95", "during\np50", "\np95"]
COLOURS = {"faster": "green", "slower": "red"}


def show(summary: Summary, console: Console) -> None:
    """Print limitations, the table of each scenario, and the sentences."""
    for limitation in summary.limitations:
        _say(console, limitation, bullet="!", style="yellow")
    if summary.command in CALIBRATIONS:
        _show_calibration(summary, console)
    else:
        for scenario in dict.fromkeys(row.scenario for row in summary.routes if row.scenario not in summary.in_a_grid):
            console.print()
            console.print(_table(summary, scenario))
        for crossover_map in crossover.maps(summary):
            _show_table(f"{crossover_map.grid}: {crossover_map.title}", crossover.table(crossover_map), console)
    if summary.capacities:
        _show_capacities(summary, console)
    if summary.faults:
        console.print()
        console.print(_faults(summary))
    if summary.fault_bystanders:
        console.print()
        console.print(_beside_faults(summary))
    console.print()
    for sentence in summary.sentences:
        style = next((colour for word, colour in COLOURS.items() if f": {word} by" in sentence), "")
        _say(console, sentence, bullet="-", style=style)


def _show_capacities(summary: Summary, console: Console) -> None:
    """Show work, contender, requests/s and limit; the sentences below say the rest."""
    told = tables.capacities(summary)
    narrow = tables.Table(told.head[:4], [row[:4] for row in told.rows], labels=4)
    _show_table("Highest rate at which the SLO held", narrow, console)


def _show_calibration(summary: Summary, console: Console) -> None:
    if summary.calibration is None:
        return
    _show_table("Response time in ms", tables.known_servers(summary.calibration), console)
    _show_table("Faults planted in the files of real blocks", tables.planted(summary.calibration), console)
    _show_table("What journal and sampler cost", tables.costs(summary.calibration), console)
    _show_table("The load generator alone", tables.generators(summary.calibration), console)
    _show_table("What the verdicts said of what is known", tables.against_itself(summary.calibration), console)


def _show_table(title: str, told: tables.Table, console: Console) -> None:
    if not told.rows:
        return
    table = Table(*told.head[: told.labels], box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for head in told.head[told.labels :]:
        table.add_column(head, justify="right")
    for row in told.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(table)


def _say(console: Console, sentence: str, bullet: str, style: str) -> None:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(bullet, Text(sentence.replace("`", ""), style=style))
    console.print(grid)


def _table(summary: Summary, scenario: str) -> Table:
    title = f"{scenario}: response time and time to done in ms, medians over valid blocks"
    table = _empty(title, HEAD)
    for route, rows in tables.by_route(summary, scenario):
        table.add_row(Text(route.removeprefix("POST "), style="bold"))
        for contender, *cells in rows:
            table.add_row(f" {contender}", *(Text(cell) for cell in cells[: len(HEAD)]))
    return table


def _faults(summary: Summary) -> Table:
    table = _empty("Faults: tasks acknowledged, recovered; seconds to ready and normal", FAULTS_HEAD, gap=1)
    for fault, contender, _, *cells in tables.faults(summary).rows:
        if fault:
            table.add_row(Text(fault, style="bold"))
        table.add_row(f" {contender}", *(Text(cell) for cell in cells[: len(FAULTS_HEAD)]))
    return table


def _beside_faults(summary: Summary) -> Table:
    table = _empty("Bystanders before and during the faults: response time in ms", BESIDE_FAULTS_HEAD)
    for fault, contender, route, _, *before, _, p50, p95 in tables.beside_faults(summary).rows:
        if fault:
            table.add_row(Text(fault, style="bold"))
        figures = (figure.partition(" (")[0] for figure in (*before, p50, p95))
        table.add_row(f" {contender}", route.removeprefix("GET "), *figures)
    return table


def _empty(title: str, heads: list[str], gap: int = 2) -> Table:
    """Return a table without rows; between its columns are at least as many spaces, one of them the box's."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    return table
