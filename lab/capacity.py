"""The search for a capacity: which rate is tried next, and what the trials so far say.

A rate *holds* where a valid block under it kept the SLO, and *fails* where one did not. The capacity lies in an
interval: above the highest rate that held in all its blocks, with no failed one below it, and below the lowest that
failed in all of its own, with no rate above it that held. What lies between is undecided.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The search ends where neither end of the interval can be moved by more than this factor.
PRECISION = 1.1
# Both ends are found so in this many blocks, so that neither rests on the luck of one.
REPEATS = 2
# A rate at which this many blocks are void, and none valid, cannot be measured on this machine.
VOIDS = 2
# How far the search steps where it has not yet seen a rate that fails, or one that holds.
UP, DOWN = math.sqrt(2), 0.5
LEAST_PER_S, MOST_PER_S = 0.2, 10_000.0
# In a window with fewer no backlog could grow, and a percentile would be one request's.
REQUESTS_AT_LEAST = 5


@dataclass(frozen=True)
class Trial:
    """One fresh block: its rate, and whether the SLO held; None where the block is void, which decides nothing."""

    rate: float
    held: bool | None


@dataclass(frozen=True)
class Interval:
    """What is known of a capacity, in requests/s; an end is None where nothing is known on that side.

    ``undecided`` are the rates tried between the two, ``blind`` those of them (and above) that cannot be measured here.
    """

    low: float | None
    high: float | None
    undecided: list[float]
    blind: list[float]


def interval(trials: Sequence[Trial]) -> Interval:
    """Return the interval in which the capacity lies. A rate that failed once is never its lower end."""
    held = {trial.rate for trial in trials if trial.held}
    failed = {trial.rate for trial in trials if trial.held is False}
    low = max((rate for rate in held if rate < min(failed, default=math.inf)), default=None)
    high = min((rate for rate in failed if rate > max(held, default=0)), default=None)

    def between(rates: Iterable[float]) -> list[float]:
        return sorted(rate for rate in rates if (low or 0) < rate < (high or math.inf))

    return Interval(low, high, between(held | failed), between(_blind(trials)))


def next_rate(trials: Sequence[Trial], guess: float, least: float = LEAST_PER_S) -> float | None:
    """Return the rate of the next fresh block, in requests/s; None where no further one would tell more.

    First the ends are moved together by halving, geometrically, what lies between each and the nearest rate that was
    tried; then each is repeated. A void block is repeated at once. No rate below ``least`` is tried.
    """
    if not trials:
        return _rounded(min(MOST_PER_S, max(least, guess)))
    if not _settled(trials[-1].rate, trials):
        return trials[-1].rate
    tried = {trial.rate for trial in trials}
    found = interval(trials)
    if found.low is None:
        lower = max(_rounded(least), _rounded(min(tried) * DOWN))
        return lower if lower < min(tried) else _to_be_repeated(found, trials)
    closer = _above_the_low_end(found.low, tried) or _below_the_high_end(found, tried)
    return closer or _to_be_repeated(found, trials)


def least_rate(window_s: float) -> float:
    """Return the lowest rate, in requests/s, under which a window of so many seconds can show anything."""
    return max(LEAST_PER_S, REQUESTS_AT_LEAST / window_s)


def start_of_ramp(task_s: float, least: float = LEAST_PER_S) -> float:
    """Return the rate at which a ramp begins: half of what one slot does of tasks of this length, at most 50/s."""
    return _rounded(max(least, min(50.0, 0.5 / task_s))) if task_s > 0 else 50.0


def guess_from_ramp(rate: float, held: bool) -> float:
    """Return where the search begins after a ramp whose last load had this rate, and held or did not."""
    return rate * UP if held else rate / UP


def _above_the_low_end(low: float, tried: set[float]) -> float | None:
    above = min((rate for rate in tried if rate > low), default=None)
    if above is None:
        higher = _rounded(low * UP)
        return higher if higher <= MOST_PER_S else None
    return _middle(low, above)


def _below_the_high_end(found: Interval, tried: set[float]) -> float | None:
    """Return a rate that brings the high end down, or finds one; beyond what cannot be measured nobody looks."""
    if found.high is not None:
        return _middle(max(rate for rate in tried if rate < found.high), found.high)
    top = max(tried)
    higher = _rounded(top * UP)
    return None if top in found.blind or top == found.low or higher > MOST_PER_S else higher


def _to_be_repeated(found: Interval, trials: Sequence[Trial]) -> float | None:
    for end in (found.low, found.high):
        own = [trial.held is not None for trial in trials if trial.rate == end]
        if end is not None and own.count(True) < REPEATS and own.count(False) < VOIDS:
            return end
    return None


def _blind(trials: Sequence[Trial]) -> set[float]:
    valid = {trial.rate for trial in trials if trial.held is not None}
    return {rate for rate in {trial.rate for trial in trials} - valid if _settled(rate, trials)}


def _settled(rate: float, trials: Sequence[Trial]) -> bool:
    """Return whether a rate's blocks have said something: one was valid, or enough were void."""
    own = [trial for trial in trials if trial.rate == rate]
    return any(trial.held is not None for trial in own) or len(own) >= VOIDS


def _middle(low: float, high: float) -> float | None:
    return _rounded(math.sqrt(low * high)) if high / low > PRECISION else None


def _rounded(rate: float) -> float:
    """Return a rate in three digits, as it is printed."""
    return float(f"{rate:.3g}")
