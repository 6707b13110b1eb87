"""Faults planted in the files of a block: a sound ledger finds them all, and a broken one is found out."""

from pathlib import Path
from random import Random

import pytest

from lab import ledger, validity
from lab.clock import ClockReading
from lab.ledger import AGREEMENTS, EFFECTS, FATES, Rules
from lab.planted import plant_and_look
from lab.report.summary import Planted
from lab.rundir import BlockRecord
from tests.blockmaker import record
from tests.runmaker import loaded_block


@pytest.fixture(params=["inline", "celery"])
def settled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, BlockRecord]:
    """A settled, valid block: its folder and its record."""
    block = loaded_block(request.param, Random(3), slowness=1.0, requests=100)
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    found = record(block, request.param)
    assert validity.judge(folder, found) == []
    return folder, found


def looked(settled: tuple[Path, BlockRecord], rules: Rules = ledger.RULES, seed: int = 1) -> list[Planted]:
    """Plant and look."""
    found = plant_and_look(*settled, seed, rules)
    assert found is not None
    return found


def wrong(found: list[Planted]) -> list[str]:
    """Return what is wrong, without the contender."""
    return [sentence.partition(", ")[2] for planted in found for sentence in planted.wrong]


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_ledger_finds_all_and_invents_nothing(settled: tuple[Path, BlockRecord], seed: int) -> None:
    """The block itself stays as it was."""
    before = (settled[0] / "tasks.parquet").read_bytes()
    found = looked(settled, seed=seed)
    assert wrong(found) == []
    assert [(one.what, one.planted) for one in found] == [
        ("loss", 5), ("duplicate", 5), ("late recovery", 5), ("anything else", 0), ("clock step", 2),
    ]  # fmt: skip
    assert (settled[0] / "tasks.parquet").read_bytes() == before
    assert [path.name for path in settled[0].parent.iterdir()] == ["block"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(fates={**FATES, "lost": "false", "not_done": "n = 0"}), ["loss: 0 of 5 were found."]),
        (Rules(fates={**FATES, "duplicated": "n > 2"}), ["duplicate: 0 of 5 were found."]),
        (Rules(fates={"done": "n = 1", **FATES}), ["late recovery: 0 of 5 were found."]),
    ],
)
def test_a_ledger_that_misses_one_kind_is_found_out(
    settled: tuple[Path, BlockRecord], rules: Rules, said: list[str]
) -> None:
    """And only that kind is complained of."""
    assert wrong(looked(settled, rules)) == said


def test_a_ledger_that_invents_losses_is_found_out(settled: tuple[Path, BlockRecord]) -> None:
    """One that takes no notice of the action log finds every action lost."""
    blind = {source: sql for source, sql in EFFECTS.items() if source != "actions"}
    said = wrong(looked(settled, Rules(effects=blind)))
    assert any(sentence.startswith("loss: ") and "nobody had planted" in sentence for sentence in said)


def test_a_ledger_that_invents_disagreement_is_found_out(settled: tuple[Path, BlockRecord]) -> None:
    """Every task becomes something else, and the block is void for more than its clock."""
    said = wrong(looked(settled, Rules(agreements={"unexplained": "true", **AGREEMENTS})))
    assert any(sentence.startswith("anything else: ") for sentence in said)
    assert "clock step: 2 were found that nobody had planted." in said


def test_a_reading_of_the_clocks_that_misses_a_step_is_found_out(
    settled: tuple[Path, BlockRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that tells seconds for milliseconds."""
    step_ms = ClockReading.step_ms
    monkeypatch.setattr(ClockReading, "step_ms", lambda before, after: step_ms(before, after) / 1_000)
    assert wrong(looked(settled)) == ["clock step: 0 of 2 were found."]


def test_in_a_block_of_few_tasks_nothing_is_planted(tmp_path: Path) -> None:
    """That is no result."""
    block = loaded_block("inline", Random(3), slowness=1.0, requests=7)
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    assert plant_and_look(folder, record(block), seed=1) is None
