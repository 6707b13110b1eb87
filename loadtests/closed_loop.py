"""A locustfile as most are written: Locust's own closed loop, whose users wait for each answer.

At its end it writes what Locust reports as JSON into ``--reported``: percentiles of response time in milliseconds, and
how many requests were acknowledged.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gevent
from locust import FastHttpUser, constant_throughput, events, task

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser

PERCENTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}


class Paced(FastHttpUser):
    """Asks again as soon as it has its answer and a tenth of a second has passed."""

    wait_time = constant_throughput(10)

    @task
    def ask(self) -> None:
        """Ask once."""
        self.client.get("/work", headers={"X-Request-ID": str(uuid4())})


class FlatOut(FastHttpUser):
    """Asks for an action again as soon as it has its answer."""

    @task
    def act(self) -> None:
        """Ask for one action."""
        self.client.post("/action", json={"message": "flat out"})


def _add_arguments(parser: "LocustArgumentParser") -> None:
    parser.add_argument("--reported", type=Path, required=True, help="file for what Locust reports")


def _count_from_now(**_: Any) -> None:
    """Locust lets the run time count from what gevent last took for now, which was before the imports."""
    gevent.get_hub().loop.update_now()


def _write(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    latency = {name: total.get_response_time_percentile(share) for name, share in PERCENTILES.items()}
    reported = {"latency": latency, "acknowledged": total.num_requests - total.num_failures}
    environment.parsed_options.reported.write_text(json.dumps(reported))


hooks: Any = events
hooks.init_command_line_parser.add_listener(_add_arguments)
hooks.init.add_listener(_count_from_now)
hooks.quitting.add_listener(_write)
