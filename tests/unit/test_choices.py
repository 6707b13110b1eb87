"""Which faults a command does: what was asked for can be done, or is refused by a sentence."""

import pytest
from typer.testing import CliRunner

from lab import cli
from lab.cli import DEFAULT_FAULTS, Stack, choose_faults, choose_scenarios
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.errors import UsageError
from lab.rundir import Plan

KNOWN = load_contenders(PROJECT / "contenders.toml")


def chosen(*faults: str, contenders: tuple[str, ...] = ("inline",), stack: Stack = Stack.local) -> list[str]:
    """Return what is done, for faults that a user has named."""
    return choose_faults(list(faults), [KNOWN[name] for name in contenders], stack)


@pytest.mark.parametrize("fault", ["memory-limit", "cut-worker-broker", "cut-api-broker"])
def test_faults_of_containers_are_refused_locally(fault: str) -> None:
    with pytest.raises(UsageError, match=f"The fault '{fault}' is for --stack compose, not for local."):
        chosen(fault, contenders=("celery",))
    assert chosen(fault, contenders=("celery",), stack=Stack.compose) == [fault]


@pytest.mark.parametrize("fault", ["broker-pause", "worker-kill"])
def test_a_fault_that_no_contender_can_have_is_refused(fault: str) -> None:
    with pytest.raises(UsageError, match=rf"'{fault}' can be done to none of the contenders .*: inline"):
        chosen(fault)
    assert chosen(fault, contenders=("inline", "celery")) == [fault]


def test_a_broker_of_ones_own_is_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab does not stop what it has not started; containers have a broker of theirs."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1/0")
    with pytest.raises(
        UsageError, match=r"^The fault 'broker-pause' cannot be done to a Redis of your own \(REDIS_URL\)\.$"
    ):
        chosen("worker-kill", "broker-pause", contenders=("celery",))
    assert chosen("worker-kill", contenders=("celery",)) == ["worker-kill"]
    assert chosen("broker-pause", contenders=("celery",), stack=Stack.compose) == ["broker-pause"]


def test_a_grid_is_asked_for_by_its_name_and_keeps_its_rates() -> None:
    cells = choose_scenarios(["crossover"], rate=None, duration_s=3)
    assert len(cells) == 27
    assert {cell.duration_s for cell in cells} == {3}
    with pytest.raises(UsageError, match="--rate 5: the scenario 'crossover' is a grid"):
        choose_scenarios(["mixed", "crossover"], rate=5, duration_s=None)
    with pytest.raises(UsageError, match="There is no scenario 'crossover-io-5s-2'; there are: action, "):
        choose_scenarios(["crossover-io-5s-2"], rate=None, duration_s=None)


def test_of_the_usual_faults_those_are_done_that_can_be() -> None:
    assert chosen() == ["api-kill", "deploy"]
    assert chosen(contenders=("inline", "celery")) == DEFAULT_FAULTS
    assert chosen("none") == []


@pytest.mark.parametrize(
    ("arguments", "repeats"),
    [
        (["compare", "--quick"], 2),
        (["compare", "--rounds", "20", "--scenario", "action"], 3),
        (["compare", "--quick", "--void-repeats", "0"], 0),
        (["faults", "--rounds", "50"], 2),
        (["faults", "--void-repeats", "7"], 7),
    ],
)
def test_void_blocks_are_measured_again_as_often_as_was_asked_for(
    arguments: list[str], repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero is none, and no word for the default."""
    plans: list[Plan] = []
    monkeypatch.setattr(cli, "measure", lambda plan, *_: plans.append(plan))
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert [plan.void_repeats for plan in plans] == [repeats]
