"""A locustfile as most are written: Locust's own closed loop, ten users at ten requests a second each.

It writes each response time, in seconds and in order of the answers, to the file named by CLOSED_LOOP_TIMES.
"""

import os
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task

_times = Path(os.environ["CLOSED_LOOP_TIMES"]).open("w")  # noqa: SIM115 - open for as long as the process lives


class Pinging(FastHttpUser):
    """Asks again as soon as it has its answer and a tenth of a second has passed."""

    wait_time = constant_throughput(10)

    @task
    def ping(self) -> None:
        """Ask once."""
        self.client.get("/ping/loop")


def _note(response_time: float, **_: Any) -> None:
    _times.write(f"{response_time / 1000}\n")


hooks: Any = events
hooks.request.add_listener(_note)
