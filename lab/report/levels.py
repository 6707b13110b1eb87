"""Charts of the backlog over time: one for each scenario and fault, in it a line per contender on the same axes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lab.report.summary import Backlog, Summary

# The box into which the lines are drawn; the page stretches it.
WIDTH, HEIGHT = 1000, 100
STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600]
MOST_TICKS = 8


@dataclass(frozen=True)
class Level:
    """One backlog: its line, the band between the smallest and the largest block, and where the faults came."""

    backlog: Backlog
    line: str
    band: str
    hits: list[float]


@dataclass(frozen=True)
class LevelChart:
    """What the template draws; places are shares of the width, ``top`` is how many tasks the full height is."""

    scenario: str
    fault: str | None
    levels: list[Level]
    top: float
    window_end: float
    ticks: list[tuple[float, str]]


def level_charts(summary: Summary) -> Iterator[LevelChart]:
    """Yield the charts of a run, those without a fault first; the cells of a grid have none."""
    groups: dict[tuple[str, str | None], list[Backlog]] = {}
    for backlog in (one for one in summary.backlogs if one.scenario not in summary.in_a_grid):
        groups.setdefault((backlog.scenario, backlog.fault), []).append(backlog)
    for (scenario, fault), backlogs in groups.items():
        yield _chart(scenario, fault, backlogs)


def _chart(scenario: str, fault: str | None, backlogs: list[Backlog]) -> LevelChart:
    top = max(1, *(count for backlog in backlogs for count in backlog.high))
    until_s = max(backlog.every_s * (len(backlog.median) - 1) for backlog in backlogs) or 1
    step_s = next((step for step in STEPS_S if until_s / step <= MOST_TICKS), until_s)
    return LevelChart(
        scenario=scenario,
        fault=fault,
        levels=[_level(backlog, until_s, top) for backlog in backlogs],
        top=top,
        window_end=max(backlog.window_s for backlog in backlogs) / until_s,
        ticks=[(number * step_s / until_s, f"{number * step_s:g} s") for number in range(int(until_s / step_s) + 1)],
    )


def _level(backlog: Backlog, until_s: float, top: float) -> Level:
    def points(counts: Iterable[float]) -> list[str]:
        return [
            f"{number * backlog.every_s / until_s * WIDTH:.1f},{HEIGHT * (1 - count / top):.1f}"
            for number, count in enumerate(counts)
        ]

    line, low, high = points(backlog.median), points(backlog.low), points(backlog.high)
    return Level(backlog, " ".join(line), " ".join(low + high[::-1]), [at_s / until_s for at_s in backlog.injected_s])
