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
        (ended("failed", "valid", rounds=2), COULD_NOT),
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


def test_a_calibration_judges_what_there_is() -> None:
    """One failed block of many ends it no earlier; where there is none that has finished, it could not be made."""
    run, none = ended("failed", "valid", rounds=2), ended("failed")
    for one in (run, none):
        one.plan.command = "calibrate-aa"
    assert (exit_status(run), exit_status(none)) == (MEASURED, COULD_NOT)


def compared(void: set[tuple[str, int]], rounds: int = 5) -> RunRecord:
    """Return a finished run of two contenders in which the blocks of these contenders and rounds are void."""
    asked = plan(["inline", "celery"], rounds=rounds)
    run = empty_run(asked)
    run.blocks = plan_blocks(asked)
    for block in run.blocks:
        block.state, block.valid = "finished", (block.contender, block.round) not in void
    return run


@pytest.mark.parametrize(
    ("void", "status"),
    [
        ({("inline", 1)}, MEASURED),
        ({("inline", 1), ("celery", 1)}, MEASURED),
        ({("inline", 1), ("celery", 2)}, VOID),
        ({("inline", number) for number in range(2, 6)}, VOID),
    ],
)
def test_a_run_of_which_void_blocks_leave_too_few_rounds_is_void(void: set[tuple[str, int]], status: int) -> None:
    """Two thirds of them must be left to the two contenders together; each has a valid block in any case."""
    assert exit_status(compared(void)) == status


def test_a_round_whose_void_block_was_measured_again_counts() -> None:
    run = compared({("inline", 1), ("celery", 2)})
    (first,) = (block for block in run.blocks if (block.contender, block.round) == ("inline", 1))
    run.blocks.append(first.model_copy(update={"number": 11, "repeat_of": first.number, "valid": True}))
    assert exit_status(run) == MEASURED


def test_an_interrupted_run_could_not_measure() -> None:
    """Whatever it has."""
    run = ended("valid")
    run.interrupted = True
    assert exit_status(run) == COULD_NOT
