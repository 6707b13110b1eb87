"""How fast the load generator is: the rate up to which it sends in time, on a server that is not the limit."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb

from lab import load
from lab.environment import PROJECT
from lab.globs import no_glob
from lab.report.summary import Generator
from lab.rundir import Placement, RequestRecord, ScenarioRecord
from lab.stacks.health import check_health
from lab.stacks.local import cpus
from lab.stacks.servers import free_port, wait_until_up
from lab.stacks.supervisor import Supervisor

# Sent in time: p99 lateness below this, every request sent, and each acknowledged.
LATE_MS = 1.0
LOWEST, HIGHEST = 500.0, 32_000.0
HALVINGS = 3
SECONDS = 3.0
WARMUP_S = 0.5
# What an attempt takes besides its load: Locust's start and end, with workers and without.
ATTEMPT_OVERHEAD_S, WITH_WORKERS_S = 1.5, 3.0
# Where one process is late below 16,000 requests/s there are up to six attempts up to there, three between that and the
# half of it, and a second one of each that fails. Several processes begin where one has ended, or not far below.
ATTEMPTS, FURTHER_ATTEMPTS = 12, 8


class Attempt(NamedTuple):
    """What came of one rate; ``failed`` requests were not sent or not acknowledged.

    ``real_time`` is whether the generator ran before all that shares its CPU.
    """

    rate: float
    requests: int
    failed: int
    lateness_p99_ms: float
    loop_lag_p99_ms: float
    real_time: bool

    @property
    def in_time(self) -> bool:
        """Whether every request was sent in time and acknowledged."""
        return self.lateness_p99_ms < LATE_MS and not self.failed


class Found(NamedTuple):
    """The highest rate that was sent in time, and the lowest above it that was not; None where there was none."""

    in_time: Attempt | None
    too_fast: Attempt | None


class Bounds(NamedTuple):
    """Between which rates to search, how often to halve the gap that is found, and how long an attempt lasts."""

    lowest: float = LOWEST
    highest: float = HIGHEST
    halvings: int = HALVINGS
    seconds: float = SECONDS


BOUNDS = Bounds()


def search(attempt: Callable[[float], Attempt], bounds: Bounds = BOUNDS) -> Found:
    """Double the rate until it cannot be sent in time, then halve the gap a few times.

    A rate that fails is tried once more: a hiccup of the machine is not the generator's limit.
    """
    found, rate = Found(None, None), bounds.lowest
    while rate <= bounds.highest and found.too_fast is None:
        found, rate = _narrow(found, attempt, rate), rate * 2
    for _ in range(bounds.halvings):
        if found.in_time and found.too_fast:
            found = _narrow(found, attempt, (found.in_time.rate + found.too_fast.rate) / 2)
    return found


def _narrow(found: Found, attempt: Callable[[float], Attempt], rate: float) -> Found:
    for _ in range(2):
        one = attempt(rate)
        if one.in_time:
            return Found(one, found.too_fast)
    return Found(found.in_time, one)


def processes_to_try(placement: Placement) -> list[int]:
    """Return how many processes to try: one, and as many as the generator has CPUs, of which two share one."""
    return [1, max(2, len(placement.generator))]


def bounds_of_several(bounds: Bounds, alone: Generator, placement: Placement) -> Bounds:
    """Return where to look for several processes: from where one has ended, but below it where they share its CPU."""
    begin_at = (alone.rate or 0) / (1 if len(placement.generator) > 1 else 4)
    return bounds._replace(lowest=max(bounds.lowest, begin_at))


def planned_generator_s() -> float:
    """Return how many seconds the searches should take."""
    one_s = ATTEMPTS * (WARMUP_S + SECONDS + ATTEMPT_OVERHEAD_S)
    return one_s + FURTHER_ATTEMPTS * (WARMUP_S + SECONDS + WITH_WORKERS_S)


class GeneratorTrial:
    """Loads a fast server on the contender's CPUs, with the Locust process and the samples of a real block."""

    def __init__(self, supervisor: Supervisor, placement: Placement, check: Callable[[], None]) -> None:
        self.supervisor = supervisor
        self.placement = placement
        self.check = check

    def run(
        self,
        processes: int,
        seed: int,
        bounds: Bounds = BOUNDS,
        tell: Callable[[Attempt], None] = lambda _: None,
    ) -> Generator:
        """Return how fast so many processes are; ``tell`` gets each attempt. Raises LabError where Locust fails."""
        host = self._serve()

        def attempt(rate: float) -> Attempt:
            tell(one := self._attempt(host, rate, processes, seed, bounds.seconds))
            return one

        try:
            return generator(processes, search(attempt, bounds))
        finally:
            self.supervisor.stop("server", grace_s=1)

    def _serve(self) -> str:
        port = free_port()
        server = self.supervisor.start(
            "server",
            [sys.executable, "-m", "lab.fast_server", str(port)],
            {},
            cwd=PROJECT,
            cpus=cpus(self.placement.contender, self.placement),
            log=self.supervisor.directory / "server.log",
        )
        host = f"http://127.0.0.1:{port}"
        wait_until_up([server], port, lambda: check_health(f"{host}/"))
        return host

    def _attempt(self, host: str, rate: float, processes: int, seed: int, seconds: float) -> Attempt:
        scenario = ScenarioRecord(
            name="generator",
            users="requests",
            rate=rate,
            arrivals="poisson",
            warmup_s=WARMUP_S,
            duration_s=seconds,
            requests=[RequestRecord(method="GET", path="/work")],
            bystanders=False,
        )
        folder = self.supervisor.directory
        samples = folder / f"{processes}-{rate:g}.jsonl"
        command = load.locust_command(scenario, host, seed, samples, generators=processes)
        generator_cpus = cpus(self.placement.generator, self.placement)
        log = folder / "locust.log"
        load.drive(self.supervisor, command, generator_cpus, log, WARMUP_S + seconds, self.check)
        found = _read(rate, samples)
        samples.unlink()
        return found


def _read(rate: float, samples: Path) -> Attempt:
    """Return what the samples of an attempt say."""
    footer = load.read_footer(samples)
    with duckdb.cursor() as db:
        row = db.execute(
            "SELECT count(*), count(*) - count_if(outcome = 'acknowledged'), "
            "quantile_disc(coalesce((sent_ns - intended_ns) / 1e6, 'inf'::DOUBLE), 0.99) "
            "FROM read_json($samples, format = 'newline_delimited', columns = $columns) WHERE phase = 'window'",
            {"samples": no_glob(samples), "columns": load.SAMPLE_COLUMNS},
        ).fetchone()
    assert row is not None
    requests, failed, lateness_p99_ms = row
    return Attempt(
        rate=rate,
        requests=requests,
        failed=failed,
        lateness_p99_ms=math.inf if lateness_p99_ms is None else lateness_p99_ms,
        loop_lag_p99_ms=footer.get("loop_lag_p99_ms", math.inf),
        real_time=bool(footer.get("real_time")),
    )


def generator(processes: int, found: Found) -> Generator:
    """Return what a search has found, as the calibration has it."""
    best, worst = found
    return Generator(
        processes=processes,
        rate=best.rate if best else None,
        lateness_p99_ms=best.lateness_p99_ms if best else None,
        too_fast=worst.rate if worst else None,
        real_time=best.real_time if best else None,
    )
