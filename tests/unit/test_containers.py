"""The watcher of a block's containers, where it cannot go on or is told nothing."""

from typing import Any

import pytest

from lab.stacks import engine
from lab.stacks.containers import Containers
from lab.stacks.supervisor import StackError


def known(_container: str) -> dict[str, Any]:
    """Return what the engine says of a container that does not run."""
    return {"Config": {"Hostname": "h"}, "State": {"Pid": 0}}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Containers:
    """A watcher of one container that has no process yet, so that the engine is asked again."""
    monkeypatch.setattr(engine, "inspect", known)
    return Containers({"inline-api": "0123"})


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each further question to the engine end so."""

    def fail(_container: str) -> None:
        raise error

    monkeypatch.setattr(engine, "inspect", fail)


def test_what_ends_the_watching_is_raised_at_its_end(watch: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later deaths were not seen: a block must not go on as if there had been none."""
    fail_with(OSError("no more processes"), monkeypatch)
    watch.__enter__()
    with pytest.raises(OSError, match="no more processes"):
        watch.finish()


@pytest.mark.parametrize(
    ("said", "gone"),
    [(engine.GONE, True), ("The container engine did not answer `docker container inspect` within 60 s.", False)],
)
def test_only_what_the_engine_does_not_know_is_gone(
    watch: Containers, monkeypatch: pytest.MonkeyPatch, said: str, gone: bool
) -> None:
    """An engine that does not answer has removed nothing."""
    fail_with(StackError(said), monkeypatch)
    with watch:
        pass
    assert [container.gone for container in watch.all.values()] == [gone]
