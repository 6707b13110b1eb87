"""docker-compose.yml as a person gets it: a clean copy, `make env`, `docker compose up`; then inspected, and used."""

import json
import os
import pty
import secrets
import select
import shutil
import stat
import subprocess
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lab.errors import COULD_NOT_MEASURE
from lab.stacks.servers import free_port
from tests.e2e.containers import copy_tracked_files, docker, guards_missing, image_leaks, inspected
from tests.support import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]

SERVICES = {"redis", "postgres", "mail", "inline", "celery", "worker", "locust", "locust-worker", "flower"}
# Sends a line to Redis and prints the answer; from a service that knows no password.
ASK_REDIS = """
import socket, sys
redis = socket.create_connection(("redis", 6379), timeout=10)
redis.sendall(sys.stdin.read().encode())
print(redis.recv(1000).decode())
"""
ASK_POSTGRES = """
import psycopg, sys
try:
    with psycopg.connect(sys.stdin.read().strip(), connect_timeout=10) as connection:
        print(connection.execute("SELECT 'let in'").fetchone()[0])
except psycopg.OperationalError as error:
    print("refused:", error)
"""


class Project:
    """A compose project in a clean copy of the checkout, with a name, an image and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"lab-test-{secrets.token_hex(3)}"
        self.image = f"backgroundtasks-vs-celery:{self.name}"
        self.web_ui = f"http://127.0.0.1:{(port := free_port())}"
        copy_tracked_files(folder)
        subprocess.run(["make", "env"], cwd=folder, check=True)
        self.env = folder / ".env"
        self.flower = f"http://127.0.0.1:{(flower_port := free_port())}"
        own: dict[str, object] = {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": "monitor",
            "LAB_IMAGE": self.image,
        }
        own |= {"INLINE_PORT": free_port(), "CELERY_PORT": free_port()}
        own |= {"LOCUST_PORT": port, "FLOWER_PORT": flower_port}
        with self.env.open("a") as env:
            env.writelines(f"{name}={value}\n" for name, value in own.items())

    def compose(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """Run `docker compose` in the folder and return what it printed."""
        return docker("compose", "--project-directory", str(self.folder), *arguments, given=given, check=check)

    def containers(self) -> list[str]:
        """Return the ids of the services' containers, running or not."""
        return self.compose("ps", "-aq").split()

    def service_of(self, container: str) -> str:
        return str(inspected(container)["Config"]["Labels"]["com.docker.compose.service"])

    def python(self, service: str, program: str, given: str) -> str:
        """Run a Python program in a service and return what it printed."""
        return self.compose("exec", "-T", service, "python", "-c", program, given=given)

    def passwords(self) -> dict[str, str]:
        lines = (line.split("=", 1) for line in self.env.read_text().splitlines())
        return {name: value for name, value in lines if name.endswith("_PASSWORD")}

    def web(self, path: str, form: dict[str, str] | None = None) -> Any:
        """Ask the web UI, by POST where there is a form, and return its JSON answer."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self.web_ui + path, data=data, timeout=10) as answer:
            return json.load(answer)

    def left(self) -> list[str]:
        """Return which containers, networks and volumes there are."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = (["ps", "-aq"], ["network", "ls", "-q"], ["volume", "ls", "-q"])
        return [one for kind in kinds for one in docker(*kind, "--filter", label).split()]


@pytest.fixture(scope="module")
def project(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The services, up and healthy; at the end `docker compose down -v` must leave nothing."""
    project = Project(tmp_path_factory.mktemp("clone"))
    try:
        project.compose("up", "--wait")
        yield project
    finally:
        project.compose("down", "-v", check=False)
        left = project.left()
        docker("image", "rm", project.image, check=False)
    assert left == []


def test_make_env_draws_passwords_for_the_owner_alone_and_keeps_those_there_are(project: Project) -> None:
    """And makes ./runs in either case: the engine would make it root's."""
    before = project.env.read_text()
    assert stat.S_IMODE(project.env.stat().st_mode) == 0o600
    assert all(len(password) >= 32 for password in project.passwords().values())
    assert len(set(project.passwords().values())) == 2
    runs = project.folder / "runs"
    owner = runs.stat().st_uid
    runs.rmdir()
    subprocess.run(["make", "env"], cwd=project.folder, check=True)
    assert project.env.read_text() == before
    assert runs.stat().st_uid == owner > 0


def test_without_passwords_compose_says_what_to_do(project: Project, tmp_path: Path) -> None:
    shutil.copy(project.folder / "docker-compose.yml", tmp_path)
    assert "run make env first" in docker("compose", "--project-directory", str(tmp_path), "config", check=False)


def test_whichever_service_is_asked_for_the_image_is_built_and_once(project: Project) -> None:
    """One service builds it, without which no other that runs it starts."""
    services = json.loads(project.compose("--profile", "*", "config", "--format", "json"))["services"]
    (builder,) = (name for name, service in services.items() if "build" in service)
    users = {name for name, service in services.items() if service["image"] == project.image}
    assert len(users) > 5
    assert {name for name in users if builder not in needed_by(name, services)} == set()


def needed_by(name: str, services: dict[str, Any]) -> set[str]:
    return {name}.union(*(needed_by(other, services) for other in services[name].get("depends_on", {})))


def test_every_service_is_healthy(project: Project) -> None:
    states = {project.service_of(one): inspected(one)["State"]["Health"]["Status"] for one in project.containers()}
    assert states == dict.fromkeys(SERVICES, "healthy")


def test_a_worker_is_healthy_by_its_connection_to_redis_and_nobody_starts_a_celery_to_ask(project: Project) -> None:
    """What has no such connection would not be, as the inline app."""
    services = json.loads(project.compose("config", "--format", "json"))["services"]
    kind, check = services["worker"]["healthcheck"]["test"]
    assert (kind, "python" in check) == ("CMD-SHELL", False)
    asked = "if {}; then echo healthy; else echo not; fi"
    said = {name: project.compose("exec", "-T", name, "sh", "-c", asked.format(check)) for name in ("worker", "inline")}
    assert {name: one.strip() for name, one in said.items()} == {"worker": "healthy", "inline": "not"}


def test_every_container_is_shut_in(project: Project) -> None:
    assert {project.service_of(one): guards_missing(one) for one in project.containers()} == {
        service: set() for service in SERVICES
    }


def test_a_container_that_is_not_shut_in_is_told(project: Project) -> None:
    """The same image with none of the guards, and the engine's socket."""
    options = ["--user", "0", "--publish", "0.0.0.0::80", "--volume", "/var/run/docker.sock:/var/run/docker.sock"]
    container = docker("run", "-d", *options, project.image, "sleep", "300").strip()
    try:
        assert guards_missing(container) == {
            "user",
            "capabilities",
            "no new privileges",
            "read-only root",
            "ports on loopback",
            "no engine socket",
            "memory limit",
            "CPU set",
            "log rotation",
            "health check",
        }
    finally:
        docker("rm", "-f", container)


def test_the_contenders_have_the_same_cpus_and_the_same_memory(project: Project) -> None:
    limits = {project.service_of(one): inspected(one)["HostConfig"] for one in project.containers()}
    one, other = [limits["inline"]], [limits["celery"], limits["worker"], limits["redis"]]
    assert sum(limit["Memory"] for limit in one) == sum(limit["Memory"] for limit in other)
    assert len({limit["CpusetCpus"] for limit in one + other}) == 1


def test_the_worker_gets_more_time_to_end_than_the_others(project: Project) -> None:
    """A warm shutdown may take 32 s more than the task under way: docs/failures.md."""
    patience_s = {project.service_of(one): inspected(one)["Config"]["StopTimeout"] for one in project.containers()}
    assert patience_s.pop("worker") == 60
    assert set(patience_s.values()) == {30}


def test_redis_refuses_who_has_no_password(project: Project) -> None:
    password = project.passwords()["REDIS_PASSWORD"]
    assert "NOAUTH" in project.python("mail", ASK_REDIS, "PING\r\n")
    assert "WRONGPASS" in project.python("mail", ASK_REDIS, "AUTH wrong\r\n")
    assert "OK" in project.python("mail", ASK_REDIS, f"AUTH {password}\r\n")


def test_redis_keeps_an_append_only_file_on_a_volume_of_the_project(project: Project) -> None:
    assert project.compose("exec", "-T", "redis", "redis-cli", "config", "get", "appendonly").split()[-1] == "yes"
    (redis,) = (one for one in project.containers() if project.service_of(one) == "redis")
    volumes = {mount["Destination"]: mount["Name"] for mount in inspected(redis)["Mounts"]}
    assert volumes == {"/data": f"{project.name}_redis-data"}
    assert "appendonlydir" in project.compose("exec", "-T", "redis", "ls", "/data")


def test_postgres_refuses_who_has_no_password(project: Project) -> None:
    password = project.passwords()["POSTGRES_PASSWORD"]
    assert "refused" in project.python("mail", ASK_POSTGRES, "postgresql://postgres@postgres/celery")
    assert "refused" in project.python("mail", ASK_POSTGRES, "postgresql://postgres:wrong@postgres/celery")
    assert "let in" in project.python("mail", ASK_POSTGRES, f"postgresql://postgres:{password}@postgres/celery")


def test_the_bench_profile_leaves_a_report(project: Project) -> None:
    bench = ["--profile", "bench", "run", "--rm", "bench", "--scenario", "action"]
    printed = project.compose(*bench, "--rounds", "1", "--duration", "2", "--rate", "5", check=False)
    reports = list((project.folder / "runs").glob("*/report.html"))
    assert len(reports) == 1, printed
    run = reports[0].parent
    blocks = [block for block in json.loads((run / "run.json").read_text())["blocks"] if block["repeat_of"] is None]
    assert {block["contender"]: block["state"] for block in blocks} == dict.fromkeys(["inline", "celery"], "finished")
    assert [why for block in blocks for why in block["why"] if "unexplained" in why] == []
    for block in blocks:
        fates = fates_of_acknowledged(run / block["folder"])
        assert fates["done"] > 0, printed
        assert fates == {"done": fates["done"]}, printed


def fates_of_acknowledged(block: Path) -> dict[str, int]:
    """Return what became of the tasks of a block's acknowledged requests; a block without requests has none."""
    query = "SELECT fate, count(*) FROM read_parquet($tasks) WHERE request_outcome = 'acknowledged' GROUP BY 1"
    return dict(duckdb.execute(query, {"tasks": str(block / "tasks.parquet")}).fetchall())


def test_ctrl_c_ends_a_benchmark_in_order_and_keeps_the_blocks_that_are_finished(project: Project) -> None:
    before = set((project.folder / "runs").iterdir())
    one_off = ["--filter", f"label=com.docker.compose.project={project.name}", "--filter", "name=-bench-run-"]
    command = ["docker", "compose", "--project-directory", str(project.folder), "--profile", "bench", "run", "--rm"]
    options = ["--scenario", "action", "--rounds", "5", "--duration", "2", "--rate", "5"]
    missing: list[set[str]] = []

    def look_and_press_ctrl_c(terminal: int) -> None:
        missing.extend(guards_missing(one) for one in docker("ps", "-q", *one_off).split())
        os.write(terminal, b"\x03")

    status, said = in_a_terminal([*command, "bench", *options], b"block 2/", look_and_press_ctrl_c, within_s=120)
    assert missing == [{"health check"}], "a program that ends by itself is not asked how it is"
    assert status == COULD_NOT_MEASURE, said
    assert "Traceback" not in said
    (run,) = set((project.folder / "runs").iterdir()) - before
    blocks = json.loads((run / "run.json").read_text())["blocks"]
    assert blocks[0]["state"] == "finished"
    assert blocks[-1]["state"] == "planned"
    assert (run / "report.html").exists()
    assert until(lambda: docker("ps", "-aq", *one_off) == "", within_s=30)


def in_a_terminal(command: list[str], at: bytes, then: Callable[[int], object], within_s: float) -> tuple[int, str]:
    """Run a command in a terminal, do something once it has said this, and return its exit status and all it said.

    What is done gets the terminal, to press keys in.
    """
    terminal, of_command = pty.openpty()
    with subprocess.Popen(
        command, stdin=of_command, stdout=of_command, stderr=of_command, start_new_session=True
    ) as process:
        os.close(of_command)
        said, done, deadline = b"", False, time.monotonic() + within_s
        with suppress(OSError):  # that is how the end of a terminal is told
            while time.monotonic() < deadline:
                if select.select([terminal], [], [], 1)[0]:
                    said += os.read(terminal, 4096)
                if at in said and not done:
                    done = True
                    then(terminal)
        os.close(terminal)
        process.kill()
        return process.wait(), said.decode(errors="replace")


def test_more_workers_of_both_kinds_share_the_load(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    others = {one for one in project.containers() if project.service_of(one) not in {"worker", "locust-worker"}}
    project.compose("up", "--wait", "--scale", "worker=3", "--scale", "locust-worker=4")
    services = Counter(project.service_of(one) for one in project.containers())
    assert services == Counter(SERVICES) + Counter({"worker": 2, "locust-worker": 3})
    assert others <= set(project.containers()), "what was not scaled was replaced"
    assert until(lambda: len(project.web("/stats/requests")["workers"]) == 4, within_s=30)

    form = {"user_count": "20", "spawn_rate": "20", "contender": "celery", "scenario": "action"}
    assert project.web("/swarm", form)["success"]
    try:
        assert until(lambda: all(worker["user_count"] == 5 for worker in project.web("/stats/requests")["workers"]), 30)
        assert until(lambda: len(tasks_by_worker(project)) == 3, within_s=60), tasks_by_worker(project)
    finally:
        project.web("/stop", form={})
    assert until(lambda: tasks_on_the_page(project)["not_done"] == 0, within_s=60), tasks_on_the_page(project)
    assert tasks_on_the_page(project)["done"] == tasks_on_the_page(project)["acknowledged"] > 0
    sent = sorted(worker["samples"] for worker in project.web("/comparison/state")["load"]["workers"].values())[-4:]
    assert min(sent) > max(sent) / 2, "Locust shares its users out evenly"
    with capsys.disabled():
        print("\ntasks by Celery worker:", dict(tasks_by_worker(project)), "requests by Locust worker:", sent)


def test_flower_sees_all_celery_workers(project: Project) -> None:
    workers = Counter(project.service_of(one) for one in project.containers())["worker"]

    def seen() -> int:
        with urllib.request.urlopen(f"{project.flower}/workers?json=1", timeout=10) as answer:
            return sum(worker["status"] for worker in json.load(answer)["data"])

    assert until(lambda: seen() == workers, within_s=30)


def tasks_on_the_page(project: Project) -> dict[str, int]:
    """Return what the page Comparison says of Celery's tasks."""
    tasks: dict[str, int] = project.web("/comparison/state")["load"]["contenders"]["celery"]["tasks"]
    return tasks


def tasks_by_worker(project: Project) -> Counter[str]:
    """Return how many tasks each running Celery worker has started, by the host names in the journals' names."""
    shown = project.compose("exec", "-T", "celery", "sh", "-c", "cd /data/journal && grep -c started *.jsonl || true")
    hosts = {
        inspected(one)["Config"]["Hostname"] for one in project.containers() if project.service_of(one) == "worker"
    }
    counts: Counter[str] = Counter()
    for journal, _, count in (line.rpartition(":") for line in shown.splitlines()):
        for host in hosts:
            if host in journal and int(count) > 0:
                counts[host] += int(count)
    return counts


def test_no_password_is_in_image_compose_file_process_list_or_log(project: Project) -> None:
    """Last, so that the logs are those of services that were used."""
    passwords = project.passwords().values()
    assert not image_leaks(project.image, passwords)
    for shown in ((project.folder / "docker-compose.yml").read_text(), project.compose("top"), project.compose("logs")):
        assert len(shown) > 1000
        assert not any(password in shown for password in passwords)


@pytest.mark.parametrize("recipe", ["ENV PASSWORD=hidden-in-here", "RUN echo hidden-in-here > /app/left"])
def test_a_password_in_an_image_is_found(project: Project, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {project.image}\nUSER 0\n{recipe}\n")
    leaky = f"{project.image}-leaky"
    docker("build", "--tag", leaky, str(tmp_path))
    try:
        assert image_leaks(leaky, ["hidden-in-here"])
        assert not image_leaks(leaky, ["not-in-there"])
    finally:
        docker("image", "rm", leaky)


def test_services_that_go_down_during_a_benchmark_leave_what_is_finished(project: Project) -> None:
    """The very last, since they are gone then; the blocks that are left fail, and each says why."""
    before = set((project.folder / "runs").iterdir())
    command = ["docker", "compose", "--project-directory", str(project.folder), "--profile", "bench", "run", "--rm"]
    options = ["--scenario", "action", "--rounds", "2", "--duration", "2", "--rate", "5"]
    status, said = in_a_terminal(
        [*command, "bench", *options], b"block 2/", lambda _terminal: project.compose("down", check=False), within_s=180
    )
    assert "Traceback" not in said
    (run,) = set((project.folder / "runs").iterdir()) - before
    blocks = json.loads((run / "run.json").read_text())["blocks"]
    assert status == COULD_NOT_MEASURE, said
    assert blocks[0]["state"] == "finished"  # and the second may be, if with failed requests
    assert {block["state"] for block in blocks[2:]} == {"failed"}
    assert all(len(block["why"]) == 1 for block in blocks[2:])
    assert (run / "report.html").exists()
