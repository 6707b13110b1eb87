"""How long a warm shutdown of Celery's prefork pool takes: ``python -m benchmarks.warm_shutdown``.

A plain worker with one process has tasks waiting that compute for 4 ms and write their ids down, before and after.
One of these sends the worker SIGTERM after the first of these milliseconds. Printed is, try by try, how long the worker
took to end from then, and how many tasks that are done the broker still has, to be done again. Broker and worker share
a CPU, as in the lab.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import redis

from benchmarks.plain_worker import app, work
from lab.environment import PROJECT
from lab.stacks import servers
from lab.stacks.broker import leftovers
from lab.stacks.supervisor import Supervisor

WAITING = 100
LONG_S = 5.0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment with the options of the command line."""
    parser = ArgumentParser("python -m benchmarks.warm_shutdown", description=__doc__)
    parser.add_argument("--tries", type=int, default=100)
    tries = parser.parse_args(argv).tries
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary, Supervisor(Path(temporary)) as supervisor:
        broker = servers.redis(supervisor, Path(temporary))
        seen = [_shut_down(broker, Path(temporary) / str(number)) for number in range(tries)]
    long = [again for took_s, again in seen if took_s > LONG_S]
    print(f"{len(long)} of {tries} took longer than {LONG_S:g} s; to be done again: {sum(long)} of these, "
          f"{sum(again for _, again in seen) - sum(long)} of the others")  # fmt: skip


def _shut_down(broker: servers.Redis, folder: Path) -> tuple[float, int]:
    """Return in how many seconds a worker ended when a task asked it to, and how many tasks are to be done again."""
    folder.mkdir()
    with broker.connect() as client, app.connection_for_write(broker.url) as connection:
        client.flushall()
        asking = random.randrange(WAITING // 2)
        for number in range(WAITING):
            work.s(str(folder), number == asking).apply_async(connection=connection)
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.plain_worker", "worker", "--concurrency", "1"]
        environment = os.environ | {"REDIS_URL": broker.url}
        with (folder / "worker.log").open("wb") as log:
            subprocess.run(command, env=environment, cwd=PROJECT, stdout=log, stderr=log, check=True)
        took_s = (time.monotonic_ns() - int((folder / "asked").read_text())) / 1e9
        again = count_to_be_done_again(client, folder)
    print(f"{took_s:5.1f} s, {again} to be done again", flush=True)
    return took_s, again


def count_to_be_done_again(client: redis.Redis, folder: Path) -> int:
    """Return how many of the tasks that a folder says are done the broker has, waiting or unacknowledged."""
    held = {message["task_id"] for place in leftovers(client).values() for message in place}
    return len(held & set((folder / "done").read_text().split()))


if __name__ == "__main__":
    main()
