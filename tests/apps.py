"""Both apps as a user runs them: real processes, each with a database, a queue and a data directory of its own."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx2
import psycopg
from psycopg.rows import dict_row

from lab.environment import PROJECT
from lab.stacks.servers import MailSink, free_port
from lab.stacks.supervisor import Supervisor
from tests.support import until

Name = Literal["inline", "celery"]
NAMES: tuple[Name, ...] = ("inline", "celery")

_numbers = count(1)


@dataclass(frozen=True)
class App:
    """One of the two apps, running; ``folder`` has its logs and its data directory."""

    name: Name
    folder: Path
    url: str
    env: dict[str, str]
    mail_sink: MailSink
    client: httpx2.Client
    service: str
    tail: "Tail"

    @property
    def data_dir(self) -> Path:
        """Where the app and its workers leave their traces."""
        return Path(self.env["DATA_DIR"])

    def log(self) -> str:
        """Return what the API has written."""
        return (self.folder / "api.log").read_text()

    def health(self) -> dict[str, str]:
        """Return what the app says it depends on; nothing while it does not answer."""
        try:
            answer: dict[str, str] = self.client.get("/health").json()
        except httpx2.TransportError:
            return {}
        return answer

    def is_ready(self) -> bool:
        """Return whether everything the app depends on is up."""
        return set(self.health().values()) == {"up"}

    def events(self) -> list[dict[str, Any]]:
        """Return every event of the journals, in the order of their times."""
        for file in (self.data_dir / "journal").glob("*.jsonl"):
            self.tail.read(file)
        return sorted(self.tail.events, key=lambda event: event["t_ns"])

    def ends(self, task_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return how tasks ended, in order: ``(job, succeeded | failed | skipped)``."""
        over = ("succeeded", "failed", "skipped")
        return [(e["job"], e["event"]) for e in self.events() if e["task_id"] in task_ids and e["event"] in over]

    def settle(self, task_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Wait until tasks have ended, and return how."""
        wanted = len(task_ids)
        assert until(lambda: len(self.ends(task_ids)) >= wanted, 20), f"{task_ids} did not end: {self.ends(task_ids)}"
        return self.ends(task_ids)

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query on the app's database."""
        with psycopg.connect(self.env["DATABASE_URL"], row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    def uploads(self) -> list[Path]:
        """Return the uploaded files that lie on the disk."""
        return list((self.data_dir / "uploads").iterdir())


class Tail:
    """The events of growing journals, each line read once."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._offsets: Counter[Path] = Counter()

    def read(self, file: Path) -> None:
        """Take in the whole lines that have come since the last time; the first of a file is no event."""
        with file.open("rb") as lines:
            lines.seek(self._offsets[file])
            for line in lines:
                if line.endswith(b"\n"):
                    self._offsets[file] += len(line)
                    self.events += [event] if "event" in (event := json.loads(line)) else []


@contextmanager
def running(
    name: Name,
    folder: Path,
    supervisor: Supervisor,
    env: dict[str, str],
    mail_sink: MailSink,
    worker: Sequence[str] | None = ("--concurrency", "1"),
) -> Iterator[App]:
    """Run an app, the Celery one with a worker unless that is None; it may not be ready yet."""
    number, port = next(_numbers), free_port()
    service, env = f"{name}-{number}", {"DATA_DIR": str(folder / "data"), "SMTP_URL": mail_sink.url, **env}
    python = [sys.executable, "-X", "dev", "-W", "error"]
    api = [*python, "-m", "uvicorn", f"{name}_app.main:app", "--port", str(port), "--no-access-log"]
    with_worker = name == "celery" and worker is not None
    supervisor.start(service, api, env, cwd=PROJECT, log=folder / "api.log")
    if with_worker:
        command = [sys.executable, "-m", "celery", "-A", "celery_app.worker", "worker", *(worker or ())]
        supervisor.start(f"{service}-worker", command, env, cwd=PROJECT, log=folder / "worker.log")
    url = f"http://127.0.0.1:{port}"
    try:
        # A connection for each request: uvicorn closes the one by which a request came whose background task fails.
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=0)
        with httpx2.Client(base_url=url, timeout=10, limits=limits) as client:
            yield App(name, folder, url, env, mail_sink, client, service, Tail())
    finally:
        supervisor.stop(service, 5)
        if with_worker:
            supervisor.stop(f"{service}-worker", 10)


def task_ids_of(answer: httpx2.Response) -> list[str]:
    """Return the task ids of an answer, none for a refusal."""
    ids: list[str] = answer.json().get("task_ids", []) if answer.status_code == 202 else []
    return [str(UUID(task_id)) for task_id in ids]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file that may not exist yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
