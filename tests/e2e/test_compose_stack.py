"""`--stack compose` with a real engine: blocks in containers, the faults of containers, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lab.environment import PROJECT
from lab.errors import COULD_NOT_MEASURE
from tests.e2e.containers import copy_tracked_files, docker, files_with, guards_missing, inspected, passwords_of
from tests.support import until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("engine"), pytest.mark.timeout(400)]


def command(*arguments: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "lab", *arguments, "--stack", "compose", "--out", str(out), "--rate", "10"]


def lab(
    *arguments: str, out: Path, checkout: Path = PROJECT, meanwhile: Callable[[], None] = lambda: None
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the lab to its end, and do something meanwhile; return what it said, and its run.json."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(*arguments, out=out), cwd=checkout, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            meanwhile()
            said = process.communicate(timeout=400)
        finally:
            process.kill()
    (run,) = out.glob("*/run.json")
    return subprocess.CompletedProcess(process.args, process.returncode, *said), json.loads(run.read_text())


def projects() -> set[str]:
    """Return the compose projects of runs that have a container, a network or a volume."""
    text = ""
    for kind in (["ps", "-a"], ["network", "ls"], ["volume", "ls"]):
        text += subprocess.run(["docker", *kind, "--format", "{{.Labels}}"], capture_output=True, text=True).stdout
    return set(re.findall(r"com\.docker\.compose\.project=(lab-run-\w+)", text))


def project_of(out: Path) -> str:
    """Return the compose project of the run below this folder, where its override is; others may run beside it."""
    label = '{{.Label "com.docker.compose.project"}} {{.Label "com.docker.compose.project.config_files"}}'
    listed = docker("ps", "-a", "--format", label).splitlines()
    (project,) = {line.partition(" ")[0] for line in listed if f"{out}/" in line}
    return project


def containers(project: str) -> dict[str, str]:
    """Return the ids of a project's running containers, by service."""
    label = '{{.Label "com.docker.compose.service"}}={{.ID}}'
    listed = docker("ps", "--filter", f"label=com.docker.compose.project={project}", "--format", label)
    return dict(line.split("=") for line in listed.split())


def until_loaded(out: Path) -> dict[str, str]:
    """Wait until the first block has its load; return its containers, and those that all blocks share."""
    assert until(lambda: list(out.glob("*/blocks/*/requests.jsonl")), 120), "the load did not begin"
    return containers(project_of(out))


def assert_shut_in(running: dict[str, str]) -> None:
    """Only the health check is off, which would take CPU time from the contender."""
    assert {service: guards_missing(one) for service, one in running.items()} == {
        service: {"health check"} for service in running
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = projects()
    yield
    assert until(lambda: projects() <= before, 60)


def fates(folder: Path) -> dict[str, int]:
    tasks = {"tasks": str(folder / "tasks.parquet")}
    return dict(duckdb.execute("SELECT fate, count(*) FROM read_parquet($tasks) GROUP BY 1", tasks).fetchall())


def bystanders(folder: Path) -> dict[str, int]:
    """Return how many of the requests to /ping/*, which need no broker, ended how."""
    requests = {"requests": str(folder / "requests.parquet")}
    query = "SELECT outcome, count(*) FROM read_parquet($requests) WHERE route LIKE '% /ping/%' GROUP BY 1"
    return dict(duckdb.execute(query, requests).fetchall())


def unexplained(run: dict[str, Any]) -> list[str]:
    return [why for block in run["blocks"] for why in block["why"] if "unexplained" in why or "did not happen" in why]


def test_a_round_and_a_worker_kill_are_measured_and_accounted_for(tmp_path: Path) -> None:
    done, run = lab("compare", "--rounds", "1", "--duration", "4", "--fault", "worker-kill", out=tmp_path)
    assert "Traceback" not in done.stderr
    planned = [block for block in run["blocks"] if block["repeat_of"] is None]
    assert [block["state"] for block in planned] == ["finished"] * 5, done.stderr
    assert unexplained(run) == []
    folders = {block["folder"]: next(tmp_path.glob("*")) / block["folder"] for block in planned}
    for block in planned:
        counted = fates(folders[block["folder"]])
        assert counted["done"] > 0
        assert block["fault"] is not None or counted.get("lost", 0) == 0
    servers = run["environment"]["servers"]
    assert "sha256:" in servers["image app"]
    assert "sha256:" in servers["image redis"]
    assert re.fullmatch(r"Redis \d+\.\d+\.\d+", servers["redis"])
    assert re.fullmatch(r"PostgreSQL \S+ .*, pgvector \S+", servers["postgres"])
    assert servers["smtp"] == f"aiosmtpd {metadata.version('aiosmtpd')}"
    assert servers["limits of inline"].endswith("1536 MiB of memory")
    (log,) = tmp_path.glob("*/supervisor/compose/postgres.log")
    assert "database system is ready to accept connections" in log.read_text()


def test_faults_of_containers_happen_and_no_password_is_left(tmp_path: Path) -> None:
    names = ["memory-limit", "cut-worker-broker", "cut-api-broker", "broker-pause"]
    asked = [part for name in names for part in ("--fault", name)]
    passwords: set[str] = set()

    def read_passwords() -> None:
        passwords.update(*(passwords_of(one) for one in until_loaded(tmp_path).values()))

    options = ["--contender", "celery", "--duration", "4", *asked]
    done, run = lab("faults", *options, out=tmp_path, meanwhile=read_passwords)
    planned = [block for block in run["blocks"] if block["repeat_of"] is None]
    assert {block["fault"] for block in planned} == set(names)
    for block in planned:
        assert block["state"] == "finished", done.stderr
        injected = json.loads((next(tmp_path.glob("*")) / block["folder"] / "faults.json").read_text())
        assert injected
        assert all(one["confirmed"] and one["healed_ns"] for one in injected), block["fault"]
        if block["fault"] == "cut-api-broker":
            assert bystanders(next(tmp_path.glob("*")) / block["folder"]).keys() == {"acknowledged"}
    assert unexplained(run) == []
    assert len(passwords) == 2
    assert files_with(passwords, tmp_path) == []
    assert "compose.yml" in {file.name for file in files_with(["POSTGRES_PASSWORD"], tmp_path)}, "nothing was searched"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_lab_is_interrupted(tmp_path: Path, signum: int) -> None:
    arguments = command("compare", "--rounds", "1", "--duration", "60", "--contender", "celery", out=tmp_path)
    with subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            running = until_loaded(tmp_path)
            assert set(running) == {"celery", "worker", "redis", "postgres", "mail"}
            assert_shut_in(running)
            assert_redis_is_fresh_and_keeps_nothing(running["redis"])
            process.send_signal(signum)
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == (COULD_NOT_MEASURE if signum == signal.SIGINT else -signal.SIGKILL)
    (run,) = tmp_path.glob("*/run.json")
    assert json.loads(run.read_text())["blocks"][0]["state"] == "planned"


def assert_redis_is_fresh_and_keeps_nothing(redis: str) -> None:
    """It has neither append-only file nor snapshots, as locally, and a volume that no other container had."""
    settings = docker("exec", redis, "redis-cli", "config", "get", "appendonly", "save").splitlines()
    assert dict(zip(settings[::2], settings[1::2], strict=True)) == {"appendonly": "no", "save": ""}
    assert docker("exec", redis, "ls", "/data") == ""
    (volume,) = (mount["Name"] for mount in inspected(redis)["Mounts"])
    assert re.fullmatch("[0-9a-f]{64}", volume)


def test_containers_that_somebody_removes_are_told_of(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--duration", "4", "--contender", "inline", "--fault", "none"]
    with subprocess.Popen(
        command("compare", *options, out=tmp_path),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert_shut_in(until_loaded(tmp_path))
            docker("compose", "-p", project_of(tmp_path), "down", "-t", "1")
            said, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == COULD_NOT_MEASURE
    assert "Traceback" not in said
    assert "Containers of this run are gone: somebody has removed them" in " ".join(said.split())


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        command("compare", "--rounds", "1", out=tmp_path),
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        timeout=60,
    )
    assert done.returncode == COULD_NOT_MEASURE
    assert done.stderr.splitlines()[-1] == "lab: No container engine answers; start it, and see `docker version`."


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of the checkout, to be broken."""
    folder = tmp_path / "clone"
    copy_tracked_files(folder)
    return folder


def test_an_image_that_cannot_be_built_is_told_of(tmp_path: Path, broken: Path) -> None:
    with (broken / "Dockerfile").open("a") as recipe:
        recipe.write("RUN exit 42\n")
    done, run = lab("compare", "--rounds", "1", out=tmp_path / "runs", checkout=broken)
    assert done.returncode == COULD_NOT_MEASURE
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("lab: The image of the apps could not be built.")
    assert "exit code: 42" in sentence
    assert {block["state"] for block in run["blocks"]} == {"planned"}


def test_a_container_that_does_not_come_up_fails_its_block_alone(tmp_path: Path, broken: Path) -> None:
    (broken / "inline_app" / "main.py").write_text("raise SystemExit('this app is broken')\n")
    options = ["--rounds", "1", "--duration", "2", "--contender", "inline", "--contender", "celery", "--fault", "none"]
    done, run = lab("compare", *options, out=tmp_path / "runs", checkout=broken)
    assert done.returncode == COULD_NOT_MEASURE
    assert "Traceback" not in done.stdout + done.stderr
    blocks = {block["contender"]: block for block in run["blocks"] if block["repeat_of"] is None}
    assert {name: block["state"] for name, block in blocks.items()} == {"inline": "failed", "celery": "finished"}
    assert blocks["inline"]["why"] == ["The container of inline-api ended before it was up; see its log."]
    folder = next((tmp_path / "runs").glob("*")) / blocks["inline"]["folder"]
    assert "this app is broken" in (folder / "logs" / "api.log").read_text()


def test_a_shared_server_that_does_not_come_up_ends_the_run_and_leaves_its_log(tmp_path: Path, broken: Path) -> None:
    (broken / "lab" / "stacks" / "mailsink.py").write_text("raise SystemExit('no mail today')\n")
    done, run = lab("compare", "--rounds", "1", out=tmp_path / "runs", checkout=broken)
    assert done.returncode == COULD_NOT_MEASURE
    assert done.stderr.splitlines() == ["lab: The container of mail ended before it was up; see its log."]
    (log,) = (tmp_path / "runs").glob("*/supervisor/compose/mail.log")
    assert "no mail today" in log.read_text()
    assert {block["state"] for block in run["blocks"]} == {"planned"}
