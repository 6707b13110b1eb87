"""The live figures: how exact the histograms are, that merging loses nothing, and what counts as a failure."""

import math
from random import Random
from typing import Any

from loadtests.live import SERIES_S, Figures, Histogram, Live
from loadtests.recorder import Outcome, Sample

MS = 1_000_000


def sample(intended_ns: int = 0, outcome: Outcome = "acknowledged", service_ms: float = 4.0, **changes: Any) -> Sample:
    """Return a sample that was sent a millisecond late."""
    sent_ns = None if outcome == "unsent" else intended_ns + MS
    ended_ns = None if sent_ns is None else sent_ns + round(service_ms * MS)
    row = Sample(0, "load", "window", "POST /action", "id", 1, intended_ns, sent_ns, ended_ns, None, outcome, None)
    return row._replace(**changes)


def near(value: Any, exact_ms: float) -> bool:
    """Say whether a percentile is within the promised error."""
    return isinstance(value, float) and math.isclose(value, exact_ms, rel_tol=0.01)


def test_percentiles_are_within_one_percent_of_the_exact_ones() -> None:
    """From 100 ns to 100 s, at every share asked for."""
    rng = Random(5)
    times_ns = sorted(round(10 ** (2 + 9 * rng.random())) for _ in range(5000))
    histogram = Histogram()
    for time_ns in times_ns:
        histogram.add(time_ns)
    for share in (0.001, 0.5, 0.95, 0.99, 0.999, 1.0):
        exact_ms = times_ns[math.ceil(share * len(times_ns)) - 1] / 1e6
        value = histogram.percentile_ms(share)
        assert isinstance(value, float)
        assert abs(value / exact_ms - 1) <= 0.01


def test_merged_figures_are_those_of_all_samples_together() -> None:
    """Four parts merged equal one whole, to the last digit."""
    rng = Random(6)
    outcomes: tuple[Outcome, ...] = ("acknowledged", "acknowledged", "refused", "indeterminate", "unsent")
    rows = [sample(0, outcomes[n % 5], 100 * rng.random()) for n in range(400)]
    whole, merged = Figures(), Figures()
    parts = [Figures() for _ in range(4)]
    for number, row in enumerate(rows):
        whole.add(row)
        parts[number % 4].add(row)
    for part in parts:
        merged.merge(part)
    assert merged == whole


def test_what_was_not_acknowledged_is_infinitely_late() -> None:
    """Each kind of failure counts as +inf in the response time, and in no service time."""
    failures: tuple[Outcome, ...] = ("refused", "indeterminate", "unsent")
    for outcome in failures:
        figures = Figures()
        for row in [*[sample()] * 960, *[sample(outcome=outcome)] * 40]:
            figures.add(row)
        told = figures.as_dict()
        assert near(told["p95_ms"], 5.0)
        assert told["p99_ms"] == "inf"
        assert told["requests"] == 1000
        assert (told["failed"], told["unsent"]) == ((0, 40) if outcome == "unsent" else (40, 0))
        assert near(figures.service.percentile_ms(1.0), 4.0)
        assert near(told["lateness_p99_ms"], 1.0)


def test_where_there_is_nothing_a_time_is_none() -> None:
    """No request, no percentile."""
    assert Figures().as_dict()["p50_ms"] is None


def test_a_p99_needs_a_thousand_requests() -> None:
    """As in the report."""
    figures = Figures()
    for _ in range(999):
        figures.add(sample())
    assert figures.as_dict()["p99_ms"] is None
    figures.add(sample())
    assert near(figures.as_dict()["p99_ms"], 5.0)


def test_bystanders_are_counted_apart() -> None:
    """They are no requests of the load."""
    figures = Figures()
    figures.add(sample(stream="bystander"))
    told = figures.as_dict()
    assert (told["requests"], told["p50_ms"], near(told["bystander_p95_ms"], 5.0)) == (0, None, True)


def test_the_snapshot_holds_each_contender_apart_by_second_of_intended_time() -> None:
    """In whatever order samples come, of whatever worker."""
    live = Live()
    assert live.snapshot()["state"] == "ready"
    live.begin("action", 2.0, {"inline": "http://127.0.0.1:1", "celery": "http://127.0.0.1:2"}, start_ns=0)
    second = 1_000_000_000
    live.add([sample(2 * second, contender="inline"), sample(0, contender="inline")], worker="a")
    live.add([sample(second, "refused", contender="celery")], worker="b")
    live.set_worker("b", "missing")
    live.stop(3 * second)
    told = live.snapshot()
    assert (told["state"], told["scenario"], told["rate"]) == ("stopped", "action", 2.0)
    assert told["elapsed_s"] == 3.0
    assert told["workers"] == {"a": {"state": "running", "samples": 2}, "b": {"state": "missing", "samples": 1}}
    assert told["contenders"]["inline"]["series"]["t_s"] == [0, 2]
    assert told["contenders"]["inline"]["total"]["acknowledged"] == 2
    assert told["contenders"]["celery"]["series"]["p50_ms"] == ["inf"]
    assert told["contenders"]["celery"]["url"] == "http://127.0.0.1:2"


def test_what_was_sent_per_second_is_of_seconds_that_are_over() -> None:
    """What was not sent does not count; of the last ten seconds those before do not either."""
    live, second = Live(), 1_000_000_000
    live.begin("action", 2.0, {"inline": "http://127.0.0.1:1"}, start_ns=0)
    live.add(sample(at * second, contender="inline") for at in range(20) for _ in range(1 if at < 10 else 2))
    live.add([sample(19 * second, "unsent", contender="inline"), sample(20 * second, contender="inline")])
    live.stop(20 * second + second // 2)
    told = live.snapshot()["contenders"]["inline"]
    assert (told["recent"]["sent_per_s"], told["total"]["sent_per_s"]) == (2.0, 1.5)


def test_a_run_that_is_told_to_end_is_ending_until_it_has_stopped() -> None:
    """Its samples still count; without a run there is nothing to end."""
    live = Live()
    live.end()
    assert live.snapshot()["state"] == "ready"
    live.begin("action", 2.0, {"inline": "http://127.0.0.1:1"}, start_ns=0)
    live.end()
    live.add([sample(0, contender="inline")])
    told = live.snapshot()
    assert (told["state"], told["contenders"]["inline"]["total"]["acknowledged"]) == ("ending", 1)
    live.stop(2_000_000_000)
    live.end()
    assert (live.snapshot()["state"], live.snapshot()["elapsed_s"]) == ("stopped", 2.0)


def test_the_series_ends_with_its_last_ten_minutes_and_the_total_keeps_all() -> None:
    """A run of any length needs bounded memory."""
    live = Live()
    live.begin("action", None, {"app": "http://127.0.0.1:1"}, start_ns=0)
    live.add(sample(second * 1_000_000_000) for second in range(SERIES_S + 50))
    app = live.snapshot()["contenders"]["app"]
    assert app["series"]["t_s"] == list(range(50, SERIES_S + 50))
    assert app["total"]["requests"] == SERIES_S + 50
