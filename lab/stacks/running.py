"""A stack that runs already: an app at a URL, which the lab neither starts nor stops.

Its latency is seen from outside. What became of its tasks is known where its ``DATA_DIR`` can be read: the journal, and
the logs in which effects are counted. Mails and rows cannot be asked for there; the journal stands for them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from lab.drain import journal_files, pid_of, readable
from lab.errors import LabError
from lab.rundir import ContenderRecord, Placement
from lab.stacks import living
from lab.stacks.broker import Counters
from lab.stacks.health import check_health
from lab.stacks.supervisor import StackError, Supervisor

LOGS = ("actions.log", "effects.log")
PART_BYTES = 1 << 20


class RunningStack:
    """The contender at a URL, as `lab.stacks.stack.Stack` asks; up before and after. Nothing can be done to it."""

    def __init__(self, contender: ContenderRecord, folder: Path, generator_cpus: list[int] | None) -> None:
        assert contender.url is not None
        self.contender = contender
        self.base_url = contender.url.rstrip("/")
        self.folder = folder
        self.generator_cpus = generator_cpus
        self.data = Path(contender.data) if contender.data else None
        self.journal = (self.data or folder / "nothing") / "journal"
        self.api = "app"
        self.workers: list[str] = []
        self.broker: str | None = None

    def __enter__(self) -> Self:
        try:
            check_health(self.base_url + self.contender.health)
        except (StackError, OSError) as error:
            raise StackError(f"{self.contender.name} at {self.base_url} cannot be measured: {error}") from error
        with readable():
            if self.data is not None and not self.journal.is_dir():
                raise StackError(
                    f"{self.contender.name}: there is no journal in {self.data}, where its `data` should be."
                )
        for path in journal_files(self.journal):
            pid_of(path)  # one of another name is told of before any load
        self._before = self._sizes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it as it is."""

    def is_ready(self) -> bool:
        """Return whether the app says that it is healthy."""
        try:
            check_health(self.base_url + self.contender.health)
        except (StackError, OSError):
            return False
        return True

    def broker_is_empty(self) -> bool | None:
        """Return None: its broker, if it has one, is not known."""
        return None

    def broker_holds_nothing(self) -> bool | None:
        """Return None: its broker, if it has one, is not known."""
        return None

    def broker_counters(self) -> Counters | None:
        """Return None: its broker, if it has one, is not known."""
        return None

    def roles(self) -> dict[int, str]:
        """Return nothing: its processes are not known, and may be on no machine of ours."""
        return {}

    def shared_urls(self) -> dict[str, str]:
        """Return nothing: its servers are not known."""
        return {}

    def stop(self, settled: bool = False) -> None:
        """Leave it running: it is not the lab's."""

    def collect(self) -> None:
        """Leave in ``evidence/`` what the journal and the logs have got since the beginning of the block, until now.

        And which of those that wrote the journal live and go on, where that can be told. Nobody else was asked.
        """
        evidence = self.folder / "evidence"
        (evidence / "journal").mkdir(parents=True)
        for path, size in self._sizes().items():
            is_journal = path.parent == self.journal
            target = evidence / ("journal" if is_journal else ".") / path.name
            _copy_part(path, self._before.get(path, 0), size, target, anchored=is_journal)
        known = [*living.writers(evidence / "journal"), living.unseen()]
        (evidence / "processes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in known))

    def _sizes(self) -> dict[Path, int]:
        """Return how big its journal files and logs are now. Raises LabError where one cannot be read."""
        if self.data is None:
            return {}
        logs = [self.data / name for name in LOGS]
        with readable():
            files = [*journal_files(self.journal), *(log for log in logs if log.exists())]
            return {path: path.stat().st_size for path in files}

    def instances(self, names: Iterable[str]) -> dict[str, int]:
        """Return nothing: there are no pids to give."""
        del names
        return {}

    def kill(self, names: Iterable[str]) -> list[int]:
        """Refuse."""
        raise self._not_ours(names)

    def replace(self, names: Iterable[str], grace_s: float, over: Event) -> list[int]:
        """Refuse."""
        del grace_s, over
        raise self._not_ours(names)

    def pause(self, names: Iterable[str]) -> list[int]:
        """Refuse."""
        raise self._not_ours(names)

    def stands_still(self, names: Iterable[str]) -> bool:
        """Refuse."""
        raise self._not_ours(names)

    def go_on(self, names: Iterable[str]) -> None:
        """Refuse."""
        raise self._not_ours(names)

    def _not_ours(self, names: Iterable[str]) -> LabError:
        return LabError(
            f"Nothing can be done to {', '.join(names)} of {self.contender.name}: the lab did not start it."
        )


def _copy_part(source: Path, begin: int, end: int, target: Path, anchored: bool) -> None:
    """Copy a file between two offsets, which are beginnings of lines, with its first line where that is its anchor.

    Raises LabError where it cannot be read.
    """
    with readable():
        old = source.open("rb")
    with old, target.open("wb") as new:
        if anchored and begin:
            new.write(old.readline())
        old.seek(begin)
        while part := old.read(max(0, min(PART_BYTES, end - old.tell()))):
            new.write(part)


class RunningTestbed:
    """A testbed that starts nothing: all contenders run already."""

    def __init__(self, supervisor: Supervisor, placement: Placement) -> None:
        self.supervisor = supervisor
        self.placement = placement
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End nothing."""

    def stack(self, contender: ContenderRecord, folder: Path) -> RunningStack:
        """Return the stack of a contender that has a URL."""
        return RunningStack(contender, folder, self.placement.generator if self.placement.pinned else None)
