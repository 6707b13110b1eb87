"""`lab calibrate`: the instrument tested against servers whose latency is known exactly.

Each server is a contender and comes under load in a block like any other; what the lab reports of it is compared with
what the schedule and the server's rule make it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from lab import load
from lab.calibration import FILE
from lab.compare import begin, conclude, measure, place_or_refuse
from lab.contenders import fill, load_contenders
from lab.environment import PROJECT
from lab.errors import COULD_NOT_MEASURE, LabError
from lab.generator import BOUNDS, GeneratorTrial, bounds_of_several, planned_generator_s, processes_to_try
from lab.instrument_cost import CostTrial, planned_cost_s
from lab.interrupt import Interrupt, Interrupted
from lab.known_latency import beside_the_truth
from lab.known_servers import SERVERS
from lab.planted import plant_and_look
from lab.priority import off_the_contenders_cpus, stepped_back
from lab.progress import duration
from lab.report.summary import Calibration, Cost, Generator, KnownServer, Latency, Planted
from lab.run import plan_blocks, planned_seconds
from lab.rundir import (
    CALIBRATE,
    BlockRecord,
    ContenderRecord,
    Placement,
    Plan,
    RequestRecord,
    RunDir,
    RunRecord,
    ScenarioRecord,
    block_folder,
)
from lab.scenario import load_scenarios
from lab.stacks.health import check_health
from lab.stacks.local import Servers, cpus
from lab.stacks.servers import free_port, wait_until_up
from lab.stacks.supervisor import Supervisor

# Two whole periods of the server that stalls.
DURATION_S = 20.0
# A request that comes a moment after the beginning of a stall in place of before it moves every percentile by one gap.
RATE = 200.0
CLOSED_LOOP_OVERHEAD_S = 3.0
# In the files of whose blocks faults are planted.
REAL = ["inline", "celery"]
COST_TRIED_ON = ["inline"]


@dataclass
class Trials:
    """What was found in the trials that come after the blocks, and which of them failed and why."""

    closed_loops: dict[str, Latency] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    generators: list[Generator] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def one_of(self, what: str) -> Iterator[None]:
        """Try something: where it fails, a sentence says why, and what was found before is kept."""
        try:
            yield
        except Interrupted:
            raise
        except LabError as error:
            self.failed.append(f"{what} could not be tried: {error}")


def calibration_plan(seed: int) -> Plan:
    """Return the plan of a calibration: each known server at a constant rate, and real blocks to plant faults in."""
    command = ["{python}", "-m", "lab.known_servers"]
    servers = [
        ContenderRecord(name=name, title=server.title, api=[*command, name, "{port}"], journal=False, slots="no tasks")
        for name, server in SERVERS.items()
    ]
    known = ScenarioRecord(
        name="known",
        users="requests",
        rate=RATE,
        arrivals="constant",
        warmup_s=2,
        duration_s=DURATION_S,
        requests=[RequestRecord(method="GET", path="/work")],
        bystanders=False,
        description="servers whose latency is known exactly",
    )
    return Plan(
        command=CALIBRATE,
        seed=seed,
        rounds=1,
        quick=False,
        stack="local",
        contenders=[*servers, *(load_contenders(PROJECT / "contenders.toml")[name] for name in REAL)],
        scenarios=[known, load_scenarios(PROJECT / "scenarios")["mixed"].model_copy(update={"duration_s": DURATION_S})],
        horizon_s=15,
    )


def calibration_blocks(plan: Plan) -> list[BlockRecord]:
    """Return the blocks of a calibration: each contender under the one load that is meant for it."""
    meant = {contender.name: plan.scenarios[contender.name not in SERVERS].name for contender in plan.contenders}
    blocks = [block for block in plan_blocks(plan) if block.scenario == meant[block.contender]]
    for number, block in enumerate(blocks, start=1):
        block.number, block.folder = number, block_folder(number, block.contender, block.scenario)
    return blocks


def calibrate(plan: Plan, out: Path, console: Console, as_json: bool) -> int:
    """Test the instrument in a new run directory under ``out``; return the exit status of the contract.

    That is 1 where a trial failed; what the others found is kept and reported.
    """
    interrupt = Interrupt()
    placement = place_or_refuse(plan.stack)
    blocks = calibration_blocks(plan)
    closed_loops_s = len(_known(plan)) * (plan.scenarios[0].duration_s + CLOSED_LOOP_OVERHEAD_S)
    costs_s = sum(planned_cost_s() for contender in plan.contenders if contender.name in COST_TRIED_ON)
    blocks_s = sum(planned_seconds(plan, blocks).values())
    planned_s = blocks_s + closed_loops_s + costs_s + planned_generator_s()
    names = ", ".join(contender.name for contender in _known(plan))
    console.print(f"Servers of known latency: {names}. About {duration(planned_s)}. Seed {plan.seed}.", highlight=False)
    directory, run = begin(plan, blocks, placement, out)
    trials = Trials()
    with directory.claim():
        measure(directory, run, interrupt, console)
        if not run.interrupted:
            _conclude_calibration(directory, run, trials, interrupt, console)
    status = conclude(directory, console, as_json)
    return COULD_NOT_MEASURE if trials.failed else status


def _conclude_calibration(
    directory: RunDir, run: RunRecord, trials: Trials, interrupt: Interrupt, console: Console
) -> None:
    """Ask each server in a closed loop too, try what the instrument costs, and write down what all that says of it."""
    try:
        with off_the_contenders_cpus(run.environment.placement):
            _closed_loops(directory, run, trials, interrupt, console)
            _costs(directory, run, trials, interrupt, console)
            _generators(directory, run, trials, interrupt, console)
    except Interrupted:
        run.interrupted = True
        directory.write(run)
        return
    directory.write_text(FILE, judge(directory, run, trials).model_dump_json(indent=2))


def _known(plan: Plan) -> list[ContenderRecord]:
    """Return the contenders of a plan whose latency is known."""
    return [contender for contender in plan.contenders if contender.name in SERVERS]


# The trials after the blocks


def _closed_loops(directory: RunDir, run: RunRecord, trials: Trials, interrupt: Interrupt, console: Console) -> None:
    """Find what Locust's own closed loop reports of each server."""
    for_s = run.plan.scenarios[0].duration_s
    for contender in _known(run.plan):
        console.print(f"closed loop  {contender.name}", highlight=False)
        with (
            trials.one_of(f"{contender.name} in a closed loop"),
            Supervisor(directory.path / "closed-loop") as supervisor,
        ):
            closed_loop = partial(
                _closed_loop, supervisor, contender, run.environment.placement, for_s, interrupt.check
            )
            trials.closed_loops[contender.name] = stepped_back(closed_loop)


def _closed_loop(
    supervisor: Supervisor, contender: ContenderRecord, placement: Placement, for_s: float, check: Callable[[], None]
) -> Latency:
    folder, port = supervisor.directory, free_port()
    command = fill(contender.api, port, len(placement.contender))
    log = folder / f"{contender.name}.log"
    server = supervisor.start(
        contender.name, command, {}, cwd=PROJECT, cpus=cpus(placement.contender, placement), log=log
    )
    host = f"http://127.0.0.1:{port}"
    wait_until_up([server], port, lambda: check_health(host + contender.health))
    reported = folder / f"{contender.name}.json"
    locust = load.closed_loop_command("Paced", host, for_s, reported)
    load.drive(
        supervisor, locust, cpus(placement.generator, placement), folder / f"{contender.name}-locust.log", for_s, check
    )
    supervisor.stop(contender.name, grace_s=1)
    return Latency.model_validate(json.loads(reported.read_text())["latency"])


def _costs(directory: RunDir, run: RunRecord, trials: Trials, interrupt: Interrupt, console: Console) -> None:
    """Find what journal and sampler cost the contenders on which that is tried."""
    for contender in run.plan.contenders:
        if contender.name in COST_TRIED_ON:
            console.print(f"cost  {contender.name}", highlight=False)
            with (
                trials.one_of(f"What journal and sampler cost {contender.name}"),
                Supervisor(directory.path / "cost") as supervisor,
                Servers(supervisor, run.environment.placement) as servers,
            ):
                trial = CostTrial(supervisor, servers, contender, interrupt.check)
                trials.costs += stepped_back(partial(trial.run, run.plan.seed))


def _generators(directory: RunDir, run: RunRecord, trials: Trials, interrupt: Interrupt, console: Console) -> None:
    """Find how fast the load generator is by itself."""
    placement, found = run.environment.placement, trials.generators
    with trials.one_of("The load generator alone"), Supervisor(directory.path / "generator") as supervisor:
        trial = GeneratorTrial(supervisor, placement, interrupt.check)
        for processes in processes_to_try(placement):
            console.print(f"generator  {processes} process{'' if processes == 1 else 'es'}", highlight=False)
            bounds = bounds_of_several(BOUNDS, found[0], placement) if found else BOUNDS
            found.append(stepped_back(partial(trial.run, processes, run.plan.seed, bounds)))


# what all that says


def judge(directory: RunDir, run: RunRecord, trials: Trials) -> Calibration:
    """Return what the instrument made of each server and each planted fault; void blocks are not judged."""
    known = run.plan.scenarios[0]
    servers: list[KnownServer] = []
    planted: list[Planted] = []
    not_judged: list[str] = []
    for contender in run.plan.contenders:
        own = [block for block in run.blocks if block.contender == contender.name]
        valid = next((block for block in own if block.valid), None)
        if valid is None:
            not_judged.append(f"{contender.name} was not judged: {' '.join(own[-1].why)}")
        elif contender.name in SERVERS:
            closed_loop = trials.closed_loops.get(contender.name, Latency())
            servers.append(beside_the_truth(directory.block(valid), valid, known, contender, closed_loop))
        elif found := plant_and_look(directory.block(valid), valid, run.plan.seed):
            planted += found
        else:
            not_judged.append(f"{contender.name} was not judged: it has too few tasks to plant faults in.")
    return Calibration(
        run=directory.path.name,
        made_at=datetime.now(UTC),
        git_commit=run.git_commit,
        environment=run.environment,
        servers=servers,
        planted=planted,
        costs=trials.costs,
        generators=trials.generators,
        not_judged=[*not_judged, *trials.failed],
    )
