"""The tasks on the page "Comparison" without `lab up`: counted from a journal that the page's process can read."""

import json
import time
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import pytest

from loadtests.live import Live
from loadtests.recorder import Sample
from loadtests.tasks import Tasks
from workload.journal import Event, Journal

BY_THE_WALL_CLOCK = f'{{"event": "succeeded", "task_id": "x", "t_ns": {time.time_ns()}}}'


def acknowledged(request_id: UUID, tasks: int = 1, contender: str = "celery") -> Sample:
    return Sample(
        *(0, "load", "window", "POST /action", str(request_id), tasks, 0, 0, 1, 202, "acknowledged", None), contender
    )


def write(journal: Journal, request_id: UUID, *events: Event, position: int = 0) -> None:
    for event in events:
        journal.write(uuid5(request_id, str(position)), "action", event)


def counted(tasks: Tasks) -> dict[str, int]:
    """Return what is known of the tasks of `celery`, but when they were done."""
    told = tasks.of("celery")
    assert told is not None
    return {name: count for name, count in told.items() if name not in ("succeeded_in", "last_success_s")}


def test_each_acknowledged_task_is_followed_to_its_end(tmp_path: Path) -> None:
    tasks = Tasks({"celery": tmp_path})
    tasks.begin(0)
    api, worker = (Journal(tmp_path / "journal", service) for service in ("celery-api", "celery-worker"))
    requests = [uuid4() for _ in range(4)]
    for request in requests:
        tasks.add(acknowledged(request, tasks=2))
        for position in range(2):
            write(api, request, "accepted", position=position)
    write(worker, requests[0], "started", "succeeded")
    write(worker, requests[0], "started", "failed", position=1)
    write(worker, requests[1], "skipped")
    write(worker, requests[2], "started", "attempt_failed")
    write(worker, uuid4(), "started", "succeeded")  # nobody here has asked for it
    assert counted(tasks) == {"acknowledged": 8, "not_started": 4, "done": 3, "not_done": 5}
    write(worker, requests[2], "started", "succeeded")
    assert counted(tasks) == {"acknowledged": 8, "not_started": 4, "done": 4, "not_done": 4}


def test_goodput_counts_each_task_in_the_second_in_which_it_first_ended_well(tmp_path: Path) -> None:
    """Neither failures, nor what nobody acknowledged, nor a second time."""
    tasks, done_ns = Tasks({"celery": tmp_path}), [7_100_000_000, 7_900_000_000, 9_000_000_000]
    tasks.begin(5_000_000_000)
    (tmp_path / "journal").mkdir()
    lines = []
    for t_ns in done_ns:
        request = uuid4()
        tasks.add(acknowledged(request))
        ends = [("succeeded", t_ns), ("succeeded", t_ns + 10**9)]
        lines += [{"task_id": str(uuid5(request, "0")), "event": event, "t_ns": at} for event, at in ends]
    tasks.add(acknowledged(failed := uuid4()))
    lines.append({"task_id": str(uuid5(failed, "0")), "event": "failed", "t_ns": done_ns[0]})
    lines.append({"task_id": str(uuid4()), "event": "succeeded", "t_ns": done_ns[0]})
    (tmp_path / "journal" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (told := tasks.of("celery"))
    assert (told["succeeded_in"], told["last_success_s"]) == ([0, 0, 2, 0, 1], 4.0)


def test_what_was_not_acknowledged_or_went_to_others_is_not_counted(tmp_path: Path) -> None:
    tasks = Tasks({"celery": tmp_path})
    tasks.begin(0)
    tasks.add(acknowledged(uuid4())._replace(outcome="refused"))
    tasks.add(acknowledged(uuid4(), contender="inline"))
    assert counted(tasks) == {"acknowledged": 0, "not_started": 0, "done": 0, "not_done": 0}
    assert tasks.of("inline") is None


def test_a_new_load_begins_at_nothing(tmp_path: Path) -> None:
    tasks, request, journal = Tasks({"celery": tmp_path}), uuid4(), Journal(tmp_path / "journal", "celery-worker")
    tasks.begin(0)
    tasks.add(acknowledged(request))
    write(journal, request, "started", "succeeded")
    tasks.begin(0)
    assert counted(tasks) == {"acknowledged": 0, "not_started": 0, "done": 0, "not_done": 0}
    tasks.add(acknowledged(request))  # the same ids: the same seed
    assert counted(tasks) == {"acknowledged": 1, "not_started": 1, "done": 0, "not_done": 1}


def test_a_line_that_is_not_whole_yet_is_read_once_it_is(tmp_path: Path) -> None:
    tasks, request = Tasks({"celery": tmp_path}), uuid4()
    tasks.begin(0)
    tasks.add(acknowledged(request))
    write(Journal(tmp_path / "journal", "celery-worker"), request, "started", "succeeded")
    (file,) = (tmp_path / "journal").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert (told := tasks.of("celery"))
    assert told["done"] == 0
    file.write_bytes(whole)
    assert (told := tasks.of("celery"))
    assert told["done"] == 1


@pytest.mark.parametrize(
    "content",
    [None, "no JSON", '{"event": "started"}', "null", "[1]", "[" * 100_000, '{"event": []}', BY_THE_WALL_CLOCK],
    ids=["a folder", "text", "no id", "null", "list", "too deep", "no event", "by the wall clock"],
)
def test_a_journal_that_cannot_be_read_is_never_told_as_nothing_done(tmp_path: Path, content: str | None) -> None:
    """Not the next time it is asked either, nor when what comes next can be read."""
    tasks, request = Tasks({"celery": tmp_path}), uuid4()
    tasks.begin(0)
    tasks.add(acknowledged(request))
    journal = Journal(tmp_path / "journal", "celery-worker")
    write(journal, request, "started")
    file = tmp_path / "journal" / "broken.jsonl"
    if content is None:
        file.mkdir()
    else:
        file.write_text(f"{content}\n")
    assert tasks.of("celery") is None
    write(journal, request, "succeeded")
    assert tasks.of("celery") is None


@pytest.mark.parametrize("known", [True, False])
def test_the_snapshot_has_the_tasks_of_whom_it_knows(tmp_path: Path, known: bool) -> None:
    live = Live(Tasks({"celery": tmp_path}) if known else None)
    live.begin("action", 1.0, {"celery": "http://127.0.0.1:1"}, start_ns=0)
    live.add([acknowledged(uuid4())])
    told = {"acknowledged": 1, "not_started": 1, "done": 0, "not_done": 1, "succeeded_in": [], "last_success_s": None}
    assert live.snapshot()["contenders"]["celery"]["tasks"] == (told if known else None)
