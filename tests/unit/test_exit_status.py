"""What a run's exit status says: 0 measured, 1 could not, 3 void."""

import pytest

from lab.compare import exit_status
from lab.run import plan_blocks
from lab.rundir import RunRecord
from tests.runmaker import empty_run, plan

MEASURED, COULD_NOT, VOID = 0, 1, 3


def ended(*states: str, faults: list[str] | None = None, rounds: int = 1) -> RunRecord:
    """Return a run of one contender: its rounds, then its faults, with blocks that ended like this."""
    asked = plan(["inline"], rounds=rounds, faults=faults or [])
    run = empty_run(asked)
    run.blocks = plan_blocks(asked)
    for block, state in zip(run.blocks, states, strict=True):
        block.state = "finished" if state in ("valid", "void") else "failed" if state == "failed" else "planned"
        block.valid = state == "valid" if block.state == "finished" else None
    return run


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (ended("valid"), MEASURED),
        (ended("void"), VOID),
        (ended("failed"), COULD_NOT),
        (ended("planned"), COULD_NOT),
        (ended("void", "valid", rounds=2), MEASURED),
        (ended("failed", "valid", rounds=2), MEASURED),
        (ended("valid", "valid", faults=["api-kill"]), MEASURED),
        (ended("valid", "void", faults=["api-kill"]), MEASURED),
        (ended("void", "valid", faults=["api-kill"]), VOID),
        (ended("valid", "failed", faults=["api-kill"]), COULD_NOT),
        (ended("void", faults=["api-kill"], rounds=0), VOID),
        (ended("valid", faults=["api-kill"], rounds=0), MEASURED),
        (ended("failed", faults=["api-kill"], rounds=0), COULD_NOT),
        (ended(rounds=0), COULD_NOT),
    ],
)
def test_the_exit_status_says_what_became_of_all_that_was_asked_for(run: RunRecord, status: int) -> None:
    """Every contender under every scenario and fault; whether the whole is void, the rounds decide if there are any."""
    assert exit_status(run) == status


def test_an_interrupted_run_could_not_measure() -> None:
    """Whatever it has."""
    run = ended("valid")
    run.interrupted = True
    assert exit_status(run) == COULD_NOT
