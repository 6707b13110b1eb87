"""Makes whole run directories of synthetic blocks, settled and judged as the lab does it."""

from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from lab import ledger, validity
from lab.rundir import (
    BlockRecord,
    BrokerUsage,
    ContenderRecord,
    Environment,
    Placement,
    Plan,
    RunDir,
    RunRecord,
    ScenarioRecord,
    block_folder,
)
from tests.blockmaker import INSTRUMENT, MS, ROUTES, Block, write_parquet

RESOURCE_COLUMNS = {
    "t_ns": "BIGINT", "role": "VARCHAR", "pid": "BIGINT", "cpu_s": "DOUBLE", "rss_bytes": "BIGINT",
    "pss_bytes": "BIGINT",
}  # fmt: skip


def loaded_block(contender: str, random: Random, slowness: float, requests: int = 40, losses: int = 0) -> Block:
    """Return a block whose requests take about 5 ms × slowness, and whose first ``losses`` actions are lost."""
    block = Block(contender)
    for number in range(requests):
        route = sorted(ROUTES)[number % len(ROUTES)] if number >= losses else "POST /action"
        took_ns = int(5 * MS * slowness * random.lognormvariate(0, 0.3))
        tasks = block.request(route)
        block.requests[-1]["ended_ns"] = block.requests[-1]["sent_ns"] + took_ns
        for task in tasks:
            block.event(task, ROUTES[route], "accepted", block.api)
            if number >= losses:
                block.run(task, ROUTES[route], ms=20 * slowness * random.lognormvariate(0, 0.2))
        for ping in ("GET /ping/loop", "GET /ping/thread"):
            block.request(ping, stream="bystander", status=200)
    return block


def plan(contenders: list[str], rounds: int, **changes: Any) -> Plan:
    """Return a plan of one scenario."""
    described = [
        ContenderRecord(name=name, title=f"the {name} app", api=["python", "-m", "uvicorn"], slots="40 threads",
                        broker="redis" if name.startswith("celery") else None)
        for name in contenders
    ]  # fmt: skip
    scenario = ScenarioRecord(
        name="mixed", users="mixed", rate=20, arrivals="poisson", warmup_s=2, duration_s=12, description="every route"
    )
    default: dict[str, Any] = {
        "command": "compare", "seed": 7, "rounds": rounds, "quick": False, "stack": "local", "horizon_s": 15,
        "contenders": described, "scenarios": [scenario],
    }  # fmt: skip
    return Plan.model_validate(default | changes)


def empty_run(plan: Plan, cpus: int = 1) -> RunRecord:
    """Return the record of a run that has just begun: every block planned."""
    environment = Environment(
        cpu="Some CPU", cores=2, affinity=[0, 1], os="Linux", python="CPython 3.11", memory_bytes=8 << 30,
        packages={"celery": "5.7.0"}, servers={"redis": "9.1"},
        placement=Placement(contender=list(range(cpus)), generator=[9], pinned=True),
    )  # fmt: skip
    blocks: list[BlockRecord] = []
    for round_number in range(1, plan.rounds + 1):
        for contender, scenario in product(plan.contenders, plan.scenarios):
            number = len(blocks) + 1
            folder = block_folder(number, contender.name, scenario.name)
            blocks.append(
                BlockRecord(number=number, round=round_number, seed=0, contender=contender.name,
                            scenario=scenario.name, folder=folder, state="planned")
            )  # fmt: skip
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return RunRecord(started_at=started, git_commit="0" * 40, plan=plan, environment=environment, blocks=blocks)


def finish(directory: RunDir, record: BlockRecord, block: Block, **instrument: float) -> None:
    """Write a block's folder, settle and judge it, and note that in its record."""
    folder = directory.block(record)
    ledger.settle(block.write(folder))
    _write_resources(block, folder)
    due = [row["intended_ns"] for row in block.requests]
    record.window_start_ns, record.window_end_ns, record.drained_ns = min(due), max(due), block.now_ns
    record.instrument = INSTRUMENT | instrument
    if block.celery:
        record.broker = BrokerUsage(memory_bytes=4_000_000, net_bytes=600_000)
    record.why = validity.judge(folder, record)
    record.valid, record.state = not record.why, "finished"


def _write_resources(block: Block, folder: Path) -> None:
    """Write samples of two processes: 1 s of CPU time before the window, 2 s in it, 100 and 50 MB."""
    start_ns = block.requests[0]["intended_ns"]
    rows = [
        {"t_ns": start_ns + offset, "role": role, "pid": pid, "cpu_s": cpu_s, "rss_bytes": 2 * pss, "pss_bytes": pss}
        for role, pid, pss in (("api", 1, 100_000_000), ("worker", 2, 50_000_000))
        for offset, cpu_s in ((-1, 1.0), (1, 1.5), (2, 3.0))
    ]
    write_parquet(rows, RESOURCE_COLUMNS, folder / "resources.parquet")


def make_run(path: Path, slowness: dict[str, float], rounds: int = 5, **changes: Any) -> Path:
    """Write a finished run of the contenders; each takes so many times 5 ms, with noise. Return its directory."""
    random = Random(11)
    path.mkdir(parents=True)
    directory = RunDir(path)
    run = empty_run(plan(list(slowness), rounds, **changes))
    for record in run.blocks:
        noise = random.lognormvariate(0, 0.03)
        finish(directory, record, loaded_block(record.contender, random, slowness[record.contender] * noise))
    directory.write(run)
    return path
