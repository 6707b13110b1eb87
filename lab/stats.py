"""The statistics of a run: percentiles with infinite figures, shares with intervals, and verdicts over rounds.

The unit is the block. A comparison of two contenders is the ratio of their figures in each round; a verdict is a
t-test on the mean log ratio, with Holm's correction over all verdicts of a run (``docs/method.md``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
ROUNDS_NEEDED = 5
SHARE_OF_ROUNDS_NEEDED = 2 / 3
REQUESTS_FOR_P99 = 1_000

Verdict = Literal["faster", "slower", "no significant difference", "unknown"]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them do not exceed.

    It may be ``math.inf``: a request that was not acknowledged counts as that. DuckDB's ``quantile_disc`` is the same.
    Raises ValueError where there are no values.
    """
    if not values:
        raise ValueError("no values, no percentile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median, infinite where the middle is. Raises ValueError where there are no values."""
    if not values:
        raise ValueError("no values, no median")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share (Wilson 1927). Raises ValueError where the total is 0."""
    if total == 0:
        raise ValueError("a share of nothing")
    z = 1.959963984540054
    share = count / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of paired ratios, its 95 % t-interval, and the two-sided p-value of "it is 1"."""

    mean: float
    low: float
    high: float
    p: float


def paired_ratio(ratios: Sequence[float]) -> Ratio | None:
    """Return the mean ratio of at least two rounds; None for fewer, or where one is not positive and finite."""
    if len(ratios) < 2 or not all(0 < ratio < math.inf for ratio in ratios):
        return None
    from scipy.stats import t as student  # takes 0.6 s to load

    logs = [math.log(ratio) for ratio in ratios]
    mean = math.fsum(logs) / len(logs)
    error = math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs))
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * error
    distance = abs(mean) / error if error > 0 else (math.inf if mean else 0.0)
    p = float(2 * student.sf(distance, len(logs) - 1))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Paired:
    """The figures of two contenders in the rounds in which both blocks are valid, of the rounds planned."""

    baseline: Sequence[float]
    other: Sequence[float]
    rounds_planned: int

    def ratios(self) -> list[float]:
        """Return other ÷ baseline in each round; infinite or NaN where a figure is infinite or 0."""
        pairs = zip(self.baseline, self.other, strict=True)
        return [other / baseline if baseline > 0 else math.nan for baseline, other in pairs]


@dataclass(frozen=True)
class Judgement:
    """A verdict on a comparison; ``reason`` says why it is unknown, ``p`` is corrected for all verdicts of the run."""

    verdict: Verdict
    ratio: Ratio | None
    p: float | None = None
    reason: str = ""


def judge_all(comparisons: Sequence[Paired]) -> list[Judgement]:
    """Return a verdict for each comparison of a run, with Holm's correction over those that can have one."""
    ratios = [paired_ratio(comparison.ratios()) for comparison in comparisons]
    reasons = [why_unknown(comparison) for comparison in comparisons]
    judged = [index for index, reason in enumerate(reasons) if not reason]
    corrected = dict(zip(judged, holm([_p(ratios[index]) for index in judged]), strict=True))
    return [
        Judgement("unknown", ratio, reason=reason)
        if reason or ratio is None
        else Judgement(_verdict(ratio, corrected[index]), ratio, corrected[index])
        for index, (ratio, reason) in enumerate(zip(ratios, reasons, strict=True))
    ]


def why_unknown(comparison: Paired) -> str:
    """Return why a comparison can have no verdict; empty where it can."""
    rounds, planned = len(comparison.other), comparison.rounds_planned
    if rounds < SHARE_OF_ROUNDS_NEEDED * planned:
        return f"only {rounds} of {planned} rounds are finished and valid; two thirds are needed"
    if rounds < ROUNDS_NEEDED:
        return f"too few rounds: {rounds}; a verdict needs {ROUNDS_NEEDED}"
    figures = [*comparison.baseline, *comparison.other]
    if any(math.isinf(figure) for figure in figures):
        return "infinite figures: in at least one round the percentile is a request or task that never succeeded"
    if any(figure <= 0 for figure in figures):
        return "a figure is zero, so there is no ratio"
    return ""


def _p(ratio: Ratio | None) -> float:
    return 1.0 if ratio is None else ratio.p


def _verdict(ratio: Ratio, corrected_p: float) -> Verdict:
    if corrected_p >= 1 - CONFIDENCE:
        return "no significant difference"
    return "faster" if ratio.mean < 1 else "slower"
