"""Live figures of several Locust workers: each sends its samples to the master, which counts them as its own.

The times of a sample are of the monotonic clock, which the processes and containers of one machine share. A worker on
another machine is shown as such, and its samples are left out.
"""

import logging
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import (
    STATE_MISSING,
    STATE_RUNNING,
    STATE_STOPPED,
    STATE_STOPPING,
    MasterRunner,
    WorkerRunner,
)

from loadtests.live import Live
from loadtests.plan import boot_id
from loadtests.recorder import Sample
from loadtests.run import Share

log = logging.getLogger("loadtests")

MESSAGE = "loadtests_samples"
# Among the options that a master sends with the start: the number of the run, where it wants the samples.
RUN = "samples_of_run"
# And the ids of the workers that are there, in the order of their shares.
WORKERS = "workers_at_start"
SEND_EVERY_S = 0.5
WATCH_EVERY_S = 0.25
OTHER_CLOCK = "on another machine: left out"


def tell_workers(environment: Environment, runner: MasterRunner) -> None:
    """Let the workers of the run that is about to start know of each other."""
    clients = runner.clients
    there = [worker.id for worker in (*clients.ready, *clients.spawning, *clients.running)]
    setattr(environment.parsed_options, WORKERS, there)


def share_of(environment: Environment, runner: WorkerRunner) -> Share:
    """Return a worker's share of a run without a schedule, as its master has told who is there."""
    return Share.of_worker(runner.client_id, vars(environment.parsed_options)[WORKERS])


class Outbox:
    """A worker's samples on their way to the master; nothing is kept where the master does not want them."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._boot_id = boot_id()
        self._samples: list[Sample] = []
        self._run: int | None = None
        gevent.spawn(self._send_again_and_again)

    def begin(self) -> None:
        """Begin with the run that the master has just started."""
        self._samples.clear()
        self._run = vars(self._environment.parsed_options).get(RUN)

    def add(self, sample: Sample) -> None:
        """Take one sample."""
        if self._run is not None:
            self._samples.append(sample)

    def send(self) -> None:
        """Send what there is now."""
        samples, self._samples = self._samples, []
        if samples:
            message = {"boot_id": self._boot_id, "run": self._run, "samples": samples}
            self._runner.send_message(MESSAGE, message)

    def _send_again_and_again(self) -> None:
        while True:
            gevent.sleep(SEND_EVERY_S)
            self.send()


class Inbox:
    """Puts the samples of a master's workers into the live figures, and how each worker is."""

    def __init__(self, environment: Environment, runner: MasterRunner, live: Live) -> None:
        self._environment = environment
        self._runner = runner
        self._live = live
        self._boot_id = boot_id()
        self._run = 0
        self._states: dict[str, str] = {}
        self._elsewhere: set[str] = set()
        runner.register_message(MESSAGE, self._take)
        gevent.spawn(self._watch)

    def begin(self) -> None:
        """Begin a run: what is still on its way from the last one does not count."""
        self._run += 1
        setattr(self._environment.parsed_options, RUN, self._run)

    def _take(self, msg: Any, **_: Any) -> None:
        if msg.data["run"] != self._run:
            return
        if msg.data["boot_id"] != self._boot_id:
            if msg.node_id not in self._elsewhere:
                log.error("The samples of worker %s are left out: it is on another machine.", msg.node_id)
                self._elsewhere.add(msg.node_id)
            return
        self._live.add((Sample(*row) for row in msg.data["samples"]), worker=msg.node_id)

    def _watch(self) -> None:
        while True:
            self._look()
            gevent.sleep(WATCH_EVERY_S)

    def _look(self) -> None:
        """Note how the workers are; one that was there and said goodbye, or nothing any more, is missing.

        At the end of a load each of them says goodbye, until it is ready for another.
        """
        ending = self._runner.state in (STATE_STOPPING, STATE_STOPPED)
        gone = {
            worker: STATE_STOPPED if ending and state != STATE_MISSING else STATE_MISSING
            for worker, state in self._states.items()
        }
        now = gone | {worker: str(node.state) for worker, node in dict(self._runner.clients).items()}
        for worker, state in now.items():
            if state == STATE_MISSING and self._states.get(worker) == STATE_RUNNING:
                log.error("The load generator lost a worker while it sent: %s.", worker)
            self._live.set_worker(worker, OTHER_CLOCK if worker in self._elsewhere else state)
        self._states = now
