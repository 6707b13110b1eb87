"""The load: Locust as a subprocess, and its raw samples as a table."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import duckdb

from lab import awake
from lab.environment import PROJECT
from lab.errors import LabError
from lab.globs import no_glob
from lab.rundir import ScenarioRecord
from lab.stacks.servers import free_port
from lab.stacks.supervisor import StackError, Supervisor

BYSTANDERS_PER_S = 20
IN_FLIGHT_CAP = 1000
# A request may take its time-out of 10 s after the last arrival; what is not back by then is Locust's own fault.
GRACE_S = 30
# Locust's exit status where the load was put on, but not by all of its workers to the end.
LOST_A_WORKER = 3

# No line of the samples is longer.
LAST_LINE_BYTES = 65_536

SAMPLE_COLUMNS = {
    "seq": "BIGINT",
    "stream": "VARCHAR",
    "phase": "VARCHAR",
    "route": "VARCHAR",
    "request_id": "VARCHAR",
    "tasks": "INTEGER",
    "intended_ns": "BIGINT",
    "sent_ns": "BIGINT",
    "ended_ns": "BIGINT",
    "status": "INTEGER",
    "outcome": "VARCHAR",
    "error": "VARCHAR",
    "contender": "VARCHAR",
}


def locust_command(
    scenario: ScenarioRecord,
    host: str,
    seed: int,
    samples: Path,
    may_load: Sequence[str] = (),
    generators: int = 1,
    ids: str | None = None,
) -> list[str]:
    """Return the command that puts a scenario's load on a host and writes its raw samples.

    With ``ids``, any text, no other load has the same request ids, although the seed may be the same.
    Several generators are a Locust master, on a free port, and its workers. Requests that the scenario describes itself
    go into a file beside the samples.
    """
    options = {
        "--host": host,
        "--scenario": scenario.users,
        "--rate": scenario.rate,
        "--warmup": scenario.warmup_s,
        "--duration": scenario.duration_s,
        "--arrivals": scenario.arrivals,
        "--seed": seed,
        "--ids": ids,
        "--bystanders": BYSTANDERS_PER_S if scenario.bystanders else 0,
        "--in-flight": IN_FLIGHT_CAP,
        "--samples": samples,
        "--probe-work": scenario.probe_work,
        "--probe-seconds": scenario.probe_seconds,
        "--requests": _write_requests(scenario, samples.with_name("requested.json")),
    }
    locustfile = str(PROJECT / "loadtests" / "locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", locustfile, "--headless"]
    command += [str(part) for pair in options.items() if pair[1] is not None for part in pair]
    if generators > 1:
        port = str(free_port())
        command += ["--processes", str(generators), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    return command + [part for host in may_load for part in ("--i-may-load", host)]


def _write_requests(scenario: ScenarioRecord, file: Path) -> Path | None:
    if not scenario.requests:
        return None
    file.write_text(json.dumps([request.model_dump() for request in scenario.requests]))
    return file


def closed_loop_command(users: Literal["Paced", "FlatOut"], host: str, duration_s: float, reported: Path) -> list[str]:
    """Return the command of Locust's own closed loop: ten users, at ten requests a second each or as fast as they can.

    What Locust reports it writes into a file.
    """
    options = {"--host": host, "--users": 10, "--spawn-rate": 10, "--run-time": f"{duration_s:g}s"}
    options |= {"--reported": reported, "--exit-code-on-error": 0}
    command = [sys.executable, "-m", "locust", "-f", str(PROJECT / "loadtests" / "closed_loop.py"), users, "--headless"]
    return [*command, "--only-summary", *(str(part) for pair in options.items() for part in pair)]


def drive(
    supervisor: Supervisor,
    command: list[str],
    cpus: list[int] | None,
    log: Path,
    planned_s: float,
    tick: Callable[[], None],
) -> None:
    """Run Locust to its end, calling ``tick`` four times a second. Raises LabError where it fails or never ends.

    One of its workers may be lost: that makes the block void, which the last line of the samples says. Where this is a
    virtual machine, CPUs that are Locust's alone are kept awake meanwhile.
    """
    with _kept_awake(supervisor, cpus or [], log):
        locust = supervisor.start("locust", command, {}, cwd=PROJECT, cpus=cpus, log=log)
        deadline = time.monotonic() + planned_s + GRACE_S
        try:
            while (status := locust.poll()) is None:
                if time.monotonic() > deadline:
                    raise LabError(f"The load generator did not end within {planned_s + GRACE_S:.0f} s; see {log}.")
                tick()
                time.sleep(0.25)
        except BaseException:  # the next block needs a load of its own
            with suppress(StackError):  # why it was broken off is what counts
                supervisor.stop("locust", grace_s=1)
            raise
    if status not in (0, LOST_A_WORKER):
        raise LabError(f"The load generator ended with status {status}; see {log}.")


@contextmanager
def _kept_awake(supervisor: Supervisor, cpus: list[int], log: Path) -> Iterator[None]:
    names = {f"awake-{cpu}": cpu for cpu in cpus} if awake.is_due() else {}
    try:
        for name, cpu in names.items():
            supervisor.start(name, awake.command(cpu, supervisor.pid), {}, cwd=PROJECT, log=log)
        yield
    finally:
        for name in names:
            with suppress(StackError):
                supervisor.stop(name, grace_s=1)


def read_header(samples: Path) -> dict[str, Any]:
    """Return the first line of a samples file: the clock's anchor and the bounds of the window."""
    with samples.open() as lines:
        header: dict[str, Any] = json.loads(next(lines))
    return header


def read_footer(samples: Path) -> dict[str, Any]:
    """Return the last line of a samples file; empty where the file was cut off before it."""
    with samples.open("rb") as file:
        file.seek(-min(samples.stat().st_size, LAST_LINE_BYTES), os.SEEK_END)
        last = file.read().rstrip().rpartition(b"\n")[2]
    footer: dict[str, Any] = json.loads(last) if last else {}
    return footer if {"loop_lag_p99_ms", "workers_lost"} & footer.keys() else {}


def samples_to_parquet(samples: Path, table: Path, contender: str | None = None) -> None:
    """Write the rows of a samples file as Parquet, without its first and last line: one contender's where named."""
    with duckdb.cursor() as db:
        rows = db.sql(
            "SELECT * EXCLUDE contender FROM read_json($samples, format='newline_delimited', columns=$columns) "
            "WHERE seq IS NOT NULL AND ($contender IS NULL OR contender = $contender) ORDER BY seq",
            params={"samples": no_glob(samples), "columns": SAMPLE_COLUMNS, "contender": contender},
        )
        assert rows is not None
        rows.write_parquet(str(table))
