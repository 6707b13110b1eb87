"""The watcher of a block's containers, where it cannot go on or is told nothing."""

from typing import Any

import pytest

from lab.stacks import engine
from lab.stacks.containers import Containers
from lab.stacks.supervisor import StackError
from tests.support import until


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


@pytest.mark.parametrize("error", [OSError("no more processes"), StackError("The engine did not answer.")])
def test_after_what_ended_the_watching_nothing_is_certain(
    watch: Containers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Later deaths were not seen: a block must not go on as if there had been none."""
    with watch:
        watch.check()
        fail_with(error, monkeypatch)
        assert until(lambda: watch._failure)
        monkeypatch.setattr(engine, "inspect", known)
    with pytest.raises(StackError, match=r"^The containers could not be watched to the end: .+\.$"):
        watch.check()


def test_what_the_engine_does_not_know_is_gone(watch: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nothing else has failed."""
    fail_with(StackError(engine.GONE), monkeypatch)
    with watch:
        pass
    with pytest.raises(StackError, match=r"^Containers of this run are gone: .+ \(inline-api\)\.$"):
        watch.check()
