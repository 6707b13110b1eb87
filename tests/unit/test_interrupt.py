"""What asks the lab to end."""

import signal
from collections.abc import Iterator

import pytest

from lab.interrupt import Interrupt, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give pytest its handlers back."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_heeded_when_the_work_can_be_left(number: signal.Signals) -> None:
    """Not at the moment at which it comes."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = Interrupt()
    interrupt.check()
    signal.raise_signal(number)
    with pytest.raises(Interrupted):
        interrupt.check()


def test_a_lab_under_nohup_outlives_its_terminal() -> None:
    """There SIGHUP is ignored from the beginning, and stays so."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = Interrupt()
    signal.raise_signal(signal.SIGHUP)
    interrupt.check()
