"""Which faults a command does: what was asked for can be done, or is refused by a sentence."""

import pytest

from lab.cli import DEFAULT_FAULTS, Stack, choose_faults
from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.errors import UsageError

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


def test_of_the_usual_faults_those_are_done_that_can_be() -> None:
    assert chosen() == ["api-kill", "deploy"]
    assert chosen(contenders=("inline", "celery")) == DEFAULT_FAULTS
    assert chosen("none") == []
