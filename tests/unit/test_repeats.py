"""Void blocks are measured again: at once, in their own round, and not for ever."""

import time
from pathlib import Path
from typing import Any

import pytest

from lab.run import Experiment
from lab.rundir import BlockRecord, RunDir
from tests.runmaker import empty_run, plan


class Spoilt(Experiment):
    """An experiment whose blocks end as the test says, by the order in which they are measured."""

    def __init__(
        self, directory: RunDir, valid: list[bool], void_repeats: int = 2, elapsed_s: float = 0, duration_s: float = 8
    ) -> None:
        self.directory = directory
        asked = plan(["inline", "celery"], rounds=2, void_repeats=void_repeats)
        for scenario in asked.scenarios:
            scenario.duration_s = duration_s
        self.run = empty_run(asked)
        self.began_at = time.monotonic() - elapsed_s
        self.verdicts = iter(valid)
        self.progress: Any = self
        self.measured: list[BlockRecord] = []
        self.known_when_begun: list[int] = []
        directory.write(self.run)

    def expect(self, planned_s: dict[int, float]) -> None:
        """Be told of a repeat."""
        assert len(planned_s) == 1

    def close(self) -> None:
        """Be a progress that shows nothing."""

    def _measure_block(self, block: BlockRecord) -> None:
        self.known_when_begun.append(len(self.directory.read().blocks))
        block.state, block.valid = "finished", next(self.verdicts)
        self.measured.append(block)


def test_a_void_block_is_measured_again_at_once_in_its_round(tmp_path: Path) -> None:
    run = Spoilt(RunDir(tmp_path), [True, False, True, True, True])
    run.measure()
    _, void, repeat, *_ = run.measured
    assert repeat.repeat_of == void.number
    assert (repeat.round, repeat.contender, repeat.scenario) == (void.round, void.contender, void.scenario)
    assert len({block.folder for block in run.measured}) == 5
    assert run.known_when_begun == [4, 4, 5, 5, 5], "a lab that resumes the run must know of the repeat"
    assert RunDir(tmp_path).read().blocks == run.measured


def test_a_machine_that_cannot_measure_is_not_asked_for_ever(tmp_path: Path) -> None:
    run = Spoilt(RunDir(tmp_path), [False] * 6)
    run.measure()
    assert len(run.measured) == 6
    assert sum(block.repeat_of is not None for block in run.measured) == 2


def test_without_repeats_a_void_block_stays_the_only_one(tmp_path: Path) -> None:
    run = Spoilt(RunDir(tmp_path), [False] * 4, void_repeats=0)
    run.measure()
    assert len(run.measured) == 4


@pytest.mark.parametrize(
    ("duration_s", "elapsed_s", "repeats"), [(8, 410, 1), (8, 420, 0), (600, 240, 1), (600, 250, 0)]
)
def test_a_void_block_is_measured_again_only_while_there_is_time(
    tmp_path: Path, duration_s: float, elapsed_s: float, repeats: int
) -> None:
    """With the repeat of the first of four blocks of 13.5 s another 54 s are to come: at most 470 s in all.

    Of four blocks of 605.5 s another 2,422 s, and all may take 2,664 s: a tenth more than was planned.
    """
    run = Spoilt(RunDir(tmp_path), [False] + [True] * 4, elapsed_s=elapsed_s, duration_s=duration_s)
    run.measure()
    assert len(run.measured) == 4 + repeats
