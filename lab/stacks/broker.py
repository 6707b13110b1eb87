"""What a Celery broker on Redis holds: the messages in its queues, and those taken and not yet acknowledged.

Read without Celery. A message is JSON with the task's id in its headers and a base64 body ``[args, kwargs, embed]``;
``embed["chain"]`` has the later steps, last first. `unacked` maps delivery tags to ``[message, exchange, key]``, and
`unacked_index` has the wall time at which each was taken, from which the visibility timeout counts (kombu 5.7,
`kombu/transport/redis.py`).
"""

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis

UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"

Leftover = dict[str, Any]


class Counters(NamedTuple):
    """What a broker has used since its start."""

    process: str  # its `run_id`: another one is another process, which has begun anew
    memory_bytes: int  # the most that it allocated at any time
    net_bytes: int  # in and out, of all its clients


def counters(client: redis.Redis) -> Counters:
    """Return what the broker says of itself (`INFO`). Raises redis.RedisError."""
    info = client.info()
    traffic = info["total_net_input_bytes"] + info["total_net_output_bytes"]
    return Counters(info["run_id"], info["used_memory_peak"], traffic)


def leftovers(client: redis.Redis) -> dict[str, list[Leftover]]:
    """Return ``{"queue": [...], "unacked": [...]}``; per message ``task_id``, and in ``chain`` the ids of later steps.

    The unacknowledged also have ``visible_since_wall_s``, when they were taken, or null. Raises redis.RedisError.
    """
    queued = [json.loads(raw) for key in _task_queues(client) for raw in client.lrange(key, 0, -1)]
    taken = client.hgetall(UNACKED)
    assert isinstance(taken, dict)
    return {
        "queue": [_leftover(message) for message in queued if _is_task(message)],
        "unacked": [
            _leftover(message) | {"visible_since_wall_s": client.zscore(UNACKED_INDEX, tag)}
            for tag, raw in taken.items()
            if _is_task(message := json.loads(raw)[0])
        ],
    }


def is_empty(client: redis.Redis) -> bool:
    """Return whether no task waits in a queue. Raises redis.RedisError."""
    return waiting(client) == 0


def holds_nothing(client: redis.Redis) -> bool:
    """Return whether no task waits in a queue, nor is taken and unacknowledged. Raises redis.RedisError."""
    # In the order in which a message goes, lest it be missed on its way.
    return waiting(client) == 0 and client.hlen(UNACKED) == 0


def waiting(client: redis.Redis) -> int:
    """Return how many messages wait in the queues. Raises redis.RedisError."""
    lengths = [client.llen(key) for key in _task_queues(client)]
    return sum(length for length in lengths if isinstance(length, int))


def _task_queues(client: redis.Redis) -> Iterator[bytes]:
    """Yield the lists that are queues of tasks; Celery's remote control has lists of its own."""
    for key in client.scan_iter(_type="list"):
        if not key.endswith(b".pidbox"):
            yield key


def _is_task(message: dict[str, Any]) -> bool:
    return "id" in message.get("headers", {})


def _leftover(message: dict[str, Any]) -> Leftover:
    embed = json.loads(base64.b64decode(message["body"]))[2]
    later = [step["options"]["task_id"] for step in reversed(embed.get("chain") or [])]
    return {"task_id": message["headers"]["id"], "chain": later}
