"""A dot plot of ratios on a logarithmic axis: one dot per round, the mean and its interval as a bar."""

import math
from dataclasses import dataclass

from lab.report.summary import Comparison

TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 5, 10, 20, 50, 100]
MOST_TICKS = 9


@dataclass(frozen=True)
class Line:
    """One comparison, with every place as a share of the width."""

    comparison: Comparison
    dots: list[float]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class DotPlot:
    """What the template draws; ``one`` is where a ratio of 1 lies."""

    lines: list[Line]
    ticks: list[tuple[float, str]]
    one: float


def dot_plot(comparisons: list[Comparison]) -> DotPlot | None:
    """Return the plot of the primary comparisons that have an interval; None where there is none."""
    shown = [c for c in comparisons if c.primary and c.low and c.high and c.ratio]
    if not shown:
        return None
    values = [value for c in shown for value in (c.low, c.high, *c.ratios) if value]
    left, right = math.log(min(*values, 0.9)) - 0.05, math.log(max(*values, 1.1)) + 0.05

    def place(value: float) -> float:
        return (math.log(value) - left) / (right - left)

    lines = [
        Line(c, [place(r) for r in c.ratios if r], place(c.ratio or 1), place(c.low or 1), place(c.high or 1))
        for c in shown
    ]
    ticks = [tick for tick in TICKS if 0 <= place(tick) <= 1]
    step = math.ceil(len(ticks) / MOST_TICKS)
    ticks = [tick for position, tick in enumerate(ticks) if (position - ticks.index(1)) % step == 0]
    return DotPlot(lines, [(place(tick), f"{tick:g}") for tick in ticks], place(1))
