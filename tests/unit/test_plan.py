"""The plan of a run: which blocks, in which order, under which load."""

from collections import Counter

import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.faults import FAULTS
from lab.run import fault_window_s, horizon_of, load_of, plan_blocks, planned_seconds
from lab.rundir import Plan
from lab.scenario import load_scenarios

CONTENDERS = load_contenders(PROJECT / "contenders.toml")
SCENARIOS = load_scenarios(PROJECT / "scenarios")


def plan(**changes: object) -> Plan:
    """Return a plan of three contenders, two scenarios, three rounds and every fault twice."""
    fields: dict[str, object] = {
        "command": "compare",
        "seed": 7,
        "rounds": 3,
        "quick": False,
        "stack": "local",
        "contenders": [CONTENDERS[name] for name in ("inline", "celery", "celery-threads")],
        "scenarios": [SCENARIOS[name] for name in ("mixed", "action")],
        "horizon_s": 15,
        "faults": list(FAULTS),
        "fault_repeats": 2,
        "fault_duration_s": 20,
    }
    return Plan.model_validate(fields | changes)


def test_the_same_seed_gives_the_same_order() -> None:
    """And another seed another one, of the same blocks."""
    first, again, other = plan_blocks(plan()), plan_blocks(plan()), plan_blocks(plan(seed=8))
    assert first == again
    assert [block.contender for block in first] != [block.contender for block in other]

    def what(block: object) -> tuple[object, ...]:
        return tuple(getattr(block, name) for name in ("round", "contender", "scenario", "fault"))

    assert Counter(map(what, first)) == Counter(map(what, other))


def test_a_round_has_each_contender_once_under_each_scenario() -> None:
    """A round is what makes blocks pairs; the rounds follow each other, and their orders differ."""
    blocks = [block for block in plan_blocks(plan(rounds=5)) if block.fault is None]
    rounds = [[(b.contender, b.scenario) for b in blocks if b.round == number] for number in range(1, 6)]
    everything = sorted((c.name, s.name) for c in plan().contenders for s in plan().scenarios)
    assert [sorted(pairs) for pairs in rounds] == [everything] * 5
    assert len({tuple(pairs) for pairs in rounds}) > 1
    assert [block.round for block in blocks] == sorted(block.round for block in blocks)


def test_the_faults_come_after_the_rounds_and_only_where_they_can_hit() -> None:
    """Each as often as asked for, under the first scenario's load; what has no workers or broker has none to be hit."""
    blocks = plan_blocks(plan())
    hits = [block for block in blocks if block.fault is not None]
    assert blocks[-len(hits) :] == hits
    assert {(block.round, block.scenario) for block in hits} == {(0, "mixed")}
    can_be_hit = [(c, f) for c in ("inline", "celery", "celery-threads") for f in FAULTS]
    needs_more = ("worker", "broker")
    can_be_hit = [(c, f) for c, f in can_be_hit if c != "inline" or not any(part in f for part in needs_more)]
    assert Counter((block.contender, block.fault) for block in hits) == Counter(can_be_hit * 2)
    assert len(hits) == 2 * len(can_be_hit)


def test_no_rounds_or_no_faults_can_be_asked_for() -> None:
    """`lab faults` has no rounds, and `--fault none` no faults."""
    assert {block.round for block in plan_blocks(plan(rounds=0))} == {0}
    assert {block.fault for block in plan_blocks(plan(faults=[]))} == {None}


def test_blocks_are_numbered_in_order_and_have_folders_of_their_own() -> None:
    """Also where the same contender comes under the same fault again."""
    blocks = plan_blocks(plan())
    assert [block.number for block in blocks] == list(range(1, len(blocks) + 1))
    assert len({block.folder for block in blocks}) == len(blocks)
    assert {block.state for block in blocks} == {"planned"}


@pytest.mark.parametrize("faults", [[], ["api-kill"]])
def test_a_block_with_a_fault_is_loaded_for_as_long_as_the_plan_says(faults: list[str]) -> None:
    """The others as long as their scenario says; the estimate of a block is longer than its load."""
    asked = plan(faults=faults, rounds=0 if faults else 1, fault_duration_s=33)
    blocks = plan_blocks(asked)
    expected = {block.number: 33 if faults else SCENARIOS[block.scenario].duration_s for block in blocks}
    assert {block.number: load_of(asked, block).duration_s for block in blocks} == expected
    estimates = planned_seconds(asked, blocks)
    assert all(estimates[number] > duration_s for number, duration_s in expected.items())


@pytest.mark.parametrize(
    ("scenario", "grace_s", "waits_s"),
    [("mixed", 600, 0), ("overrun", 0.1, 0.1), ("overrun", 10, 0.15), ("long-tasks", 10, 10), ("long-tasks", 60, 12)],
)
def test_a_deploy_gets_the_time_in_which_it_waits_for_tasks(scenario: str, grace_s: float, waits_s: float) -> None:
    """That is their own, and at most the grace period; other faults do not wait."""
    asked = plan(scenarios=[SCENARIOS[scenario]], faults=["api-kill", "deploy"], fault_duration_s=None, grace_s=grace_s)
    windows_s = {fault: fault_window_s(asked, fault, SCENARIOS[scenario]) for fault in asked.faults}
    assert windows_s == {"api-kill": 2 + 4 * 3.5, "deploy": 2 + 4 * (9 + waits_s)}
    blocks = [block for block in plan_blocks(asked) if block.fault]
    assert {block.fault: load_of(asked, block).duration_s for block in blocks} == windows_s


def test_the_last_task_counts_in_how_long_a_block_takes() -> None:
    """Its drain waits for it."""
    short, long = (
        plan(scenarios=[SCENARIOS["long-tasks"].model_copy(update={"probe_seconds": seconds})], faults=[])
        for seconds in (1, 9)
    )
    estimates_s = [planned_seconds(asked, plan_blocks(asked))[1] for asked in (short, long)]
    assert estimates_s[1] - estimates_s[0] == 8


def test_the_crossover_map_is_planned_to_take_at_most_seventy_minutes() -> None:
    """Five rounds of 27 cells for two contenders; what never gets done is waited for, and killed, in that time too."""
    cells = [scenario for scenario in SCENARIOS.values() if scenario.grid == "crossover"]
    asked = plan(contenders=[CONTENDERS[name] for name in ("inline", "celery-threads")], scenarios=cells, rounds=5)
    blocks = plan_blocks(asked.model_copy(update={"faults": []}))
    assert len(blocks) == 270
    estimates = planned_seconds(asked, blocks)
    assert sum(estimates.values()) <= 70 * 60
    took = {block.scenario: estimates[block.number] for block in blocks}
    assert took["crossover-cpu-5s-32"] == took["crossover-cpu-5s-2"] > took["crossover-io-5s-32"]
    assert horizon_of(asked, cells[0]) < asked.horizon_s == horizon_of(asked, SCENARIOS["mixed"])


def test_a_plan_from_before_there_was_a_choice_has_the_usual_grace_period() -> None:
    """Its run.json does not name one."""
    old = plan().model_dump_json(exclude={"grace_s"})
    assert "grace" not in old
    assert Plan.model_validate_json(old).grace_s == 10


def test_a_round_and_a_repeat_of_a_fault_have_arrivals_of_their_own_which_all_contenders_share() -> None:
    """Pooled repeats that got the same requests at the same kill would be one, counted several times."""
    blocks = plan_blocks(plan())
    faults = [block for block in blocks if block.fault]
    by_what: dict[tuple[str, str], list[int]] = {}
    for block in faults:
        by_what.setdefault((block.contender, block.fault or ""), []).append(block.seed)
    assert all(len(set(seeds)) == len(seeds) == 2 for seeds in by_what.values())
    assert len({tuple(seeds) for (_, fault), seeds in by_what.items() if fault == "api-kill"}) == 1
    for number in {block.round for block in blocks if block.round}:
        assert len({block.seed for block in blocks if block.round == number}) == 1
    assert {block.seed for block in faults}.isdisjoint(block.seed for block in blocks if block.round)
