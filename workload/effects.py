"""What tasks leave behind in files, and how to read it back exactly: one JSON line per effect.

JSON keeps any message on one line: newlines, control and non-ASCII characters are escaped, and
``json.loads(line)`` gives back what was written.
"""

import json
import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from workload.settings import settings

ACTION_LOG = "actions.log"
EFFECTS_LOG = "effects.log"


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line with a single ``write``, so that lines of several processes never mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    finally:
        os.close(fd)


def log_action(task_id: UUID, message: str) -> None:
    """Append an action to ``DATA_DIR/actions.log``: ``{task_id, t_ns, message}``."""
    append_line(
        settings().data_dir / ACTION_LOG,
        {"task_id": str(task_id), "t_ns": time.monotonic_ns(), "message": message},
    )


def record_effect(task_id: UUID, job: str, **details: Any) -> None:
    """Append to ``DATA_DIR/effects.log`` that a job has done its work: ``{task_id, t_ns, job, …}``."""
    append_line(
        settings().data_dir / EFFECTS_LOG,
        {"task_id": str(task_id), "t_ns": time.monotonic_ns(), "job": job, **details},
    )
