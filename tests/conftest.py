"""Fixtures: real servers under a real supervisor, one of each for the session, and private ones for rough tests."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from lab.environment import available_cpus, place
from lab.priority import step_back
from lab.stacks import servers
from lab.stacks.local import Servers
from lab.stacks.servers import MailSink, Postgres, Redis
from lab.stacks.supervisor import Supervisor
from tests.support import steal

_numbers = count(1)
# They share what a fixture of theirs makes once.
TOGETHER = {
    "tests/integration/test_apps_differential.py",
    "tests/integration/test_apps_input.py",
    "tests/integration/test_compare.py",
    "tests/integration/test_control.py",
    "tests/unit/test_capacity_report.py",
    "tests/unit/test_crossover.py",
    "tests/unit/test_report.py",
}


def pytest_configure(config: pytest.Config) -> None:
    """Let tests that run beside others be of the rank of the lab, which would starve for its neighbours' sake."""
    if hasattr(config, "workerinput"):
        step_back()


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker one test after the other; those of some modules stay together."""

    def _split_scope(self, nodeid: str) -> str:
        module, _, _ = nodeid.partition("::")
        return module if module in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Share the tests out to the workers, whatever `--dist` says."""
    return Together(config, log)


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisor for the session; what a test starts with it and does not stop ends with the session."""
    with Supervisor(tmp_path_factory.mktemp("supervisor")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> Postgres:
    """The session's PostgreSQL; take a database of your own: ``postgres.create_database(name)`` returns its URL."""
    return servers.postgres(supervisor, tmp_path_factory.mktemp("postgres"))


@pytest.fixture(scope="session")
def redis_server(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> Redis:
    """The session's Redis."""
    return servers.redis(supervisor, tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="session")
def mail_sink(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> MailSink:
    """The session's mail sink; ``mail_sink.mails()`` are the mails it has accepted."""
    return servers.mail_sink(supervisor, tmp_path_factory.mktemp("mail"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """What stacks share, under a supervisor of its own: a stack gives its processes names of its choice."""
    with (
        Supervisor(tmp_path_factory.mktemp("run")) as running,
        Servers(running, place(available_cpus())) as shared_servers,
    ):
        yield shared_servers


@pytest.fixture
def make_redis(supervisor: Supervisor, tmp_path: Path) -> Iterator[Callable[[], Redis]]:
    """Start Redis servers that the test may kill or stop: ``os.kill(make_redis().pid, …)``."""
    made: list[Redis] = []

    def make() -> Redis:
        name = f"redis-{next(_numbers)}"
        made.append(servers.redis(supervisor, tmp_path / name, name=name))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def make_postgres(supervisor: Supervisor, tmp_path: Path) -> Iterator[Callable[[], Postgres]]:
    """Start PostgreSQL servers that the test may kill or stop."""
    made: list[Postgres] = []

    def make() -> Postgres:
        name = f"postgres-{next(_numbers)}"
        made.append(servers.postgres(supervisor, tmp_path / name, name=name))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def nothing_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU is stolen by what psutil says: from inside nobody can keep a host from it, which may go on for minutes."""
    steal(monkeypatch, max(available_cpus()) + 1, lambda _: 0.0)
