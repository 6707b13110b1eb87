"""How the defective contenders mistreat their tasks, and the account of it that they keep themselves.

`install` puts a defect between the app's endpoints or tasks and ``workload.journal``, so it comes before the app is
imported. Environment: ``ACCOUNT`` is the folder of the account; ``DROPS_EVERY``, ``DOUBLES_EVERY`` and
``CLAIMS_EVERY`` say which tasks are acknowledged and never run, run twice, and journaled as run but not run;
``WITHHOLDS_EVERY`` which are run and not journaled to their end.
``FORGETS=1`` keeps an account of what a killed process had taken and not done. ``FORGETS_FIRST=N`` makes the successor
of a killed process forget the first N tasks that it is given (Celery's workers acknowledge them to the broker); in
``starts`` each process writes down how many tasks were given before it. What was begun and what was ended is written
down in any case.
"""

import inspect
import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

from workload import journal
from workload.effects import EFFECTS_LOG
from workload.settings import settings

COUNTER = "counter"


def install() -> None:
    """Replace what the apps import from ``workload.journal``."""
    if os.environ.get("FORGETS"):
        _account_for_predecessors()
        journal.accepted = _taken(journal.accepted)
    journal.journaled = _mistreating(journal.journaled, forgets_until=_forgets_until())


def _append(name: str, text: str) -> int:
    """Append to a file of the account with one ``write``; return where it ends, the other processes' included."""
    fd = os.open(Path(os.environ["ACCOUNT"]) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, text.encode())
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


def _taken(accepted: Callable[..., None]) -> Callable[..., None]:
    @wraps(accepted)
    def accept(job: Callable[..., Any], *task_ids: UUID) -> None:
        for task_id in task_ids:
            _append("taken", f"{task_id}\n")
        accepted(job, *task_ids)

    return accept


def _account_for_predecessors() -> None:
    """Write down which of the tasks that earlier processes had taken they did not do; nobody will do them now."""
    effects, forgotten = settings().data_dir / EFFECTS_LOG, Path(os.environ["ACCOUNT"]) / "forgotten"
    done = {json.loads(line)["task_id"] for line in effects.read_text().splitlines()} if effects.exists() else set()
    taken = Path(os.environ["ACCOUNT"]) / "taken"
    left = [task_id for task_id in taken.read_text().split() if task_id not in done] if taken.exists() else []
    forgotten.write_text("".join(f"{task_id}\n" for task_id in left))


def _forgets_until() -> int:
    """Return the number of the last task that this process forgets; 0 where it is not to, or has no predecessor."""
    first = int(os.environ.get("FORGETS_FIRST", "0"))
    if not first:
        return 0
    counter = Path(os.environ["ACCOUNT"]) / COUNTER
    given_before = counter.stat().st_size if counter.exists() else 0
    line = f"{given_before}\n"
    return given_before + first if _append("starts", line) > len(line) else 0


def _mistreating(journaled: Callable[..., Callable[..., Any]], forgets_until: int) -> Callable[..., Callable[..., Any]]:
    @wraps(journaled)
    def wrap(job: Callable[..., Any]) -> Callable[..., Any]:
        run = journaled(job)

        @wraps(run)
        async def coroutine(task_id: UUID, *args: Any, **then: Any) -> None:
            if _withholds(job, task_id):
                await job(*args, task_id=task_id)
                return
            for _ in range(_executions(job, task_id, forgets_until)):
                await run(task_id, *args, **then)
                _append("ended", f"{task_id}\n")

        @wraps(run)
        def function(task_id: UUID, *args: Any, **then: Any) -> None:
            if _withholds(job, task_id):
                job(*args, task_id=task_id)
                return
            for _ in range(_executions(job, task_id, forgets_until)):
                run(task_id, *args, **then)
                _append("ended", f"{task_id}\n")

        return coroutine if inspect.iscoroutinefunction(job) else function

    return wrap


def _withholds(job: Callable[..., Any], task_id: UUID) -> bool:
    """Return whether the journal is not to hear of this task's end, after writing down that it is so."""
    if not os.environ.get("WITHHOLDS_EVERY") or not _is_due("WITHHOLDS_EVERY", _append(f"{COUNTER}-withheld", ".")):
        return False
    _append("withheld", f"{task_id}\n")
    journal.journal().write(task_id, job.__name__, "started")
    return True


def _executions(job: Callable[..., Any], task_id: UUID, forgets_until: int) -> int:
    """Return how often to run a task, after writing down whether that is wrong."""
    number = _append(COUNTER, ".")  # the file's length counts the tasks of all processes
    if number <= forgets_until:
        _append("forgotten", f"{task_id}\n")
        return 0
    if _is_due("DROPS_EVERY", number):
        _append("dropped", f"{task_id}\n")
        return 0
    if _is_due("CLAIMS_EVERY", number):
        _append("claimed", f"{task_id}\n")
        journal.journal().write(task_id, job.__name__, "started")
        journal.journal().write(task_id, job.__name__, "succeeded")
        return 0
    if _is_due("DOUBLES_EVERY", number):
        _append("doubled", f"{task_id}\n")
        return 2
    _append("begun", f"{task_id}\n")
    return 1


def _is_due(variable: str, number: int) -> bool:
    every = int(os.environ.get(variable, "0"))
    return every > 0 and number % every == 0
