"""The crossover map: who wins in each cell of a grid, by the verdicts alone, and what that says of a rule of thumb.

For a grid and two contenders there are three questions, each with a map of its own: response time, time to done, and
what the bystanders wait. A contender wins a cell where the run's verdict says that it is faster there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lab.report import words
from lab.report.summary import Cell, Comparison, Spread, Summary
from lab.report.tables import Table

QUESTIONS = {"response_p95_ms": "response time", "done_p95_ms": "time to done", "bystander_p95_ms": "bystanders"}
BYSTANDERS = ["GET /ping/loop", "GET /ping/thread"]
# A colour is as strong as it gets where one contender takes this many times as long as the other.
STRONGEST = 20
FAINT_PERCENT, STRONG_PERCENT = 12, 45

HOW_TO_READ = (
    "Who is faster in each cell, by the verdict, and how many times as long the other one takes, with the 95 % "
    "interval over the rounds. Response time and time to done by their p95; of bystanders, in each block, the worse of "
    "the p95 of /ping/loop and of /ping/thread. Where the difference is not significant, the ratio is the figure of "
    "the first one named divided by that of the other. “Infinite”: over 5 % of the requests got no yes, or over 5 % of "
    "the tasks did not end by the horizon; then there is no ratio, and the verdict is unknown."
)


@dataclass(frozen=True)
class Square:
    """One cell of a map: what two contenders are to each other under one load."""

    cell: Cell
    comparison: Comparison

    @property
    def winner(self) -> str | None:
        """The contender that is faster, by the verdict; None where there is none."""
        return {"faster": self.comparison.other, "slower": self.comparison.baseline}.get(self.comparison.verdict or "")

    @property
    def kind(self) -> str:
        """``first`` or ``second`` won, ``alike``, or ``unknown``: what a colour stands for."""
        if self.winner:
            return "first" if self.winner == self.comparison.baseline else "second"
        return "alike" if self.comparison.verdict == "no significant difference" else "unknown"

    @property
    def headline(self) -> str:
        """Who won, in as few words as go into a cell."""
        said = {"no significant difference": "not significant", "unknown": "unknown"}
        return self.winner or said.get(self.comparison.verdict or "", "no verdict")

    @property
    def detail(self) -> str:
        """How many times as long the loser takes, else the ratio, each with its interval; or why nothing is known."""
        c = self.comparison
        if c.ratio is None or c.low is None or c.high is None:
            alone = c.ratios[0] if len(c.ratios) == 1 and c.verdict != "unknown" else None
            return f"ratio {words.number(alone)}" if alone and alone < math.inf else self._why()
        figures = (c.ratio, c.low, c.high) if self.winner != c.other else (1 / c.ratio, 1 / c.high, 1 / c.low)
        ratio, low, high = map(words.number, figures)
        return f"{'×' if self.winner else 'ratio '}{ratio} ({low}–{high})"

    @property
    def fails(self) -> set[str]:
        """The contenders whose figure is infinite in every round, and that of the other, if it is not here, in none."""
        if self.comparison.verdict != "unknown" or "infinite" not in self.comparison.reason:
            return set()
        ratios, names = self.comparison.ratios, (self.comparison.baseline, self.comparison.other)
        kinds = {None: set(names), 0.0: {names[0]}, math.inf: {names[1]}}
        kind = ratios[0] if len(set(ratios)) == 1 else 1.0
        return kinds.get(kind, set())

    def _why(self) -> str:
        """Return in a few characters why nothing is known of the cell."""
        c = self.comparison
        figures = {c.baseline: c.baseline_figure, c.other: c.other_figure}
        infinite = (
            self.fails if "infinite" in c.reason else {name for name, figure in figures.items() if figure == math.inf}
        )
        if infinite:
            return "both infinite" if len(infinite) == 2 else f"{min(infinite)} infinite"
        return "infinite in some rounds" if "infinite" in c.reason else _several(len(c.rounds), "round")

    @property
    def percent(self) -> int:
        """How strong the colour is: by how much one contender won, on a logarithmic scale."""
        if not self.winner or not self.comparison.ratio:
            return 0
        strength = min(1.0, abs(math.log(self.comparison.ratio)) / math.log(STRONGEST))
        return round(FAINT_PERCENT + strength * (STRONG_PERCENT - FAINT_PERCENT))


@dataclass(frozen=True)
class Map:
    """The answers to one question about two contenders, over a grid."""

    grid: str
    metric: str
    baseline: str
    other: str
    squares: list[Square]

    @property
    def title(self) -> str:
        """What was asked, and of whom."""
        return f"{QUESTIONS[self.metric]} p95: {self.other} against {self.baseline}"

    @property
    def rates(self) -> list[float]:
        """The columns of each panel."""
        return sorted({square.cell.rate for square in self.squares})

    def panels(self) -> dict[str, list[tuple[float, list[Square]]]]:
        """Return for each kind of work its rows: how long a task takes, and the cells by rate."""
        works = dict.fromkeys(square.cell.probe_work for square in self.squares)
        return {work: [(seconds, self._row(work, seconds)) for seconds in self.durations()] for work in works}

    def durations(self) -> list[float]:
        """Return how long the tasks take, in seconds, shortest first."""
        return sorted({square.cell.probe_seconds for square in self.squares})

    def _row(self, work: str, seconds: float) -> list[Square]:
        row = [s for s in self.squares if (s.cell.probe_work, s.cell.probe_seconds) == (work, seconds)]
        return sorted(row, key=lambda square: square.cell.rate)


def maps(summary: Summary) -> list[Map]:
    """Return a map for each grid, pair of contenders and question of a run."""
    cells = {cell.scenario: cell for cell in summary.cells}
    found: dict[tuple[str, str, str, str], list[Square]] = {}
    for c in summary.comparisons:
        if c.primary and (cell := cells.get(c.scenario)):
            found.setdefault((cell.grid, c.metric, c.baseline, c.other), []).append(Square(cell, c))
    # Of several pairs, all questions about one before those about the next.
    return sorted(
        (Map(*names, squares) for names, squares in found.items()),
        key=lambda one: [*found].index((one.grid, "response_p95_ms", one.baseline, one.other)),
    )


def table(crossover: Map) -> Table:
    """Return a map as a table, each cell in two lines: who won, and by how much."""
    rows = []
    for work, lines in crossover.panels().items():
        for seconds, squares in lines:
            cells = [f"{square.headline}\n{square.detail}" for square in squares]
            rows.append([work if seconds == lines[0][0] else "", words.seconds(seconds), *cells])
    return Table(["work", "task", *(f"{rate:g}/s" for rate in crossover.rates)], rows, labels=2)


def cells(summary: Summary) -> Table:
    """Return the figures behind the maps: one row for each cell and contender."""
    waits = {(one.scenario, one.contender, one.route): one.response_p95_ms for one in summary.bystanders}
    rows = []
    for row in (row for row in summary.routes if row.scenario in summary.in_a_grid and row.route == "all"):
        response, done = (row.response_p50_ms, row.response_p95_ms), (row.done_p50_ms, row.done_p95_ms)
        beside = [waits.get((row.scenario, row.contender, route), Spread()) for route in BYSTANDERS]
        rows.append(
            [row.scenario, row.contender]
            + [words.with_range(figure, words.failed(row)) for figure in response]
            + [words.with_range(figure, words.BEYOND_HORIZON) for figure in done]
            + [words.with_range(figure) for figure in beside]
            + [f"{row.requests:,}", f"{row.tasks:,}", f"{row.fates['done']:,}"]
        )
    head = ["cell", "contender", "response p50", "p95", "to done p50", "p95", "/ping/loop p95", "/ping/thread p95"]
    return Table([*head, "requests", "acknowledged", "done"], rows, labels=2)


def sentences(summary: Summary) -> list[str]:
    """Return what the maps say, by how long a task takes, and what that makes of “over N seconds, use the other”."""
    found: dict[tuple[str, str, str], list[Map]] = {}
    for one in maps(summary):
        found.setdefault((one.grid, one.baseline, one.other), []).append(one)
    return [sentence for (_, _, other), asked in found.items() for sentence in _of_pair(other, asked)]


def _of_pair(other: str, asked: list[Map]) -> Iterator[str]:
    durations = asked[0].durations()
    for seconds in durations:
        counts = [f"{QUESTIONS[one.metric]} – {_counted(_from(one, seconds, seconds))}" for one in asked]
        found = _several(len(_from(asked[0], seconds, seconds)), "cell")
        yield f"Tasks of {words.seconds(seconds)}, {found}: {'; '.join(counts)}."
    if any(square.comparison.verdict for one in asked for square in one.squares):
        works = list(asked[0].panels())
        for kinds in [works, *([work] for work in works if len(works) > 1)]:
            for seconds in durations:
                yield _rule(other, asked, seconds, kinds)


def _rule(other: str, asked: list[Map], least_s: float, works: list[str]) -> str:
    """Return what the maps say of “use the other one” for tasks of these kinds that take so long or longer."""
    kind = f"`{works[0]}` tasks" if len(works) == 1 else "tasks"
    ruled = [
        f"{QUESTIONS[one.metric]} – "
        + _ruled(other, [square for square in _from(one, least_s) if square.cell.probe_work in works])
        for one in asked
    ]
    return f"“For {kind} of {words.seconds(least_s)} and more, use `{other}`”: {'; '.join(ruled)}."


def _from(crossover: Map, least_s: float, most_s: float = math.inf) -> list[Square]:
    return [square for square in crossover.squares if least_s <= square.cell.probe_seconds <= most_s]


def _counted(squares: list[Square]) -> str:
    """Return in how many cells who won, and in how many nobody did."""
    names = (squares[0].comparison.baseline, squares[0].comparison.other)
    won = [(f"`{name}` faster in", sum(square.winner == name for square in squares)) for name in names]
    kinds = [square.headline for square in squares if not square.winner]
    others = [(f"{kind} in", kinds.count(kind)) for kind in ("not significant", "no verdict", "unknown")]
    counted = ", ".join(f"{what} {count}" for what, count in won + [one for one in others if one[1]])
    alone = [square.fails for square in squares]
    failing = [f"in {alone.count({name})} only `{name}` infinite" for name in names if {name} in alone]
    return counted + (f" ({', '.join(failing)})" if failing else "")


def _ruled(other: str, squares: list[Square]) -> str:
    """Return what the cells say of the rule to use the other contender in all of them.

    Where both fail in every round there is nothing to choose. Where one of them does and the other in none, there is no
    ratio and so no verdict, but no doubt either: it counts for the other, and is told apart.
    """
    baseline = squares[0].comparison.baseline
    faster = sum(square.winner == other for square in squares)
    slower = sum(square.winner == baseline for square in squares)
    spared, failed = ([square.fails for square in squares].count({name}) for name in (baseline, other))
    both = [square.fails for square in squares].count({baseline, other})
    told = [f"faster in {faster} of {len(squares)} cells, slower in {slower}"]
    told += [f"only `{name}` infinite in {count}" for name, count in ((baseline, spared), (other, failed)) if count]
    told += [f"both infinite in {both}, left out"] if both else []
    for_it, against, of = faster + spared, slower + failed, len(squares) - both
    ruling = "contradicted" if against else "supported" if of and for_it == of else "not decided"
    return f"{ruling} ({'; '.join(told)})"


def _several(count: int, of_what: str) -> str:
    return f"{count} {of_what}{'' if count == 1 else 's'}"
