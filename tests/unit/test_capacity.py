"""The search for a capacity, on contenders whose capacity is known."""

import math
from collections.abc import Callable
from random import Random

import pytest

from lab.capacity import (
    LEAST_PER_S,
    MOST_PER_S,
    PRECISION,
    REPEATS,
    REQUESTS_AT_LEAST,
    Interval,
    Trial,
    guess_from_ramp,
    interval,
    least_rate,
    next_rate,
    start_of_ramp,
)

# Whether the SLO holds at a rate; None: the block is void.
Contender = Callable[[float], bool | None]


def searched(contender: Contender, guess: float, most: int = 60, least: float = LEAST_PER_S) -> list[Trial]:
    """Search to the end, or for so many blocks."""
    trials: list[Trial] = []
    while len(trials) < most and (rate := next_rate(trials, guess, least)) is not None:
        trials.append(Trial(rate, contender(rate)))
    return trials


def noisy(capacity: float, width: float, seed: int) -> Contender:
    """Return a contender that is undecided near its capacity: at 1 ± width nothing is sure."""
    random = Random(seed)
    return lambda rate: rate < capacity * random.uniform(1 - width, 1 + width)


def never_claims_a_rate_that_failed(trials: list[Trial], found: Interval) -> bool:
    """Return whether no trial at or below the low end failed, and none at or above the high end held."""
    below = [trial for trial in trials if trial.rate <= (found.low or 0) and trial.held is False]
    above = [trial for trial in trials if trial.rate >= (found.high or math.inf) and trial.held]
    return not below and not above


@pytest.mark.parametrize("capacity", [0.7, 9.87, 75.0, 333.0, 2_000.0])
@pytest.mark.parametrize("guess_off_by", [0.2, 0.71, 1.0, 1.41, 5.0])
def test_a_steady_contender_is_bracketed_narrowly(capacity: float, guess_off_by: float) -> None:
    """Wherever the search begins, and both ends have been seen in as many blocks as they need."""
    trials = searched(lambda rate: rate <= capacity, capacity * guess_off_by)
    found = interval(trials)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= capacity < found.high <= found.low * PRECISION
    assert not found.undecided
    for end, held in ((found.low, True), (found.high, False)):
        assert [trial.held for trial in trials if trial.rate == end] == [held] * REPEATS


def test_after_a_ramp_a_search_takes_few_blocks() -> None:
    """A ramp that doubled leaves a factor of two: twelve cells of this must fit into 40 minutes."""
    for capacity in (5.1, 7.0, 9.9):
        assert len(searched(capacity.__ge__, guess_from_ramp(10, held=False))) <= 8


@pytest.mark.parametrize("seed", range(40))
def test_noise_widens_the_interval_and_never_claims_what_failed(seed: int) -> None:
    """Where repeats disagree, the rate lies inside the interval; the capacity is in it wherever it can be told."""
    capacity, width = 100.0, 0.15
    trials = searched(noisy(capacity, width, seed), guess=80)
    found = interval(trials)
    assert found.low is not None
    assert found.high is not None
    assert never_claims_a_rate_that_failed(trials, found)
    assert found.low < capacity * (1 + width)
    assert found.high > capacity * (1 - width)
    mixed = {t.rate for t in trials if t.held} & {t.rate for t in trials if t.held is False}
    assert mixed <= set(found.undecided)
    assert all(found.low < rate < found.high for rate in found.undecided)


def test_a_repeat_that_disagrees_reopens_the_interval() -> None:
    """95 failed once and held once: it belongs to neither end any more."""
    trials = [Trial(90, True), Trial(95, False)]
    assert interval(trials) == Interval(90, 95, [], [])
    assert next_rate(trials, 0) == 90
    trials += [Trial(90, True)]
    assert next_rate(trials, 0) == 95
    trials += [Trial(95, True)]
    assert interval(trials) == Interval(90, None, [95], [])
    assert (next_rate(trials, 0) or 0) > 95


def test_a_failure_below_a_rate_that_held_counts() -> None:
    """60 held, but 50 did not: what is claimed lies below 50, and the doubt up to 70 is said."""
    trials = [Trial(40, True), Trial(50, False), Trial(60, True), Trial(70, False)]
    assert interval(trials) == Interval(40, 70, [50, 60], [])


def test_where_the_generator_is_the_limit_there_is_a_lower_bound() -> None:
    """Above 300/s every block is void: the search says what held, and looks no further up."""
    trials = searched(lambda rate: None if rate > 300 else True, guess=100)
    found = interval(trials)
    assert found.high is None
    assert found.low is not None
    assert found.low <= 300 < found.blind[0] <= found.low * PRECISION
    assert max(trial.rate for trial in trials) <= 600


def test_a_failure_beyond_void_rates_is_an_upper_end() -> None:
    """An overloaded contender's block may be valid where one that is only busy is not: response times are longer."""
    trials = searched(lambda rate: True if rate < 100 else None if rate < 130 else False, guess=170)
    found = interval(trials)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 100 < 130 <= found.high
    assert found.blind
    assert never_claims_a_rate_that_failed(trials, found)


def test_a_void_block_is_repeated_and_decides_nothing() -> None:
    """At once, at the same rate."""
    assert next_rate([Trial(50, None)], 0) == 50
    assert interval([Trial(50, None)]) == Interval(None, None, [], [])
    assert next_rate([Trial(50, None), Trial(50, True)], 0) == next_rate([Trial(50, True)], 0)


def test_nothing_but_voids_ends() -> None:
    """A machine that cannot measure is not asked for ever, and nothing is claimed."""
    trials = searched(lambda _rate: None, guess=10)
    assert len(trials) < 30
    assert interval(trials) == Interval(None, None, [], sorted({trial.rate for trial in trials}))


def test_one_that_never_holds_is_below_the_least_rate_tried() -> None:
    """The search ends, with an upper end only, of as many blocks as any other."""
    trials = searched(lambda _rate: False, guess=50)
    found = interval(trials)
    assert found.low is None
    assert found.high == LEAST_PER_S
    assert [trial.rate for trial in trials].count(LEAST_PER_S) == REPEATS


def test_one_that_always_holds_is_above_the_highest_rate_tried() -> None:
    """The search ends, with a lower end only."""
    found = interval(searched(lambda _rate: True, guess=5_000))
    assert found.high is None
    assert MOST_PER_S / 2 < (found.low or 0) <= MOST_PER_S


def test_a_search_that_was_cut_short_says_what_it_knows() -> None:
    """After any number of blocks the capacity lies in the interval, which never widens while nothing disagrees."""
    trials = searched(lambda rate: rate <= 40, guess=100)
    widths = []
    for count in range(1, len(trials) + 1):
        found = interval(trials[:count])
        assert (found.low or 0) <= 40 < (found.high or math.inf)
        widths.append((found.high or math.inf) - (found.low or 0))
    assert widths == sorted(widths, reverse=True)


def test_a_ramp_begins_well_below_one_slot() -> None:
    """Whoever has one slot for tasks of 0.1 s does ten a second; without work there is a limit to where one begins."""
    assert start_of_ramp(0.1) == 5
    assert start_of_ramp(60) == LEAST_PER_S
    assert start_of_ramp(0.001) == start_of_ramp(0) == 50


@pytest.mark.parametrize("window_s", [1, 8, 600])
def test_no_rate_is_tried_under_which_a_window_would_be_empty(window_s: float) -> None:
    """However long the tasks are and wherever the search looks; and the lowest is tried in two blocks, as any end."""
    least = least_rate(window_s)
    assert least * window_s >= REQUESTS_AT_LEAST
    assert start_of_ramp(60, least) >= least
    trials = searched(lambda _rate: False, guess=0, least=least)
    assert min(trial.rate for trial in trials) * window_s >= REQUESTS_AT_LEAST
    assert [trial.rate for trial in trials] == [trials[0].rate] * REPEATS
