"""The local stack: one contender, freshly started as child processes on a fresh database, and what it leaves."""

import json
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Protocol, Self

import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from lab.contenders import fill
from lab.environment import PROJECT
from lab.rundir import ContenderRecord, Placement
from lab.stacks import broker, living, servers
from lab.stacks.health import check_health
from lab.stacks.running import LOGS, RunningStack
from lab.stacks.supervisor import Child, StackError, Supervisor

STOP_GRACE_S = 10.0
HURRIED_GRACE_S = 0.5
GENERATOR = "locust"
POLL_S = 0.02

CONVERSATIONS = """
    SELECT 'conversation' AS kind, task_id::text, extract(epoch FROM created_at)::float8 AS t_wall FROM conversations
"""
DOCUMENTS = """
    SELECT 'document' AS kind, task_id::text, id::text AS document_id, status, error,
           (SELECT count(*) FROM chunks WHERE document_id = documents.id) AS chunks
    FROM documents
"""
# No such table, or another's of the same name: without our columns, with theirs of other types, or no table at all.
# One that the lab has no right to read may be ours, and is an error.
NOT_OURS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.WrongObjectType,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.DatatypeMismatch,
)


class Shared(Protocol):
    """What a stack needs of the servers that all contenders of a run share."""

    postgres: servers.Postgres
    mail: servers.MailSink


class Servers:
    """The servers that all contenders of a run share, on the generator's CPUs: PostgreSQL and the mail sink.

    A context manager. Raises StackError where one of them, or Redis, does not come up: better now than in a block.
    """

    def __init__(self, supervisor: Supervisor, placement: Placement) -> None:
        self.supervisor = supervisor
        self.placement = placement
        self.cpus = cpus(placement.generator, placement)

    def __enter__(self) -> Self:
        folder = self.supervisor.directory / "servers"
        trial = servers.redis(self.supervisor, folder / "redis", cpus=self.cpus)
        trial.stop()
        self.postgres = servers.postgres(self.supervisor, folder, cpus=self.cpus)
        self.mail = servers.mail_sink(self.supervisor, folder, cpus=self.cpus)
        self.versions = {"redis": trial.version, "postgres": self.postgres.version, "smtp": self.mail.version}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mail.stop()
        self.postgres.stop()

    def with_own_mail(self, contender: str) -> "Servers":
        """Return these servers with a mail sink of a contender's own, which whoever asks for it stops.

        Contenders that are loaded side by side do tasks of the same ids, and a mail does not say whose it is.
        """
        own, name = copy(self), f"{contender}-mail"
        own.mail = servers.mail_sink(
            self.supervisor, self.supervisor.directory / "servers" / name, name=name, cpus=self.cpus
        )
        return own

    def stack(self, contender: ContenderRecord, folder: Path) -> "LocalStack | RunningStack":
        """Return a fresh stack of a contender, not yet up; of one that has a URL, what runs there."""
        if contender.url is not None:
            return RunningStack(contender, folder, cpus(self.placement.generator, self.placement))
        return LocalStack(self.supervisor, contender, self, folder, self.placement)


def cpus(wanted: list[int], placement: Placement) -> list[int] | None:
    """Return the CPUs to pin to, or None where the system cannot pin."""
    return wanted if placement.pinned else None


class LocalStack:
    """A contender's API, workers and broker on its CPUs, with a database and a data directory of their own.

    A context manager: up when entered, gone when left. In between: ``stop`` and then ``collect``. The names of its
    processes at the supervisor are ``api``, ``workers`` and ``broker``. Raises StackError where it does not come up.
    """

    def __init__(
        self, supervisor: Supervisor, contender: ContenderRecord, shared: Shared, folder: Path, placement: Placement
    ) -> None:
        self.supervisor = supervisor
        self.contender = contender
        self.shared = shared
        self.folder = folder
        self.contender_cpus = cpus(placement.contender, placement)
        self.generator_cpus = cpus(placement.generator, placement)
        self.api = f"{contender.name}-api"
        self.workers = [f"{contender.name}-worker-{number + 1}" for number in range(len(contender.workers))]
        self.broker = f"{contender.name}-broker" if contender.broker else None
        self.base_url = ""  # known once it is up
        self.data = folder / "data"
        self.journal = self.data / "journal"
        self._cpu_count = len(placement.contender)
        self._redis: servers.Redis | None = None
        self._broker_is_users_own = False  # others may use it too
        self._stopping: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._first_record = len(self.supervisor.records)
        self._first_mail = self.shared.mail.size()
        with ExitStack() as undo:
            environment = self._give_servers(undo)
            self._start(environment, undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def stop(self, settled: bool = False) -> None:
        """Stop API and workers in order, all at once, and kill what has not ended after ten seconds.

        Where all is ``settled``, no task running and none waiting, nobody waits for a worker's slow farewell. The
        broker stays up: what it still holds is evidence.
        """
        stopping = {"event": "stopping", "name": None, "pid": None, "t_ns": time.monotonic_ns(), "hurried": settled}
        self._stopping = [stopping]
        self._stop_programs(HURRIED_GRACE_S if settled else STOP_GRACE_S)

    def collect(self) -> None:
        """Leave in ``evidence/`` of the block's folder what API and workers did.

        To be called after `stop`, when nothing changes any more. Raises StackError where a server is away.
        """
        evidence = self.folder / "evidence"
        self._bring(evidence, shutil.move, "journal", *LOGS)
        _write_lines(evidence / "processes.jsonl", [*self._own_records(), *self._stopping])
        self._ask_servers(evidence)
        shutil.rmtree(self.data)  # nothing else in there is evidence: uploads that were not yet processed

    def copy_evidence(self, evidence: Path) -> int:
        """Leave a copy of what API and workers have done so far; return the moment of it, as monotonic ns. They go on.

        Work that is under way changes places meanwhile, so each place is looked at before those to which work goes from
        there: the broker also before all else, the journal after it. What has an effect in the copy has its start there
        too, and no task is missed; of what ended after that moment, some is there. Raises StackError as `collect` does.
        """
        held = self._leftovers()
        moment_ns = time.monotonic_ns()
        self._bring(evidence, _copy, *LOGS)
        self._ask_servers(evidence, held)
        self._bring(evidence, _copy, "journal")
        alive = list(self._living())
        _write_lines(evidence / "processes.jsonl", [*self._own_records(), *alive])
        return moment_ns

    def _living(self) -> Iterator[living.Record]:
        """Yield a record of each process of API and workers that lives; with workers, the API hands its tasks on."""
        for name, pid in self.instances([self.api, *self.workers]).items():
            yield from living.family(pid, name, runs_tasks=name != self.api or not self.workers)

    def _bring(self, evidence: Path, how: Callable[[Path, Path], object], *names: str) -> None:
        evidence.mkdir(exist_ok=True)
        for name in names:
            if (self.data / name).exists():
                how(self.data / name, evidence / name)

    def _ask_servers(self, evidence: Path, held: dict[str, list[broker.Leftover]] | None = None) -> None:
        """Leave what the servers have; of the broker also what it ``held`` a moment ago."""
        if self.shared.mail.file is not None:  # a mail server of the user's own cannot be asked
            _write_lines(evidence / "mail.jsonl", self.shared.mail.mails(self._first_mail))
        if self.contender.journal:  # what does not know the contract has no tables of its own there
            _write_lines(evidence / "rows.jsonl", _rows(self._database_url))
        left = self._leftovers() if held is None else _with_new(held, self._leftovers())
        (evidence / "broker.json").write_text(json.dumps(left))

    def broker_is_empty(self) -> bool:
        """Return whether no task waits in a queue; False where the broker cannot be asked."""
        if self._redis is None:
            return True
        try:
            with self._redis.connect() as client:
                return broker.is_empty(client)
        except redis.RedisError:
            return False

    def broker_holds_nothing(self) -> bool:
        """Return whether no task waits in a queue or with a worker; False where the broker cannot be asked."""
        if self._redis is None:
            return True
        try:
            with self._redis.connect() as client:
                return broker.holds_nothing(client)
        except redis.RedisError:
            return False

    def backlog(self) -> int | None:
        """Return how many messages wait in the queue; None where there is no queue, or its broker does not answer."""
        if self._redis is None:
            return None
        try:
            with self._redis.connect() as client:
                return broker.waiting(client)
        except redis.RedisError:
            return None

    def broker_counters(self) -> broker.Counters | None:
        """Return what the broker has used since its start; None where there is none of its own, or it is silent."""
        if self._redis is None or self._broker_is_users_own:
            return None
        try:
            with self._redis.connect() as client:
                return broker.counters(client)
        except redis.RedisError:
            return None

    def is_ready(self) -> bool:
        """Return whether the API says that all it needs is up."""
        try:
            self._check_health()
        except (StackError, OSError):
            return False
        return True

    def roles(self) -> dict[int, str]:
        """Return what the processes that run now are for, by pid: to be sampled with all below them."""
        names = dict.fromkeys(self.workers, "worker") | {
            self.api: "api",
            self.broker: "broker",
            self.shared.postgres.name: "postgres",
            self.shared.mail.name: "mail",
            GENERATOR: "generator",
        }
        children = self.supervisor.children
        running = {child.pid: names[name] for name, child in list(children.items()) if name in names and child.runs()}
        return {os.getpid(): "lab", self.supervisor.pid: "supervisor"} | running

    def shared_urls(self) -> dict[str, str]:
        """Return where PostgreSQL and the mail sink are; a mail server of the user's own is left alone."""
        mail = {"mail": self.shared.mail.url} if self.shared.mail.child is not None else {}
        return {"postgres": self.shared.postgres.url} | mail

    # what faults are made of

    def instances(self, names: Iterable[str]) -> dict[str, int]:
        """Return the pid of each of these that runs now."""
        children = [(name, self.supervisor.children[name]) for name in names]
        return {name: child.pid for name, child in children if child.runs()}

    def kill(self, names: Iterable[str]) -> list[int]:
        """SIGKILL processes with all that they have started; return the pids."""
        return self._signal(names, signal.SIGKILL)

    def replace(self, names: Iterable[str], grace_s: float, over: Event) -> list[int]:
        """SIGTERM, and SIGKILL for what is left after the grace period; what ends is started again."""
        before = self.instances(names)
        pids = [pid for name in names for pid in self.supervisor.signal(name, signal.SIGTERM)]
        deadline = time.monotonic() + grace_s
        while (left := before.items() & self.instances(names).items()) and time.monotonic() < deadline:
            if over.wait(POLL_S):
                break
        return list(dict.fromkeys(pids + self.kill(name for name, _ in left)))  # each once: some got both

    def pause(self, names: Iterable[str]) -> list[int]:
        """SIGSTOP processes with all that they have started; return the pids."""
        return self._signal(names, signal.SIGSTOP)

    def stands_still(self, names: Iterable[str]) -> bool:
        """Return whether the processes of these are stopped; one that is gone does not stand still."""
        try:
            return all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in self.instances(names).values())
        except psutil.NoSuchProcess:
            return False

    def go_on(self, names: Iterable[str]) -> None:
        """SIGCONT what was paused."""
        self._signal(names, signal.SIGCONT)

    def _signal(self, names: Iterable[str], signum: int) -> list[int]:
        return [pid for name in names for pid in self.supervisor.signal(name, signum, tree=True)]

    # starting

    def _give_servers(self, undo: ExitStack) -> dict[str, str]:
        """Make the data directory, the database and the broker; return the environment that leads there."""
        temporary = self.data / "tmp"  # a worker that is killed leaves a directory of billiard's there
        temporary.mkdir(parents=True)
        name = f"lab_{secrets.token_hex(6)}"
        if self.shared.postgres.child is None:
            self.supervisor.borrow(self.shared.postgres.url, name)
        self._database_url = self.shared.postgres.create_database(name)
        undo.callback(self._drop_database, name)
        if self.broker:
            self._redis = servers.redis(
                self.supervisor, self.folder / "broker", name=self.broker, cpus=self.contender_cpus
            )
            undo.callback(self._put_broker_away, self._redis)
            if self._redis.child is None:
                self._broker_is_users_own = True
                self._take_over(self._redis)
                undo.callback(self._empty, self._redis)
        addresses = {
            "DATA_DIR": str(self.data),
            "DATABASE_URL": self._database_url,
            "SMTP_URL": self.shared.mail.url,
            "REDIS_URL": self._redis.url if self._redis else "",
        }
        return {"TMPDIR": str(temporary)} | self.contender.env | addresses

    def _drop_database(self, name: str) -> None:
        with suppress(StackError):  # a PostgreSQL that is away has been told of already
            self.shared.postgres.drop(name)
            self.supervisor.give_back(self.shared.postgres.url, name)

    def _take_over(self, server: servers.Redis) -> None:
        """Use a database of the user's own Redis, if it is empty."""
        with server.connect() as client:
            if client.dbsize():
                raise StackError(
                    "The database at REDIS_URL is not empty: give the lab an empty one, it is emptied after use."
                )
        self.supervisor.borrow(server.url)

    def _empty(self, server: servers.Redis) -> None:
        with suppress(StackError, redis.RedisError):  # one that is away, too
            servers.remove_traces(server.url, None)
            self.supervisor.give_back(server.url)

    def _start(self, environment: dict[str, str], undo: ExitStack) -> None:
        self._port = servers.free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        undo.callback(self._stop_programs, HURRIED_GRACE_S)
        commands = dict(zip([self.api, *self.workers], [self.contender.api, *self.contender.workers], strict=True))
        children = [self._start_program(name, command, environment) for name, command in commands.items()]
        servers.wait_until_up(children, self._port, self._check_health)

    def _start_program(self, name: str, command: list[str], environment: dict[str, str]) -> Child:
        return self.supervisor.start(
            name,
            fill(command, self._port, self._cpu_count),
            environment,
            cwd=Path(self.contender.folder or PROJECT),
            cpus=self.contender_cpus,
            log=self.folder / "logs" / f"{name.removeprefix(f'{self.contender.name}-')}.log",
            restart=True,
        )

    def _check_health(self) -> None:
        """Raise StackError unless the API says that all it needs is up."""
        check_health(self.base_url + self.contender.health)

    # ending

    def _put_broker_away(self, server: servers.Redis) -> None:
        """Stop the broker and keep of it the log alone."""
        server.stop()
        if server.child is not None:
            shutil.move(server.child.log, self.folder / "logs" / "broker.log")
            shutil.rmtree(self.folder / "broker")

    def _stop_programs(self, grace_s: float) -> None:
        started = [name for name in [self.api, *self.workers] if name in self.supervisor.children]
        with ThreadPoolExecutor(len(started) or 1) as pool:
            for stopping in [pool.submit(self.supervisor.stop, name, grace_s) for name in started]:
                stopping.result()

    def _own_records(self) -> list[dict[str, Any]]:
        """Return the starts and ends since the stack's start; of the shared servers only their main processes'."""
        own, host = {self.api, *self.workers, self.broker}, {"hostname": socket.gethostname()}
        records = self.supervisor.records[self._first_record :]
        return [record | host for record in records if record["name"] in own or record.get("kind") == "service"]

    def _leftovers(self) -> dict[str, list[broker.Leftover]]:
        if self._redis is None:
            return {"queue": [], "unacked": []}
        try:
            with self._redis.connect() as client:
                return broker.leftovers(client)
        except (redis.RedisError, ValueError, LookupError, TypeError, AttributeError) as error:
            # All but the first for messages that are not JSON of Celery's protocol 2: another app may have them.
            raise StackError(f"What is left in {self.broker} could not be read: {error!r}.") from error


def _rows(database_url: str) -> list[dict[str, Any]]:
    """Return what the tasks left in the database, as another's app does not. Raises StackError where nobody can say."""
    rows: list[dict[str, Any]] = []
    try:
        with psycopg.connect(
            database_url, connect_timeout=servers.CONNECT_WITHIN_S, row_factory=dict_row, autocommit=True
        ) as connection:
            for query in (CONVERSATIONS, DOCUMENTS):
                with suppress(*NOT_OURS):
                    rows += connection.execute(query)
    except psycopg.Error as error:
        raise StackError(f"The rows of the block could not be read: {str(error).splitlines()[0]}.") from error
    return rows


def _with_new(
    held: dict[str, list[broker.Leftover]], left: dict[str, list[broker.Leftover]]
) -> dict[str, list[broker.Leftover]]:
    """Return what a broker held, and what it has now and had not then."""
    known = {message["task_id"] for messages in held.values() for message in messages}
    return {place: held[place] + [one for one in left[place] if one["task_id"] not in known] for place in held}


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
