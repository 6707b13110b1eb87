"""The control API of `lab up`: what the stacks behind the web UI are doing, and faults on request.

It listens on loopback alone and asks for a token that is drawn anew each time and that only Locust is given.
"""

import hmac
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid5

import duckdb

from lab.drain import JournalTail
from lab.errors import LabError
from lab.exploratory import Seen
from lab.faults import FAULTS, inject
from lab.rundir import Injection, RunDir
from lab.stacks.local import LocalStack

TOKEN_HEADER = "X-Lab-Token"  # noqa: S105 - the name of the header
# Two names and some braces: whatever is longer was not meant for here.
MAX_BODY = 4096


class Refused(Exception):
    """What was asked for cannot be done: a sentence, and the HTTP status that goes with it."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class SamplesTail:
    """Follows the samples file of the web UI's load, which each run replaces; complete lines only, each read once.

    ``tasks`` are the ids of the acknowledged tasks of the run, by contender.
    """

    path: Path
    header: dict[str, Any] | None = None
    ended: bool = False
    tasks: dict[str, set[str]] = field(default_factory=dict)
    _first_line: bytes = b""
    _offset: int = 0

    @property
    def running(self) -> bool:
        """Return whether a load was begun and has not ended."""
        return self.header is not None and not self.ended

    def read(self) -> bool:
        """Take in what has been written since the last call; return whether it was the beginning of a new run.

        Raises LabError where a line is none of a load's, until the next run replaces it.
        """
        try:
            with self.path.open("rb") as file:
                first_line = file.readline()
                if not first_line.endswith(b"\n"):
                    return False
                is_new = first_line != self._first_line
                if is_new:
                    self._begin(first_line)
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return False
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._take(self._parsed(line))
            self._offset += len(line)
        return is_new

    def _begin(self, first_line: bytes) -> None:
        self.header, self.ended, self.tasks = self._parsed(first_line), False, {}
        self._first_line, self._offset = first_line, len(first_line)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise LabError(f"{self.path} has a line that is none of a load's: start another load.")
        return row

    def _take(self, row: dict[str, Any]) -> None:
        if "seq" not in row:
            self.ended = True
        elif row["outcome"] == "acknowledged":
            ids = (str(uuid5(UUID(row["request_id"]), str(position))) for position in range(row["tasks"]))
            self.tasks.setdefault(row["contender"], set()).update(ids)


@dataclass
class Asked:
    """A fault that somebody asked for; ``injection`` is known once it is over."""

    contender: str
    fault: str
    asked_ns: int
    injection: Injection | None = None
    error: str | None = None

    @property
    def over(self) -> bool:
        """Return whether the stack can work again, or it is known that it cannot."""
        return self.injection is not None or self.error is not None


# From a samples file that nobody writes to any more, and what was seen of each contender in that load.
Save = Callable[[Path, list[Seen]], RunDir]


def _possible(stack: LocalStack) -> dict[str, str]:
    """Return what can be done to a stack: a description of each fault by name."""
    possible = [one for one in FAULTS.values() if "local" in one.stacks and one.applies_to(stack.contender)]
    return {fault.name: fault.description for fault in possible if not fault.hits_users_own("local")}


class Control:
    """Knows the stacks of `lab up`, counts their tasks, and does faults to them, one at a time for each stack."""

    def __init__(self, stacks: list[LocalStack], samples: Path, save: Save) -> None:
        self._save = save
        self._saved: list[RunDir] = []
        self._saving = threading.Lock()
        self._stacks = {stack.contender.name: stack for stack in stacks}
        self._samples = SamplesTail(samples)
        self._journals = {name: JournalTail(stack.journal) for name, stack in self._stacks.items()}
        self._faults: list[Asked] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return ``{"running", "contenders": {name: …}, "faults": [...], "saved": [{"run", "report"}, …]}``.

        Per contender: ``acknowledged`` tasks of the run, those of them ``done`` (ended, whatever their end) and
        ``not_done``, how many ``succeeded_in`` each second since the load's start and when the last of them did
        (``last_success_s``), the ``backlog`` of messages in its queue (null where it has none, or it does not answer),
        and the ``faults`` that can be done to it. Per fault ``at_s`` and ``healed_s`` since the load's start.
        """
        with self._lock:
            self._read()
            return {
                "running": self._samples.running,
                "contenders": {name: self._contender(name) for name in self._stacks},
                "faults": [self._shown(asked) for asked in self._faults],
                "saved": [{"run": run.path.name, "report": str(run.path / "report.html")} for run in self._saved],
            }

    def fault(self, contender: str, fault: str) -> None:
        """Begin a fault. Raises Refused where there is no such thing, no load of it runs, or another is not over."""
        if contender not in self._stacks:
            raise Refused(HTTPStatus.NOT_FOUND, f"There is no contender '{contender}' here.")
        stack = self._stacks[contender]
        if fault not in _possible(stack):
            raise Refused(HTTPStatus.NOT_FOUND, f"There is no fault '{fault}' that can be done to '{contender}'.")
        with self._lock:
            self._read()
            if not self._samples.running:
                raise Refused(HTTPStatus.CONFLICT, "No load is running: a fault now would show nothing.")
            if contender not in (self._samples.header or {}).get("contenders", ()):
                raise Refused(HTTPStatus.CONFLICT, f"'{contender}' is not under load: a fault now would show nothing.")
            if any(asked.contender == contender and not asked.over for asked in self._faults):
                raise Refused(HTTPStatus.CONFLICT, f"The fault before is not over for '{contender}' yet.")
            asked = Asked(contender, fault, time.monotonic_ns())
            self._faults.append(asked)
        thread = threading.Thread(target=self._inject, args=(asked, stack), name=f"fault-{contender}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def save(self) -> str:
        """Save the last load as a run directory with its report; return the directory's name.

        Raises Refused where there was none, it is not over, or it cannot be saved.
        """
        if not self._saving.acquire(blocking=False):
            raise Refused(HTTPStatus.CONFLICT, "The load is being saved already.")
        with ExitStack() as ending:
            ending.callback(self._saving.release)
            folder = Path(ending.enter_context(TemporaryDirectory(prefix=".saving-", dir=self._samples.path.parent)))
            samples = folder / "samples.jsonl"
            seen = self._take(samples)
            try:
                run = self._save(samples, seen)
            except (LabError, OSError, duckdb.Error) as error:
                sentence = f"The load could not be saved: {error}"
                raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, sentence) from error
            self._saved.append(run)
        return run.path.name

    def _take(self, samples: Path) -> list[Seen]:
        """Copy the samples, which the next load replaces, and return what was seen in their load."""
        with self._lock:
            self._read()
            header = self._samples.header
            if header is None:
                raise Refused(HTTPStatus.CONFLICT, "There was no load yet: there is nothing to save.")
            if self._samples.running:
                raise Refused(HTTPStatus.CONFLICT, "The load is running: stop it before it is saved.")
            if any(not asked.over for asked in self._faults):
                raise Refused(HTTPStatus.CONFLICT, "A fault is not over yet: save once it is.")
            shutil.copy(self._samples.path, samples)
            tasks = self._samples.tasks
            loaded = [name for name in header["contenders"] if name in self._stacks]
            return [Seen(self._stacks[name], tasks.get(name, set()), self._done_to(name)) for name in loaded]

    def _done_to(self, contender: str) -> list[Injection]:
        return [asked.injection for asked in self._faults if asked.contender == contender and asked.injection]

    def wait(self, within_s: float) -> None:
        """Cut short the faults that are not over, and wait for them: none is done to a stack that is being ended."""
        self._over.set()
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _inject(self, asked: Asked, stack: LocalStack) -> None:
        try:
            asked.injection = inject(FAULTS[asked.fault], stack, self._over)
        except Exception as error:  # whatever it is, the fault is over, and the load can be saved
            asked.error = str(error) or type(error).__name__

    def _read(self) -> None:
        if self._samples.read():
            self._faults = [asked for asked in self._faults if not asked.over]  # the others were an earlier load's
        for journal in self._journals.values():
            journal.read()

    def _contender(self, name: str) -> dict[str, Any]:
        stack, tasks = self._stacks[name], self._samples.tasks.get(name, set())
        journal = self._journals[name]
        done = len(tasks & journal.ended)
        start_ns = (self._samples.header or {}).get("start_ns", 0)
        since_start_ns = [t_ns - start_ns for task, t_ns in journal.succeeded_ns.items() if task in tasks]
        seconds = Counter(t_ns // 10**9 for t_ns in since_start_ns)
        return {
            "title": stack.contender.title,
            "url": stack.base_url,
            "acknowledged": len(tasks),
            "done": done,
            "not_done": len(tasks) - done,
            "succeeded_in": [seconds[second] for second in range(max(seconds, default=-1) + 1)],
            "last_success_s": max(since_start_ns) / 1e9 if since_start_ns else None,
            "backlog": stack.backlog(),
            "faults": _possible(stack),
        }

    def _shown(self, asked: Asked) -> dict[str, Any]:
        start_ns = (self._samples.header or {}).get("start_ns", asked.asked_ns)
        injection = asked.injection
        healed_ns = injection.healed_ns if injection else None
        return {
            "contender": asked.contender,
            "fault": asked.fault,
            "at_s": ((injection.injected_ns if injection else asked.asked_ns) - start_ns) / 1e9,
            "healed_s": (healed_ns - start_ns) / 1e9 if healed_ns is not None else None,
            "confirmed": injection.confirmed if injection else None,
            "over": asked.over,
            "error": asked.error,
        }


class ControlServer:
    """Serves a `Control` on a free port of loopback, in a thread. A context manager; ``environment`` leads there."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._token = token_urlsafe(32)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(control, self._token))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables by which Locust finds the API."""
        return {"LAB_CONTROL_URL": f"http://127.0.0.1:{self._server.server_port}", "LAB_CONTROL_TOKEN": self._token}


def _handler(control: Control, token: str) -> type[BaseHTTPRequestHandler]:
    """Return a request handler for `GET /state`, `POST /fault` and `POST /save`; its errors are ``{"message": …}``."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            self._answer(self._state)

        def do_POST(self) -> None:
            self._answer(self._save if self.path == "/save" else self._fault)

        def _answer(self, route: Any) -> None:
            try:
                if not hmac.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), token.encode()):
                    raise Refused(HTTPStatus.FORBIDDEN, "The token is missing or wrong.")
                self._send(HTTPStatus.OK, route())
            except Refused as refused:
                self._send(refused.status, {"message": str(refused)})
            except LabError as error:
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"message": str(error)})

        def _state(self) -> dict[str, Any]:
            if self.path != "/state":
                raise Refused(HTTPStatus.NOT_FOUND, f"There is no {self.path}.")
            return control.state()

        def _fault(self) -> dict[str, Any]:
            if self.path != "/fault":
                raise Refused(HTTPStatus.NOT_FOUND, f"There is no {self.path}.")
            asked = self._body()
            control.fault(asked["contender"], asked["fault"])
            return {"message": f"{asked['fault']} is being done to {asked['contender']}."}

        def _save(self) -> dict[str, Any]:
            run = control.save()
            return {"message": f"Saved as {run}.", "run": run}

        def _body(self) -> dict[str, str]:
            length = self.headers.get("Content-Length", "")
            try:
                asked = json.loads(self.rfile.read(min(int(length), MAX_BODY)))
            except ValueError:
                asked = None
            names = ("contender", "fault")
            if not isinstance(asked, dict) or not all(isinstance(asked.get(name), str) for name in names):
                raise Refused(HTTPStatus.BAD_REQUEST, 'Expected JSON: {"contender": NAME, "fault": NAME}.')
            return asked

        def _send(self, status: HTTPStatus, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing: the page asks every second."""

    return Handler
