"""The warden: the process that starts all others, records how each of them ended, and leaves none behind.

It reads requests from its standard input and writes answers and records to its standard output, one JSON line each.
At the end of its input, which also comes when the lab is killed, it ends every descendant and then itself. It is a
child subreaper: a descendant whose parent died becomes its child, so nothing can slip away. It has one thread,
since the death of the *thread* that forked is what kills a child by PR_SET_PDEATHSIG.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from lab.stacks import proc

MARK = "LAB_SUPERVISED"
RESTART_AFTER_S = 1.0
SCAN_EVERY_S = 1.0  # a scan takes some milliseconds, for which the load generator may have to wait
BUSY_S = 0.02
LAST_GRACE_S = 1.0


@dataclass
class Service:
    """A process that was asked for: how to start it, and what has become of it."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    cpus: list[int] | None
    log: str
    restart: bool
    user: int | None
    stop_signal: int
    process: subprocess.Popen[bytes] | None = None
    started_ns: int = 0
    restart_at: float | None = None
    kill_at: float = 0.0
    stop_requests: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """The pid while it runs. It is our child and not yet waited for, so the pid cannot be another's."""
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start the process. Raises OSError or subprocess.SubprocessError where it cannot be started."""
        group = self.user  # the same number: groups of their own are not needed
        with Path(self.log).open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
                user=self.user,
                group=group,
                extra_groups=None if self.user is None else [],
                preexec_fn=partial(_before_exec, os.getpid(), self.cpus),
            )
        self.started_ns = time.monotonic_ns()
        self.restart_at = None


def _before_exec(parent: int, cpus: list[int] | None) -> None:
    proc.die_with_parent(parent)
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


class Warden:
    """Starts, watches, signals and ends processes."""

    def __init__(self, records: Path) -> None:
        self.records_fd = os.open(records, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.services: dict[str, Service] = {}
        self.family: dict[psutil.Process, str | None] = {}  # descendants below the services, and whose they are
        self.family_started_ns: dict[psutil.Process, int | None] = {}
        self.scratch: list[str] = []
        self.borrowed: set[tuple[str, str | None]] = set()  # see `Supervisor.borrow`
        self.next_scan = 0.0
        self.pending = b""

    def run(self) -> None:
        """Serve until the input ends or the lab is gone."""
        parent = os.getppid()
        wakeup = _wake_on_signals()
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        while os.getppid() == parent:
            ready = {key.fd for key, _ in selector.select(self._patience_s())}
            if wakeup in ready and signal.SIGTERM in os.read(wakeup, 4096):
                return
            if wakeup in ready:
                self.reap()
            if 0 in ready and not self._read_requests():
                return
            self._do_what_is_due()

    def end(self) -> None:
        """End every descendant and remove what was left to be removed; nothing survives this, whatever is raised."""
        with ExitStack() as at_last:
            for directory in self.scratch:
                at_last.callback(proc.remove_directory, directory)
            at_last.callback(self._give_back_what_is_borrowed)
            at_last.callback(self._kill_whoever_is_left)
            self._end_in_order()

    def _give_back_what_is_borrowed(self) -> None:
        if not self.borrowed:
            return
        from lab.stacks import servers  # here, since hardly any warden needs it

        for url, database in self.borrowed:
            try:
                servers.remove_traces(url, database)
            except servers.AWAY as error:
                _complain(f"a server of the user's own could not be left as it was: {type(error).__name__}")

    def _end_in_order(self) -> None:
        for service in self.services.values():
            service.restart = False
            self._signal_service(service, service.stop_signal)
        deadline = time.monotonic() + LAST_GRACE_S
        while any(service.pid for service in self.services.values()) and time.monotonic() < deadline:
            time.sleep(BUSY_S)
            self.reap()

    def _kill_whoever_is_left(self) -> None:
        while self._kill_all():
            time.sleep(BUSY_S)
            self.reap()

    # requests

    def _read_requests(self) -> bool:
        data = os.read(0, 1 << 20)
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))
        return bool(data)

    def _answer(self, request: dict[str, Any]) -> None:
        handle: dict[str, Callable[..., dict[str, Any] | None]]
        handle = {"start": self._start, "signal": self._signal, "stop": self._stop, "scratch": self._scratch}
        handle |= {"borrow": self._borrow, "give_back": self._give_back}
        number, operation = request.pop("request"), request.pop("do")
        try:
            answer = handle[operation](number, **request)
        except KeyError as error:
            answer = {"error": f"there is no {error}"}
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            answer = {"error": str(error)}
        if answer is not None:
            self._say({"answer": number, **answer})

    def _start(self, number: int, **spec: Any) -> dict[str, Any]:
        del number
        service = Service(**spec)
        previous = self.services.get(service.name)
        if previous and (previous.pid or previous.restart_at):
            raise ValueError("it runs already")
        service.start()
        self.services[service.name] = service
        self._record_start(service)
        return {"pid": service.pid}

    def _signal(self, number: int, name: str, signum: int, tree: bool) -> dict[str, Any]:
        del number
        service = self.services[name]
        targets = self._family_of(name) if tree else []
        # The parent first: one that is killed after its children would have time to start new ones.
        pids = [service.pid] if self._signal_service(service, signum) else []
        for target in targets:
            with suppress(psutil.NoSuchProcess):
                target.send_signal(signum)  # psutil compares the start time first
                pids.append(target.pid)
        return {"pids": pids}

    def _stop(self, number: int, name: str, grace_s: float) -> None:
        service = self.services[name]
        service.restart, service.restart_at = False, None
        service.kill_at = time.monotonic() + grace_s
        service.stop_requests.append(number)
        self._signal_service(service, service.stop_signal)

    def _scratch(self, number: int, directory: str) -> dict[str, Any]:
        del number
        self.scratch.append(directory)
        return {}

    def _borrow(self, number: int, url: str, database: str | None) -> dict[str, Any]:
        del number
        self.borrowed.add((url, database))
        return {}

    def _give_back(self, number: int, url: str, database: str | None) -> dict[str, Any]:
        del number
        self.borrowed.discard((url, database))
        return {}

    # what happens by itself

    def _patience_s(self) -> float:
        if any(service.stop_requests for service in self.services.values()):
            return BUSY_S
        restarts = [service.restart_at for service in self.services.values() if service.restart_at]
        return min([SCAN_EVERY_S / 2, *(max(0.0, at - time.monotonic()) for at in restarts)])

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if now >= self.next_scan:
            self.scan()
        for service in list(self.services.values()):
            if service.restart_at and now >= service.restart_at:
                self._restart(service)
            if service.stop_requests:
                self._go_on_stopping(service, now)

    def _restart(self, service: Service) -> None:
        try:
            service.start()
        except (OSError, subprocess.SubprocessError) as error:
            service.restart_at = time.monotonic() + RESTART_AFTER_S
            self._record("not_started", name=service.name, error=str(error))
        else:
            self._record_start(service)

    def _go_on_stopping(self, service: Service, now: float) -> None:
        if service.pid and now < service.kill_at:
            return
        self._signal_service(service, signal.SIGKILL)
        _kill(self._family_of(service.name))
        recorded = service.name not in self.family.values()  # who has ended and was not yet waited for is still there
        if not service.pid and recorded:
            for number in service.stop_requests:
                self._say({"answer": number})
            service.stop_requests.clear()

    def reap(self) -> None:
        """Wait for every child that has ended, and record it."""
        self.scan()  # what is known of an orphan can be read only before it is waited for
        with suppress(ChildProcessError):
            while (ended := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, usage = ended
                how = _how_it_ended(status) | {"cpu_s": usage.ru_utime + usage.ru_stime}
                service = next((service for service in self.services.values() if service.pid == pid), None)
                if service:
                    self._service_ended(service, how)
                else:
                    self._orphan_ended(pid, how)

    def _service_ended(self, service: Service, how: dict[str, Any]) -> None:
        assert service.process is not None
        service.process.returncode = how["status"] if how["signal"] is None else -how["signal"]
        self._record("ended", kind="service", name=service.name, pid=service.pid, started_ns=service.started_ns, **how)
        service.process = None
        # As a container or a systemd unit does: when the main process ends, what it had started ends too.
        _kill(self._family_of(service.name))
        if service.restart:
            service.restart_at = time.monotonic() + RESTART_AFTER_S

    def _orphan_ended(self, pid: int, how: dict[str, Any]) -> None:
        known = next((process for process in self.family if process.pid == pid), None)
        name = self.family.pop(known, None) if known else None
        started_ns = self.family_started_ns.pop(known, None) if known else None
        self._record("ended", kind="orphan", name=name, pid=pid, started_ns=started_ns, **how)

    # the family

    def scan(self) -> None:
        """Look at all descendants; record those that ended since the last time and were another's to wait for."""
        self.next_scan = time.monotonic() + SCAN_EVERY_S
        services = {service.pid: service.name for service in self.services.values() if service.pid}
        for process in psutil.Process().children(recursive=True):
            if process.pid not in services and process not in self.family:
                self.family[process] = self._owner(process, services)
                self.family_started_ns[process] = proc.started_ns(process.pid)
        for process in [process for process in self.family if not process.is_running()]:
            name, started_ns = self.family.pop(process), self.family_started_ns.pop(process)
            how = {"status": None, "signal": None, "cpu_s": None}
            self._record("ended", kind="descendant", name=name, pid=process.pid, started_ns=started_ns, **how)

    def _owner(self, process: psutil.Process, services: dict[int, str]) -> str | None:
        """Return the service a descendant belongs to: by its ancestors, its session or its environment."""
        with suppress(psutil.Error, OSError):
            for ancestor in process.parents():
                if ancestor.pid in services:
                    return services[ancestor.pid]
            session = os.getsid(process.pid)
            return services.get(session) or process.environ().get(MARK, "").partition(":")[2] or None
        return None

    def _family_of(self, name: str) -> list[psutil.Process]:
        self.scan()
        return [process for process, owner in self.family.items() if owner == name and _is_alive(process)]

    def _kill_all(self) -> bool:
        """Kill every descendant; return whether there was one."""
        self.scan()
        running = [service for service in self.services.values() if self._signal_service(service, signal.SIGKILL)]
        alive = [process for process in self.family if _is_alive(process)]
        _kill(alive)
        return bool(running or alive)

    def _signal_service(self, service: Service, signum: int) -> bool:
        if service.pid is None:
            return False
        os.kill(service.pid, signum)
        return True

    # records

    def _record_start(self, service: Service) -> None:
        self._record("started", kind="service", name=service.name, pid=service.pid, started_ns=service.started_ns)

    def _record(self, event: str, **fields: Any) -> None:
        record = {"event": event, "t_ns": time.monotonic_ns(), **fields}
        try:
            os.write(self.records_fd, json.dumps(record).encode() + b"\n")
        except OSError as error:  # a full disk must not keep it from ending what it started
            _complain(f"could not record {record}: {error}")
        self._say({"record": record})

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the lab is gone; the end of the input comes next
            sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
            sys.stdout.buffer.flush()


def _complain(words: str) -> None:
    """Write a line to standard error, whose file may be on the same full disk: then nothing is written."""
    with suppress(OSError):
        os.write(2, words.encode() + b"\n")


def _how_it_ended(status: int) -> dict[str, Any]:
    if os.WIFSIGNALED(status):
        return {"status": None, "signal": os.WTERMSIG(status)}
    return {"status": os.WEXITSTATUS(status), "signal": None}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _wake_on_signals() -> int:
    """Return a file descriptor that gives a byte per signal.

    Handlers and not SIG_IGN: what is ignored here would be ignored by every process started from here.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    return reading


def main(records: Path) -> None:
    """Be the warden of whoever started this process; records go to a file of JSON lines."""
    proc.become_subreaper()
    warden = Warden(records)
    try:
        warden.run()
    finally:
        warden.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
