"""`lab capacity`: for each contender and kind of work a ramp on one stack, then fresh blocks where the limit lies."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from lab import load, stats
from lab.capacity import REPEATS, least_rate, next_rate, start_of_ramp
from lab.drain import JournalTail, acknowledged_tasks, drain
from lab.errors import UsageError
from lab.run import BLOCK_OVERHEAD_S, Experiment, load_of
from lab.rundir import BlockRecord, ContenderRecord, Plan, RampStep, RunRecord, ScenarioRecord, Slo, block_folder
from lab.stacks.stack import Stack
from lab.sustained import Sustained, broken, cell, guess, held, look, trials, window_s

# Seconds of a task, by kind of work, where none are asked for.
WORK = {"io": 0.1, "blocking": 0.1, "cpu": 0.01}
# At least: the tasks of one that was shorter than a task would still be growing in number in the window, and so would
# the backlog of a contender that has slots to spare.
WARMUP_S = 1.0
# Of each step of a ramp, which doubles the rate from one to the next; its warm-up at least, for the same reason.
STEP_WARMUP_S = 0.5
STEP_DURATION_S = 3.0
MOST_STEPS = 8
# Of the time given, for the start of the servers and for the report.
RESERVED_S = 20.0
# A cell of which so many blocks on end have failed is left: its contender does not start.
FAILED = 3
# A task that has not ended so long after the end of the window has broken the SLO, whenever it was due.
MARGIN_S = 1.0

# A ramp and two fresh blocks may take two minutes, or longer where windows, tasks or the SLO are long.
LEAST_MIN = 2
MOST_MIN = 24 * 60

Cell = tuple[ContenderRecord, ScenarioRecord]


def work_to_do(names: list[str] | None, seconds: float | None, duration_s: float) -> list[ScenarioRecord]:
    """Return the loads of these kinds of work, or of all; how long a task takes, and the window of a block.

    Raises UsageError for a kind that there is not, or that comes twice.
    """
    names = names or list(WORK)
    for name in names:
        if name not in WORK:
            raise UsageError(f"There is no kind of work '{name}'; there are: {', '.join(WORK)}.")
        if names.count(name) > 1:
            raise UsageError(f"The kind of work '{name}' is named twice.")
    return [_probes(name, WORK[name] if seconds is None else seconds, duration_s) for name in names]


def _probes(work: str, seconds: float, duration_s: float) -> ScenarioRecord:
    return ScenarioRecord(
        name=work,
        users="probe",
        rate=start_of_ramp(seconds, least_rate(min(STEP_DURATION_S, duration_s))),
        arrivals="constant",  # in so short a window the luck of Poisson's would decide whether a backlog grows
        warmup_s=max(WARMUP_S, seconds),
        duration_s=duration_s,
        probe_work=work,
        probe_seconds=seconds,
        description=f"Tasks of {seconds:g} s each.",
    )


def capacity_plan(
    contenders: list[ContenderRecord], scenarios: list[ScenarioRecord], slo: Slo, budget_min: float, seed: int
) -> Plan:
    """Return the plan of a search: each contender under each kind of work, at rates that the search finds.

    Raises UsageError for an SLO or a budget that cannot be.
    """
    for option, value in {"--slo-response-ms": slo.response_p95_ms, "--slo-done-s": slo.done_p95_s}.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: a time is above 0, and not infinite.")
    if not 0 <= slo.errors < 1:
        raise UsageError(f"--slo-errors {slo.errors:g}: a share is 0 or above it, and below 1.")
    longest_s = max(scenario.probe_seconds or 0 for scenario in scenarios)
    if longest_s >= slo.done_p95_s:
        raise UsageError(
            f"--seconds {longest_s:g}: no such task is done within the {slo.done_p95_s:g} s of --slo-done-s."
        )
    needed_min = math.ceil(sum(_least_s(one, slo) for one in scenarios) * len(contenders) / 60)
    if not needed_min <= budget_min <= MOST_MIN:
        raise UsageError(
            f"--budget {budget_min:g}: for {len(contenders)} contenders and {len(scenarios)} kinds of work it is "
            f"{needed_min:g} to {MOST_MIN:g} minutes."
        )
    return Plan(
        command="capacity",
        seed=seed,
        rounds=0,
        quick=False,
        stack="local",
        contenders=contenders,
        scenarios=scenarios,
        horizon_s=slo.done_p95_s + MARGIN_S,
        slo=slo,
        budget_s=60 * budget_min,
    )


def _least_s(scenario: ScenarioRecord, slo: Slo) -> float:
    """Return the seconds that a search must be given: for the first step of its ramp, and its ends at the least."""
    step_s = _step_of(scenario).warmup_s + _step_of(scenario).duration_s
    block_s = scenario.warmup_s + scenario.duration_s
    after_s = slo.done_p95_s + MARGIN_S + BLOCK_OVERHEAD_S
    return max(60.0 * LEAST_MIN, step_s + after_s + REPEATS * (block_s + after_s))


def _step_of(scenario: ScenarioRecord) -> ScenarioRecord:
    """Return the load of one step of the ramp, but for its rate."""
    changes = {
        "warmup_s": max(STEP_WARMUP_S, scenario.probe_seconds or 0),
        "duration_s": min(STEP_DURATION_S, scenario.duration_s),
    }
    return scenario.model_copy(update=changes)


def described(plan: Plan, slo: Slo) -> list[str]:
    """Return what a search looks for and how long it may take, a line for each."""
    searches = len(plan.contenders) * len(plan.scenarios)
    work = [f"{scenario.name}, {scenario.probe_seconds:g} s a task" for scenario in plan.scenarios]
    return [
        f"Work: {'; '.join(work)}",
        f"A rate holds where response p95 is at most {slo.response_p95_ms:g} ms, errors {slo.errors:.2%}, "
        f"time to done p95 {slo.done_p95_s:g} s, and the backlog does not grow",
        f"{searches} search{'es' if searches > 1 else ''} in at most {(plan.budget_s or 0) / 60:g} min."
        f" Seed {plan.seed}.",
    ]


def cells_left(run: RunRecord) -> list[Cell]:
    """Return those in which the search is not over, and those of which no block is left."""
    cells = [(contender, scenario) for scenario in run.plan.scenarios for contender in run.plan.contenders]
    return [
        (contender, scenario)
        for contender, scenario in cells
        if (contender.name, scenario.name) not in run.searched or not cell(run, contender.name, scenario.name)
    ]


class Search(Experiment):
    """A search for capacities in progress; its blocks are planned one by one, each from what those before have shown.

    The search of a cell, one contender under one kind of work, is a function of its finished blocks: so one that was
    interrupted goes on where it was. The time that a cell does not need is for those after it.
    """

    def measure_blocks(self) -> None:
        """Search in each cell of the plan until its interval is narrow, or its share of the time is used up."""
        plan = self.run.plan
        left = cells_left(self.run)
        part = len(left) / (len(plan.contenders) * len(plan.scenarios))
        ends_at = time.monotonic() + (plan.budget_s or 0.0) * part - RESERVED_S
        self.progress.ends_at = ends_at
        self.run.searched = [one for one in self.run.searched if one not in _names(left)]
        for position, (contender, scenario) in enumerate(left):
            now = time.monotonic()
            self._search(contender, scenario, until=now + (ends_at - now) / (len(left) - position))
            self.run.searched.append((contender.name, scenario.name))
            self.directory.write(self.run)

    def _search(self, contender: ContenderRecord, scenario: ScenarioRecord, until: float) -> None:
        """Search in one cell until a block might not be over by ``until``; one fresh block there is in any case."""
        if not cell(self.run, contender.name, scenario.name):
            self._one_more(contender, scenario, None)
        block_s = scenario.warmup_s + scenario.duration_s + self.run.plan.horizon_s + BLOCK_OVERHEAD_S
        while True:
            own = cell(self.run, contender.name, scenario.name)
            fresh = any(block.rate is not None for block in own)
            gone = len(own) >= FAILED and all(block.state == "failed" for block in own[-FAILED:])
            if gone or (fresh and time.monotonic() + block_s > until):
                return
            tried = trials(self.run, own, self._look(own))
            rate = next_rate(tried, guess(own, scenario.rate), least_rate(scenario.duration_s))
            if rate is None:
                return
            self._one_more(contender, scenario, rate)

    def _one_more(self, contender: ContenderRecord, scenario: ScenarioRecord, rate: float | None) -> None:
        """Plan one more block and measure it; without a rate it is a ramp."""
        number = max((block.number for block in self.run.blocks), default=0) + 1
        block = BlockRecord(
            number=number,
            round=0,
            contender=contender.name,
            scenario=scenario.name,
            rate=rate,
            seed=self.run.plan.seed + MOST_STEPS * number,
            folder=block_folder(number, contender.name, scenario.name),
            state="planned",
        )
        self.run.blocks.append(block)
        self.directory.write(self.run)  # also for a lab that resumes this run
        self._measure_block(block)
        self._say(block)

    def _look(self, own: list[BlockRecord]) -> dict[int, list[Sustained]]:
        """Return what each finished block of a cell says."""
        return {block.number: look(self.directory, self.run, block) for block in own if block.state == "finished"}

    def _say(self, block: BlockRecord) -> None:
        """Say whether the SLO held."""
        if block.rate is None or not block.valid:
            return
        (seen,) = look(self.directory, self.run, block)
        found = ", ".join(broken(seen, self.run.plan.slo or Slo(), window_s(self.run, block)))
        says = {
            True: "holds",
            False: f"does not hold: {found}",
            None: f"decides nothing, the generator was late: {found}",
        }
        self.progress.console.print(f"  {says[held(self.run, block, seen)]}", highlight=False)

    def _drive(self, block: BlockRecord, folder: Path, stack: Stack) -> bool:
        return super()._drive(block, folder, stack) if block.rate is not None else self._ramp(block, folder, stack)

    # the ramp

    def _ramp(self, block: BlockRecord, folder: Path, stack: Stack) -> bool:
        """Double the rate from load to load, on one stack, until the SLO is broken; return whether all is settled."""
        tail = JournalTail(stack.journal)
        rate = load_of(self.run.plan, block).rate
        all_samples = [folder / f"step-{number}.jsonl" for number in range(1, MOST_STEPS + 1)]
        for number, samples in enumerate(all_samples):
            step = self._step(block, rate * 2**number, samples, stack, tail)
            block.ramp.append(step)
            if not step.held:
                break
        made = [samples for samples in all_samples if samples.exists()]
        footers = [load.read_footer(samples) for samples in made]
        if all(footers):
            block.instrument |= {name: max(footer[name] for footer in footers) for name in footers[0]}
        block.window_start_ns, block.window_end_ns = block.ramp[0].window_start_ns, block.ramp[-1].window_end_ns
        block.drained_ns = block.ramp[-1].drained_ns
        _put_together(made, folder / "requests.parquet")
        (folder / "faults.json").write_text("[]")
        return self._is_settled(stack, tail)

    def _step(self, block: BlockRecord, rate: float, samples: Path, stack: Stack, tail: JournalTail) -> RampStep:
        plan = self.run.plan
        scenario = _step_of(load_of(plan, block)).model_copy(update={"rate": rate})
        seed = block.seed + len(block.ramp)

        def tick() -> None:
            self.interrupt.check()
            tail.read()
            self.progress.phase(f"ramp, {rate:g}/s")

        command = load.locust_command(scenario, stack.base_url, seed, samples, plan.may_load, plan.generators)
        planned_s = scenario.warmup_s + scenario.duration_s
        log = samples.parent / "logs" / "locust.log"
        load.drive(self.supervisor, command, stack.generator_cpus, log, planned_s, tick)
        header = load.read_header(samples)
        tasks = acknowledged_tasks(samples) if stack.contender.journal else set()
        horizon_ns = header["window_end_ns"] + round(plan.horizon_s * 1e9)
        drained_ns = drain(tail, tasks, horizon_ns, stack.broker_is_empty, self.interrupt.check)
        seen = glance(rate, samples, tail.succeeded_ns if stack.contender.journal else None)
        assert plan.slo is not None
        return RampStep(
            rate=rate,
            window_start_ns=header["window_start_ns"],
            window_end_ns=header["window_end_ns"],
            drained_ns=drained_ns,
            held=not broken(seen, plan.slo, scenario.duration_s),
        )


def _names(cells: list[Cell]) -> set[tuple[str, str]]:
    return {(contender.name, scenario.name) for contender, scenario in cells}


def glance(rate: float, samples: Path, succeeded_ns: Mapping[str, int] | None) -> Sustained:
    """Return what a load says before it is settled; ``succeeded_ns`` by task id, None where there is no journal.

    The backlogs are those of the middle and of the end of the window.
    """
    with samples.open() as lines:
        header, *every = (json.loads(line) for line in lines)
    rows = [row for row in every if row.get("stream") == "load" and row["phase"] == "window"]
    told = [row for row in rows if row["outcome"] == "acknowledged"]
    responses_ms = [(row["ended_ns"] - row["intended_ns"]) / 1e6 for row in told]
    responses_ms += [math.inf] * (len(rows) - len(told))
    seen = Sustained(
        rate=rate,
        requests=len(rows),
        errors=1 - len(told) / len(rows) if rows else 0.0,
        response_p95_ms=stats.percentile(responses_ms, 0.95) if rows else math.inf,
    )
    tasks = [(row, task) for row in told for task in _tasks(row)]
    if succeeded_ns is None or not tasks:
        return seen
    ended_ns = {task: succeeded_ns.get(task, math.inf) for _, task in tasks}

    def backlog(t_ns: float) -> int:
        return sum(row["ended_ns"] <= t_ns < ended_ns[task] for row, task in tasks)

    end_ns = header["window_end_ns"]
    return replace(
        seen,
        done_p95_s=stats.percentile([(ended_ns[task] - row["intended_ns"]) / 1e9 for row, task in tasks], 0.95),
        backlog_mid=backlog((header["window_start_ns"] + end_ns) / 2),
        backlog_end=backlog(end_ns),
    )


def _tasks(row: dict[str, Any]) -> list[str]:
    return [str(uuid5(UUID(row["request_id"]), str(position))) for position in range(row["tasks"])]


def _put_together(steps: list[Path], table: Path) -> None:
    """Write the rows of several samples files as one Parquet, numbered through, and remove them."""
    together, number = table.with_suffix(".jsonl"), 0
    with together.open("w") as file:
        for samples in steps:
            with samples.open() as lines:
                for row in map(json.loads, lines):
                    if "seq" in row:
                        file.write(json.dumps(row | {"seq": number}) + "\n")
                        number += 1
            samples.unlink()
    load.samples_to_parquet(together, table)
    together.unlink()
