"""What `lab doctor` says of a container engine and of stolen CPU time."""

from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from lab import doctor
from lab.environment import available_cpus
from tests.support import docker_client, says, steal


def test_an_engine_with_compose_v2_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = docker_client(tmp_path / "bin", "echo 26.1.5; exit", "echo 2.26.1-4; exit")
    monkeypatch.setenv("PATH", path)
    sentence = "Docker 26.1.5, compose 2.26.1-4: --stack compose can be used."
    assert doctor.containers() == doctor.Finding("good", "containers", sentence)


@pytest.mark.parametrize(
    ("version", "compose", "named"),
    [
        (
            says("Cannot connect to the Docker daemon. Is the docker daemon running?", 1),
            "exit 99",
            "No container engine",
        ),
        ("echo 26.1.5; exit", says("docker: unknown command: docker compose", 1), "`docker compose` is not there"),
        ("echo 26.1.5; exit", "echo v2.20.3; exit", "This is compose 2.20.3"),
    ],
)
def test_what_the_compose_stack_misses_is_a_limit_and_does_not_make_the_machine_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, compose: str, named: str
) -> None:
    monkeypatch.setenv("PATH", docker_client(tmp_path / "bin", version, compose))
    found = doctor.containers()
    assert found.verdict == "limit"
    assert found.sentence.startswith(f"--stack compose cannot be used. {named}")


def test_a_machine_without_docker_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.containers().verdict == "limit"


def idle(**_: float) -> float:
    """Watch for a moment, and see nothing."""
    sleep(0.1)
    return 0.0


@pytest.mark.parametrize(("of_ours", "of_others", "verdict"), [(0.0, 1.0, "good"), (0.1, 0.0, "bad")])
def test_only_what_is_stolen_of_the_cpus_of_the_lab_is_bad(
    monkeypatch: pytest.MonkeyPatch, of_ours: float, of_others: float, verdict: str
) -> None:
    ours, cpus = available_cpus(), 8 * (max(available_cpus()) + 1)
    steal(monkeypatch, cpus, lambda cpu: monotonic() * (of_ours if cpu in ours else of_others))
    monkeypatch.setattr(psutil, "cpu_percent", idle)
    assert doctor.idleness().verdict == verdict
