"""Ctrl-C, SIGTERM, SIGHUP: once ends in order and reports what is finished, twice ends at once."""

import os
import signal
from types import FrameType

from lab.errors import COULD_NOT_MEASURE, LabError


class Interrupted(LabError):
    """The user, or the system, asked the lab to end."""


class Interrupt:
    """Takes SIGINT, SIGTERM, and SIGHUP unless it is ignored, as by ``nohup``.

    The work in hand asks with `check` at moments when it can be left. After the second signal the lab's process is
    gone at once; the supervisor sees its pipe close and ends everything that the lab had started.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._take)

    def check(self) -> None:
        """Raise Interrupted where a signal has come."""
        if self.asked:
            raise Interrupted("Interrupted.")

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            os._exit(COULD_NOT_MEASURE)
        self.asked = True
