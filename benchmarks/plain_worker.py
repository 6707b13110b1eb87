"""A plain Celery app for `benchmarks.warm_shutdown`: nothing of the lab's in it."""

import os
import signal
import time
from pathlib import Path

from celery import Celery, Task

app = Celery("plain_worker", broker=os.environ.get("REDIS_URL"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="work", bind=True)
def work(self: "Task[..., None]", folder: str, asks: bool) -> None:
    """Compute for 4 ms; write its id down in a folder's ``begun`` before it, and in ``done`` after it.

    After the first of these milliseconds one that ``asks`` the worker to end does so; ``asked`` has when that was.
    """
    _write_down(folder, "begun", str(self.request.id))  # as real tasks do; without it none of 70 hung
    _compute(0.001)
    if asks:
        _write_down(folder, "asked", str(time.monotonic_ns()))
        os.kill(os.getppid(), signal.SIGTERM)
    _compute(0.003)
    _write_down(folder, "done", str(self.request.id))


def _write_down(folder: str, name: str, line: str) -> None:
    with (Path(folder) / name).open("a") as file:
        file.write(line + "\n")


def _compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass
