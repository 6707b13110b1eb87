"""What `lab doctor` says of a container engine."""

from pathlib import Path

import pytest

from lab import doctor
from tests.support import docker_client, says


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
