"""What the lab asks of a stack, whatever runs it: child processes, containers, or somebody else."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Protocol, Self

from lab.rundir import ContenderRecord
from lab.stacks.broker import Counters


class Stack(Protocol):
    """A contender's API, workers and broker with a database and a data directory of their own.

    It is up inside its context manager, and inside that come `stop` and then `collect`. ``api``, ``workers`` and
    ``broker`` are the names of its parts, for what a fault does to them. Raises StackError where a part of it is not
    what it should be.
    """

    contender: ContenderRecord
    base_url: str
    journal: Path
    generator_cpus: list[int] | None
    api: str
    workers: list[str]
    broker: str | None

    def is_ready(self) -> bool:
        """Return whether the API says that all it needs is up."""

    def broker_is_empty(self) -> bool | None:
        """Return whether no task waits in a queue; False where the broker does not answer, None where none is known."""

    def broker_holds_nothing(self) -> bool | None:
        """Return the same of tasks that wait in a queue, or were taken from it and are not acknowledged."""

    def broker_counters(self) -> Counters | None:
        """Return what the broker has used since its start; None where there is none of its own, or it is silent."""

    def roles(self) -> dict[int, str]:
        """Return what the processes that run now are for, by pid: to be sampled with all below them."""

    def shared_urls(self) -> dict[str, str]:
        """Return where the servers are that all contenders share, by name, without those that are not to be asked."""

    def stop(self, settled: bool = False) -> None:
        """End API and workers in order; in a hurry where all is settled: no task running and none waiting."""

    def collect(self) -> None:
        """Leave in ``evidence/`` of the block's folder what API and workers did; to be called after `stop`."""

    # what faults are made of

    def instances(self, names: Iterable[str]) -> dict[str, int]:
        """Return the pid under which each of these parts runs now, without those that do not run."""

    def kill(self, names: Iterable[str]) -> list[int]:
        """SIGKILL parts with all that they have started; return the pids. They are started again as in production."""

    def replace(self, names: Iterable[str], grace_s: float, over: Event) -> list[int]:
        """SIGTERM parts, SIGKILL what is left of them after the grace period, start new ones; return the old pids.

        The grace period ends before its time where it is ``over``.
        """

    def pause(self, names: Iterable[str]) -> list[int]:
        """Stop parts from running, as SIGSTOP does, until `go_on`; return the pids."""

    def stands_still(self, names: Iterable[str]) -> bool:
        """Return whether parts are paused."""

    def go_on(self, names: Iterable[str]) -> None:
        """Let paused parts run again."""


class ContainerStack(Stack, Protocol):
    """What can be done only to a stack of containers."""

    def cut_from_broker(self, names: Iterable[str]) -> list[int]:
        """Take the network away on which parts reach the broker, and no other, until `join_broker`; return the pids."""

    def join_broker(self, names: Iterable[str]) -> None:
        """Give the network back that was taken away."""

    def is_cut(self, names: Iterable[str]) -> bool:
        """Return whether parts are not in the broker's network."""

    def starve(self, names: Iterable[str]) -> list[int]:
        """Lower the memory limit of parts below what they use, until `feed`; return the pids."""

    def feed(self, names: Iterable[str]) -> None:
        """Give parts their memory limits back."""

    def was_starved(self, before: Mapping[str, int]) -> bool:
        """Return whether something in the instances of before was ended for want of memory."""


class Testbed(Protocol):
    """What all stacks of a run share, and what makes them. A context manager; ``versions`` is known once inside."""

    versions: dict[str, str]

    def __enter__(self) -> Self:
        """Start what is shared."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End what is shared."""

    def stack(self, contender: ContenderRecord, folder: Path) -> AbstractContextManager[Stack]:
        """Return a fresh stack of a contender, not yet up, that leaves its files in a block's folder."""
