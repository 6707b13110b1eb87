"""Makes block folders as the two contenders leave them, with what became of each task known beforehand."""

import json
import secrets
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import duckdb

from lab.globs import no_glob
from lab.rundir import BlockRecord

ROUTES = {
    "POST /action": "write_log",
    "POST /register": "send_email",
    "POST /multi-tasks": "step",
    "POST /async-task": "async_task",
    "POST /upload": "process_document",
    "POST /chat": "log_conversation",
    "POST /probe": "probe_io",
}
IDEMPOTENT = {"process_document", "log_conversation"}
MS = 1_000_000
HOST = "some-host"
REQUEST_COLUMNS = {
    "seq": "BIGINT", "stream": "VARCHAR", "phase": "VARCHAR", "route": "VARCHAR", "request_id": "VARCHAR",
    "tasks": "INTEGER", "intended_ns": "BIGINT", "sent_ns": "BIGINT", "ended_ns": "BIGINT", "status": "INTEGER",
    "outcome": "VARCHAR", "error": "VARCHAR",
}  # fmt: skip
STATUS = {"acknowledged": 202, "refused": 503, "indeterminate": 504, "unsent": None}


class Block:
    """The files of one block in the making; ``expected`` is what the ledger must find: fate and agreement by id.

    ``expected_ends`` is when tasks ended, of those of which it is noted.
    """

    def __init__(self, contender: str = "celery") -> None:
        self.celery = contender.startswith("celery")
        self.expected: dict[str, tuple[str, str]] = {}
        self.expected_ends: dict[str, int] = {}
        self.requests: list[dict[str, Any]] = []
        self.lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.journals: dict[int, list[dict[str, Any]]] = {}
        self.names: dict[int, str] = {}
        self.started_ns: dict[int, int] = {}
        self.dead: set[int] = set()
        self.killed_at_the_end: set[int] = set()
        self.hurried = False
        self.living: list[dict[str, Any]] = []
        self.queue: list[dict[str, Any]] = []
        self.unacked: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.now_ns = 1_000 * MS
        self.api = self.process("celery-api" if self.celery else "inline-api")
        self.runner = self.process("celery-worker") if self.celery else self.api

    def process(self, service: str) -> int:
        """Start a process of the contender: a pid with a journal of its own."""
        pid = 100 + len(self.journals)
        self.journals[pid] = []
        self.names[pid] = service
        self.started_ns[pid] = self.tick()
        started = {"event": "started", "kind": "service", "name": service, "pid": pid}
        self.lines["processes.jsonl"].append(started | {"t_ns": self.now_ns, "started_ns": self.now_ns})
        return pid

    def doomed(self) -> int:
        """Start one more process that runs tasks, for one that is about to die."""
        return self.process("celery-worker" if self.celery else "inline-api")

    def ends(self, pid: int, **how: int) -> None:
        """Record the orderly end of a process amid the block: with a status, or by the signal that asked for it.

        Where it is not said how, nobody but its parent knows, which waited for it.
        """
        self.dead.add(pid)
        kind = "service" if how else "descendant"
        ended = {"event": "ended", "kind": kind, "name": self.names[pid], "pid": pid, "t_ns": self.tick()}
        self.lines["processes.jsonl"].append(ended | {"started_ns": self.started_ns[pid], "hostname": HOST} | how)

    def dies(self, pid: int, started_ns: int | None = None, host: str = HOST) -> int:
        """Record a process's death, as its supervisor does; or another's with its pid: older, newer, elsewhere.

        Return when that was.
        """
        born_ns = self.started_ns[pid] if started_ns is None else started_ns
        self.dead |= {pid} if started_ns is None and host == HOST else set()
        ended = {
            "event": "ended",
            "kind": "service",
            "name": self.names[pid],
            "pid": pid,
            "signal": 9,
            "hostname": host,
        }
        self.lines["processes.jsonl"].append(ended | {"t_ns": self.tick(), "started_ns": born_ns, "status": None})
        return self.now_ns

    def lives_on(self, pid: int, started_ns: int | None = None, host: str = HOST, *, runs_tasks: bool = False) -> None:
        """Have a process, or another with its pid, live on when the evidence is taken."""
        self.dead |= {pid} if host == HOST else set()  # it has no end
        born_ns = self.started_ns[pid] if started_ns is None else started_ns
        alive = {"event": "living", "name": self.names[pid], "pid": pid, "hostname": host}
        self.living.append(alive | {"started_ns": born_ns, "runs_tasks": runs_tasks})

    def container_dies(self, host: str = HOST, status: int = 137) -> None:
        """Record the end of a container and of all that runs in it; its pid is one of the machine around it."""
        ended = {"event": "ended", "kind": "container", "name": "x", "pid": 7, "inner_pid": None, "hostname": host}
        self.lines["processes.jsonl"].append(ended | {"t_ns": self.tick(), "started_ns": 1, "status": status})

    def dies_in_a_container(self, pid: int) -> None:
        """Record the death of one process in a container, as it is seen from outside."""
        self.dead.add(pid)
        ended = {"event": "ended", "kind": "inside", "name": "x", "pid": 7, "inner_pid": pid, "hostname": HOST}
        born_ns = self.started_ns[pid]
        self.lines["processes.jsonl"].append(ended | {"t_ns": self.tick(), "started_ns": born_ns, "status": None})

    def fault(self, name: str, begun_ns: int, *pids: int) -> None:
        """Record a fault that was on from a moment until now, and the processes that it hit."""
        self.faults.append({"fault": name, "injected_ns": begun_ns, "healed_ns": self.tick(), "pids": list(pids)})

    def tick(self, ms: float = 1) -> int:
        """Let time pass and return the monotonic clock."""
        self.now_ns += int(ms * MS)
        return self.now_ns

    def request(self, route: str, outcome: str = "acknowledged", **fields: Any) -> list[UUID]:
        """Add a request and return the ids of the tasks that it may have caused."""
        request_id = uuid4()
        sent = outcome != "unsent"
        tasks = 3 if route == "POST /multi-tasks" else int(route in ROUTES)
        row = {
            "seq": len(self.requests), "stream": "load", "phase": "window", "route": route,
            "request_id": str(request_id), "tasks": tasks, "intended_ns": self.tick(),
            "sent_ns": self.tick(0.1) if sent else None, "ended_ns": self.tick() if sent else None,
            "status": STATUS[outcome], "outcome": outcome, "error": None,
        }  # fmt: skip
        self.requests.append(row | fields)
        return [uuid5(request_id, str(position)) for position in range(tasks)]

    def event(self, task: UUID, job: str, event: str, pid: int | None = None, **fields: Any) -> int:
        """Add a line to the journal of a process; return its time."""
        line = {"task_id": str(task), "job": job, "event": event, "t_ns": self.tick(0.1), "attempt": 1}
        self.journals[pid or self.runner].append(line | fields)
        return self.now_ns

    def effect(self, task: UUID, job: str) -> int | None:
        """Add what a job leaves; for rows, doing it again leaves nothing new. Return its time, which rows lack."""
        name, line = self._effect_line(str(task), job)
        if job not in IDEMPOTENT or line not in self.lines[name]:
            self.lines[name].append(line)
        return line.get("t_ns")

    def _effect_line(self, task_id: str, job: str) -> tuple[str, dict[str, Any]]:
        t_ns = self.tick(0.1)
        if job == "write_log":
            return "actions.log", {"task_id": task_id, "t_ns": t_ns, "message": 'ünï\n"\x00'}
        if job == "send_email":
            return "mail.jsonl", {"task_id": task_id, "t_ns": t_ns, "to": ["a@example.org"], "subject": "hello"}
        if job == "log_conversation":
            return "rows.jsonl", {"kind": "conversation", "task_id": task_id, "t_wall": "2026-01-01T00:00:00Z"}
        if job == "process_document":
            document = {"kind": "document", "task_id": task_id, "document_id": str(UUID(int=1)), "status": "ready"}
            return "rows.jsonl", document | {"chunks": 3, "error": None}
        return "effects.log", {"task_id": task_id, "t_ns": t_ns, "job": job}

    def run(self, task: UUID, job: str, pid: int | None = None, ms: float = 1) -> int:
        """Execute a task to its end, as a process does; return when it ended."""
        self.event(task, job, "started", pid)
        self.tick(ms)
        self.effect(task, job)
        return self.event(task, job, "succeeded", pid)

    def expect(self, task: UUID, fate: str, agreement: str = "equal", ended_ns: int | None = None) -> None:
        """Note what the ledger must find for a task."""
        self.expected[str(task)] = (fate, agreement)
        if ended_ns is not None:
            self.expected_ends[str(task)] = ended_ns

    def _stop(self) -> None:
        """Stop in order what still runs, as every block ends."""
        stopping = {"event": "stopping", "pid": None, "name": None, "hurried": self.hurried}
        self.lines["processes.jsonl"].append(stopping | {"t_ns": self.tick()})
        for pid in self.killed_at_the_end:
            self.dies(pid)
        self.lines["processes.jsonl"] += [alive | {"t_ns": self.tick()} for alive in self.living]
        for pid in sorted(self.names.keys() - self.dead):
            ended = {"event": "ended", "kind": "service", "name": self.names[pid], "pid": pid, "t_ns": self.tick()}
            # uvicorn ends by the signal that it was sent; how prefork's children ended, their parent knows.
            how: list[dict[str, Any]] = [{"status": 0}, {"status": 1}, {"signal": 15}, {}]
            known = {"started_ns": self.started_ns[pid], "hostname": HOST}
            self.lines["processes.jsonl"].append(ended | known | how[pid % len(how)])

    def write(self, folder: Path) -> Path:
        """Write the files of the block and return its folder."""
        self._stop()
        journal = folder / "evidence" / "journal"
        journal.mkdir(parents=True)
        for pid, events in self.journals.items():
            anchor = {"boot_id": "b", "wall_ns": 1, "monotonic_ns": 1, "service": self.names[pid]}
            path = journal / f"{self.names[pid]}-some-host-{pid}-{secrets.token_hex(4)}.jsonl"
            path.write_text(as_lines([anchor, *events]))
        for name in ("mail.jsonl", "rows.jsonl"):  # which the lab's own servers have, even where nothing is in it
            self.lines[name] += []
        for name, lines in self.lines.items():
            (folder / "evidence" / name).write_text(as_lines(lines))
        if self.celery:
            held = {"queue": self.queue, "unacked": self.unacked}
            (folder / "evidence" / "broker.json").write_text(json.dumps(held))
        if self.faults:
            (folder / "faults.json").write_text(json.dumps(self.faults))
        write_parquet(self.requests, REQUEST_COLUMNS, folder / "requests.parquet")
        return folder


def as_lines(rows: list[dict[str, Any]]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def write_parquet(rows: list[dict[str, Any]], columns: dict[str, str], target: Path) -> None:
    """Write rows as a Parquet file with the given column types."""
    lines = target.with_suffix(".jsonl")
    lines.write_text(as_lines(rows))
    declared = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    duckdb.execute(
        f"COPY (FROM read_json('{no_glob(lines)}', format = 'newline_delimited', columns = {{{declared}}})) "
        f"TO '{target}' (FORMAT parquet)"
    )
    lines.unlink()


# Each plant adds one request, or one stray effect, with a known outcome. Those of a sequence treat its first step
# by the plant's name and the later ones as they would then be.
Plant = Callable[[Block, str], None]
PLANTS: dict[str, Plant] = {}
CELERY_ONLY: set[str] = set()


def plant(celery_only: bool = False) -> Callable[[Plant], Plant]:
    """Register a plant under the name of its function."""

    def register(function: Plant) -> Plant:
        PLANTS[function.__name__] = function
        if celery_only:
            CELERY_ONLY.add(function.__name__)
        return function

    return register


def _accepted(block: Block, route: str, outcome: str = "acknowledged") -> tuple[list[UUID], str]:
    """Add a request whose tasks were handed over."""
    tasks, job = block.request(route, outcome), ROUTES[route]
    for task in tasks:
        block.event(task, job, "accepted", block.api)
    return tasks, job


def _all(block: Block, tasks: list[UUID], fate: str) -> None:
    for task in tasks:
        block.expect(task, fate)


@plant()
def done(block: Block, route: str) -> None:
    """Executed to its end, once."""
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.expect(task, "done", ended_ns=block.run(task, job))


@plant()
def done_of_anothers_job(block: Block, route: str) -> None:
    """One of an app of one's own, whose effect the lab does not know: the journal stands for it."""
    for task in _accepted(block, route)[0]:
        block.event(task, "resize_image", "started")
        block.expect(task, "done", ended_ns=block.event(task, "resize_image", "succeeded"))


@plant()
def done_of_anothers_job_with_its_effect(block: Block, route: str) -> None:
    """It writes the log of effects: then that is what counts, and not the journal too."""
    for task in _accepted(block, route)[0]:
        block.expect(task, "done", ended_ns=block.run(task, "rotate_image"))


@plant()
def done_after_a_failed_attempt(block: Block, route: str) -> None:
    """The first attempt failed, the second did not."""
    tasks, job = _accepted(block, route)
    block.event(tasks[0], job, "started")
    block.event(tasks[0], job, "attempt_failed", error="OSError: mail is away")
    for task in tasks:
        block.run(task, job)
    _all(block, tasks, "done")


@plant()
def done_without_a_word(block: Block, route: str) -> None:
    """The process died after the effect and before it could journal it; the supervisor saw the death."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    effect_ns, died_ns = block.effect(task, job), block.dies(pid)
    block.expect(task, "done", "explained", ended_ns=effect_ns or died_ns)
    _all(block, later, "lost")


@plant()
def done_without_a_word_in_a_container(block: Block, route: str) -> None:
    """The kernel killed one process of a container whose memory was limited; the container goes on."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.effect(task, job)
    begun_ns = block.tick()
    block.dies_in_a_container(pid)
    block.fault("memory-limit", begun_ns)
    block.expect(task, "done", "explained")
    _all(block, later, "lost")


@plant()
def done_without_a_word_by_what_a_deploy_replaced(block: Block, route: str) -> None:
    """It has no handler for SIGTERM, which ended it between the effect and the word of it."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.effect(task, job)
    begun_ns = block.tick()
    block.ends(pid, signal=15)
    block.fault("deploy", begun_ns, pid)
    block.expect(task, "done", "explained")
    _all(block, later, "lost")


@plant()
def effect_of_a_process_that_no_deploy_ended_by_sigterm(block: Block, route: str) -> None:
    """Another fault hit it, or the deploy another process, or it ended in order, or later: nothing is explained."""
    for fault, hit, how in (("worker-pause", True, 15), ("deploy", False, 15), ("deploy", True, 0)):
        pid = _effects_without_an_end(block, route)
        begun_ns = block.tick()
        block.ends(pid, **({"signal": how} if how else {"status": how}))
        block.fault(fault, begun_ns, pid if hit else block.api)
    pid = _effects_without_an_end(block, route)
    block.fault("deploy", block.tick(), pid)
    block.ends(pid, signal=15)


@plant()
def effect_of_a_child_that_its_parent_waited_for(block: Block, route: str) -> None:
    """Nobody knows that it was killed, so its end explains nothing, whatever fault was on."""
    for ends, fault in product((Block.ends, Block.dies_in_a_container), ("deploy", "memory-limit")):
        if (ends, fault) == (Block.dies_in_a_container, "memory-limit"):
            continue
        pid = _effects_without_an_end(block, route)
        begun_ns = block.tick()
        ends(block, pid)
        block.fault(fault, begun_ns)


@plant()
def effect_of_a_process_that_ended_after_a_memory_limit(block: Block, route: str) -> None:
    """The kernel had no reason any more."""
    pid = _effects_without_an_end(block, route)
    block.fault("memory-limit", block.tick())
    block.dies_in_a_container(pid)


def _effects_without_an_end(block: Block, route: str) -> int:
    """Add tasks whose effects are there and whose ends are not, unexplained; return the pid of their process."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.expect(task, "done", "unexplained")
    return pid


@plant()
def effect_while_the_same_pid_died_elsewhere(block: Block, route: str) -> None:
    """The death of another host's process with the same pid explains nothing, nor does that of another container."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.effect(task, job)
    block.dies(pid, host="another-host")
    block.container_dies("a-third-host")
    block.expect(task, "done", "unexplained")
    _all(block, later, "lost")


@plant()
def effect_without_an_end(block: Block, route: str) -> None:
    """Nobody died: journal and effects contradict each other."""
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.event(task, job, "started")
        block.effect(task, job)
        block.expect(task, "done", "unexplained")


@plant()
def effect_while_another_process_died(block: Block, route: str) -> None:
    """The death of a process that did not run the task explains nothing."""
    tasks, job = _accepted(block, route)
    other = block.doomed()
    for task in tasks:
        block.event(task, job, "started")
        block.effect(task, job)
        block.expect(task, "done", "unexplained")
    block.dies(other)


@plant()
def effect_of_a_process_that_ended_in_order(block: Block, route: str) -> None:
    """It had all the time that it wanted, so its end explains nothing."""
    for how in ({"status": 0}, {"signal": 15}):
        tasks, job = _accepted(block, route)
        pid = block.doomed()
        for task in tasks:
            block.event(task, job, "started", pid)
            block.effect(task, job)
            block.expect(task, "done", "unexplained")
        block.ends(pid, **how)


@plant()
def effect_after_the_death(block: Block, route: str) -> None:
    """A death before the start explains nothing."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    block.dies(pid)
    for task in tasks:
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.expect(task, "done", "unexplained")


@plant()
def effect_of_a_process_whose_pid_came_again(block: Block, route: str) -> None:
    """The death of a later process with the same pid explains nothing."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.expect(task, "done", "unexplained")
    block.dies(pid, started_ns=block.tick())


@plant()
def effect_of_a_failed_attempt(block: Block, route: str) -> None:
    """The journal has the end of the attempt, so the death after it explains nothing."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.event(task, job, "attempt_failed", pid, error="OSError: away")
        block.expect(task, "done", "unexplained")
    block.dies(pid)


@plant(celery_only=True)
def done_after_a_failure(block: Block, route: str) -> None:
    """It failed for good, and a second delivery did it all the same."""
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.event(task, job, "started")
        block.event(task, job, "failed", error="CancelledError: ")
        block.run(task, job)
    _all(block, tasks, "done")


@plant(celery_only=True)
def done_and_once_more_without_a_word(block: Block, route: str) -> None:
    """A second execution, cut off after its effect; of one that leaves rows the journal knows the first alone."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.run(task, job)
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.expect(task, *(("done", "equal") if job in IDEMPOTENT else ("duplicated", "explained")))
    block.dies(pid)


@plant(celery_only=True)
def two_effects_of_a_process_that_had_said_all(block: Block, route: str) -> None:
    """The journal has the end of the only attempt, so the death after it explains nothing; rows are written over."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        ended_ns = block.run(task, job, pid)
        block.effect(task, job)
        block.expect(task, *(("done", "equal") if job in IDEMPOTENT else ("duplicated", "unexplained")), ended_ns)
    block.dies(pid)


@plant(celery_only=True)
def three_effects_of_one_cut_off(block: Block, route: str) -> None:
    """One death explains one effect, not two; rows are written over."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.run(task, job)
        block.event(task, job, "started", pid)
        block.effect(task, job)
        block.effect(task, job)
        block.expect(task, *(("done", "equal") if job in IDEMPOTENT else ("duplicated", "unexplained")))
    block.dies(pid)


@plant(celery_only=True)
def end_without_an_effect_and_a_cut_off(block: Block, route: str) -> None:
    """An attempt that was cut off does not explain that another one's effect is missing."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.event(task, job, "started", pid)
        block.event(task, job, "started")
        block.event(task, job, "succeeded")
        block.expect(task, "lost", "unexplained")
    block.dies(pid)


@plant()
def end_without_an_effect_of_a_refused_request(block: Block, route: str) -> None:
    """Refused, and the journal says done."""
    for task in block.request(route, "refused"):
        block.event(task, ROUTES[route], "started")
        block.event(task, ROUTES[route], "succeeded")
        block.expect(task, "unexpected", "unexplained")


@plant(celery_only=True)
def taken_and_given_back(block: Block, route: str) -> None:
    """Restored to the queue and not yet struck off the unacknowledged: it waits."""
    (task, *later), _ = _accepted(block, route)
    message = {"task_id": str(task), "chain": [str(step) for step in later]}
    block.queue.append(message)
    block.unacked.append(message | {"visible_since_wall_s": 1.5})
    _all(block, [task, *later], "pending")


@plant()
def end_without_an_effect(block: Block, route: str) -> None:
    """The journal says done, and nothing is there."""
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.event(task, job, "started")
        block.event(task, job, "succeeded")
        block.expect(task, "lost", "unexplained")


@plant()
def end_without_an_effect_of_what_was_killed_at_the_end(block: Block, route: str) -> None:
    """It had said that it was done, and so did not hold it any more."""
    pid = block.doomed()
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.event(task, job, "started", pid)
        block.event(task, job, "succeeded", pid)
        block.expect(task, "lost", "unexplained")
    block.killed_at_the_end.add(pid)


@plant()
def failed(block: Block, route: str) -> None:
    """The journal says that it failed for good; its later steps are skipped."""
    (task, *later), job = _accepted(block, route)
    block.event(task, job, "started")
    ended_ns = block.event(task, job, "failed", error="CancelledError: ")
    if job == "process_document":
        block.effect(task, job)
        block.lines["rows.jsonl"][-1] |= {"status": "failed", "chunks": 0, "error": "encrypted"}
    for step in later:
        block.event(step, job, "skipped")
    block.expect(task, "failed", ended_ns=ended_ns)
    _all(block, later, "skipped")


@plant(celery_only=True)
def given_up(block: Block, route: str) -> None:
    """All its attempts failed."""
    (task, *later), job = _accepted(block, route)
    for _ in range(3):
        block.event(task, job, "started")
        block.event(task, job, "attempt_failed", error="OSError: away")
    block.event(task, job, "given_up")
    for step in later:
        block.event(step, job, "skipped")
    block.expect(task, "given_up")
    _all(block, later, "skipped")


@plant(celery_only=True)
def pending(block: Block, route: str) -> None:
    """In the queue; the later steps travel inside the message."""
    (task, *later), _ = _accepted(block, route)
    block.queue.append({"task_id": str(task), "chain": [str(step) for step in later]})
    _all(block, [task, *later], "pending")


@plant(celery_only=True)
def stranded(block: Block, route: str) -> None:
    """Taken by a worker that died; due again only after the horizon."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.dies(pid)
    block.unacked.append(
        {"task_id": str(task), "chain": [str(step) for step in later], "visible_since_wall_s": 1.5}
    )  # fmt: skip
    _all(block, [task, *later], "stranded")


@plant()
def lost_in_the_middle(block: Block, route: str) -> None:
    """Its process died while it ran."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.dies(pid)
    _all(block, [task, *later], "lost")


@plant()
def lost_before_the_start(block: Block, route: str) -> None:
    """It was waiting in a process that died."""
    tasks, _ = _accepted(block, route)
    _all(block, tasks, "lost")


@plant(celery_only=True)
def lost_without_accepted(block: Block, route: str) -> None:
    """The API died after it had answered, before its journal said so."""
    _all(block, block.request(route), "lost")


@plant(celery_only=True)
def duplicated(block: Block, route: str) -> None:
    """Redelivered while it was still running."""
    tasks, job = _accepted(block, route)
    for task in tasks:
        block.run(task, job)
        block.run(task, job, block.doomed())
    _all(block, tasks, "duplicated")


@plant()
def held_at_the_end(block: Block, route: str) -> None:
    """It ran when the lab stopped the stack, and another waited before the same process, which was killed at last."""
    pid = block.doomed()
    (task, *later), job = _accepted(block, route)
    block.event(task, job, "started", pid)
    waiting = block.request(route)
    for one in waiting:
        block.event(one, job, "accepted", pid)
    block.killed_at_the_end.add(pid)
    _all(block, [task, *later, *waiting], "pending")


@plant()
def lost_beside_what_was_held_at_the_end(block: Block, route: str) -> None:
    """Its own process died before, or ended its attempt; or whoever accepted it runs none itself, though killed too."""
    pid, api, earlier = block.doomed(), block.process("celery-api"), block.doomed()
    (task, *later), job = _accepted(block, route)
    block.event(task, job, "started", earlier)
    block.dies(earlier)
    tried = block.request(route)
    for one in tried:
        block.event(one, job, "started", pid)
        block.event(one, job, "attempt_failed", pid, error="OSError: mail is away")
    handed_on = block.request(route)
    for one in handed_on:
        block.event(one, job, "accepted", api)
    block.killed_at_the_end |= {pid, api}
    _all(block, [task, *later, *tried, *handed_on], "lost")


@plant()
def lost_although_its_pid_came_again(block: Block, route: str) -> None:
    """A later process with the same pid was killed at the end, or lives on: it has nothing of the earlier one's."""
    for comes_again in (_is_killed_at_the_end, Block.lives_on):
        pid = block.doomed()
        tasks, job = _accepted(block, route)
        for task in tasks:
            block.event(task, job, "started", pid)
        block.dies(pid)
        block.started_ns[pid] = block.tick()
        comes_again(block, pid)
        _all(block, tasks, "lost")


def _is_killed_at_the_end(block: Block, pid: int) -> None:
    block.killed_at_the_end.add(pid)


@plant()
def under_way_in_what_lives_on(block: Block, route: str) -> None:
    """When the evidence was taken its process ran it, and another waited before that; they would have been done."""
    pid = block.doomed()
    (task, *later), job = _accepted(block, route)
    block.event(task, job, "started", pid)
    waiting = block.request(route)
    for one in waiting:
        block.event(one, job, "accepted", pid)
    block.lives_on(pid)
    _all(block, [task, *later, *waiting], "pending")


@plant()
def waiting_in_what_has_begun_nothing(block: Block, route: str) -> None:
    """It runs what it accepts, and is still busy with what came before this load; one that hands it on is not."""
    for runs_tasks in (True, False):
        pid = block.doomed()
        tasks = block.request(route)
        for task in tasks:
            block.event(task, ROUTES[route], "accepted", pid)
        block.lives_on(pid, runs_tasks=runs_tasks)
        _all(block, tasks, "pending" if runs_tasks else "lost")


@plant()
def done_while_it_lives_on(block: Block, route: str) -> None:
    """The evidence was taken between the effect and the word of it."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.effect(task, job)
    block.lives_on(pid)
    block.expect(task, "done", "explained")
    _all(block, later, "pending")


@plant()
def lost_while_the_same_pid_lives_elsewhere(block: Block, route: str) -> None:
    """On another host it is another process."""
    (task, *later), job = _accepted(block, route)
    pid = block.doomed()
    block.event(task, job, "started", pid)
    block.lives_on(pid, host="another-host")
    block.dies(pid)
    _all(block, [task, *later], "lost")


@plant(celery_only=True)
def cut_off_in_two_processes(block: Block, route: str) -> None:
    """Each died after the effect and before a word of it: two deaths explain two effects."""
    tasks, job = _accepted(block, route)
    effects_ns: dict[UUID, list[int | None]] = defaultdict(list)
    deaths_ns = []
    for pid in (block.doomed(), block.doomed()):
        for task in tasks:
            block.event(task, job, "started", pid)
            effects_ns[task].append(block.effect(task, job))
        deaths_ns.append(block.dies(pid))
    for task in tasks:
        ended_ns = effects_ns[task][0] or deaths_ns[0]
        block.expect(task, "done" if job in IDEMPOTENT else "duplicated", "explained", ended_ns)


@plant(celery_only=True)
def held_at_the_end_and_taken(block: Block, route: str) -> None:
    """Not yet acknowledged by the worker that the lab killed: without the end of the block it would have been done."""
    tasks, job = _accepted(block, route)
    pid = block.doomed()
    for task in tasks:
        block.event(task, job, "started", pid)
        block.unacked.append({"task_id": str(task), "chain": [], "visible_since_wall_s": 1.5})
    block.killed_at_the_end.add(pid)
    _all(block, tasks, "pending")


@plant()
def not_done(block: Block, route: str) -> None:
    """No answer, and never done."""
    _all(block, block.request(route, "indeterminate", error="timed out"), "not_done")


@plant()
def recovered(block: Block, route: str) -> None:
    """No answer, and done all the same."""
    tasks, job = _accepted(block, route, "indeterminate")
    for task in tasks:
        block.run(task, job)
    _all(block, tasks, "recovered")


@plant(celery_only=True)
def duplicated_without_a_yes(block: Block, route: str) -> None:
    """No answer, and done twice."""
    tasks, job = _accepted(block, route, "indeterminate")
    for task in tasks:
        block.run(task, job)
        block.run(task, job)
    _all(block, tasks, "duplicated")


@plant()
def unexpected(block: Block, route: str) -> None:
    """Refused, and done all the same."""
    for task in block.request(route, "refused"):
        block.run(task, ROUTES[route])
        block.expect(task, "unexpected")


@plant()
def never_asked_for(block: Block, route: str) -> None:
    """Done twice, and in no request."""
    task = uuid4()
    block.run(task, ROUTES[route])
    block.run(task, ROUTES[route])
    block.expect(task, "unexpected")


@plant()
def effect_out_of_nowhere(block: Block, route: str) -> None:
    """An effect, and neither a request nor a word in the journal."""
    task = uuid4()
    block.effect(task, ROUTES[route])
    block.expect(task, "unexpected", "unexplained")


@plant()
def refused(block: Block, route: str) -> None:
    """Refused and not done: no task at all."""
    block.request(route, "refused")


@plant()
def unsent(block: Block, route: str) -> None:
    """Never sent and not done: no task at all."""
    block.request(route, "unsent")


def everything(contender: str) -> Block:
    """Return a block with every plant on every route that the contender can show."""
    block = Block(contender)
    for name, grow in PLANTS.items():
        if block.celery or name not in CELERY_ONLY:
            for route in ROUTES:
                grow(block, route)
    return block


# What the journal and the broker may say besides, and the fate that it is where nothing else decides; in that order.
SAID_BESIDES = {
    "failed": "failed", "given_up": "given_up", "skipped": "skipped", "in the queue": "pending", "taken": "stranded",
}  # fmt: skip


def _say_besides(block: Block, task: UUID, job: str, what: str) -> None:
    message = {"task_id": str(task), "chain": []}
    if what == "in the queue":
        block.queue.append(message)
    elif what == "taken":
        block.unacked.append(message | {"visible_since_wall_s": 1.5})
    else:
        block.event(task, job, what)


@plant(celery_only=True)
def another_delivery(block: Block, route: str) -> None:
    """How often it was done decides, whatever is said of another delivery besides."""
    by_times = [("acknowledged", 1, "done"), ("acknowledged", 2, "duplicated"), ("refused", 1, "unexpected")]
    by_times += [("indeterminate", 0, "not_done"), ("indeterminate", 1, "recovered")]
    for (outcome, times, fate), what in product(by_times, SAID_BESIDES):
        tasks = block.request(route, outcome)
        for task in tasks:
            for _ in range(times):
                block.run(task, ROUTES[route])
            _say_besides(block, task, ROUTES[route], what)
        _all(block, tasks, fate)


@plant(celery_only=True)
def two_deliveries_without_an_end(block: Block, route: str) -> None:
    """What the journal says of one comes before what the broker holds of the other; a try before none."""
    for one, other in combinations(SAID_BESIDES, 2):
        tasks = block.request(route)
        for task in tasks:
            _say_besides(block, task, ROUTES[route], one)
            _say_besides(block, task, ROUTES[route], other)
        _all(block, tasks, SAID_BESIDES[one])


# The last, since it shows in what was asked for when the last fault and the last death before it were over.
@plant(celery_only=True)
def stranded_under_a_fault_that_never_healed(block: Block, route: str) -> None:
    """Of what a worker has taken that the lab kills at last nobody knows whether that one still has it."""
    block.faults.append({"fault": "cut-worker-broker", "injected_ns": block.tick(), "healed_ns": None, "pids": []})
    (task, *later), _ = _accepted(block, route)
    block.unacked.append({"task_id": str(task), "chain": [str(step) for step in later], "visible_since_wall_s": 1.5})
    block.killed_at_the_end.add(block.doomed())
    _all(block, [task, *later], "stranded")


INSTRUMENT = {"loop_lag_p99_ms": 0.3, "loop_lag_max_ms": 1.0, "clock_step_ms": 0.01, "steal_share": 0.0}


def record(block: Block, contender: str = "celery", scenario: str = "mixed", **changes: Any) -> BlockRecord:
    """Return the record of an undisturbed, finished block."""
    due = [row["intended_ns"] for row in block.requests] or [block.now_ns]
    finished: dict[str, Any] = {
        "number": 1, "round": 1, "seed": 1, "contender": contender, "scenario": scenario, "folder": "blocks/01",
        "valid": True, "state": "finished", "instrument": INSTRUMENT, "window_start_ns": due[0],
        "window_end_ns": due[-1], "drained_ns": block.now_ns,
    }  # fmt: skip
    return BlockRecord(**finished | changes)
