"""How long a warm shutdown of Celery's prefork pool takes: ``python -m benchmarks.warm_shutdown``.

A plain worker with one process, nothing of this lab in it, has tasks waiting that write a line, compute for 4 ms and
write another. One of these sends the worker SIGTERM after the first of these milliseconds; printed is how long the
worker took to end from then, try by try. Broker and worker share a CPU, as in the lab.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from celery import Celery

from lab.environment import PROJECT
from lab.stacks import servers
from lab.stacks.supervisor import Supervisor

WAITING = 100
LONG_S = 5.0

app = Celery("warm_shutdown", broker=os.environ.get("REDIS_URL"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="work")
def work(folder: str, asks: bool) -> None:
    """Do as said above in a folder; where it ``asks`` the worker to end, a file ``asked`` says when that was."""
    _write_line(folder)
    _compute(0.001)
    if asks:
        (Path(folder) / "asked").write_text(str(time.monotonic_ns()))
        os.kill(os.getppid(), signal.SIGTERM)
    _compute(0.003)
    _write_line(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment with the options of the command line."""
    parser = ArgumentParser("python -m benchmarks.warm_shutdown", description=__doc__)
    parser.add_argument("--tries", type=int, default=100)
    tries = parser.parse_args(argv).tries
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary, Supervisor(Path(temporary)) as supervisor:
        broker = servers.redis(supervisor, Path(temporary))
        app.conf.update(broker_url=broker.url)
        took_s = [_shut_down(broker, Path(temporary)) for _ in range(tries)]
    long_s = [one for one in took_s if one > LONG_S]
    longest = f" ({max(long_s):.1f} s at most)" if long_s else ""
    print(f"{len(long_s)} of {tries} took longer than {LONG_S:g} s{longest}")


def _shut_down(broker: servers.Redis, folder: Path) -> float:
    """Return how many seconds a worker took to end from when one of its tasks asked it to."""
    with broker.connect() as client:
        client.flushall()
    asking = random.randrange(WAITING // 2)
    for number in range(WAITING):
        work.delay(str(folder), number == asking)
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.warm_shutdown", "worker", "--concurrency", "1"]
    with (folder / "worker.log").open("wb") as log:
        subprocess.run(
            command, env=os.environ | {"REDIS_URL": broker.url}, cwd=PROJECT, stdout=log, stderr=log, check=True
        )
    took_s = (time.monotonic_ns() - int((folder / "asked").read_text())) / 1e9
    print(f"{took_s:5.1f} s", flush=True)
    return took_s


def _write_line(folder: str) -> None:
    with (Path(folder) / "lines").open("a") as file:
        file.write("A line.\n")


def _compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


if __name__ == "__main__":
    main()
