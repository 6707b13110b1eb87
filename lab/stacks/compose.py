"""The compose stack: one contender in fresh containers, from the repository's docker-compose.yml and an override.

What users start is what is measured: the same services, image, limits and hardening.
"""

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar

from lab.rundir import ContenderRecord, Placement
from lab.stacks import engine, servers
from lab.stacks.containers import Containers
from lab.stacks.local import GENERATOR, STOP_GRACE_S, LocalStack
from lab.stacks.override import (
    API_TO_BROKER,
    WORKER_TO_BROKER,
    as_yaml,
    contender_override,
    make_folder,
    services_of,
    shared_override,
)
from lab.stacks.supervisor import StackError, Supervisor

T = TypeVar("T")

SHARED = ["postgres", "mail"]
# The lab's image has a tag of its own: building it must not make compose replace services that a person runs.
APP_IMAGE = "backgroundtasks-vs-celery:lab"
IMAGES = {"app": APP_IMAGE, "redis": "redis:8", "postgres": "pgvector/pgvector:pg17"}
MAIL_VERSION = "from importlib.metadata import version; print('aiosmtpd', version('aiosmtpd'))"
UP_WITHIN_S = 90.0
POLL_S = 0.05
# What the kernel cannot do with, whatever runs: it kills at once. Docker takes no limit below 6 MB.
NO_MEMORY_BYTES = 6 * 1024**2
# Where the kernel cannot take away what is in use (cgroup v1), the limit is set just above it, and a small process is
# started inside that needs more.
A_LITTLE_BYTES = 64 * 1024
TRIES = 20
KILLED_WITHIN_S = 1.0
FED_WITHIN_S = 10.0


class ComposeTestbed:
    """Image, project, PostgreSQL and mail sink of a run. A context manager, as `lab.stacks.stack.Testbed` asks.

    Raises StackError where the engine is not there, the image cannot be built, or a server does not come up.
    """

    def __init__(self, supervisor: Supervisor, placement: Placement) -> None:
        self.supervisor = supervisor
        self.placement = placement
        self.versions: dict[str, str] = {}
        self.postgres: servers.Postgres
        self.mail: servers.MailSink
        self.folder = supervisor.directory / "compose"

    def __enter__(self) -> Self:
        self.versions["engine"] = engine.check_engine()
        passwords = {name: secrets.token_hex(16) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD")}
        self.redis_password = passwords["REDIS_PASSWORD"]
        own = passwords | {"LAB_IMAGE": APP_IMAGE}
        self.project = engine.Project(f"lab-run-{secrets.token_hex(6)}", own, self.folder / "removal.log")
        with ExitStack() as undo:
            undo.enter_context(self.project)
            self._get_images()
            undo.callback(self._keep_logs)
            self._start_shared(passwords["POSTGRES_PASSWORD"], undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _get_images(self) -> None:
        try:
            self.project.compose("build", "--quiet", "mail", within_s=engine.BUILD_WITHIN_S)
        except StackError as error:
            raise StackError(f"The image of the apps could not be built. {error}") from error
        for name, image in IMAGES.items():
            id_, described = engine.image(image)
            self.versions[f"image {name}"] = described
            if name == "redis":
                self.versions["redis"] = redis_version(id_)
            if name == "app":
                self.image = id_  # by its id: whoever builds meanwhile does not change what is measured
        limits = self.project.config()["services"]
        for service in ("inline", "celery", "worker", "redis", *SHARED):
            memory = int(limits[service].get("mem_limit", 0)) / 1024**2
            where = self.placement.generator if service in SHARED else self.placement.contender
            self.versions[f"limits of {service}"] = f"CPUs {', '.join(map(str, where))}; {memory:.0f} MiB of memory"

    def _start_shared(self, password: str, undo: ExitStack) -> None:
        port, mails = servers.free_port(), make_folder(self.folder / "mails")
        override = self.folder / "shared.yml"
        override.write_text(as_yaml(shared_override(self.image, self.placement, mails, port)))
        self.watch = undo.enter_context(Containers(self.project.up(SHARED, override)))
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        version = wait_until_up("postgres", self.watch, lambda: servers.postgres_version(url))
        self.postgres = servers.Postgres("postgres", url, version, self.supervisor, None)
        file = mails / "mails.jsonl"
        wait_until_up("mail", self.watch, file.stat)
        mail_version = self.project.compose(
            "exec", "-T", "mail", "python", "-c", MAIL_VERSION, override=override
        ).strip()
        self.mail = servers.MailSink("mail", "smtp://mail:1025", mail_version, self.supervisor, None, file)
        self.versions |= {"postgres": version, "smtp": mail_version}

    def _keep_logs(self) -> None:
        for service in SHARED:
            self.project.keep_log(service, self.folder / f"{service}.log")

    def stack(self, contender: ContenderRecord, folder: Path) -> "ComposeStack":
        """Return a fresh stack of a contender, not yet up, that leaves its files in a block's folder."""
        return ComposeStack(self, contender, folder)


def redis_version(image: str) -> str:
    """Return the version of the Redis in an image. Raises StackError where it does not say."""
    said = engine.docker("run", "--rm", "--network", "none", "--entrypoint", "redis-server", image, "--version")
    if not (version := re.search(r"v=(\S+)", said)):
        raise StackError(f"The image of Redis does not say which version it has: {said.strip()!r}.")
    return f"Redis {version[1]}"


def wait_until_up(name: str, watch: Containers, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns once it does not raise. Raises StackError where it takes too long, or ends."""
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            return ask()
        except (StackError, *servers.AWAY) as error:
            records = list(watch.records)
            ends = [one for one in records if (one["event"], one["kind"]) == ("ended", "container")]
            if ends:
                raise StackError(f"The container of {ends[0]['name']} ended before it was up; see its log.") from error
            if time.monotonic() > deadline:
                first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise StackError(f"{name} was not up within {UP_WITHIN_S:g} s ({first}).") from error
        time.sleep(POLL_S)


class ComposeStack(LocalStack):
    """A contender in containers of its own; what it leaves, and how that is collected, is as locally."""

    def __init__(self, testbed: ComposeTestbed, contender: ContenderRecord, folder: Path) -> None:
        super().__init__(testbed.supervisor, contender, testbed, folder, testbed.placement)
        self.testbed = testbed
        self.placement = testbed.placement
        self.services = services_of(contender)
        self.override = folder / "compose.yml"
        self.watch: Containers | None = None

    # starting

    def _give_servers(self, undo: ExitStack) -> dict[str, str]:
        self.testbed.watch.check()
        self._first_shared = len(self.testbed.watch.records)
        make_folder(self.data)
        name = f"lab_{secrets.token_hex(6)}"
        self._database_url = self.testbed.postgres.create_database(name)
        undo.callback(self._drop_database, name)
        ports = {service: servers.free_port() for service in self.services.values() if service != "worker"}
        self._port = ports[self.services[self.api]]
        self.base_url = f"http://127.0.0.1:{self._port}"
        override = contender_override(self.contender, self.testbed.image, self.placement, name, self.data, ports)
        self.override.write_text(as_yaml(override))
        if self.broker:
            url = f"redis://:{self.testbed.redis_password}@127.0.0.1:{ports['redis']}/0"
            self._redis = servers.Redis(self.broker, url, self.testbed.versions["redis"], self.supervisor, None)
        return {}

    def _start(self, environment: dict[str, str], undo: ExitStack) -> None:
        del environment
        undo.callback(self._remove)
        project, services = self.testbed.project, list(self.services.values())
        ids = project.up(services, self.override)
        self.watch = undo.enter_context(Containers({name: ids[service] for name, service in self.services.items()}))
        wait_until_up(self.api, self.watch, self._check_health)

    def _remove(self) -> None:
        """Keep the logs of the containers, and remove them."""
        (self.folder / "logs").mkdir(exist_ok=True)
        for name, service in self.services.items():
            log = self.folder / "logs" / f"{name.removeprefix(f'{self.contender.name}-')}.log"
            self.testbed.project.keep_log(service, log, self.override)
        with suppress(StackError):  # what is left of them, the project's end removes
            self.testbed.project.remove(list(self.services.values()), self.override)

    # ending

    def _stop_programs(self, grace_s: float) -> None:
        self._docker("stop", [self.api, *self.workers], "--time", str(max(1, round(grace_s))))
        if self.watch:
            self._freeze()

    def _freeze(self) -> None:
        """Keep what ended, for the ledger, once nothing of API and workers runs."""
        assert self.watch is not None
        deadline = time.monotonic() + STOP_GRACE_S
        while self.instances([self.api, *self.workers]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.watch.finish()

    def collect(self) -> None:
        """Leave in ``evidence/`` what API and workers did. Raises StackError where that is not known for certain."""
        assert self.watch is not None
        for watch in (self.watch, self.testbed.watch):
            watch.check()
        super().collect()

    def _own_records(self) -> list[dict[str, Any]]:
        assert self.watch is not None
        shared = self.testbed.watch.records[self._first_shared :]  # of these the whole, not one server process for each
        return [*self.watch.records, *(record for record in shared if record["kind"] == "container")]

    # what runs

    def roles(self) -> dict[int, str]:
        """Return what the processes that run now are for, by pid: to be sampled with all below them."""
        names = dict.fromkeys(self.workers, "worker") | {self.api: "api", self.broker: "broker"}
        own = {os.getpid(): "lab", self.supervisor.pid: "supervisor"}
        generator = self.supervisor.children.get(GENERATOR)
        if generator and generator.runs():
            own[generator.pid] = "generator"
        if self.watch:
            own |= {pid: names[name] for name, pid in self.watch.pids()}
        return own | {pid: name for name, pid in self.testbed.watch.pids()}

    def instances(self, names: Iterable[str]) -> dict[str, int]:
        """Return the pid, on this machine, of the main process of each container that runs now."""
        wanted = set(names)
        return {name: pid for name, pid in self._watch().pids() if name in wanted}

    # what faults are made of

    def kill(self, names: Iterable[str]) -> list[int]:
        """SIGKILL the main process from outside, and with it all in the container; the engine starts it again.

        Not by `docker kill`, after which the engine leaves a container down.
        """
        pids = list(self.instances(names).values())
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def replace(self, names: Iterable[str], grace_s: float, over: Event) -> list[int]:
        """Stop containers with a grace period of whole seconds, as a deploy does; each is started when it has ended."""
        stopping = set(names)
        pids = list(self.instances(stopping).values())

        def anew(name: str) -> None:
            self._docker("stop", [name], "--time", str(round(grace_s)), within_s=grace_s + engine.ANSWER_WITHIN_S)
            stopping.remove(name)
            self._docker("start", [name])

        with ThreadPoolExecutor(len(stopping)) as pool:
            replacing = [pool.submit(anew, name) for name in list(stopping)]
            while not all(one.done() for one in replacing):
                if over.wait(POLL_S):
                    self.kill(list(stopping))  # then there is nothing left to wait for
                    time.sleep(POLL_S)
            for one in replacing:
                one.result()
        return pids

    def pause(self, names: Iterable[str]) -> list[int]:
        """Freeze containers; return the pids of their main processes."""
        names = list(names)
        self._docker("pause", names)
        return list(self.instances(names).values())

    def go_on(self, names: Iterable[str]) -> None:
        """Let frozen containers run again."""
        self._docker("unpause", names)

    def stands_still(self, names: Iterable[str]) -> bool:
        """Return whether the engine says that all of these are frozen."""
        return all(engine.inspect(self._id(name))["State"]["Paused"] for name in names)

    def cut_from_broker(self, names: Iterable[str]) -> list[int]:
        """Take the network away on which a part reaches the broker, and no other; return the pids."""
        names = list(names)
        for name in names:
            engine.docker("network", "disconnect", "--force", self._network(name), self._id(name))
        return list(self.instances(names).values())

    def join_broker(self, names: Iterable[str]) -> None:
        """Give the network back that was taken away."""
        for name in names:
            engine.docker("network", "connect", "--alias", self.services[name], self._network(name), self._id(name))

    def is_cut(self, names: Iterable[str]) -> bool:
        """Return whether the engine says that these are not in the broker's network."""
        return all(
            self._network(name) not in engine.inspect(self._id(name))["NetworkSettings"]["Networks"] for name in names
        )

    def starve(self, names: Iterable[str]) -> list[int]:
        """Lower the memory limit of containers below what they use, or as near to it as the kernel lets it be.

        The kernel then kills what is largest in there: the main process, or one of a pool's.
        """
        names = list(names)
        pids = list(self.instances(names).values())
        self._starved_at = time.time_ns()
        self._limits = {name: engine.inspect(self._id(name))["HostConfig"]["Memory"] for name in names}
        for name in names:
            self._starve(name)
        return pids

    def _starve(self, name: str) -> None:
        size, before = NO_MEMORY_BYTES, self.instances([name])
        for _ in range(TRIES):
            try:
                self._limit(name, size)
            except StackError as error:
                if not (used := re.search(r"current usage: (\d+)", str(error))):
                    if self._ends(before):  # killed (cgroup v2) while the engine was still at it
                        return
                    raise
                size = int(used[1]) + A_LITTLE_BYTES  # by now it may use more
            else:
                break
        if size > NO_MEMORY_BYTES:
            with suppress(StackError):  # it is mostly killed with the container
                engine.docker("exec", self._id(name), "python", "-c", "bytearray(1 << 24)")

    def _ends(self, before: Mapping[str, int]) -> bool:
        deadline = time.monotonic() + KILLED_WITHIN_S
        while (alike := self.instances(before) == before) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return not alike

    def feed(self, names: Iterable[str]) -> None:
        """Give containers their memory limits back. Raises StackError where the engine refuses that for long."""
        for name in names:
            self._feed(name)

    def _feed(self, name: str) -> None:
        """Try until it succeeds: the engine refuses while a container that cannot live ends, and is started again."""
        deadline = time.monotonic() + FED_WITHIN_S
        while True:
            try:
                return self._limit(name, self._limits[name])
            except StackError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def was_starved(self, before: Mapping[str, int]) -> bool:
        """Return whether in each of these a process has ended and the engine says that memory was wanting."""
        records = [record for record in list(self._watch().records) if record["event"] == "ended"]
        now_ns, now_wall_ns = time.monotonic_ns(), time.time_ns()
        ended = {one["name"] for one in records if now_ns - one["t_ns"] < now_wall_ns - self._starved_at}
        if not before.keys() <= ended:
            return False
        period = ["--since", f"{self._starved_at / 1e9:.3f}", "--until", f"{now_wall_ns / 1e9:.3f}"]
        events = ["--filter", "event=oom", "--format", "{{.Actor.ID}}"]
        starved = set(engine.docker("events", *period, *events).split())
        return {self._id(name) for name in before} <= starved

    def _limit(self, name: str, size: int) -> None:
        engine.docker("update", "--memory", str(size), "--memory-swap", str(size), self._id(name))

    def _docker(
        self, command: str, names: Iterable[str], *options: str, within_s: float = engine.ANSWER_WITHIN_S
    ) -> None:
        if self.watch:
            engine.docker(command, *options, *(self._id(name) for name in names), within_s=within_s)

    def _id(self, name: str) -> str:
        return self._watch().all[name].id

    def _network(self, name: str) -> str:
        network = API_TO_BROKER if name == self.api else WORKER_TO_BROKER
        return f"{self.testbed.project.name}_{network}"

    def _watch(self) -> Containers:
        if self.watch is None:
            raise StackError(f"{self.contender.name} is not up.")
        return self.watch
