"""The drain: it waits for the last task, and gives up only when nothing more can happen."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import pytest

from lab import drain as drain_module
from lab.drain import JournalTail, acknowledged_tasks, drain
from lab.errors import LabError
from lab.interrupt import Interrupted


def journal_file(directory: Path, pid: int) -> Path:
    """Make the journal file of a process, with its first line."""
    path = directory / f"inline-api-host-name-{pid}-0a1b2c3d.jsonl"
    path.write_text(json.dumps({"boot_id": "", "wall_ns": 0, "monotonic_ns": 0, "service": "inline-api"}) + "\n")
    return path


def append(path: Path, task_id: str, event: str) -> None:
    """Append one event to a journal file."""
    with path.open("a") as file:
        file.write(json.dumps({"task_id": task_id, "job": "step", "event": event, "t_ns": 1, "attempt": 1}) + "\n")


def never() -> None:
    """Be nobody's interruption."""


def within(seconds: float) -> int:
    """Return a horizon that lies so far ahead."""
    return time.monotonic_ns() + round(seconds * 1e9)


def test_it_ends_when_every_acknowledged_task_has_ended(tmp_path: Path) -> None:
    """It goes on waiting for a task that has started, and ends soon after that task's end."""
    journal, task = journal_file(tmp_path, os.getpid()), str(uuid4())
    append(journal, task, "started")
    tail = JournalTail(tmp_path)
    ended_ns = []
    waiting = threading.Thread(target=lambda: ended_ns.append(drain(tail, {task}, within(30), lambda: True, never)))
    waiting.start()
    waiting.join(0.2)
    assert not ended_ns
    append(journal, task, "succeeded")
    waiting.join(5)
    assert ended_ns
    assert tail.ended == {task}


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    """An app of one's own writes anything; that its line cannot be read, the ledger says."""
    journal, task = journal_file(tmp_path, os.getpid()), str(uuid4())
    for line in ("", "null", "[" * 100_000, '{"task_id": 1}', json.dumps({"task_id": task, "event": "succeeded"})):
        with journal.open("a") as file:
            file.write(line + "\n")
    append(journal, task, "started")
    tail = JournalTail(tmp_path)
    tail.read()
    assert (tail.ended, set(tail.running)) == (set(), {task})


def test_a_task_lost_with_its_process_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its process is dead, the broker empty and nothing has been heard for a while, it will never end."""
    monkeypatch.setattr(drain_module, "QUIET_S", 0.2)
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    task = str(uuid4())
    append(journal_file(tmp_path, dead.pid), task, "started")
    began = time.monotonic()
    drain(JournalTail(tmp_path), {task}, within(60), lambda: True, never)
    assert time.monotonic() - began < 30


def test_a_waiting_broker_keeps_it_until_the_horizon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While messages wait in the broker a task may still come, so only the horizon ends the wait."""
    monkeypatch.setattr(drain_module, "QUIET_S", 0.1)
    began = time.monotonic()
    drain(JournalTail(tmp_path), {str(uuid4())}, within(0.5), lambda: False, never)
    assert time.monotonic() - began >= 0.5


def test_a_load_that_ends_after_the_horizon_gives_no_more_time(tmp_path: Path) -> None:
    """A task still runs then: the drain was over at the horizon, and what it does later comes too late."""
    append(journal_file(tmp_path, os.getpid()), task := str(uuid4()), "started")
    horizon_ns = within(-5)
    assert drain(JournalTail(tmp_path), {task}, horizon_ns, lambda: True, never) == horizon_ns


@pytest.mark.parametrize("name", ["mine.jsonl", "a-b-c.jsonl"])
def test_a_journal_of_another_name_is_told_in_a_sentence(name: str, tmp_path: Path) -> None:
    """As an own app may call it: nobody could tell whose it is."""
    append(tmp_path / name, str(uuid4()), "started")
    with pytest.raises(LabError, match=rf"{name} is no journal: its name must end in -<pid>-<nonce>.jsonl."):
        JournalTail(tmp_path).read()


def test_an_interruption_ends_it(tmp_path: Path) -> None:
    """Ctrl-C is not made to wait for the horizon."""

    def interrupted() -> None:
        raise Interrupted("Interrupted.")

    with pytest.raises(Interrupted):
        drain(JournalTail(tmp_path), {str(uuid4())}, within(60), lambda: False, interrupted)


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """A reader that comes in the middle of a write neither fails nor loses the event."""
    journal, task = journal_file(tmp_path, os.getpid()), str(uuid4())
    line = json.dumps({"task_id": task, "job": "step", "event": "succeeded", "t_ns": 1, "attempt": 1}) + "\n"
    tail = JournalTail(tmp_path)
    with journal.open("a") as file:
        file.write(line[:20])
    tail.read()
    assert not tail.ended
    with journal.open("a") as file:
        file.write(line[20:])
    tail.read()
    assert tail.ended == {task}


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"\xff", b"[]", b"3", b'{"event": "succeeded"}', b'{"event": "succeeded", "task_id": [], "t_ns": 1}'],
)
def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path, broken: bytes) -> None:
    """In the journal of an app of one's own; the lines after it count."""
    journal, task = journal_file(tmp_path, os.getpid()), str(uuid4())
    with journal.open("ab") as file:
        file.write(broken + b"\n")
    append(journal, task, "succeeded")
    tail = JournalTail(tmp_path)
    tail.read()
    assert tail.ended == {task}


def test_only_acknowledged_requests_name_tasks(tmp_path: Path) -> None:
    """The ids are those that the contract derives from the request's id, one per task."""
    samples = tmp_path / "requests.jsonl"
    acknowledged, refused = uuid4(), uuid4()
    rows = [
        {"schema": 1},
        {"seq": 0, "request_id": str(acknowledged), "outcome": "acknowledged", "tasks": 3},
        {"seq": 1, "request_id": str(refused), "outcome": "refused", "tasks": 1},
        {"loop_lag_p99_ms": 0.1},
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert acknowledged_tasks(samples) == {str(uuid5(UUID(str(acknowledged)), str(n))) for n in range(3)}
