"""How one plan is shared out between several processes."""

import pytest

from loadtests.arrivals import NS_PER_S
from loadtests.options import read_options
from loadtests.plan import Plan
from loadtests.run import Share
from tests.unit.test_load_options import PLAIN, SCHEDULE


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_the_parts_of_a_cap_add_up_to_it(workers: int) -> None:
    """No process has more than one above another."""
    parts = [Share(nth, workers).in_flight(1000) for nth in range(workers)]
    assert sum(parts) == 1000
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_each_process_sends_bystanders_of_both_streams(workers: int) -> None:
    """The streams take turns; each bystander is one process's."""
    shares = [Share(nth, workers) for nth in range(workers)]
    for number in range(24):
        assert sum(share.has_bystander(number) for share in shares) == 1
    assert all({number % 2 for number in range(24) if share.has_bystander(number)} == {0, 1} for share in shares)


def test_each_process_may_have_one_request_in_flight() -> None:
    """However small the cap is."""
    assert [Share(nth, 4).in_flight(2) for nth in range(4)] == [1, 1, 1, 1]


def test_two_processes_draw_the_same_plan() -> None:
    """The seed and the start say all of it."""
    plans = [Plan(read_options(PLAIN | SCHEDULE | {"warmup": 2.0, "bystanders": 20.0}), seed=7) for _ in range(2)]
    for plan in plans:
        plan.begin(5 * NS_PER_S)
    requests = [[plan.scheduled(seq) for seq in range(len(plan))] for plan in plans]
    assert requests[0] == requests[1]
    assert len(requests[0]) > 600
    assert {one.phase for one in requests[0] if one.intended_ns < 7 * NS_PER_S} == {"warmup"}
    assert {one.phase for one in requests[0] if one.intended_ns >= 7 * NS_PER_S} == {"window"}


def test_what_is_drawn_beforehand_is_what_would_be_drawn_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a share the first ones; each may be asked for again."""
    monkeypatch.setattr("loadtests.plan.DRAWN_BEFOREHAND", 100)
    early, late = (Plan(read_options(PLAIN | SCHEDULE | {"bystanders": 20.0}), seed=7) for _ in range(2))
    early.draw(range(1, len(early), 2))
    for plan in (early, late):
        plan.begin(5 * NS_PER_S)
    everything = [late.scheduled(seq) for seq in range(len(late))]
    assert len({one.request_id for one in everything}) == len(everything) > 400
    for _ in range(2):
        assert [early.scheduled(seq) for seq in range(len(early))] == everything


def test_workers_share_the_cap() -> None:
    """Whatever numbers Locust has given them."""
    shares = [Share.of_worker(worker, ["x", "y", "z"]) for worker in "xyz"]
    assert [share.nth for share in shares] == [0, 1, 2]
    assert sum(share.in_flight(1000) for share in shares) == 1000


def test_a_worker_that_comes_later_has_a_part() -> None:
    """It is not known to the others."""
    late = Share.of_worker("late", ["x", "y", "z"])
    assert (late.nth, late.in_flight(1000)) == (3, 250)
