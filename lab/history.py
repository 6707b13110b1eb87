"""The history of one id: everything a block's folder knows about a task or a request, in order and in sentences."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import duckdb

from lab.errors import LabError
from lab.globs import no_glob
from lab.rundir import read_faults

# Why a task has the fate it has: the table of docs/method.md in words.
WHY = {
    "done": "executed to its end exactly once",
    "failed": "the journal says that it failed for good",
    "given_up": "the journal says that its attempts were used up",
    "skipped": "the journal says that an earlier step stopped it",
    "pending": "never executed to its end; when the block ended, it, or the step before it, still waited or ran, "
    "as far as that can be told",
    "stranded": "never executed to its end; a worker took it, or the step before it, and never acknowledged it",
    "lost": "its request was acknowledged, it was never executed to its end, and nothing holds it any more",
    "duplicated": "executed to its end more than once",
    "not_done": "never executed to its end, and its request never got a yes",
    "recovered": "executed to its end, although its request never got a yes",
    "unexpected": "executed to its end, although its request was refused or never made",
}

# kombu's default. The lab does not know what an app sets in its place (`broker_transport_options`).
VISIBILITY_TIMEOUT_S = 3600
DUE_AGAIN = "due again after the visibility timeout of 1 h (Celery's default)"

# What a line of ``processes.jsonl`` must have to be understood here, and of which type.
PROCESS = {"t_ns": int, "pid": int, "name": (str, type(None)), "started_ns": (int, type(None))}

Moment = tuple[int | None, str]  # monotonic ns, or None where only the end state is known


@dataclass(frozen=True)
class Writer:
    """A process that had to do with a task, by what it calls itself; ``t_ns`` is the last that it wrote of the task."""

    origin: str  # service and hostname
    pid: int
    t_ns: int

    def ended_with(self, end: dict[str, Any]) -> bool:
        """Return whether this is its end or that of its container, seen from outside: there it has another pid."""
        inside = end.get("inner_pid") if end.get("inner_pid") is not None else end["pid"]
        return (
            (end.get("kind") == "container" or inside == self.pid)
            and (end.get("hostname") is None or self.origin.endswith(f"-{end['hostname']}"))
            and (end.get("started_ns") or 0) <= self.t_ns <= end["t_ns"]
        )


def history(block: Path, sought: UUID) -> list[str]:
    """Return what is known about a task's or a request's id, one sentence each, with seconds since it was due.

    Of the faults: those from when it was due until it was over, and the one after that, for what was never over.
    Sentences without a time (what the end of the block found) come last. Empty where nothing is known. Raises LabError
    naming the file where one is damaged; duckdb.Error where it is a table.
    """
    request, task_ids = _whose(block, str(sought))
    moments = list(_request_moments(request)) if request else []
    writers: set[Writer] = set()
    for task_id in task_ids:
        found, ran_in = _task_moments(block, task_id)
        moments += found
        writers |= ran_in
    if not moments:
        return []
    times = [t for t, _ in moments if t is not None]
    start_ns = request["intended_ns"] if request else min(times, default=0)
    ends = {writer: _ends_of(block, writer) for writer in writers}
    pids = {end["pid"] for of_one in ends.values() for end in of_one}
    moments += _fault_moments(block, start_ns, max(times, default=0), pids)
    moments += _death_moments(ends)
    moments += _life_moments(block, writers)
    moments += _stop_moments(block, ends)
    told = sorted(set(moments), key=lambda moment: (moment[0] is None, moment[0] or 0, moment[1]))
    return [_said(moment, start_ns) for moment in told] + [f for task in task_ids for f in _fate(block, task)]


def _said(moment: Moment, start_ns: int) -> str:
    t_ns, sentence = moment
    return f"At the end: {sentence}." if t_ns is None else f"{(t_ns - start_ns) / 1e9:+.3f} s: {sentence}."


def _rows(sql: str, **values: Any) -> list[dict[str, Any]]:
    """Return the rows of a query as dictionaries."""
    with duckdb.cursor() as db:
        result = db.execute(sql, values)
        names = [column[0] for column in result.description or []]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _whose(block: Path, sought: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the request that the id is of or belongs to, and the ids of the tasks to tell about."""
    requests = no_glob(block / "requests.parquet")
    sql = "SELECT * FROM read_parquet($requests) WHERE request_id = $id"
    for row in _rows(sql, requests=requests, id=sought):
        return row, [_task_id(sought, position) for position in range(row["tasks"])]
    for row in _rows("SELECT request_id, tasks FROM read_parquet($requests) WHERE tasks > 0", requests=requests):
        if sought in (_task_id(row["request_id"], position) for position in range(row["tasks"])):
            return _rows(sql, requests=requests, id=row["request_id"])[0], [sought]
    return None, [sought]


def _task_id(request_id: str, position: int) -> str:
    return str(uuid5(UUID(request_id), str(position)))


def _request_moments(request: dict[str, Any]) -> Iterator[Moment]:
    yield request["intended_ns"], f"request {request['request_id']} was due: {request['route']} ({request['phase']})"
    if request["sent_ns"] is None:
        known = "was never sent" if request["outcome"] == "unsent" else "may have been sent or not"
        yield None, f"the request {known}: {request['error']}"
        return
    yield request["sent_ns"], "the request was sent"
    answer = request["error"] or (f"status {request['status']}" if request["status"] else "no answer")
    yield request["ended_ns"], f"the request ended {request['outcome']}: {answer}"


def _task_moments(block: Path, task_id: str) -> tuple[list[Moment], set[Writer]]:
    """Return what is known of a task, and the processes that had to do with it."""
    evidence = block / "evidence"
    moments, writers = _journal_moments(evidence / "journal", task_id)
    moments += _effect_moments(evidence, task_id)
    moments += _leftover_moments(evidence, task_id)
    return moments, writers


def _ends_of(block: Path, writer: Writer) -> list[dict[str, Any]]:
    """Return the records of a process's end, first the one that came first: in a container, that one's end too."""
    ends = _lines_with(block / "evidence" / "processes.jsonl", '"ended"', PROCESS)
    return sorted((end for end in ends if writer.ended_with(end)), key=lambda end: end["t_ns"])


def _death_moments(ends: dict[Writer, list[dict[str, Any]]]) -> Iterator[Moment]:
    """Yield how each of the processes ended."""
    for writer, of_one in ends.items():
        for end in of_one[:1]:
            who = f"process {writer.pid} ({end['name'] or 'a child'})"
            who = f"the container of {who}" if end.get("kind") == "container" else who
            yield end["t_ns"], f"{who} ended{_how(end)}"


def _life_moments(block: Path, writers: set[Writer]) -> Iterator[Moment]:
    """Yield which of the processes lived when the evidence was taken, and went on."""
    for alive in _lines_with(block / "evidence" / "processes.jsonl", '"living"', PROCESS):
        if any(writer.ended_with(alive) for writer in writers):
            yield alive["t_ns"], f"process {alive['pid']} ({alive['name']}) lived, and went on: the evidence was copied"


def _stop_moments(block: Path, ends: dict[Writer, list[dict[str, Any]]]) -> Iterator[Moment]:
    """Yield when the lab ended the block, where it had to kill one of the processes for that."""
    for stop in _lines_with(block / "evidence" / "processes.jsonl", '"stopping"', {"t_ns": int}):
        if any(end["t_ns"] > stop["t_ns"] and end.get("signal") == 9 for of_one in ends.values() for end in of_one):
            yield stop["t_ns"], "the lab told all that runs the app's code to end: the block was over"


def _how(record: dict[str, Any]) -> str:
    if record.get("signal") is not None:
        return f" by signal {record['signal']}"
    return "" if record.get("status") is None else f" with status {record['status']}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise LabError naming the file where what is read from it is not what it should be."""
    try:
        yield
    except KeyError as error:
        raise LabError(f"{path} is damaged: something in it has no {error}.") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LabError(f"{path} is damaged: {str(error).rstrip('.')}.") from error


def _lines_with(path: Path, text: str, types: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines of a file that contain a text; none where there is no such file.

    Raises LabError where one is no JSON object, or does not have these fields of these types.
    """
    if path.exists():
        with _readable(path), path.open(encoding="utf-8") as lines:
            for line in lines:
                if text in line:
                    yield _checked(json.loads(line), types)


def _checked(row: Any, types: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TypeError("a line in it is no JSON object")
    for field, kind in types.items():
        if not isinstance(row.get(field), kind):
            raise TypeError(f"of a line in it '{field}' is not what it should be")
    return row


def _anchor(path: Path) -> dict[str, Any]:
    """Return the first line of a journal; nothing where there is none."""
    with _readable(path), path.open(encoding="utf-8") as lines:
        return _checked(json.loads(lines.readline() or "{}"), {})


def _journal_moments(journal: Path, task_id: str) -> tuple[list[Moment], set[Writer]]:
    """Return the events of a task, and the processes that wrote them."""
    moments: list[Moment] = []
    writers: set[Writer] = set()
    for path in sorted(journal.glob("*.jsonl")):
        with _readable(path):
            origin, pid, _ = path.stem.rsplit("-", 2)
        written = []
        service = _anchor(path).get("service", "?")
        for event in _lines_with(path, task_id, {"t_ns": int, "job": str, "event": str}):
            error = f" ({event['error']})" if "error" in event else ""
            what = f"task {task_id} ({event['job']}) {event['event']}{error}, journal of {service}, process {pid}"
            written.append((event["t_ns"], what))
        if written:
            writers.add(Writer(origin, int(pid), max(t_ns for t_ns, _ in written)))
        moments += written
    return moments, writers


def _effect_moments(evidence: Path, task_id: str) -> Iterator[Moment]:
    for name, effect in {"actions.log": "line in the action log", "mail.jsonl": "mail", "effects.log": "line"}.items():
        for line in _lines_with(evidence / name, task_id, {"t_ns": (int, type(None))}):
            yield line.get("t_ns"), f"the effect of task {task_id} is there: a {effect} ({name})"
    for row in _lines_with(evidence / "rows.jsonl", task_id, {"kind": str}):
        state = f", status {row['status']}" if row.get("status") else ""
        yield None, f"PostgreSQL holds the {row['kind']} of task {task_id}{state}"


def _leftover_moments(evidence: Path, task_id: str) -> Iterator[Moment]:
    broker = evidence / "broker.json"
    if not broker.exists():
        return
    with _readable(broker):
        held = json.loads(broker.read_text())
        for place, words in {"queue": "waits in the queue", "unacked": "is taken and unacknowledged"}.items():
            for message in held.get(place, []):
                if message["task_id"] == task_id:
                    yield None, f"the broker still holds task {task_id}: it {words}"
                elif task_id in message["chain"]:
                    yield None, f"the broker still holds task {task_id} inside {message['task_id']}, which {words}"
                else:
                    continue
                if place == "unacked":
                    yield _taken(evidence, message)


def _taken(evidence: Path, message: dict[str, Any]) -> Moment:
    """Say when a worker took an unacknowledged message, and when the broker will give it out again."""
    if message["visible_since_wall_s"] is None:
        return None, f"no index of the broker's has {message['task_id']}, so it is never given out again"
    taken_wall_ns = int(message["visible_since_wall_s"] * 1e9)
    taken_ns = next((taken_wall_ns + offset_ns for offset_ns in _clock_offsets(evidence / "journal")), None)
    stops = _lines_with(evidence / "processes.jsonl", '"stopping"', {"t_ns": int})
    overdue = taken_ns is not None and any(stop["t_ns"] > taken_ns + VISIBILITY_TIMEOUT_S * 1e9 for stop in stops)
    within = ", which was within the block" if overdue else ""
    return taken_ns, f"task {message['task_id']} was taken by a worker, {DUE_AGAIN}{within}"


def _clock_offsets(journal: Path) -> Iterator[int]:
    """Yield, by the anchor of each journal, what a wall time in ns lacks to be a monotonic one."""
    for path in journal.glob("*.jsonl"):
        anchor = _anchor(path)
        if "wall_ns" in anchor:
            with _readable(path):
                yield anchor["monotonic_ns"] - anchor["wall_ns"]


def _fault_moments(block: Path, start_ns: int, end_ns: int, pids: set[int]) -> Iterator[Moment]:
    """Yield the faults that were on between two moments, and the first one after them."""
    for one in read_faults(block):
        if one.healed_ns is not None and one.healed_ns < start_ns:
            continue
        hit = ", ".join(f"{pid}, which this is about" if pid in pids else str(pid) for pid in one.pids)
        yield one.injected_ns, f"fault {one.fault} was injected (processes {hit})"
        if one.healed_ns is not None:
            yield one.healed_ns, f"fault {one.fault} was healed"
        if one.injected_ns > end_ns:
            return


def _fate(block: Path, task_id: str) -> Iterator[str]:
    tasks = block / "tasks.parquet"
    if not tasks.exists():
        return
    sql = "SELECT * FROM read_parquet($tasks) WHERE task_id = $id"
    for row in _rows(sql, tasks=no_glob(tasks), id=task_id):
        yield f"Task {task_id} is {row['fate'].replace('_', ' ')}: {WHY[row['fate']]}. Last seen: {row['last_seen']}."
        yield f"Effects found: {row['n_effects']}; successes in the journal: {row['n_journal']}; {row['agreement']}."
