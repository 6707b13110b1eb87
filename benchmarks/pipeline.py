"""What ledger, statistics and report of a run take: ``python -m benchmarks.pipeline``.

A run of so many requests and half as many tasks again is made up, with the files that the lab leaves: two contenders
in one round, and each once more with four kills of its API. It is then settled, judged and reported by a process of
its own, whose time and peak memory are printed. With ``--one-block`` all of it is one block, which needs the most
memory.
"""

# ruff: noqa: S608 - the SQL is put together from what stands here

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from lab import environment, ledger, report, validity
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.run import plan_blocks
from lab.rundir import BlockRecord, Plan, RunDir, RunRecord
from lab.scenario import load_scenarios

SIZES = [10_000, 100_000, 1_000_000]
RATE = 1_000
START_NS = 1_000_000_000_000
INSTRUMENT = {"loop_lag_p99_ms": 0.3, "loop_lag_max_ms": 1.0, "clock_step_ms": 0.0, "steal_share": 0.0}
# Of eight requests two have three tasks each, so that there are half as many tasks again as requests.
KINDS = [
    ("POST /multi-tasks", "step", 3),
    ("POST /action", "write_log", 1),
    ("POST /register", "send_email", 1),
    ("POST /upload", "process_document", 1),
    ("POST /multi-tasks", "step", 3),
    ("POST /chat", "log_conversation", 1),
    ("POST /async-task", "async_task", 1),
    ("POST /probe", "probe_blocking", 1),
]
EVIDENCE = {
    "actions.log": "SELECT task_id, ended_ns AS t_ns, 'The night job was started.' AS message FROM tasks "
    "WHERE job = 'write_log'",
    "mail.jsonl": "SELECT task_id, ended_ns AS t_ns, ['user@example.com'] AS \"to\", 'Welcome' AS subject FROM tasks "
    "WHERE job = 'send_email'",
    "effects.log": "SELECT task_id, ended_ns AS t_ns, job FROM tasks "
    "WHERE job IN ('step', 'async_task', 'probe_blocking')",
    "rows.jsonl": "SELECT if(job = 'process_document', 'document', 'conversation') AS kind, task_id, 'ready' AS status "
    "FROM tasks WHERE job IN ('process_document', 'log_conversation')",
}
INJECTIONS = 4
# How many tasks each kill takes with it, at least.
KILLED = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Make up runs, and print what each takes."""
    parser = ArgumentParser(description="What ledger, statistics and report of a run take.")
    parser.add_argument("--requests", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one-block", action="store_true", help="all requests in one block with a fault")
    options = parser.parse_args(arguments)
    parts = ["ledger", "validity", "report", "in all"]
    print(f"{'requests':>10} {'tasks':>10} {'blocks':>6} " + " ".join(f"{part:>9}" for part in parts) + f" {'peak':>9}")
    for requests in options.requests:
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            _in_a_process_of_its_own("make", run, requests, "one" if options.one_block else "four")
            took = json.loads(_in_a_process_of_its_own("settle", run))
        times = " ".join(f"{took[part]:>7.2f} s" for part in parts)
        counts = f"{took['requests']:>10,} {took['tasks']:>10,} {took['blocks']:>6}"
        print(f"{counts} {times} {took['peak_bytes'] / 1e6:>6,.0f} MB", flush=True)


def _in_a_process_of_its_own(*arguments: object) -> str:
    """Run a step apart, so that its memory is its own; return what it prints."""
    command = [sys.executable, "-m", "benchmarks.pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout


# A run, made up


def make_run(path: Path, requests: int, one_block: bool) -> None:
    """Write the directory of a run whose blocks are finished and not yet settled."""
    contenders = load_contenders(PROJECT / "contenders.toml")
    scenario = load_scenarios(PROJECT / "scenarios")["mixed"]
    blocks = 1 if one_block else 4
    plan = Plan(
        command="compare",
        seed=1,
        rounds=0 if one_block else 1,
        quick=False,
        stack="local",
        contenders=[contenders[name] for name in (["celery"] if one_block else ["inline", "celery"])],
        scenarios=[scenario.model_copy(update={"rate": RATE, "duration_s": requests / blocks / RATE})],
        horizon_s=15,
        faults=["api-kill"],
    )
    (path / "blocks").mkdir(parents=True)
    run = RunRecord(
        started_at=datetime.now(UTC),
        git_commit=environment.git_commit(),
        plan=plan,
        environment=environment.describe(environment.place(environment.available_cpus()), servers={}),
        blocks=plan_blocks(plan),
    )
    directory = RunDir(path)
    for block in run.blocks:
        make_block(directory.block(block), block, requests // blocks)
    directory.write(run)


def make_block(folder: Path, block: BlockRecord, requests: int) -> None:
    """Write the files of a block whose tasks were all done, but for some that died with the API where it was killed."""
    journal = folder / "evidence" / "journal"
    journal.mkdir(parents=True)
    (folder / "logs").mkdir()
    block.state, block.instrument = "finished", INSTRUMENT
    block.window_start_ns, block.window_end_ns = START_NS, START_NS + requests * 1_000_000_000 // RATE
    block.drained_ns = block.window_end_ns + 1_000_000_000
    kills_ns = [START_NS + requests * 1_000_000 * (2 * n + 1) // (2 * INJECTIONS) for n in range(INJECTIONS)]
    block.injections = INJECTIONS if block.fault else None
    with duckdb.connect() as db:
        _make_requests(db, block, requests, kills_ns if block.fault else [])
        db.execute(f"COPY (SELECT * EXCLUDE job FROM requests) TO '{folder / 'requests.parquet'}' (FORMAT parquet)")
        _make_journals(db, journal, block.contender)
        db.execute("DELETE FROM tasks WHERE killed")
        for name, rows in EVIDENCE.items():
            db.execute(f"COPY ({rows}) TO '{folder / 'evidence' / name}' (FORMAT json)")
        _make_resources(db, folder, block)
    _write_lines(folder / "evidence" / "processes.jsonl", _processes(block, kills_ns if block.fault else []))
    if block.contender == "celery":
        (folder / "evidence" / "broker.json").write_text('{"queue": [], "unacked": []}')
    faults = [_injection(at_ns) for at_ns in kills_ns] if block.fault else []
    (folder / "faults.json").write_text(json.dumps(faults))


def _make_requests(db: duckdb.DuckDBPyConnection, block: BlockRecord, requests: int, kills_ns: list[int]) -> None:
    """Tables ``requests`` and ``tasks``; killed are the tasks of the requests just before a kill."""
    ledger.define_functions(db)
    db.execute("CREATE TABLE kinds (nth INTEGER, route VARCHAR, job VARCHAR, tasks INTEGER)")
    db.executemany("INSERT INTO kinds VALUES (?, ?, ?, ?)", [(nth, *kind) for nth, kind in enumerate(KINDS)])
    db.execute(
        """
        CREATE TABLE requests AS
        SELECT seq, job, 'load' AS stream, 'window' AS phase, route, tasks,
               md5($salt || seq)::UUID::VARCHAR AS request_id,
               $start_ns + seq * $gap_ns AS intended_ns, intended_ns + 100_000 AS sent_ns,
               sent_ns + 1_000_000 + (hash(seq) % 5_000_000)::BIGINT AS ended_ns, 202 AS status,
               'acknowledged' AS outcome, NULL::VARCHAR AS error
        FROM range($requests) AS r(seq) JOIN kinds ON nth = seq % $kinds ORDER BY seq
        """,
        {
            "salt": f"{block.number}/",
            "start_ns": START_NS,
            "gap_ns": 1_000_000_000 // RATE,
            "requests": requests,
            "kinds": len(KINDS),
        },
    )
    db.execute(
        """
        CREATE TABLE tasks AS
        SELECT task_id_of(request_id, position)::VARCHAR AS task_id, job, seq, position,
               sent_ns + 900_000 AS accepted_ns, accepted_ns + 1_000_000 * (position + 1) AS started_ns,
               started_ns + 500_000 AS ended_ns,
               len([at_ns FOR at_ns IN $kills_ns::BIGINT[] IF at_ns - intended_ns BETWEEN 1 AND $killed_ns]) > 0
                   AS killed
        FROM (SELECT *, unnest(range(tasks)) AS position FROM requests)
        ORDER BY accepted_ns, position
        """,
        {"kills_ns": kills_ns, "killed_ns": KILLED * 1_000_000_000 // RATE},
    )


def _make_journals(db: duckdb.DuckDBPyConnection, journal: Path, contender: str) -> None:
    """Write what each process journaled: one of `inline` does everything, `celery` has an API and two workers."""
    events = "SELECT task_id, job, '{0}' AS event, {0}_ns AS t_ns, 1 AS attempt FROM tasks"
    accepted, started, succeeded = events.format("accepted"), events.format("started"), events.format("ended")
    succeeded = succeeded.replace("'ended'", "'succeeded'") + " WHERE NOT killed"
    if contender == "inline":
        _make_journal(db, journal, "inline-api", 100, [accepted, started, succeeded])
        return
    _make_journal(db, journal, "celery-api", 100, [accepted])
    for worker in range(2):
        own = f"seq % 2 = {worker}"
        _make_journal(db, journal, "celery-worker", 101 + worker, [f"{started} WHERE {own}", f"{succeeded} AND {own}"])


def _make_journal(db: duckdb.DuckDBPyConnection, journal: Path, service: str, pid: int, events: list[str]) -> None:
    part = journal / "part"
    db.execute(f"COPY (FROM ({' UNION ALL '.join(events)}) ORDER BY t_ns) TO '{part}' (FORMAT json)")
    anchor = {"boot_id": "b", "wall_ns": START_NS, "monotonic_ns": START_NS, "service": service}
    with (journal / f"{service}-host-{pid}-00000000.jsonl").open("wb") as file, part.open("rb") as lines:
        file.write(json.dumps(anchor).encode() + b"\n")
        shutil.copyfileobj(lines, file)
    part.unlink()


def _make_resources(db: duckdb.DuckDBPyConnection, folder: Path, block: BlockRecord) -> None:
    """Write two samples a second of six processes."""
    db.execute(
        f"""
        COPY (SELECT t_ns, role, pid, (t_ns - {START_NS}) / 1e10 AS cpu_s, 90_000_000 AS rss_bytes,
                     70_000_000 AS pss_bytes
              FROM range({block.window_start_ns}, {block.drained_ns}, 500_000_000) AS r(t_ns),
                   (VALUES ('api', 100), ('worker', 101), ('worker', 102), ('broker', 103), ('postgres', 104),
                           ('generator', 105)) AS p(role, pid))
        TO '{folder / "resources.parquet"}' (FORMAT parquet)
        """
    )


def _processes(block: BlockRecord, kills_ns: list[int]) -> list[dict[str, Any]]:
    """Return the records of the API, killed now and then, and of the end of the block."""
    known = {"kind": "service", "name": "api", "hostname": "host", "pid": 100}
    ended = [
        known | {"event": "ended", "t_ns": at_ns, "started_ns": START_NS, "status": None, "signal": 9}
        for at_ns in kills_ns
    ]
    stopping = {"event": "stopping", "pid": None, "name": None, "hurried": False, "t_ns": block.drained_ns}
    return [known | {"event": "started", "t_ns": START_NS, "started_ns": START_NS}, *ended, stopping]


def _injection(at_ns: int) -> dict[str, Any]:
    healed = {"ended_ns": at_ns + 1_000_000, "healed_ns": at_ns + 1_500_000_000}
    return {"fault": "api-kill", "injected_ns": at_ns, "pids": [100], "confirmed": True, "absent": []} | healed


def _write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


# What is timed


def settle_and_report(path: Path) -> dict[str, float]:
    """Settle, judge and report a run; return the seconds of each, the peak memory in bytes, and what was counted."""
    directory = RunDir(path)
    run = directory.read()
    took = dict.fromkeys(("ledger", "validity", "report"), 0.0)
    began_s = time.perf_counter()
    for block in run.blocks:
        ledger.settle(directory.block(block))
        took["ledger"] += (settled_s := time.perf_counter()) - began_s
        block.why = validity.judge(directory.block(block), block)
        block.valid = not block.why
        took["validity"] += (began_s := time.perf_counter()) - settled_s
    directory.write(run)
    summary = report.write(path)
    took["report"] = time.perf_counter() - began_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    counted = {"blocks": len(run.blocks), "tasks": sum(share.count for share in summary.shares)}
    counted["requests"] = sum(_rows(directory.block(block) / "requests.parquet") for block in run.blocks)
    return took | {"in all": sum(took.values()), "peak_bytes": peak} | counted


def _rows(table: Path) -> int:
    row = duckdb.execute("SELECT count(*) FROM read_parquet($table)", {"table": str(table)}).fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", path, requests, blocks]:
            make_run(Path(path), int(requests), one_block=blocks == "one")
        case ["settle", path]:
            print(json.dumps(settle_and_report(Path(path))))
        case _:
            main()
