"""The watcher of a block's containers, where it cannot go on or is told nothing."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.rundir import Placement
from lab.stacks import containers, engine
from lab.stacks.compose import ComposeStack
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


def test_a_failure_of_the_last_look_is_told_too(watch: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended since the look before was not seen."""
    fail_with(OSError("no more processes"), monkeypatch)
    watch.finish()
    with pytest.raises(StackError, match=r"^The containers could not be watched to the end: .+\.$"):
        watch.check()


def test_a_watcher_that_cannot_begin_has_failed(watch: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees nothing at all."""

    def fail() -> None:
        raise ValueError("no such policy")

    monkeypatch.setattr(containers, "step_back", fail)
    with watch:
        assert until(lambda: watch._failure)
    with pytest.raises(StackError, match=r"^The containers could not be watched to the end: .+\.$"):
        watch.check()


@pytest.mark.parametrize("shared", [True, False])
def test_a_block_fails_whose_watching_broke_off(
    shared: bool, watch: Containers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Be it the watching of its own containers or of those that the whole run shares; of these, also the next block."""
    fail_with(OSError("no more processes"), monkeypatch)
    watch.finish()
    whole, placement = Containers({}), Placement(contender=[1], generator=[0], pinned=True)
    testbed = SimpleNamespace(supervisor=None, placement=placement, watch=watch if shared else whole)
    stack = ComposeStack(testbed, load_contenders(PROJECT / "contenders.toml")["inline"], tmp_path)  # type: ignore[arg-type]
    stack.watch = whole if shared else watch
    with pytest.raises(StackError, match=r"^The containers could not be watched to the end: .+\.$"):
        stack.collect()
    if shared:
        with ExitStack() as undo, pytest.raises(StackError, match=r"^The containers could not be watched"):
            stack._give_servers(undo)


def test_what_the_engine_does_not_know_is_gone(watch: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nothing else has failed."""
    fail_with(StackError(engine.GONE), monkeypatch)
    with watch:
        pass
    with pytest.raises(StackError, match=r"^Containers of this run are gone: .+ \(inline-api\)\.$"):
        watch.check()
