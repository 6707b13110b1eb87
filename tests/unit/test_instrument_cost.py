"""What journal and sampler cost, from the figures of each round."""

import json
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.instrument_cost import Leg, check_journal, costs, flat_out_done_ns, per_second


def test_the_cost_is_the_mean_ratio_over_rounds_with_its_interval() -> None:
    """A fifth of the throughput, nothing on the median, and noise on the p95."""
    bare = [Leg(1000, 5.0, 10.0), Leg(500, 6.0, 10.0), Leg(800, 4.0, 10.0)]
    instrumented = [Leg(800, 5.0, 5.0), Leg(400, 6.0, 20.0), Leg(640, 4.0, 10.0)]
    throughput, p50, p95 = costs("inline", instrumented, bare)
    assert (throughput.metric, throughput.instrumented, throughput.bare) == ("throughput_per_s", 640, 800)
    assert (throughput.ratio, throughput.low, throughput.high) == pytest.approx((0.8, 0.8, 0.8))
    assert (p50.ratio, p50.low, p50.high) == pytest.approx((1, 1, 1))
    assert p95.ratio == pytest.approx(1)
    assert p95.low is not None
    assert p95.low < 0.5
    assert p95.high is not None
    assert p95.high > 2


def test_one_round_gives_no_interval() -> None:
    """Only the two figures."""
    throughput, *_ = costs("inline", [Leg(800, 5.0, 10.0)], [Leg(1000, 5.0, 10.0)])
    assert (throughput.instrumented, throughput.bare, throughput.ratio) == (800, 1000, None)


def test_throughput_is_that_of_the_actions_done(tmp_path: Path) -> None:
    """Four in half a second, in no order, of users who never pause; another's is not counted, and one is no rate."""
    log = tmp_path / "actions.log"
    assert flat_out_done_ns(log) == []
    done = [("flat out", 500), ("Order 4711", 0), ("flat out", 900), ("flat out", 400), ("flat out", 600)]
    log.write_text("".join(json.dumps({"t_ns": at_ms * 10**6, "message": what}) + "\n" for what, at_ms in done))
    assert per_second(flat_out_done_ns(log)) == pytest.approx(6)
    with pytest.raises(LabError, match="no throughput"):
        per_second([1])


@pytest.mark.parametrize(("lines", "instrumented"), [("anchor\n", True), ("anchor\nevent\n", False)])
def test_a_journal_that_is_not_as_it_was_meant_to_be_is_found_out(
    tmp_path: Path, lines: str, instrumented: bool
) -> None:
    """On where it should be off, or off where it should be on: the ratio would say nothing."""
    (tmp_path / "api-host-1-ab.jsonl").write_text(lines)
    check_journal(tmp_path, not instrumented)
    with pytest.raises(LabError, match="cannot be told"):
        check_journal(tmp_path, instrumented)
