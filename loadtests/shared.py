"""One fixed schedule over several Locust workers: each sends its share, and the master writes one samples file.

The workers draw the same plan from the same seed; of n workers, each sends every n-th request, all from the same start.
The master names the start when every worker has drawn its plan. Each sends its rows to the master as they come. What a
lost worker did not report has its row too: *indeterminate* if it was due when the loss was noticed, since nobody knows
whether it was sent, and *unsent* if it was not.
"""

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtests.options import LoadOptions
from loadtests.plan import LEAD_NS, Plan, boot_id
from loadtests.recorder import Recorder, Sample
from loadtests.run import LoadRun, Share
from loadtests.sender import Answer, sample_of

log = logging.getLogger("loadtests")

# Among the options that a master sends with the start: the seed, and which workers take part.
SHARED = "shared_schedule"
# From a worker: it has drawn its plan; rows; it has nothing more to send. From the master: when to start; to end now.
READY, ROWS, DONE, GO, END = (f"loadtests_{word}" for word in ("ready", "rows", "done", "go", "end"))
SEND_EVERY_S = 0.25
# To pack a row takes microseconds, in which nothing is sent.
ROWS_AT_ONCE = 100
WATCH_EVERY_S = 0.05
# For the last rows of a run that is ended early, beside the grace for what is in flight.
LAST_ROWS_S = 5.0

LOST_WHEN_DUE = Answer("indeterminate", error="its Locust worker was lost")
LOST_BEFORE_DUE = Answer("unsent", error="its Locust worker was lost before it was due")

# Exit statuses.
PLAYED, CUT_SHORT, WORKER_LOST = 0, 1, 3


class Part:
    """A worker's side: it prepares its share, sends it from the start that the master names, and reports each row."""

    def __init__(self, environment: Environment, runner: WorkerRunner, report: Callable[[Sample, int], None]) -> None:
        self._environment = environment
        self._runner = runner
        self._report = report
        self._run: LoadRun | None = None
        self._player: gevent.Greenlet | None = None
        self._played = False
        self._rows: list[Sample] = []
        runner.register_message(GO, self._go)
        runner.register_message(END, self._told_to_end)
        hooks: Any = environment.events
        hooks.quitting.add_listener(self._quitting)

    def begin(self, options: LoadOptions) -> None:
        """Prepare the share, and say so to the master. Raises UsageError where it cannot be made."""
        told = vars(self._environment.parsed_options)[SHARED]
        if self._runner.client_id not in told["workers"]:
            log.warning("This worker came too late: the schedule is shared out already.")
            return
        share = Share(told["workers"].index(self._runner.client_id), len(told["workers"]))
        self._run = LoadRun(Plan(options, told["seed"]), self, self._report, share)
        gevent.spawn(self._send_again_and_again)
        self._runner.send_message(READY, {"boot_id": boot_id()})

    def _go(self, msg: Any, **_: Any) -> None:
        assert self._run is not None
        self._run.begin(msg.data["start_ns"])
        self._player = gevent.spawn(self._play, self._run)

    def _play(self, run: LoadRun) -> None:
        try:
            run.play()
            self._played = True
        except Exception:
            log.exception("The schedule broke off.")
        run.end()

    def _told_to_end(self, msg: Any, **_: Any) -> None:
        gevent.spawn(self.end, msg.data["grace_s"])

    def _quitting(self, **_: Any) -> None:
        """Report what is left before Locust says goodbye: these listeners run in reverse order."""
        self.end(self._environment.stop_timeout)

    def end(self, grace_s: float) -> None:
        """End the share now if it has begun, with at most ``grace_s`` for what is in flight."""
        if self._run is not None and self._player is not None:
            if not self._played:
                self._player.kill()
            self._run.end(grace_s)

    def record(self, sample: Sample) -> None:
        """Take one row."""
        self._rows.append(sample)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._send()

    def close(self, last_line: dict[str, float]) -> None:
        """Tell the master that there are no more rows."""
        self._send()
        self._runner.send_message(DONE, {"last_line": last_line, "played": self._played})

    def _send(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._runner.send_message(ROWS, {"rows": rows})

    def _send_again_and_again(self) -> None:
        while True:
            gevent.sleep(SEND_EVERY_S)
            self._send()


@dataclass(slots=True)
class _Worker:
    """What the master knows of a worker; ``gone_ns`` is when it was found to be gone."""

    ready: bool = False
    elsewhere: bool = False
    played: bool = False
    last_line: dict[str, float] | None = None
    gone_ns: int | None = None


class Conductor:
    """The master's side, for one run. ``over`` gets the exit status at its end: ``PLAYED``, ``CUT_SHORT`` where it
    could not begin or was ended early, or ``WORKER_LOST``.

    ``on_error`` gets an error of the samples file that comes up later. Raises UsageError where no plan can be made, and
    OSError where the samples cannot be written.
    """

    def __init__(
        self,
        environment: Environment,
        runner: MasterRunner,
        options: LoadOptions,
        over: Callable[[int], None],
        on_error: Callable[[OSError], None],
    ) -> None:
        self._runner = runner
        self._over = over
        self._plan = Plan(options, secrets.randbits(32) if options.seed is None else options.seed)
        self._recorder = Recorder(options.samples, on_error)
        self._workers = {worker.id: _Worker() for worker in runner.clients.ready}
        self._reported = {name: bytearray(len(self._plan)) for name in options.targets}
        self._end_at_s = math.inf
        self._settled = False
        for message, listener in ((READY, self._take_ready), (ROWS, self._take_rows), (DONE, self._take_done)):
            runner.register_message(message, listener)
        setattr(environment.parsed_options, SHARED, {"seed": self._plan.seed, "workers": list(self._workers)})
        self._conducting = gevent.spawn(self._conduct)

    def end(self, grace_s: float) -> None:
        """End the run early, unless it is over: each worker gets ``grace_s`` for what is in flight.

        Locust stops a run whose last worker is lost, too: that one ends by itself, and as one that lost its workers.
        """
        here = self._still_here()
        answering = here or any(worker.last_line is not None for worker in self._workers.values())
        if answering and self._end_at_s == math.inf and not self._conducting.ready():
            self._end_at_s = time.monotonic() + grace_s + LAST_ROWS_S
            for name in here:
                self._runner.send_message(END, {"grace_s": grace_s}, name)
        self._conducting.join()

    def _conduct(self) -> None:
        status = CUT_SHORT
        try:
            status = self._play()
        except Exception:
            log.exception("The schedule broke off.")
        gevent.spawn(self._over, status)

    def _play(self) -> int:
        """Have the schedule played, write every row, and return the exit status."""
        self._wait(lambda worker: worker.ready)
        self._plan.begin(time.monotonic_ns() + LEAD_NS)
        self._recorder.write_header(self._plan.header(workers=len(self._workers)))
        began = self._may_begin()
        if began:
            log.info("The schedule of %d requests is shared by %d workers.", len(self._plan), len(self._workers))
            for name in self._workers:
                self._runner.send_message(GO, {"start_ns": self._plan.start_ns}, name)
            self._wait(lambda worker: worker.last_line is not None)
        lost = self._settle(began)
        self._recorder.close(self._last_line(len(lost)))
        if not began or self._end_at_s < math.inf:
            return CUT_SHORT
        return WORKER_LOST if lost else PLAYED

    def _wait(self, done: Callable[[_Worker], bool]) -> None:
        """Wait for every worker that is still there, or until the run has been ended early."""
        while True:
            here = self._still_here()
            for name, worker in self._workers.items():
                if name not in here and worker.gone_ns is None and not done(worker):
                    worker.gone_ns = time.monotonic_ns()
                    log.error("The load generator lost a worker: %s.", name)
                    # If it is only asleep, it must not go on where it was when it wakes.
                    self._runner.send_message(END, {"grace_s": 0.0}, name)
            if all(done(worker) or worker.gone_ns is not None for worker in self._workers.values()):
                return
            if time.monotonic() > self._end_at_s:
                return
            gevent.sleep(WATCH_EVERY_S)

    def _still_here(self) -> set[str]:
        clients = dict(self._runner.clients)
        return {name for name in self._workers if name in clients and clients[name].state != STATE_MISSING}

    def _may_begin(self) -> bool:
        for name, worker in self._workers.items():
            if worker.elsewhere:
                log.error("Worker %s is on another machine: a fixed schedule needs all workers on one.", name)
        return self._end_at_s == math.inf and all(
            worker.ready and not worker.elsewhere for worker in self._workers.values()
        )

    def _settle(self, began: bool) -> set[str]:
        """Give every request without a row one, and return the workers that were lost."""
        self._settled = True
        now_ns = time.monotonic_ns()
        names = list(self._workers)
        unknown = 0
        lost = {name for name, worker in self._workers.items() if self._is_lost(worker)}
        for seq, contender in self._unreported():
            name = names[seq % len(names)]
            intended = self._plan.scheduled(seq)
            answer = Answer("unsent", error="stopped before it was sent")
            if began:
                lost.add(name)
                due = intended.intended_ns <= (self._workers[name].gone_ns or now_ns)
                unknown += due
                answer = LOST_WHEN_DUE if due else LOST_BEFORE_DUE
            self._recorder.record(sample_of(intended, contender, None, None, answer))
        if lost:
            told = "Locust workers lost: %d of %d; what became of %d requests that were due is not known."
            log.error(told, len(lost), len(names), unknown)
        return lost

    def _is_lost(self, worker: _Worker) -> bool:
        """Say whether a worker is gone before its time; one that ends a run early because it is told to is not."""
        ended_by_itself = worker.last_line is not None and not worker.played and self._end_at_s == math.inf
        return worker.gone_ns is not None or ended_by_itself

    def _unreported(self) -> Iterator[tuple[int, str | None]]:
        for contender, reported in self._reported.items():
            seq = reported.find(0)
            while seq >= 0:
                yield seq, contender
                seq = reported.find(0, seq + 1)

    def _last_line(self, lost: int) -> dict[str, float]:
        """Return the workers' last lines as one: the worst of their lags, and the sum of their highest in flight.

        Whether they had a real-time policy is whether all of them had.
        """
        lines = [worker.last_line for worker in self._workers.values() if worker.last_line is not None]
        worst = ("loop_lag_p99_ms", "loop_lag_max_ms")
        merged = {name: max(line[name] for line in lines) for name in worst} if lines else {}
        in_flight = sum(line["max_in_flight"] for line in lines)
        real_time = int(bool(lines) and all(line["real_time"] for line in lines))
        counts = {"workers": len(self._workers), "workers_lost": lost}
        return merged | {"max_in_flight": in_flight, "real_time": real_time} | counts

    def _take_ready(self, msg: Any, **_: Any) -> None:
        if (worker := self._workers.get(msg.node_id)) is not None:
            worker.ready = True
            worker.elsewhere = msg.data["boot_id"] != boot_id()

    def _take_rows(self, msg: Any, **_: Any) -> None:
        if self._settled:
            return
        for row in msg.data["rows"]:
            sample = Sample(*row)
            self._reported[sample.contender][sample.seq] = 1
            self._recorder.record(sample)

    def _take_done(self, msg: Any, **_: Any) -> None:
        worker = self._workers[msg.node_id]
        worker.last_line, worker.played = msg.data["last_line"], msg.data["played"]
