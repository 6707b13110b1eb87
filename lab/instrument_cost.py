"""What the instrument costs: a contender with journal and sampler against the same one without, round by round.

Throughput is that of tasks done, by the action log, which both write: an acknowledgement of Celery's is no work done.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import NamedTuple

from lab import load
from lab.errors import LabError
from lab.report.summary import Cost
from lab.rundir import ContenderRecord, ScenarioRecord
from lab.sampler import Sampler
from lab.stacks.stack import Stack, Testbed
from lab.stacks.supervisor import Supervisor
from lab.stats import Paired, median, paired_ratio, percentile

ROUNDS = 5
SECONDS = 4.0
RATE = 50.0
# What a leg takes besides its two loads.
LEG_OVERHEAD_S = 3.5
# How long acknowledged tasks may wait for their end after the load.
DONE_WITHIN_S = 60.0
POLL_S = 0.1
FLAT_OUT = "flat out"  # the message of `loadtests.closed_loop`


class Leg(NamedTuple):
    """What one fresh stack did: actions done per second for ten users who never pause, and response times at 50/s."""

    throughput_per_s: float
    response_p50_ms: float
    response_p95_ms: float


def planned_cost_s() -> float:
    """Return how many seconds the trial of one contender should take that has done its tasks soon after the load."""
    return 2 * ROUNDS * (2 * SECONDS + LEG_OVERHEAD_S)


class CostTrial:
    """Loads fresh stacks of a contender, with the instrument and without it."""

    def __init__(
        self, supervisor: Supervisor, testbed: Testbed, contender: ContenderRecord, check: Callable[[], None]
    ) -> None:
        self.supervisor = supervisor
        self.testbed = testbed
        self.contender = contender
        self.check = check

    def run(self, seed: int, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Cost]:
        """Return the cost on each figure; in each round both come once, in random order, under the same arrivals.

        Raises LabError where a stack does not come up, or does not do what it has acknowledged.
        """
        order, legs = Random(seed), {True: list[Leg](), False: list[Leg]()}
        for number in range(1, rounds + 1):
            for instrumented in order.sample([True, False], 2):
                legs[instrumented].append(self._leg(number, instrumented, seed + number, seconds))
        return costs(self.contender.name, legs[True], legs[False])

    def _leg(self, number: int, instrumented: bool, seed: int, seconds: float) -> Leg:
        folder = self.supervisor.directory / f"{number:02d}-{'with' if instrumented else 'without'}"
        folder.mkdir()
        off = {} if instrumented else {"JOURNAL": "0"}
        contender = self.contender.model_copy(update={"env": self.contender.env | off})
        with (
            self.testbed.stack(contender, folder) as stack,
            Sampler(stack.roles, folder / "resources.parquet") if instrumented else nullcontext(),
        ):
            times_ms = self._response_times(stack, folder, seed, seconds)
            throughput_per_s = self._throughput(stack, folder, seconds)
        check_journal(stack.journal, instrumented)
        shutil.rmtree(folder / "data")
        return Leg(throughput_per_s, percentile(times_ms, 0.5), percentile(times_ms, 0.95))

    def _response_times(self, stack: Stack, folder: Path, seed: int, seconds: float) -> list[float]:
        """Return the response times of an open loop, in ms; infinite for what was not acknowledged."""
        scenario = ScenarioRecord(
            name="action",
            users="action",
            rate=RATE,
            arrivals="poisson",
            warmup_s=0.5,
            duration_s=seconds,
            bystanders=False,
        )
        samples = folder / "requests.jsonl"
        self._drive(stack, load.locust_command(scenario, stack.base_url, seed, samples), folder, seconds)
        rows = [row for row in map(json.loads, samples.read_text().splitlines()) if row.get("phase") == "window"]
        return [
            (row["ended_ns"] - row["intended_ns"]) / 1e6 if row["outcome"] == "acknowledged" else math.inf
            for row in rows
        ]

    def _throughput(self, stack: Stack, folder: Path, seconds: float) -> float:
        """Return the actions done per second, under load and until the last that was acknowledged is done."""
        reported = folder / "flat-out.json"
        self._drive(stack, load.closed_loop_command("FlatOut", stack.base_url, seconds, reported), folder, seconds)
        acknowledged, deadline = json.loads(reported.read_text())["acknowledged"], time.monotonic() + DONE_WITHIN_S
        while len(done_ns := flat_out_done_ns(folder / "data" / "actions.log")) < acknowledged:
            if time.monotonic() > deadline:
                raise LabError(
                    f"{len(done_ns):,} of {acknowledged:,} actions were done {DONE_WITHIN_S:g} s after the load."
                )
            self.check()
            time.sleep(POLL_S)
        return per_second(done_ns)

    def _drive(self, stack: Stack, command: list[str], folder: Path, seconds: float) -> None:
        log = folder / "logs" / "locust.log"
        load.drive(self.supervisor, command, stack.generator_cpus, log, seconds, self.check)


def flat_out_done_ns(action_log: Path) -> list[int]:
    """Return when each action of the users who never pause was done, as monotonic ns."""
    lines = action_log.read_text().rpartition("\n")[0].splitlines() if action_log.exists() else []
    return [line["t_ns"] for line in map(json.loads, lines) if line["message"] == FLAT_OUT]


def per_second(done_ns: Sequence[int]) -> float:
    """Return how many came per second, from the first to the last. Raises LabError for fewer than two."""
    if len(done_ns) < 2:
        raise LabError(f"{len(done_ns)} actions were done: that is no throughput.")
    return (len(done_ns) - 1) / ((max(done_ns) - min(done_ns)) / 1e9)


def check_journal(journal: Path, instrumented: bool) -> None:
    """Raise LabError unless a stack has journaled exactly where it was meant to: else a ratio would say nothing.

    The first line of a journal is its anchor and no event.
    """
    events = sum(len(file.read_bytes().splitlines()) - 1 for file in journal.glob("*.jsonl"))
    if bool(events) != instrumented:
        raise LabError(f"{journal} has {events} events: what journaling costs cannot be told.")


def costs(contender: str, instrumented: Sequence[Leg], bare: Sequence[Leg]) -> list[Cost]:
    """Return, for each figure, what it is with the instrument ÷ without it: the mean over rounds, and its interval."""
    return [_cost(contender, metric, instrumented, bare) for metric in Leg._fields]


def _cost(contender: str, metric: str, instrumented: Sequence[Leg], bare: Sequence[Leg]) -> Cost:
    figures_with, figures_without = ([getattr(leg, metric) for leg in legs] for legs in (instrumented, bare))
    ratio = paired_ratio(Paired(figures_without, figures_with, len(bare)).ratios())
    return Cost(
        contender=contender,
        metric=metric,
        rounds=len(bare),
        instrumented=median(figures_with),
        bare=median(figures_without),
        ratio=ratio.mean if ratio else None,
        low=ratio.low if ratio else None,
        high=ratio.high if ratio else None,
    )
