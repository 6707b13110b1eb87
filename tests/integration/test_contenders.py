"""The contenders that are `inline` and `celery` but for one thing: that thing is really there."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus, place
from lab.faults import FAULTS, inject
from lab.stacks.local import LocalStack, Servers
from tests.support import alive, until

PLACEMENT = place(available_cpus())
KNOWN = load_contenders(PROJECT / "contenders.toml")
STOPPED_S = 1.0


@contextmanager
def up(shared: Servers, name: str, folder: Path) -> Iterator[LocalStack]:
    with LocalStack(shared.supervisor, KNOWN[name], shared, folder / "block", PLACEMENT) as running:
        yield running


def journals(stack: LocalStack) -> dict[int, list[str]]:
    """Return the events of each process that has a journal, by its pid."""
    lines = {int(file.stem.rsplit("-", 2)[1]): file.read_text().splitlines() for file in stack.journal.glob("*.jsonl")}
    return {pid: [json.loads(line).get("event", "") for line in of_one] for pid, of_one in lines.items()}


def working(stack: LocalStack) -> set[int]:
    """Return the pids that have ended a task."""
    return {pid for pid, events in journals(stack).items() if "succeeded" in events}


def ask(stack: LocalStack) -> bool:
    """Have a task done on a connection of its own, as each of many clients does; return whether it was accepted."""
    return httpx2.post(f"{stack.base_url}/action", json={"message": "x"}, timeout=30).status_code == 202


def test_several_processes_share_the_work_and_a_kill_leaves_none_of_them(shared: Servers, tmp_path: Path) -> None:
    """Each with a journal of its own. One that dies alone is replaced by uvicorn, and the lab sees none of it."""
    with up(shared, "inline-workers", tmp_path) as stack:
        assert until(lambda: ask(stack) and len(working(stack)) > 1, 20), "one process did everything"
        first, second = (psutil.Process(pid) for pid in working(stack))
        parent = psutil.Process(shared.supervisor.children[stack.api].pid)
        assert {first, second} <= set(parent.children()), "they are uvicorn's, not uvicorn itself"
        first.kill()
        assert until(lambda: len(journals(stack)) == 3, 20), "no process took its place"
        assert alive([parent, second]) == [parent, second]
        assert shared.supervisor.children[stack.api].starts == 1
        everybody = [parent, *(psutil.Process(pid) for pid in journals(stack) if pid != first.pid)]
        killed = inject(FAULTS["api-kill"], stack)
        assert killed.confirmed
        assert {process.pid for process in everybody} <= set(killed.pids)
        assert not alive(everybody)
        before = {process.pid for process in everybody}
        assert until(lambda: ask(stack) and working(stack) - before - {first.pid}, 20), "nobody works again"


@pytest.mark.parametrize(("name", "answers", "without_broker"), [("celery", True, 503), ("celery-naive", False, 500)])
def test_a_broker_that_stands_still_stops_the_event_loop_of_the_naive_one_alone(
    shared: Servers, tmp_path: Path, name: str, answers: bool, without_broker: int
) -> None:
    """Nobody else gets an answer until it goes on; then all do, and the work that was to be handed over is done.

    Without a broker it is an error of the server's, which does not say that nothing was handed over.
    """
    with up(shared, name, tmp_path) as stack, ThreadPoolExecutor(1) as sender:
        assert httpx2.post(f"{stack.base_url}/multi-tasks", json={}).status_code == 202
        assert until(lambda: done(stack) == 3, 20)
        stack.pause([str(stack.broker)])
        try:
            assert until(lambda: stack.stands_still([str(stack.broker)]))
            hanging = sender.submit(ask, stack)
            answered: list[bool] = []
            while not hanging.done() and all(answered):  # the other one gives up before the broker goes on
                answered.append(gets_an_answer(stack))
        finally:
            stack.go_on([str(stack.broker)])
        assert answered.count(False) == (0 if answers else 1)
        assert until(lambda: gets_an_answer(stack))
        assert hanging.result() != answers, "a yes that came late, or none at all"
        assert until(lambda: done(stack) == 4, 20)
        stack.kill([str(stack.broker)])
        refused = httpx2.post(f"{stack.base_url}/action", json={"message": "x"}, timeout=30)
        assert refused.status_code == without_broker


def done(stack: LocalStack) -> int:
    """Return how many tasks have been done."""
    return sum(events.count("succeeded") for events in journals(stack).values())


def gets_an_answer(stack: LocalStack) -> bool:
    """Return whether a request that has nothing to do with the work is answered while the broker may stand still."""
    try:
        return httpx2.get(f"{stack.base_url}/ping/loop", timeout=STOPPED_S).status_code == 200
    except httpx2.TimeoutException:
        return False
