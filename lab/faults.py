"""The nemesis: what can be done to a running stack, done for real, recorded and confirmed.

A fault is injected several times in one block, since one kill has a luck of its own. Each injection becomes one
record of ``faults.json``: ``{fault, injected_ns, ended_ns, healed_ns, pids, confirmed}``, times by CLOCK_MONOTONIC.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from lab.errors import LabError, UsageError
from lab.load import read_header
from lab.readiness import wait_until_ready
from lab.rundir import GRACE_S, ContenderRecord, Injection, Plan, ScenarioRecord
from lab.stacks.stack import ContainerStack, Stack

BROKEN_FOR_S = 2.5
CONFIRMED_WITHIN_S = 5.0
HEALED_WITHIN_S = 30.0
POLL_S = 0.02
# Before the first injection: what is normal is measured here. Of a short window, at most a fifth.
LEAD_S = 2.0
# How much later than planned an injection may come, so that none is in step with anything; at most a fifth of its part.
JITTER_S = 0.5
NEVER = threading.Event()


def has_ended(stack: Stack, before: dict[str, int]) -> bool:
    """Return whether none of the instances of before runs any more."""
    return not before.items() & stack.instances(before).items()


def stands_still(stack: Stack, before: dict[str, int]) -> bool:
    """Return whether the instances of before are paused, and still the same."""
    return stack.instances(before) == before and stack.stands_still(before)


def is_cut(stack: Stack, before: dict[str, int]) -> bool:
    """Return whether the instances of before are cut from the broker."""
    return containers(stack).is_cut(before)


@dataclass(frozen=True)
class Fault:
    """A fault by name; ``targets`` are the parts that it hits, ``inject`` does it and returns the pids hit.

    Where ``inject`` waits for something, it does so no longer once the event that it gets is set.
    ``happened`` says, of the instances of before, whether it has come about. Where there is a ``heal``, it comes
    ``on_for_s`` after that; without one the stack heals by itself, since what ends is started again. ``part_s`` is the
    time given to each injection: on one core, Celery takes about as long to be ready again.
    """

    name: str
    description: str
    targets: Callable[[Stack], list[str]]
    inject: Callable[[Stack, list[str], threading.Event], list[int]]
    happened: Callable[[Stack, dict[str, int]], bool] = has_ended
    heal: Callable[[Stack, list[str]], None] | None = None
    on_for_s: float = 0
    needs_workers: bool = False
    needs_broker: bool = False
    hits_broker: bool = False
    stacks: tuple[str, ...] = ("local", "compose")
    part_s: float = 3.5

    def applies_to(self, contender: ContenderRecord) -> bool:
        """Return whether the contender has what the fault hits."""
        return (bool(contender.workers) or not self.needs_workers) and (
            contender.broker is not None or not self.needs_broker
        )

    def hits_users_own(self, stack: str) -> bool:
        """Return whether what it hits is a broker of the user's own, which containers never use."""
        return self.hits_broker and stack == "local" and bool(os.environ.get("REDIS_URL"))

    @property
    def where(self) -> str:
        """In words, to which stacks and contenders it can be done."""
        needed = "with workers" if self.needs_workers else "with a broker" if self.needs_broker else "all"
        return f"{', '.join(self.stacks)}; {needed}"


def kill(stack: Stack, names: list[str], _over: threading.Event) -> list[int]:
    """SIGKILL parts of the stack."""
    return stack.kill(names)


def deploy(grace_s: float = GRACE_S, outlasting_s: float = 0) -> Fault:
    """Return the fault that replaces everything that runs the app's code.

    ``outlasting_s`` is how long the tasks take that it finds: it waits for these, for the grace period at most.
    """
    return Fault(
        "deploy",
        f"SIGTERM to API and workers, SIGKILL after a grace period (by default {GRACE_S:g} s), new processes",
        lambda stack: [stack.api, *stack.workers],
        lambda stack, names, over: stack.replace(names, grace_s, over),
        part_s=9 + min(grace_s, outlasting_s),
    )


def containers(stack: Stack) -> ContainerStack:
    """Return a stack as one of containers, which it is wherever a fault is done that is for these alone."""
    return cast(ContainerStack, stack)


FAULTS = {
    fault.name: fault
    for fault in [
        Fault("api-kill", "SIGKILL of the API", lambda stack: [stack.api], kill),
        Fault("worker-kill", "SIGKILL of all workers", lambda stack: stack.workers, kill, needs_workers=True, part_s=6),
        deploy(),
        Fault(
            "worker-pause",
            "SIGSTOP of all workers for 2 s",
            lambda stack: stack.workers,
            lambda stack, names, _: stack.pause(names),
            happened=stands_still,
            heal=lambda stack, names: stack.go_on(names),
            on_for_s=2,
            needs_workers=True,
            part_s=6,
        ),
        Fault(
            "broker-pause",
            f"the broker stands still for {BROKEN_FOR_S:g} s",
            lambda stack: [stack.broker] if stack.broker else [],
            lambda stack, names, _: stack.pause(names),
            happened=stands_still,
            heal=lambda stack, names: stack.go_on(names),
            on_for_s=BROKEN_FOR_S,
            needs_broker=True,
            hits_broker=True,
            part_s=7,
        ),
        Fault(
            "memory-limit",
            "the memory limit of the workers, or of the API where it does the work, is lowered below what they use",
            lambda stack: stack.workers or [stack.api],
            lambda stack, names, _: containers(stack).starve(names),
            happened=lambda stack, before: containers(stack).was_starved(before),
            heal=lambda stack, names: containers(stack).feed(names),
            stacks=("compose",),
            part_s=8,
        ),
        Fault(
            "cut-worker-broker",
            f"the network between workers and broker is cut for {BROKEN_FOR_S:g} s",
            lambda stack: stack.workers,
            lambda stack, names, _: containers(stack).cut_from_broker(names),
            happened=is_cut,
            heal=lambda stack, names: containers(stack).join_broker(names),
            on_for_s=BROKEN_FOR_S,
            needs_workers=True,
            needs_broker=True,
            stacks=("compose",),
            part_s=8,
        ),
        Fault(
            "cut-api-broker",
            f"the network between API and broker is cut for {BROKEN_FOR_S:g} s",
            lambda stack: [stack.api],
            lambda stack, names, _: containers(stack).cut_from_broker(names),
            happened=is_cut,
            heal=lambda stack, names: containers(stack).join_broker(names),
            on_for_s=BROKEN_FOR_S,
            needs_broker=True,
            stacks=("compose",),
            part_s=8,
        ),
    ]
}


def as_planned(name: str, plan: Plan, scenario: ScenarioRecord) -> Fault:
    """Return a fault as a plan has it, under the load of a scenario."""
    return deploy(plan.grace_s, scenario.probe_seconds or 0) if name == "deploy" else FAULTS[name]


def check_users_own(names: Iterable[str], stack: str) -> None:
    """Raise UsageError where one of these faults would hit a broker of the user's own."""
    for name in names:
        if FAULTS[name].hits_users_own(stack):
            raise UsageError(f"The fault '{name}' cannot be done to a Redis of your own (REDIS_URL).")


def inject(fault: Fault, stack: Stack, over: threading.Event = NEVER) -> Injection:
    """Do it once: inject, see that it happened, heal, and wait until the stack can do work again.

    What dies is started again, as in production; healing is waiting for that. Once it is ``over`` nobody wants to know
    any more: what is on is undone, and nothing is waited for.
    """
    names = fault.targets(stack)
    before = stack.instances(names)
    now_ns, absent = time.monotonic_ns(), sorted(set(names) - before.keys())
    injection = Injection(fault=fault.name, injected_ns=now_ns, absent=absent)
    injection.pids = fault.inject(stack, names, over)
    if _wait(lambda: fault.happened(stack, before), CONFIRMED_WITHIN_S, over):
        injection.ended_ns = time.monotonic_ns()
        injection.confirmed = bool(before) and not injection.absent and set(before.values()) <= set(injection.pids)
    if fault.heal:
        over.wait(fault.on_for_s)
        fault.heal(stack, names)
    if wait_until_ready(stack.is_ready, HEALED_WITHIN_S, over):
        injection.healed_ns = time.monotonic_ns()
    return injection


def _wait(condition: Callable[[], bool], within_s: float, over: threading.Event) -> bool:
    deadline = time.monotonic() + within_s
    while not over.is_set():
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        over.wait(POLL_S)
    return False


class Nemesis:
    """Injects a fault while the load goes on, in a thread of its own; without a fault it does nothing.

    A context manager. After a lead, in which nothing is done, the injections are spread over the window, each at a
    moment drawn from the seed at the beginning of an equal part of what is left. Where the nemesis is left while an
    injection goes on, that one is cut short.
    """

    def __init__(self, fault: Fault | None, stack: Stack, samples: Path, seed: int, injections: int) -> None:
        self.fault = fault
        self.injections = injections
        self.stack = stack
        self.samples = samples
        self._random = random.Random(seed)
        self._done: list[Injection] = []
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def records(self, check: Callable[[], None] = lambda: None) -> list[dict[str, object]]:
        """Wait for the last injection, and return the records. Raises LabError where something went wrong there.

        ``check`` is called meanwhile; it may raise to leave early.
        """
        while self._thread.is_alive():
            check()
            self._thread.join(0.1)
        if isinstance(self._error, Exception) and not isinstance(self._error, LabError):
            raise LabError(f"A fault could not be injected: {self._error!r}.") from self._error
        if self._error:
            raise self._error
        return [injection.model_dump() for injection in self._done]

    def _run(self) -> None:
        try:
            if self.fault:
                self._inject_all(self.fault)
        except BaseException as error:
            self._error = error

    def _inject_all(self, fault: Fault) -> None:
        start_ns, end_ns = self._window()
        lead_ns = min(LEAD_S * 1e9, (end_ns - start_ns) / 5)
        part_ns = (end_ns - start_ns - lead_ns) / self.injections
        jitter_ns = min(JITTER_S * 1e9, part_ns / 5)
        for number in range(self.injections):
            at_ns = start_ns + lead_ns + number * part_ns + self._random.uniform(0, jitter_ns)
            if self._over.wait(max(0.0, (at_ns - time.monotonic_ns()) / 1e9)) or time.monotonic_ns() > end_ns:
                return
            self._done.append(inject(fault, self.stack, self._over))

    def _window(self) -> tuple[int, int]:
        """Return when the window starts and ends, once the load has begun and says so."""
        while not self._over.wait(POLL_S):
            with suppress(FileNotFoundError, StopIteration, ValueError):
                header = read_header(self.samples)
                return header["window_start_ns"], header["window_end_ns"]
        return 0, 0
