"""The `lab` command's errors: one sentence, the documented exit status, no traceback, nothing left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab import cli
from lab.environment import PROJECT, available_cpus
from tests.support import docker_client, says


def run_lab(
    *arguments: str | Path, prefix: list[str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `lab` to its end, as a user would."""
    command = [*(prefix or []), sys.executable, "-m", "lab", *map(str, arguments)]
    env = os.environ | environment
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "--contender", "django"], "django"),
        (["compare", "--contender", "inline", "--contender", "inline"], "inline"),
        (["compare", "--scenario", "black-friday"], "black-friday"),
        (["compare", "--fault", "earthquake"], "earthquake"),
        (["faults", "--fault", "earthquake"], "earthquake"),
        (["faults", "--fault", "none"], "needs a fault"),
        (["faults", "--contender", "inline", "--fault", "worker-kill"], "none of the contenders"),
        (["compare", "--contender", "inline", "--fault", "worker-kill"], "none of the contenders"),
        (["faults", "--stack", "running"], "no `url`"),
        (["faults", "--scenario", "crossover"], "'crossover' is a grid"),
        (["compare", "--scenario", "crossover", "--rate", "5"], "'crossover' is a grid"),
        (["faults", "--grace", "0"], "--grace 0"),
        (["faults", "--grace", "nan"], "--grace nan"),
        (["faults", "--grace", "601"], "--grace 601"),
        (["faults", "--grace", "1", "--fault", "api-kill"], "deploy"),
        (["faults", "--grace", "0.5", "--stack", "compose"], "whole seconds"),
        (["compare", "--rounds", "0"], "--rounds"),
        (["compare", "--sped", "5"], "--sped"),
        (["compare", "--stack", "cloud"], "cloud"),
        (["capacity", "--contender", "django"], "django"),
        (["capacity", "--contender", "inline", "--work", "sleep"], "sleep"),
        (["capacity", "--contender", "inline", "--work", "io", "--work", "io"], "twice"),
        (["capacity", "--contender", "inline", "--slo-response-ms", "0"], "--slo-response-ms 0"),
        (["capacity", "--contender", "inline", "--slo-done-s", "-1"], "--slo-done-s -1"),
        (["capacity", "--contender", "inline", "--slo-errors", "nan"], "--slo-errors nan"),
        (["capacity", "--contender", "inline", "--slo-errors", "1"], "--slo-errors 1"),
        (["capacity", "--contender", "inline", "--budget", "2"], "--budget 2"),
        (["capacity", "--contender", "inline", "--duration", "600", "--budget", "30"], "--budget 30"),
        (["capacity", "--contender", "inline", "--seconds", "5"], "--seconds 5"),
        (["report", "no-such-run"], "no-such-run"),
        (["report", "README.md"], "README.md is not a run directory"),
        (["resume", "no-such-run"], "no-such-run"),
        (["task", "no-such-run", "6f1c1f4e-5c0f-4d7b-9a35-3f0b0b7a7c11"], "no-such-run"),
        (["task", "no-such-run", "42"], "ID"),
    ],
)
def test_bad_usage_is_named_and_ends_with_2(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever does not exist is named in a sentence, and nothing is started."""
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    with pytest.raises(SystemExit) as ended:  # another exception would be a traceback
        cli.main()
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_a_broken_grid_is_named_with_its_file_and_key(tmp_path: Path) -> None:
    """Before anything is started, like any scenario that is wrong."""
    head, axes = 'description = "x"\nusers = "probe"\nduration_s = 5\n', "probe_seconds = [5]\nrate = [2]\n"
    (tmp_path / "map.toml").write_text(f'{head}[grid]\nprobe_work = ["gpu"]\n{axes}')
    done = run_lab("compare", "--scenarios", tmp_path, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert "map.toml: 'grid.probe_work.0': " in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_json_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """A broken run.json is a bad argument, not a crash."""
    (tmp_path / "run.json").write_text('{"schema_version": 1')
    done = run_lab("report", tmp_path)
    assert done.returncode == 2
    assert "run.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_cannot_be_written_to_is_named() -> None:
    """The run directory cannot be made there: one sentence, and nothing is started."""
    done = run_lab("compare", "--quick", "--out", "/proc/runs")
    assert done.returncode == 1
    assert "/proc/runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes to CPUs")
def test_one_cpu_is_not_enough() -> None:
    """Load and contender on one CPU would measure each other; the lab says so and measures nothing."""
    done = run_lab("compare", "--quick", prefix=["taskset", "--cpu-list", str(available_cpus()[0])])
    assert done.returncode == 1
    assert "CPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """`lab up` cannot have a port that is taken: it says which, and ends what it had started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_lab("up", "--contender", "inline", "--web-port", port, "--out", tmp_path)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_list_names_contenders_scenarios_and_faults() -> None:
    """What can be asked for is listed."""
    done = run_lab("list")
    assert done.returncode == 0
    for name in ("inline", "celery-naive", "mixed", "crossover", "deploy"):
        assert name in done.stdout


# The words of Docker's own client 28.2: what it says without an engine, and without its plugin compose.
NO_ENGINE = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
NOT_LET_IN = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "
    '"http://%2Fvar%2Frun%2Fdocker.sock/v1.50/version": dial unix /var/run/docker.sock: connect: permission denied'
)
NO_COMPOSE = (
    "unknown flag: --short\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]\n\nRun 'docker --help' for more information"
)


@pytest.mark.parametrize(
    ("version", "compose", "sentence"),
    [
        (says(NO_ENGINE, 1), "exit 99", "No container engine answers; start it, and see `docker version`."),
        (says(NOT_LET_IN, 1), "exit 99", "The container engine does not let this user in; see `docker version`."),
        (
            "echo 26.1.5; exit",
            says(NO_COMPOSE, 125),
            "`docker compose` is not there: --stack compose needs compose v2.24 or newer.",
        ),
        ("echo 26.1.5; exit", "echo v2.20.3; exit", "This is compose 2.20.3: --stack compose needs v2.24 or newer."),
    ],
    ids=["no engine", "not let in", "no compose", "old compose"],
)
def test_what_the_compose_stack_misses_is_named(tmp_path: Path, version: str, compose: str, sentence: str) -> None:
    """Each by a sentence of its own, before anything is started."""
    path = docker_client(tmp_path / "bin", version, compose)
    done = run_lab("compare", "--quick", "--stack", "compose", "--out", tmp_path / "runs", PATH=path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"lab: {sentence}"]


def test_a_machine_without_docker_is_told_what_is_needed(tmp_path: Path) -> None:
    """No `docker` on PATH at all."""
    done = run_lab("compare", "--quick", "--stack", "compose", "--out", tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["lab: There is no `docker` on PATH: --stack compose needs a container engine."]


def test_doctor_says_that_the_compose_stack_cannot_be_used_and_trusts_the_machine_no_less(tmp_path: Path) -> None:
    """Its verdict names what is bad; that there is no container engine is a limit."""
    done = run_lab("doctor", PATH=str(tmp_path))
    *findings, verdict = done.stdout.splitlines()
    assert "limit containers --stack compose cannot be used." in " ".join(" ".join(findings).split())
    assert verdict.startswith("This machine can")
    assert "containers" not in verdict
