"""What blocks leave undone on stacks that are not restarted: it runs on into the blocks that follow."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from lab.drain import JournalTail
from lab.errors import LabError

POLL_S = 0.1


@dataclass
class Part:
    """The tasks of one block by their requests' outcome, and the journal that tells of them."""

    tail: JournalTail
    acknowledged: set[str]
    indeterminate: set[str]

    def left(self) -> set[str]:
        """Return the tasks that are known to be there and have not ended; of what nobody has heard, nothing is.

        So it is where the journal cannot be read any more, which costs its own contender's blocks and no other's.
        """
        try:
            self.tail.read()
        except LabError:
            return set()
        return (self.acknowledged | (self.indeterminate & self.tail.running.keys())) - self.tail.ended


class LeftOver:
    """The tasks of the blocks so far that had not ended when their blocks did."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._waited_for = 0

    def add(self, tail: JournalTail, samples: Path) -> None:
        """Take note of a block's tasks at the end of its load."""
        with samples.open() as lines:
            rows = [json.loads(line) for line in lines]
        self._parts.append(Part(tail, _tasks(rows, "acknowledged"), _tasks(rows, "indeterminate")))

    def wait(self, within_s: float, check: Callable[[], None]) -> int:
        """Wait for what the last block left; return how many tasks of all blocks have not ended when that is over.

        What an earlier block left was waited for already, and nothing is waited for twice: it may be lost. ``check``
        may raise to leave early.
        """
        deadline = time.monotonic() + within_s
        while len(self._parts) > self._waited_for and self._parts[-1].left() and time.monotonic() < deadline:
            check()
            time.sleep(POLL_S)
        self._waited_for = len(self._parts)
        return sum(len(part.left()) for part in self._parts)


def _tasks(rows: Iterable[dict[str, Any]], outcome: str) -> set[str]:
    return {
        str(uuid5(UUID(row["request_id"]), str(position)))
        for row in rows
        if row.get("outcome") == outcome
        for position in range(row["tasks"])
    }
