"""The journal and the effects: what is written can be read back exactly, by whoever comes after a SIGKILL."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.globs import no_glob
from workload import jobs, journal
from workload.effects import append_line
from workload.settings import settings

TASKS = [UUID(int=number) for number in range(1, 4)]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DATA_DIR of the test's own, with an open journal."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ALLOW_CRASH", "0")
    settings.cache_clear()
    opened = journal.open_journal("test")
    yield tmp_path
    opened.close()
    monkeypatch.setattr(journal, "_journal", None)
    settings.cache_clear()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return a file's JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(data_dir: Path) -> list[tuple[str, str, str]]:
    """Return task, job and event of every line of every journal but the anchors."""
    written = [line for path in sorted((data_dir / "journal").iterdir()) for line in lines(path)[1:]]
    return [(line["task_id"], line["job"], line["event"]) for line in written]


def test_a_journal_that_is_off_takes_no_event(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the anchor: so that what journaling costs can be measured."""
    monkeypatch.setenv("JOURNAL", "0")
    settings.cache_clear()
    journal.accepted(jobs.write_log, *TASKS)
    assert events(data_dir) == []
    monkeypatch.delenv("JOURNAL")
    settings.cache_clear()
    journal.accepted(jobs.write_log, *TASKS)
    assert len(events(data_dir)) == len(TASKS)


def test_a_journal_starts_with_its_anchor_and_its_name_says_whose_it_is(data_dir: Path) -> None:
    """Wall and monotonic clock at one moment, and the boot they belong to."""
    (path,) = (data_dir / "journal").iterdir()
    assert path.name.startswith("test-")
    assert f"-{os.getpid()}-" in path.name
    (anchor,) = lines(path)
    assert set(anchor) == {"boot_id", "wall_ns", "monotonic_ns", "service"}
    assert abs(anchor["wall_ns"] - time.time_ns()) < 60e9
    assert abs(anchor["monotonic_ns"] - time.monotonic_ns()) < 60e9


def test_a_job_is_journaled_from_start_to_end_and_leaves_its_effect(data_dir: Path) -> None:
    """A function and a coroutine alike; the wrapper keeps what the job is."""
    journal.accepted(jobs.write_log, TASKS[0])
    journal.journaled(jobs.write_log)(TASKS[0], "hello")
    asyncio.run(journal.journaled(jobs.async_task)(TASKS[1], "name", 0.0))
    first, second = str(TASKS[0]), str(TASKS[1])
    assert events(data_dir) == [
        (first, "write_log", "accepted"),
        (first, "write_log", "started"),
        (first, "write_log", "succeeded"),
        (second, "async_task", "started"),
        (second, "async_task", "succeeded"),
    ]
    assert [line["task_id"] for line in lines(data_dir / "actions.log")] == [first]
    assert [(line["task_id"], line["job"]) for line in lines(data_dir / "effects.log")] == [(second, "async_task")]


def test_a_failing_step_is_journaled_and_skips_the_later_ones(data_dir: Path) -> None:
    """The exception goes on, and leaves no effect."""
    with pytest.raises(jobs.AskedToFailError):
        journal.journaled(jobs.step)(TASKS[0], 1, True, then=TASKS[1:])
    assert [event for _, _, event in events(data_dir)] == ["started", "failed", "skipped", "skipped"]
    assert lines(data_dir / "effects.log") == []


def test_an_error_is_text_that_every_reader_of_json_takes(data_dir: Path) -> None:
    """Not all take half a surrogate pair, which Python's text may have."""
    journal.journal().write(TASKS[0], "step", "failed", error="ValueError: \ud800 \udcff \U0001f642 ü")
    (path,) = (data_dir / "journal").iterdir()
    assert [line.get("error") for line in lines(path)] == [None, "ValueError: ? ? \U0001f642 ü"]
    rows = duckdb.execute("SELECT error FROM read_json($path, format = 'newline_delimited')", {"path": no_glob(path)})
    assert rows.fetchall() == [(None,), ("ValueError: ? ? \U0001f642 ü",)]


def test_a_cancelled_job_has_failed(data_dir: Path) -> None:
    """As when a server shuts down and does not wait."""

    async def main() -> None:
        task = asyncio.ensure_future(journal.journaled(jobs.probe_io)(TASKS[0], 60.0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [event for _, _, event in events(data_dir)] == ["started", "failed"]
    assert lines(data_dir / "effects.log") == []


@pytest.mark.parametrize("work", ["io", "blocking", "cpu", "async_blocking"])
def test_a_probe_takes_its_time_and_leaves_its_effect(data_dir: Path, work: str) -> None:
    """At least the seconds it was asked for; of CPU time, where it computes."""
    before_s, cpu_before_s = time.monotonic(), time.thread_time()
    done = jobs.PROBES[work](0.05, task_id=TASKS[0])
    if done is not None:
        asyncio.run(done)
    assert time.monotonic() - before_s >= 0.05
    if work == "cpu":
        assert time.thread_time() - cpu_before_s >= 0.05
    assert [line["job"] for line in lines(data_dir / "effects.log")] == [f"probe_{work}"]


def test_a_probe_that_shall_fail_fails_and_one_that_may_not_crash_does_not(data_dir: Path) -> None:
    """Neither leaves an effect."""
    with pytest.raises(jobs.AskedToFailError):
        jobs.PROBES["fail"](0.0, task_id=TASKS[0])
    with pytest.raises(PermissionError):
        jobs.PROBES["crash"](0.0, task_id=TASKS[0])
    assert lines(data_dir / "effects.log") == []


CRASH = """
import sys
from uuid import UUID
from lab.globs import no_glob
from workload import jobs, journal
from workload.process import prepare

prepare("worker")
journal.journaled(jobs.probe_crash)(UUID(int=1), 0.0)
"""


def test_a_crash_loses_no_event(tmp_path: Path) -> None:
    """The process is gone by SIGKILL, and its last event is in the file."""
    environment = os.environ | {"DATA_DIR": str(tmp_path / "new" / "data"), "ALLOW_CRASH": "1"}
    ended = subprocess.run([sys.executable, "-c", CRASH], env=environment, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "new" / "data" / "uploads").is_dir()
    assert events(tmp_path / "new" / "data") == [(str(UUID(int=1)), "probe_crash", "started")]


def test_a_forked_child_writes_a_journal_of_its_own(data_dir: Path) -> None:
    """Under the same service's name."""
    journal.journal().write(TASKS[0], "job", "started")
    child = os.fork()
    if child == 0:
        journal.journal().write(TASKS[1], "job", "started")
        os._exit(0)
    os.waitpid(child, 0)
    files = list((data_dir / "journal").iterdir())
    assert sorted(path.name.split("-")[0] for path in files) == ["test", "test"]
    assert sorted(event[0] for event in events(data_dir)) == [str(TASKS[0]), str(TASKS[1])]


@given(message=st.text())
def test_any_message_is_one_line_and_is_read_back_exactly(
    message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Line ends, control characters, any script, lone surrogates even."""
    path = tmp_path_factory.getbasetemp() / f"actions-{uuid4()}"
    append_line(path, {"message": message})
    append_line(path, {"message": "next"})
    written = path.read_bytes()
    path.unlink()
    assert written.count(b"\n") == 2
    assert [json.loads(line)["message"] for line in written.splitlines()] == [message, "next"]


def test_lines_of_many_processes_do_not_mix(tmp_path: Path) -> None:
    """Four processes append long lines to one file at once: each line is whole."""
    program = """
import sys
from pathlib import Path
from workload.effects import append_line
for number in range(300):
    append_line(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number, "message": sys.argv[2] * 9_000})
"""
    path = tmp_path / "effects.log"
    writers = [subprocess.Popen([sys.executable, "-c", program, path, name]) for name in "abcd"]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    read = lines(path)
    assert sorted((line["writer"], line["number"]) for line in read) == [(w, n) for w in "abcd" for n in range(300)]
    assert all(line["message"] == line["writer"] * 9_000 for line in read)
