"""One experiment: the plan's blocks, run one after another, each on a fresh stack."""

import json
import math
import random
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from lab import ledger, load, validity
from lab.broker_usage import BrokerMeter
from lab.clock import ClockReading, steal_share
from lab.contenders import THREADS
from lab.drain import JournalTail, acknowledged_tasks, drain
from lab.errors import LabError
from lab.faults import FAULTS, LEAD_S, Nemesis, as_planned
from lab.interrupt import Interrupt, Interrupted
from lab.left_over import LeftOver
from lab.progress import Progress
from lab.pulse import Pulse
from lab.rundir import BlockRecord, Plan, RunDir, RunRecord, ScenarioRecord, block_folder
from lab.sampler import Sampler, others_share
from lab.stacks.local import STOP_GRACE_S
from lab.stacks.stack import Stack, Testbed
from lab.stacks.supervisor import Supervisor

# What a block takes besides its load: start, drain, stop, ledger. Measured with `make compare` on two cores.
BLOCK_OVERHEAD_S = 3.5
FAULT_OVERHEAD_S = 5.5
# After it the client gives up a request, and the load ends only when the last one has ended.
CLIENT_TIMEOUT_S = 10.0
# No void block is measured again where a run's blocks would then take longer than this, which is eight minutes with
# servers and report; or, where it was planned to take longer, than that and the share of blocks that may be repeated,
# a tenth at most.
REPEATS_WITHIN_S = 470.0
MOST_REPEATED = 0.1
# Seeds of fault blocks start well above those of the rounds.
FAULT_SEEDS = 10_000


def plan_blocks(plan: Plan) -> list[BlockRecord]:
    """Return a plan's blocks: the rounds, then the faults.

    In each round every contender comes under every scenario, in random order from the seed; likewise every contender
    under every fault that can be done to it, with the first scenario's load. What is compared gets the same arrivals:
    all of a round, and all under one fault in one repeat. No two repeats get the same, for they are pooled.
    """
    order = random.Random(plan.seed)
    what: list[tuple[int, int, str, str, str | None]] = []
    for round_number in range(1, plan.rounds + 1):
        pairs = [(contender.name, scenario.name) for contender in plan.contenders for scenario in plan.scenarios]
        order.shuffle(pairs)
        what += [(round_number, plan.seed + round_number, contender, scenario, None) for contender, scenario in pairs]
    for repeat in range(1, plan.fault_repeats + 1):
        hits = [(c.name, name) for c in plan.contenders for name in plan.faults if FAULTS[name].applies_to(c)]
        order.shuffle(hits)
        seeds = {name: plan.seed + FAULT_SEEDS * repeat + number for number, name in enumerate(plan.faults)}
        what += [(0, seeds[fault], contender, plan.scenarios[0].name, fault) for contender, fault in hits]
    return [
        BlockRecord(
            number=number,
            round=round_number,
            seed=seed,
            contender=contender,
            scenario=scenario,
            fault=fault,
            folder=block_folder(number, contender, fault or scenario),
            state="planned",
        )
        for number, (round_number, seed, contender, scenario, fault) in enumerate(what, start=1)
    ]


def load_of(plan: Plan, block: BlockRecord) -> ScenarioRecord:
    """Return the load of a block: its scenario, at the block's own rate where it has one.

    Where there is a fault, it lasts for as long as the injections take.
    """
    scenario = next(scenario for scenario in plan.scenarios if scenario.name == block.scenario)
    if block.rate is not None:
        scenario = scenario.model_copy(update={"rate": block.rate})
    if block.fault is None:
        return scenario
    duration_s = fault_window_s(plan, block.fault, scenario)
    return scenario.model_copy(update={"duration_s": duration_s})


def fault_window_s(plan: Plan, fault: str, scenario: ScenarioRecord) -> float:
    """Return the seconds of the measured window in which a fault is injected."""
    return plan.fault_duration_s or LEAD_S + plan.injections * as_planned(fault, plan, scenario).part_s


def horizon_of(plan: Plan, scenario: ScenarioRecord) -> float:
    """Return the seconds after the window in which a task may still end."""
    return scenario.horizon_s or plan.horizon_s


def planned_seconds(plan: Plan, blocks: list[BlockRecord]) -> dict[int, float]:
    """Return how long each block should take, by its number."""
    return {block.number: _planned_seconds(plan, block) for block in blocks}


def _planned_seconds(plan: Plan, block: BlockRecord) -> float:
    load = load_of(plan, block)
    overhead_s = FAULT_OVERHEAD_S if block.fault else BLOCK_OVERHEAD_S
    return load.warmup_s + load.duration_s + _after_window_s(load, horizon_of(plan, load)) + overhead_s


def _after_window_s(load: ScenarioRecord, horizon_s: float) -> float:
    """Return how long after the window the last task should end, or all be killed that still run beyond the horizon.

    A contender is taken to have one CPU, as many slots as the inline app has threads, and room for all coroutines.
    Where it is to compute more than it can, its API may answer nobody: then the load itself ends late.
    """
    task_s, until_s = load.probe_seconds or 0, load.warmup_s + load.duration_s
    slots = {"cpu": 1, "blocking": THREADS}.get(load.probe_work or "", math.inf)
    left_s = (load.rate * task_s / slots - 1) * until_s
    if left_s <= horizon_s:
        return min(horizon_s, max(task_s, left_s))
    return max(CLIENT_TIMEOUT_S if load.probe_work == "cpu" else 0, horizon_s) + STOP_GRACE_S


class Experiment:
    """A run in progress: its directory, its testbed, and the block that is being measured."""

    def __init__(
        self,
        directory: RunDir,
        run: RunRecord,
        supervisor: Supervisor,
        testbed: Testbed,
        interrupt: Interrupt,
        progress: Progress,
    ) -> None:
        self.directory = directory
        self.run = run
        self.supervisor = supervisor
        self.testbed = testbed
        self.interrupt = interrupt
        self.progress = progress
        self.left_over = LeftOver()
        self.began_at = time.monotonic()

    def measure(self) -> None:
        """Measure what is left of the run; ``run.json`` is rewritten after each block."""
        try:
            self.measure_blocks()
        except Interrupted:
            self.run.interrupted = True
        finally:
            self.progress.close()
            self.run.ended_at = datetime.now(UTC)
            self.directory.write(self.run)

    def measure_blocks(self) -> None:
        """Run every block that is still planned, and void ones again."""
        blocks = self.run.blocks
        for block in blocks:  # which grows by the repeats
            if block.state == "planned":
                self._measure_block(block)
            if block.state == "finished" and not block.valid and self._may_repeat(block):
                repeat = self._repeat(block)
                blocks.insert(blocks.index(block) + 1, repeat)
                self.directory.write(self.run)  # also for a lab that resumes this run
                self.progress.expect(planned_seconds(self.run.plan, [repeat]))

    def _may_repeat(self, block: BlockRecord) -> bool:
        """Return whether a void block is measured again: at once, so that its round stays a round.

        Not for ever: a machine that cannot measure must not be asked until it says yes, and who was told how long it
        takes has not got all day.
        """
        plan, blocks = self.run.plan, self.run.blocks
        repeats = [other.repeat_of for other in blocks if other.repeat_of is not None]
        if len(repeats) >= plan.void_repeats or block.number in repeats:
            return False
        planned_s = planned_seconds(plan, blocks)
        left_s = sum(planned_s[other.number] for other in blocks if other.state == "planned") + planned_s[block.number]
        whole_s = sum(planned_s[other.number] for other in blocks if other.repeat_of is None)
        repeated = min(MOST_REPEATED, plan.void_repeats / (len(blocks) - len(repeats)))
        within_s = REPEATS_WITHIN_S if whole_s <= REPEATS_WITHIN_S else (1 + repeated) * whole_s
        return time.monotonic() - self.began_at + left_s <= within_s

    def _repeat(self, void: BlockRecord) -> BlockRecord:
        number = max(block.number for block in self.run.blocks) + 1
        fields = {"round", "seed", "contender", "scenario", "fault"}
        return BlockRecord(
            **void.model_dump(include=fields),
            number=number,
            repeat_of=void.number,
            folder=block_folder(number, void.contender, void.fault or void.scenario),
            state="planned",
        )

    def _measure_block(self, block: BlockRecord) -> None:
        self.interrupt.check()
        self.progress.block(block, self.run.blocks.index(block) + 1, len(self.run.blocks))
        folder = self.directory.block(block)
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run had begun
        folder.mkdir(parents=True)
        try:
            self._load_and_collect(block, folder)
            self._settle(block, folder)
        except Interrupted:
            shutil.rmtree(folder)
            raise
        except LabError as error:
            block.state, block.valid = "failed", False
            block.why = [*validity.shared_servers_away(folder), str(error)]
        self.directory.write(self.run)
        self.progress.done(block)

    def _load_and_collect(self, block: BlockRecord, folder: Path) -> None:
        contender = next(c for c in self.run.plan.contenders if c.name == block.contender)
        self._wait_for_earlier_blocks(block)
        self.progress.phase("start")
        with self.testbed.stack(contender, folder) as stack:
            before = ClockReading.now()
            resources, placement = folder / "resources.parquet", self.run.environment.placement
            cpus = [] if contender.url else placement.contender  # where one that runs already runs is not known
            sampler = Sampler(stack.roles, resources, cpus, lab_cpus=self.run.environment.affinity)
            with sampler, Pulse(stack.shared_urls()) as pulse:
                settled = self._drive(block, folder, stack)
            window = block.window_start_ns or 0, block.window_end_ns or 0
            shares = {
                "others_share": others_share(resources, *window, len(cpus)),
                "steal_share": steal_share(sampler.steal, *window),
            }
            block.instrument |= {name: share for name, share in shares.items() if share is not None}
            block.instrument |= pulse.seen() | {"clock_step_ms": before.step_ms(ClockReading.now())}
            self.progress.phase("stop")
            stack.stop(settled)
            stack.collect()

    def _wait_for_earlier_blocks(self, block: BlockRecord) -> None:
        """Wait, no longer than the horizon, until a stack that runs on has done the tasks of the block before."""
        self.progress.phase("wait")
        within_s = horizon_of(self.run.plan, load_of(self.run.plan, block))
        block.left_over = self.left_over.wait(within_s, self.interrupt.check)

    def _drive(self, block: BlockRecord, folder: Path, stack: Stack) -> bool:
        """Put the load on and drain; return whether all is settled: no task running, and none waiting."""
        scenario = load_of(self.run.plan, block)
        samples = folder / "requests.jsonl"
        tail, meter = JournalTail(stack.journal), BrokerMeter(stack.broker_counters, samples)
        tail.skip()
        plan = self.run.plan
        # A stack that runs on may still do the tasks of another block, of this run or one before, with the same seed.
        ids = secrets.token_hex(8) if stack.contender.url else None
        command = load.locust_command(
            scenario, stack.base_url, block.seed, samples, plan.may_load, plan.generators, ids
        )
        fault = as_planned(block.fault, plan, scenario) if block.fault else None
        with Nemesis(fault, stack, samples, block.seed, plan.injections) as nemesis:

            def tick() -> None:
                self.interrupt.check()
                tail.read()
                meter.look()
                self.progress.phase("load")

            planned_s = scenario.warmup_s + scenario.duration_s
            load.drive(self.supervisor, command, stack.generator_cpus, folder / "logs" / "locust.log", planned_s, tick)
            faults = nemesis.records(self.interrupt.check)
        (folder / "faults.json").write_text(json.dumps(faults, indent=2))
        block.injections = sum(bool(one["confirmed"]) for one in faults) if fault else None
        self._drain(block, folder, stack, tail, meter)
        return self._is_settled(stack, tail)

    def _is_settled(self, stack: Stack, tail: JournalTail) -> bool:
        """Return whether nothing is left: no task runs, and none waits, neither in the broker nor with a worker."""
        nothing_left = stack.broker_holds_nothing() is not False
        tail.read()  # afterwards: what was begun meanwhile, the broker need not hold any more
        return nothing_left and not tail.in_progress()

    def _drain(self, block: BlockRecord, folder: Path, stack: Stack, tail: JournalTail, meter: BrokerMeter) -> None:
        self.progress.phase("drain")
        samples = folder / "requests.jsonl"
        header = load.read_header(samples)
        block.window_start_ns, block.window_end_ns = header["window_start_ns"], header["window_end_ns"]
        block.instrument |= load.read_footer(samples)
        tasks = acknowledged_tasks(samples) if stack.contender.journal else set()
        if stack.contender.url and stack.contender.journal:
            self.left_over.add(tail, samples)
        horizon_s = horizon_of(self.run.plan, load_of(self.run.plan, block))
        horizon_ns = block.window_end_ns + round(horizon_s * 1e9)
        block.drained_ns = drain(tail, tasks, horizon_ns, stack.broker_is_empty, self.interrupt.check)
        block.broker = meter.used()
        load.samples_to_parquet(samples, folder / "requests.parquet")
        samples.unlink()

    def _settle(self, block: BlockRecord, folder: Path) -> None:
        self.progress.phase("ledger")
        try:
            contender = next(one for one in self.run.plan.contenders if one.name == block.contender)
            block.instrument["journal_lines_unreadable"] = ledger.settle(folder, journal=contender.journal)
        except (duckdb.Error, ValueError, IndexError) as error:
            raise LabError(f"The evidence in {folder} cannot be read: {str(error).splitlines()[0]}.") from error
        block.why = validity.judge(folder, block)
        block.valid = not block.why
        block.state = "finished"
