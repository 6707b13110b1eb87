"""When the broker is asked what it has used, and what follows from its answers."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab.broker_usage import BrokerMeter
from lab.rundir import BrokerUsage
from lab.stacks.broker import Counters

BEFORE, AFTER = Counters("a", 1_000, 50_000), Counters("a", 3_000, 80_000)


def answering(*answers: Counters | None) -> tuple[Callable[[], Counters | None], list[Counters | None]]:
    """Return what answers these in turn, and the answers that are left."""
    left = list(answers)
    return lambda: left.pop(0), left


def begun(samples: Path, in_s: float = -0.1) -> Path:
    """Write the first line of a samples file, of a window that begins so many seconds from now."""
    samples.write_text(json.dumps({"window_start_ns": time.monotonic_ns() + int(in_s * 1e9)}) + "\n")
    return samples


def test_it_is_asked_once_when_the_window_begins_and_once_at_the_end(tmp_path: Path) -> None:
    """Traffic is the difference, memory the most at any time."""
    ask, left = answering(BEFORE, AFTER)
    meter = BrokerMeter(ask, begun(tmp_path / "samples"))
    for _ in range(3):
        meter.look()
    assert left == [AFTER]
    assert meter.used() == BrokerUsage(memory_bytes=3_000, net_bytes=30_000)


def test_it_is_not_asked_before_the_window_begins(tmp_path: Path) -> None:
    """Neither without samples, nor with half a first line, nor during the warm-up."""
    ask, left = answering(BEFORE)
    meter = BrokerMeter(ask, tmp_path / "samples")
    meter.look()
    (tmp_path / "samples").write_text('{"window_st')
    meter.look()
    begun(tmp_path / "samples", in_s=3600)
    meter.look()
    assert left == [BEFORE]
    assert meter.used() is None


def test_who_comes_too_late_to_ask_knows_nothing(tmp_path: Path) -> None:
    """What was used until then would be missing, and nobody would see it."""
    ask, left = answering(BEFORE, AFTER)
    meter = BrokerMeter(ask, begun(tmp_path / "samples", in_s=-1))
    meter.look()
    assert left == [BEFORE, AFTER]
    assert meter.used() is None


@pytest.mark.parametrize("answers", [[None], [BEFORE, None], [BEFORE, AFTER._replace(process="b")]])
def test_without_two_answers_of_the_same_process_nothing_is_known(
    answers: Sequence[Counters | None], tmp_path: Path
) -> None:
    """One that was started anew has begun to count anew."""
    ask, _ = answering(*answers)
    meter = BrokerMeter(ask, begun(tmp_path / "samples"))
    meter.look()
    assert meter.used() is None
