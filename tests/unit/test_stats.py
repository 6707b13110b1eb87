"""The statistics: known values, the verdicts, and the false-alarm rate of the whole procedure."""

import math
from collections.abc import Callable
from random import Random

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import stats

INF = math.inf


@given(st.lists(st.floats(0, 1e9) | st.just(INF), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    """Checked against its definition."""
    found = stats.percentile(values, share)
    enough = share * len(values) - 1e-9
    assert found in values
    assert sum(value <= found for value in values) >= enough
    assert sum(value < found for value in values) < enough


def test_percentile_is_what_the_database_computes() -> None:
    """The report's percentiles come from DuckDB; both must mean the same."""
    for size in (1, 2, 19, 20, 21, 100, 1000, 1001):
        values = [Random(size).expovariate(1) for _ in range(size - 1)] + [INF]
        for share in (0.5, 0.95, 0.99):
            sql = f"SELECT quantile_disc(x, {share}) FROM (SELECT unnest($values::DOUBLE[]) AS x)"
            assert duckdb.execute(sql, {"values": values}).fetchone() == (stats.percentile(values, share),)


def test_one_in_ten_unanswered_makes_p95_infinite_and_leaves_the_median() -> None:
    """A dead app must never look fast."""
    values = [1.0] * 90 + [INF] * 10
    assert stats.percentile(values, 0.95) == INF
    assert stats.percentile(values, 0.5) == 1.0


def test_median_of_blocks_may_be_infinite() -> None:
    """Also where the middle of an even number is."""
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([1.0, 2.0, 3.0, 5.0]) == 2.5
    assert stats.median([1.0, 2.0, INF, INF]) == INF


def test_wilson_intervals_are_the_published_ones() -> None:
    """Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29."""
    for count, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                    (1, 29, 0.0061, 0.1718)]:  # fmt: skip
        assert stats.wilson(count, total) == pytest.approx((low, high), abs=5e-5)


def test_holm_is_the_textbook_example() -> None:
    """The p-values are multiplied by 4, 3, 2, 1 and kept in order."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_interval_of_five_ratios_is_students() -> None:
    """By hand: logs 0.1 to 0.5, mean 0.3, standard error 0.0707107, t(4) = 2.776445."""
    ratio = stats.paired_ratio([math.exp(x / 10) for x in range(1, 6)])
    assert ratio is not None
    half = 2.776445 * 0.07071068
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx(
        (math.exp(0.3), math.exp(0.3 - half), math.exp(0.3 + half)), rel=1e-6
    )
    assert ratio.p == pytest.approx(0.01324, abs=1e-4)


def paired(baseline: list[float], other: list[float], planned: int | None = None) -> stats.Paired:
    """Return a comparison of the rounds given, all of those planned unless said otherwise."""
    return stats.Paired(baseline, other, planned or len(other))


def verdict(comparison: stats.Paired) -> tuple[str, str]:
    """Return the verdict and the reason of one comparison alone."""
    (judgement,) = stats.judge_all([comparison])
    return judgement.verdict, judgement.reason


CLEAR = [0.5, 0.51, 0.49, 0.5, 0.52]


def test_a_clear_difference_has_its_direction() -> None:
    """Less time is faster."""
    ones = [1.0] * 5
    assert verdict(paired(ones, CLEAR)) == ("faster", "")
    assert verdict(paired(CLEAR, ones)) == ("slower", "")


def test_equal_figures_are_no_difference_and_a_constant_ratio_is_one() -> None:
    """Neither divides by a spread of zero."""
    assert verdict(paired([1.0] * 5, [1.0] * 5))[0] == "no significant difference"
    assert verdict(paired([1.0] * 5, [2.0] * 5))[0] == "slower"


@pytest.mark.parametrize(
    ("comparison", "reason"),
    [
        (paired([1.0] * 4, [0.5] * 4), "too few rounds"),
        (paired([1.0] * 5, CLEAR, planned=8), "two thirds"),
        (paired([1.0] * 5, [0.5, 0.5, 0.5, 0.5, INF]), "infinite"),
        (paired([INF] * 5, [INF] * 5), "infinite"),
        (paired([1.0, 1.0, 1.0, 1.0, 0.0], CLEAR), "zero"),
        (paired([], [], planned=5), "two thirds"),
    ],
)
def test_what_cannot_be_known_is_unknown_and_says_why(comparison: stats.Paired, reason: str) -> None:
    """A comparison that fails must say "unknown"."""
    found, said = verdict(comparison)
    assert found == "unknown"
    assert reason in said


def test_an_unknown_does_not_make_the_others_stricter() -> None:
    """Holm's correction is over the verdicts that are given."""
    alone = stats.judge_all([paired([1.0] * 5, CLEAR)])[0].p
    beside = stats.judge_all([paired([1.0] * 5, CLEAR), paired([1.0], [1.0], planned=5)])[0].p
    assert alone == beside


# A run as `lab compare` makes it: three contenders, two metrics, five rounds, the contenders in random order in each.
PAIRS = [(0, 1), (0, 2), (1, 2)]
CONTENDERS, ROUNDS, REPEATS = 3, 5, 2


class Machine:
    """Measures blocks one after another, with the noise that blocks have.

    What is around it drifts, and the drift outlasts several blocks. Each block has noise of its own, with the heavy
    tails of Student's t with three degrees of freedom, of which both metrics have their share. One block in ten has a
    hiccup that makes it slower, one in thirty is void, and in one of three hundred a figure is infinite.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._drift = random.gauss(0, 0.1)

    def block(self) -> list[float] | None:
        """Return the two figures of a block where both would be 1; None where it is void."""
        random = self._random
        self._drift = 0.9 * self._drift + random.gauss(0, 0.03)
        hiccup = abs(random.gauss(0, 0.15)) if random.random() < 0.1 else 0.0
        common = self._drift + hiccup + self._heavy(0.015)
        figures = [math.exp(common + self._heavy(0.015)) for _metric in range(2)]
        if random.random() < 1 / 300:
            figures[random.randrange(2)] = INF
        return None if random.random() < 1 / 30 else figures

    def _heavy(self, scale: float) -> float:
        return scale * self._random.gauss(0, 1) / math.sqrt(self._random.gammavariate(1.5, 2 / 3))


def simulated_run(random: Random, effect: float = 1.0, interleaved: bool = True) -> list[stats.Paired]:
    """Return the six comparisons of a run in which the second contender takes ``effect`` times as long.

    A void block is measured again at once, as often as a run may. Where contenders are not interleaved, each has all
    of its blocks in a row.
    """
    order = [(each, one) for each in range(ROUNDS) for one in random.sample(range(CONTENDERS), CONTENDERS)]
    machine, repeats = Machine(random), REPEATS
    measured: dict[tuple[int, int], list[float]] = {}
    for each, one in order if interleaved else sorted(order, key=lambda block: block[1]):
        figures = machine.block()
        if figures is None and repeats:
            repeats, figures = repeats - 1, machine.block()
        if figures is not None:
            measured[one, each] = [figure * (effect if one == 1 else 1.0) for figure in figures]
    return [compared(measured, a, b, metric) for metric in range(2) for a, b in PAIRS]


def compared(measured: dict[tuple[int, int], list[float]], a: int, b: int, metric: int) -> stats.Paired:
    """Return two contenders on one metric, in the rounds in which both have a block."""
    rounds = [each for each in range(ROUNDS) if {(a, each), (b, each)} <= measured.keys()]
    baseline, other = ([measured[one, each][metric] for each in rounds] for one in (a, b))
    return paired(baseline, other, ROUNDS)


def alarms(runs: int, judge: Callable[[list[stats.Paired]], list[stats.Judgement]], interleaved: bool = True) -> int:
    """Return in how many of the runs, all of contenders that are alike, at least one verdict is a difference."""
    random = Random(20240)
    judged = (judge(simulated_run(random, interleaved=interleaved)) for _ in range(runs))
    return sum(any(j.verdict in ("faster", "slower") for j in run) for run in judged)


def careless(comparisons: list[stats.Paired]) -> list[stats.Judgement]:
    """Judge each comparison alone, as if a run had one verdict."""
    return [stats.judge_all([comparison])[0] for comparison in comparisons]


def test_false_alarms_of_a_whole_run_are_at_most_one_in_twenty() -> None:
    """Contenders that are alike are called different in no more than 5 % of runs, as far as 800 runs can tell."""
    assert stats.wilson(alarms(800, stats.judge_all), 800)[0] <= 0.05


def test_the_false_alarm_test_can_fail() -> None:
    """Without the correction the same simulation shows too many."""
    assert stats.wilson(alarms(800, careless), 800)[0] > 0.05


def test_blocks_in_a_row_would_raise_false_alarms() -> None:
    """The drift is one that would matter: it is the rounds that take it out of the verdicts."""
    assert stats.wilson(alarms(400, stats.judge_all, interleaved=False), 400)[0] > 0.05


def test_the_noise_costs_verdicts() -> None:
    """Some are unknown, for figures that are infinite and for rounds without a valid block."""
    random = Random(3)
    reasons = {stats.why_unknown(one).partition(":")[0] for _ in range(400) for one in simulated_run(random)}
    assert reasons == {"", "infinite figures", "too few rounds"}


def test_a_real_difference_of_a_fifth_is_found() -> None:
    """In at least two of three runs, bad blocks and correction included, and never the wrong way round."""
    random = Random(7)
    verdicts = [stats.judge_all(simulated_run(random, effect=1.2))[0].verdict for _ in range(300)]
    assert verdicts.count("slower") >= 2 / 3 * len(verdicts)
    assert "faster" not in verdicts
