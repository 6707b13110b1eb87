"""The supervisor: how the lab starts, signals and stops processes, all of them children of one warden.

See `lab.stacks.warden` for what happens on the other side. Whatever becomes of the lab, what it started ends: the
warden ends it when the lab is gone, the kernel when the warden is gone, and the lab what the kernel left.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from lab.errors import LabError
from lab.stacks import proc
from lab.stacks.warden import MARK

ANSWER_WITHIN_S = 10.0
WARDEN_ENDS_WITHIN_S = 10.0


class StackError(LabError):
    """A process or server could not be started, or is not what it should be; the message is one sentence."""


class Child:
    """A process of the warden's, as the lab knows it; the newest one where it was restarted."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.pid = 0
        self.starts = 0
        self.ends: list[int] = []  # the exit statuses, negative where a signal was the end

    def runs(self) -> bool:
        """Return whether it runs; not yet while it is being started."""
        return len(self.ends) < self.starts

    def poll(self) -> int | None:
        """Return None while it runs or is being started, else its exit status, negative where a signal ended it."""
        return None if self.runs() or not self.ends else self.ends[-1]

    def take(self, record: dict[str, Any]) -> None:
        """Take in a record of the warden's."""
        if record["event"] == "started":
            self.pid = record["pid"]
            self.starts += 1
        elif record["event"] == "ended":
            self.ends.append(record["status"] if record["signal"] is None else -record["signal"])

    def end_with_warden(self) -> None:
        """Know that it was killed with the warden, if it still ran."""
        if self.poll() is None:
            self.ends.append(-signal.SIGKILL)


class Supervisor:
    """Starts processes that cannot outlive the lab. Records of their starts and ends go to ``processes.jsonl``.

    A context manager: at its end every process is ended. Its methods may be called by several threads. They raise
    StackError where the warden cannot do what is asked, or is gone.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.children: dict[str, Child] = {}
        self.records: list[dict[str, Any]] = []
        self._token = secrets.token_hex(8)
        self._scratch: list[Path] = []
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._requests = 0
        self._closing = False

    def __enter__(self) -> Self:
        proc.become_subreaper()  # for the day on which the warden dies before us
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "supervisor.log").open("ab") as log:
            self._warden = subprocess.Popen(
                [sys.executable, "-m", "lab.stacks.warden", str(self.directory / "processes.jsonl")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the lab
            )
        self._reader = threading.Thread(target=self._read, name="supervisor", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The warden's pid."""
        return self._warden.pid

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        log: Path,
        cwd: Path | None = None,
        cpus: Sequence[int] | None = None,
        restart: bool = False,
        user: int | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> Child:
        """Start a process with the lab's environment and ``env``; its output is appended to ``log``.

        With ``restart`` it is started again one second after any end that ``stop`` did not ask for. ``user`` is a
        uid, whose group is the one of the same number. ``stop_signal`` is what asks it to end in order.
        """
        previous, child = self.children.get(name), Child(name, log)
        self.children[name] = child  # before its first record comes
        log.parent.mkdir(parents=True, exist_ok=True)
        request: dict[str, Any] = {
            "name": name,
            "argv": list(argv),
            "env": {**os.environ, **env, MARK: f"{self._token}:{name}"},
            "cwd": None if cwd is None else str(cwd),
            "cpus": None if cpus is None else list(cpus),
            "log": str(log),
            "restart": restart,
            "user": user,
            "stop_signal": int(stop_signal),
        }
        try:
            self._ask(f"{name} could not be started", do="start", **request)
        except StackError:
            del self.children[name]
            if previous:
                self.children[name] = previous
            raise
        return child

    def signal(self, name: str, signum: int, *, tree: bool = False) -> list[int]:
        """Send a signal to a process, with ``tree`` also to all it has started; return the pids that got it."""
        answer = self._ask(f"{name} could not be signalled", do="signal", name=name, signum=int(signum), tree=tree)
        pids: list[int] = answer["pids"]
        return pids

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a process to end, kill it and what it started after the grace period; return when all of it is gone."""
        self._ask(f"{name} could not be stopped", ANSWER_WITHIN_S + grace_s, do="stop", name=name, grace_s=grace_s)

    def remove_at_end(self, directory: Path) -> None:
        """Have a directory removed when everything has ended, however the lab ends, and what PostgreSQL had there."""
        self._scratch.append(directory)
        self._ask(f"{directory} could not be noted", do="scratch", directory=str(directory))

    def borrow(self, url: str, database: str | None = None) -> None:
        """Have what is put into a server of the user's own removed when everything has ended, however the lab ends.

        That is the ``database`` of that name, or all that is in a Redis database that was empty; until `give_back`.
        """
        self._ask("A server of your own could not be noted", do="borrow", url=url, database=database)

    def give_back(self, url: str, database: str | None = None) -> None:
        """Know that what was put there is removed: what comes there from now on is not the lab's."""
        self._ask("A server of your own could not be given back", do="give_back", url=url, database=database)

    def close(self) -> None:
        """End every process, and the warden."""
        self._closing = True
        if self._warden.stdin and not self._warden.stdin.closed:
            with suppress(BrokenPipeError):
                self._warden.stdin.close()
        try:
            self._warden.wait(WARDEN_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._warden.kill()
            self._warden.wait()
        self._reader.join()
        if self._warden.stdout:
            self._warden.stdout.close()
        self._clean_up_after_warden()

    def _ask(self, failure: str, within_s: float = ANSWER_WITHIN_S, **request: Any) -> dict[str, Any]:
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            self._requests += 1
            number = self._requests
            self._answers[number] = answer
            try:
                assert self._warden.stdin is not None
                self._warden.stdin.write(json.dumps({"request": number, **request}).encode() + b"\n")
                self._warden.stdin.flush()
            except (OSError, ValueError) as error:
                raise StackError(f"{failure}: the supervisor is gone, see {self.directory}/supervisor.log.") from error
        try:
            result = answer.result(within_s)
        except TimeoutError as error:
            raise StackError(f"{failure}: the supervisor did not answer within {within_s:.0f} s.") from error
        if "error" in result:
            raise StackError(f"{failure}: {result['error']}.")
        return result

    def _read(self) -> None:
        assert self._warden.stdout is not None
        for line in self._warden.stdout:
            message = json.loads(line)
            if "answer" in message:
                self._answers.pop(message.pop("answer")).set_result(message)
            else:
                self._take(message["record"])
        if not self._closing:
            self._warden.wait()
            self._clean_up_after_warden()
        for child in self.children.values():
            child.end_with_warden()
        for answer in list(self._answers.values()):
            answer.set_result({"error": f"the supervisor is gone, see {self.directory}/supervisor.log"})
        self._answers.clear()

    def _take(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if record.get("kind") == "service":
            self.children[record["name"]].take(record)

    def _clean_up_after_warden(self) -> None:
        """End what the kernel did not end with the warden, by then our children; remove what was to be removed."""
        sessions = {record["pid"] for record in self.records if record["event"] == "started"}
        while left := [process for process in psutil.Process().children() if self._is_ours(process, sessions)]:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            time.sleep(0.02)
        for directory in self._scratch:
            proc.remove_directory(directory)

    def _is_ours(self, process: psutil.Process, sessions: set[int]) -> bool:
        if process.pid == self._warden.pid:
            return False
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions:
                return True
            return process.environ().get(MARK, "").startswith(self._token)
        return False
