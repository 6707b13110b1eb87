"""What the lab changes in docker-compose.yml for a block, and which faults it refuses for which stack."""

from pathlib import Path

import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.errors import UsageError
from lab.rundir import Placement
from lab.stacks.override import as_yaml, contender_override, services_of

CONTENDERS = load_contenders(PROJECT / "contenders.toml")
PLACEMENT = Placement(contender=[2, 3], generator=[0, 1], pinned=True)


def override_of(name: str) -> dict[str, dict[str, dict[str, object]]]:
    ports = {"inline": 20_001, "celery": 20_002, "redis": 20_003}
    return contender_override(CONTENDERS[name], "sha256:0", PLACEMENT, "lab_1", Path("/data-of-block"), ports)


def test_a_contender_gets_its_own_commands_cpus_and_data() -> None:
    services = override_of("celery-threads")["services"]
    assert set(services) == {"celery", "worker", "redis"}
    assert {service["cpuset"] for service in services.values()} == {"2,3"}
    assert services["worker"]["command"] == [
        *["python", "-m", "celery", "-A", "celery_app.worker", "worker"],
        *["--pool", "threads", "--concurrency", "40"],
    ]
    assert services["celery"]["volumes"] == services["worker"]["volumes"] == ["/data-of-block:/data"]


def test_prefork_gets_as_many_processes_as_the_contender_has_cpus() -> None:
    command = override_of("celery")["services"]["worker"]["command"]
    assert isinstance(command, list)
    assert command[-2:] == ["--concurrency", "2"]


def test_several_processes_are_in_the_one_service_of_the_api() -> None:
    command = override_of("inline-workers")["services"]["inline"]["command"]
    assert isinstance(command, list)
    assert command[-2:] == ["--workers", "2"]


def test_a_contenders_settings_reach_its_api() -> None:
    environments = [override_of(name)["services"]["celery"]["environment"] for name in ("celery-naive", "celery")]
    assert ["NAIVE_PUBLISH" in str(environment) for environment in environments] == [True, False]


def test_ports_are_on_loopback_and_take_the_place_of_the_files_own() -> None:
    override = override_of("inline")
    assert override["services"]["inline"]["ports"] == ["127.0.0.1:20001:8000"]
    assert '"ports": !override [' in as_yaml(override)


def test_no_password_is_in_an_override() -> None:
    assert "${POSTGRES_PASSWORD}" in as_yaml(override_of("celery"))


def test_api_and_worker_reach_the_broker_each_on_a_network_of_its_own() -> None:
    services = override_of("celery")["services"]
    shared_with_broker = {name: networks(services, name) & networks(services, "redis") for name in ("celery", "worker")}
    assert [len(shared) for shared in shared_with_broker.values()] == [1, 1]
    assert shared_with_broker["celery"].isdisjoint(shared_with_broker["worker"])


def test_the_broker_keeps_nothing_as_in_the_local_stack() -> None:
    """The services of the file keep an append-only file."""
    assert override_of("celery")["services"]["redis"]["environment"] == {"APPENDONLY": "no"}


def test_a_cut_from_the_broker_leaves_the_published_port() -> None:
    """The engine publishes ports through the network whose name comes first, and Redis stays in all of its own."""
    services = override_of("celery")["services"]
    assert min(networks(services, "celery")) == "default" not in networks(services, "redis")


def networks(services: dict[str, dict[str, object]], service: str) -> set[str]:
    names = services[service]["networks"]
    assert isinstance(names, list)
    return set(names)


@pytest.mark.parametrize(
    ("name", "differs", "sentence"),
    [
        ("inline", {"folder": "/somewhere"}, "'inline' is not in the image"),
        ("inline", {"url": "http://127.0.0.1:8001"}, "'inline' runs already"),
        ("celery", {"workers": [["one"], ["two"]]}, "'celery' needs other services"),
        ("celery", {"broker": None}, "'celery' needs other services"),
    ],
)
def test_what_the_compose_file_cannot_run_is_refused(name: str, differs: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        services_of(CONTENDERS[name].model_copy(update=differs))


def test_each_of_the_labs_own_contenders_can_be_run_in_containers() -> None:
    assert all(services_of(contender) for contender in CONTENDERS.values())
