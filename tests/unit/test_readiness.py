"""Ready again: the first yes counts, however long another question takes."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lab import readiness
from lab.faults import Fault, inject
from lab.readiness import AT_ONCE, wait_until_ready


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets every question end that hangs when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_question_that_hangs_hides_no_later_yes(released: threading.Event) -> None:
    """As where a worker comes up just after it was asked for: the next question finds it at once."""
    asked: list[int] = []

    def is_ready() -> bool:
        asked.append(len(asked))
        return len(asked) > 1 or not released.wait(60)

    stack: Any = SimpleNamespace(is_ready=is_ready, instances=lambda _: {})
    done = inject(Fault("none", "", lambda _: [], lambda *_: []), stack)
    assert done.healed_ns is not None
    assert not released.is_set()
    assert asked == [0, 1]


def test_an_api_that_hangs_is_not_flooded(released: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not ready, whatever it says afterwards."""
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.001)
    asked: list[int] = []

    def is_ready() -> bool:
        asked.append(len(asked))
        return released.wait(60)

    assert not wait_until_ready(is_ready, 0.5, threading.Event())
    assert len(asked) == AT_ONCE


def test_a_question_that_has_ended_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked until it says yes."""
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.001)
    answers = iter([False] * 3 * AT_ONCE + [True] * AT_ONCE)
    assert wait_until_ready(lambda: next(answers), 30, threading.Event())


def test_nobody_asks_once_it_is_over() -> None:
    over = threading.Event()
    over.set()
    began = time.monotonic()
    assert not wait_until_ready(lambda: True, 600, over)
    assert time.monotonic() - began < 60
