"""The ledger against histories in which what became of every task was planted."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from uuid import UUID, uuid4, uuid5

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import ledger
from lab.errors import LabError
from tests.blockmaker import CELERY_ONLY, PLANTS, ROUTES, Block, everything
from workload import jobs

CONTENDERS = ["inline", "celery"]


def found(
    block: Path, rules: ledger.Rules = ledger.RULES, settle: Callable[[Path, ledger.Rules], int] = ledger.settle
) -> dict[str, tuple[str, str]]:
    """Settle a block and return fate and agreement by task id."""
    settle(block, rules)
    rows = duckdb.execute(f"SELECT task_id, fate, agreement FROM '{block / 'tasks.parquet'}'").fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    return {task_id: (fate, agreement) for task_id, fate, agreement in rows}


def found_ends(folder: Path, block: Block) -> dict[str, int]:
    """Return when tasks ended in a settled block, of those of which it is noted."""
    rows = duckdb.execute(f"SELECT task_id, ended_ns FROM '{folder / 'tasks.parquet'}'").fetchall()
    return {task_id: ended_ns for task_id, ended_ns in rows if task_id in block.expected_ends}


@st.composite
def histories(draw: st.DrawFn) -> Block:
    """Draw a contender, and requests with planted outcomes in any order."""
    block = Block(draw(st.sampled_from(CONTENDERS)))
    names = sorted(PLANTS) if block.celery else sorted(set(PLANTS) - CELERY_ONLY)
    plants = st.tuples(st.sampled_from(names), st.sampled_from(sorted(ROUTES)))
    for name, route in draw(st.lists(plants, max_size=25)):
        PLANTS[name](block, route)
    return block


def test_every_job_of_the_lab_leaves_effects_that_are_known() -> None:
    """Or its journal would stand for them: what it claims would be believed."""
    assert {job.__name__ for job in jobs.PROBES.values()} <= set(ledger.KNOWN_JOBS)
    assert set(ROUTES.values()) <= set(ledger.KNOWN_JOBS)


@given(histories())
@settings(max_examples=60, deadline=None)
def test_finds_exactly_what_was_planted(block: Block) -> None:
    """Any mixture of outcomes, in any order, of either contender."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = block.write(Path(temporary) / "block")
        assert found(folder) == block.expected
        assert found_ends(folder, block) == block.expected_ends


@pytest.mark.parametrize("contender", CONTENDERS)
def test_finds_every_planted_outcome_on_every_route(contender: str, tmp_path: Path) -> None:
    """Every outcome that the contender can show, on every route."""
    block = everything(contender)
    folder = block.write(tmp_path / "block")
    assert found(folder) == block.expected
    assert found_ends(folder, block) == block.expected_ends
    assert block.expected_ends


def every_rule() -> Iterator[tuple[str, str]]:
    """Yield the part and the name of every rule of the ledger."""
    for part in fields(ledger.Rules):
        for name in getattr(ledger.RULES, part.name):
            yield part.name, name


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Block]:
    """Return a block with everything in it, written once."""
    block = everything("celery")
    return block.write(tmp_path_factory.mktemp("museum") / "block"), block


@pytest.mark.parametrize(("part", "name"), list(every_rule()))
def test_no_rule_can_be_taken_away_unnoticed(part: str, name: str, museum: tuple[Path, Block]) -> None:
    """Mutation: with any one rule disabled, the planted histories are no longer found."""
    folder, block = museum
    kept = {key: rule for key, rule in getattr(ledger.RULES, part).items() if key != name}
    assert found(folder, replace(ledger.RULES, **{part: kept})) != block.expected


# Everything that a rule for a fate asks for, in every combination, possible in a block or not.
STATES = """
    SELECT * FROM
    (VALUES ('acknowledged', true), ('indeterminate', true), ('refused', false), (NULL, false)) AS o(outcome, asked),
    unnest([0, 1, 2]) AS n(n), unnest([0, 1]) AS f(n_failed), unnest([0, 1]) AS g(n_given_up),
    unnest([0, 1]) AS s(n_skipped), unnest([false, true]) AS q(in_queue), unnest([false, true]) AS u(in_unacked),
    unnest([false, true]) AS h(held_at_the_end)
    WHERE asked OR n > 0
"""


def rules_that_meet() -> set[tuple[str, str]]:
    """Return the pairs of fates of which the first decides in a state in which the second holds too."""
    conditions = ", ".join(f"coalesce({condition}, false)" for condition in ledger.FATES.values())
    found = set()
    for row in duckdb.execute(f"SELECT {conditions} FROM ({STATES})").fetchall():
        first, *later = [fate for fate, holds in zip(ledger.FATES, row, strict=True) if holds]
        found |= {(first, other) for other in later}
    return found


def test_no_two_fates_can_change_places_unnoticed(tmp_path: Path) -> None:
    """Mutation: of each two that can hold at once; all others exclude each other, whatever their order."""
    block = Block("celery")
    for name in PLANTS:
        PLANTS[name](block, "POST /action")
    folder = block.write(tmp_path / "block")
    unnoticed = []
    for first, later in rules_that_meet():
        order = [fate for fate in ledger.FATES if fate != later]
        order.insert(order.index(first), later)
        fates = {fate: ledger.FATES[fate] for fate in order}
        if found(folder, replace(ledger.RULES, fates=fates)) == block.expected:
            unnoticed.append((first, later))
    assert not unnoticed
    assert {("failed", "given_up"), ("skipped", "pending"), ("pending", "stranded")} <= rules_that_meet()
    assert ("done", "duplicated") not in rules_that_meet()


# What is not a rule with a name: each of these changes makes the ledger wrong.
MUTANTS = {
    "rows that were written twice count once": ("THEN greatest(1, n_journal)", "THEN 1"),
    "rows without a success count as none": ("greatest(1, n_journal)", "n_journal"),
    "no effect counts as one": ("WHEN n_effects = 0 THEN 0", "WHEN n_effects = 0 THEN 1"),
    "the journal decides": ("CASE WHEN n_effects = 0", "CASE WHEN n_journal > 0 THEN n_journal WHEN false"),
    "what nobody asked for is left out": ("WHERE asked OR n_effects > 0 OR n_journal > 0", "WHERE asked"),
    "what only the journal knows is left out": ("asked OR n_effects > 0 OR n_journal > 0", "asked OR n_effects > 0"),
    "what only the effects know is left out": ("asked OR n_effects > 0 OR n_journal > 0", "asked OR n_journal > 0"),
    "any attempt that was cut off explains": ("BETWEEN 1 AND n_cut_off", ">= 1 AND n_cut_off > 0"),
    "a missing effect is explained": ("BETWEEN 1 AND n_cut_off", "BETWEEN -1 AND n_cut_off"),
    "an attempt that succeeded is open": (
        "('succeeded', 'failed', 'attempt_failed')) AS open",
        "('failed', 'attempt_failed')) AS open",
    ),
    "a failed attempt is open": ("'failed', 'attempt_failed')) AS open", "'failed')) AS open"),
    "an earlier death explains": ("started_ns BETWEEN born_ns AND died_ns", "started_ns >= born_ns"),
    "the death of another process explains": ("started_ns BETWEEN born_ns AND died_ns", "started_ns <= died_ns"),
    "an orderly end is a death": ("AND coalesce(status, 1) NOT IN (0, 143) AND coalesce(signal, 9) <> 15", ""),
    "any end that another process waited for is a death": ("OR (kind = 'inside' ", "OR (true OR kind = 'inside' "),
    "a memory limit kills outside of containers": ("OR (kind = 'inside' ", "OR (true "),
    "a memory limit kills when it is over": (
        "'memory-limit' AND t_ns BETWEEN injected_ns AND healed_ns)",
        "'memory-limit')",
    ),
    "every fault is a deploy": ("WHERE fault = 'deploy' AND ", "WHERE "),
    "a deploy hits everybody": ("AND list_contains(pids, pid) ", ""),
    "a deploy ends whom it hit at any time": (
        "list_contains(pids, pid) AND t_ns BETWEEN injected_ns AND healed_ns",
        "list_contains(pids, pid)",
    ),
    "what a deploy hit has not ended in order": ("AND (signal = 15 OR status = 143) ", ""),
    "every fault is a memory limit": ("fault = 'memory-limit' AND ", ""),
    "a memory limit kills nobody": (
        "AND EXISTS (FROM faults WHERE fault = 'm",
        "AND NOT EXISTS (FROM faults WHERE fault = 'm",
    ),
    "an end after the stop is a death": ("(signal = 9 OR status = 137 ", "(true "),
    "any process's death is everybody's": ("coalesce(deaths.pid = writers.pid, true)", "true"),
    "a death on any host is": ("AND coalesce(ends_with(writers.origin, '-' || deaths.hostname), true)", ""),
    "what was held is not looked at": ("task_id IN (FROM held)", "false"),
    "any kill is one at the end": ("WHERE killed_at_the_end AND last_ns", "WHERE last_ns"),
    "a try that has ended is held": ("(starts > ends OR", "(starts > 0 OR"),
    "what succeeded is held": (
        "('succeeded', 'failed', 'attempt_failed')) AS ends",
        "('failed', 'attempt_failed')) AS ends",
    ),
    "what failed is held": ("('succeeded', 'failed', 'attempt_failed')) AS ends", "('succeeded')) AS ends"),
    "what runs is not held": ("(starts > ends OR", "(false OR"),
    "what waits is not held": ("OR (starts = 0 AND (runs_tasks OR seen.file IN (FROM runners)))", ""),
    "who accepts only holds too": ("AND (runs_tasks OR seen.file IN (FROM runners))", ""),
    "who has begun nothing holds nothing": (
        "(runs_tasks OR seen.file IN (FROM runners))",
        "seen.file IN (FROM runners)",
    ),
    "only who is known to run tasks holds what waits": ("(runs_tasks OR seen.file IN (FROM runners))", "runs_tasks"),
    "an earlier process of that pid holds too": ("AND last_ns BETWEEN born_ns AND died_ns", "AND true"),
    "of several processes one was cut off": ("sum(open) AS n_cut_off", "max(open) AS n_cut_off"),
    "what lives on is taken for killed before": ("t_ns, true, coalesce(runs_tasks", "t_ns, false, coalesce(runs_tasks"),
    "a fault that never healed disturbs nobody": ("coalesce(healed_ns, 9e18::BIGINT)", "coalesce(healed_ns, 0)"),
    "the journal does not say when a task ended": ("coalesce(succeeded_ns, effect_ns,", "coalesce(effect_ns,"),
    "its effect does not say when a task ended": ("succeeded_ns, effect_ns, died_ns)", "succeeded_ns, died_ns)"),
    "a death does not say when a task ended": ("succeeded_ns, effect_ns, died_ns)", "succeeded_ns, effect_ns)"),
    "the death comes before the effect": ("succeeded_ns, effect_ns, died_ns)", "succeeded_ns, died_ns, effect_ns)"),
    "the last death says when a task ended": (
        "sum(open) AS n_cut_off, min(died_ns)",
        "sum(open) AS n_cut_off, max(died_ns)",
    ),
    "the last effect says when a task ended": ("min(t_ns) AS effect_ns", "max(t_ns) AS effect_ns"),
    "a task that failed has no end": ("ELSE stopped_ns END", "END"),
    "later steps are not held": ("AND later.position > asked.position", "AND false"),
    "pids in a container are those outside": ("coalesce(inner_pid, pid) END", "pid END"),
    "refused requests asked": ("outcome IN ('acknowledged', 'indeterminate') AS asked", "true AS asked"),
    "indeterminate requests did not ask": ("('acknowledged', 'indeterminate') AS", "('acknowledged') AS"),
    "ids are made otherwise": ("& 3) + 1", "& 1) + 1"),
    "the journal stands for every effect": ("AND job NOT IN {KNOWN_JOBS} ", ""),
    "an own job's effect counts beside the journal": (
        "AND job NOT IN (SELECT job FROM effects_lines WHERE job IS NOT NULL)",
        "",
    ),
    "only the first task of a request": ("unnest(range(tasks)) AS position", "0 AS position"),
    "the queue is not looked at": ("coalesce(in_queue, false) AS in_queue", "false AS in_queue"),
    "what is not acknowledged is not looked at": ("coalesce(in_unacked, false) AS in_unacked", "false AS in_unacked"),
    "documents add up": ("('process_document', 'log_conversation')", "('log_conversation')"),
    "conversations add up": ("('process_document', 'log_conversation')", "('process_document')"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_no_other_part_of_the_ledger_can_be_changed_unnoticed(mutant: str, museum: tuple[Path, Block]) -> None:
    """Mutation of the ledger's source."""
    folder, block = museum
    source, (old, new) = Path(ledger.__file__).read_text(), MUTANTS[mutant]
    assert source.count(old) == 1
    mutated = ModuleType("lab.mutated_ledger")
    sys.modules[mutated.__name__] = mutated  # where dataclasses look for it
    try:
        exec(compile(source.replace(old, new), mutant, "exec"), mutated.__dict__)
        wrong = found(folder, mutated.RULES, mutated.settle) != block.expected
        assert wrong or found_ends(folder, block) != block.expected_ends
    finally:
        del sys.modules[mutated.__name__]


def test_the_end_of_a_container_explains_all_that_ran_in_it(tmp_path: Path) -> None:
    block = Block("inline")
    (task,) = block.request("POST /action")
    pid = block.doomed()
    block.event(task, "write_log", "started", pid)
    block.effect(task, "write_log")
    block.container_dies()
    block.expect(task, "done", "explained")
    assert found(block.write(tmp_path / "block")) == block.expected


@pytest.mark.parametrize(("hit", "agreement"), [([7], "explained"), ([8], "unexplained")])
def test_the_end_of_a_container_by_the_sigterm_of_a_deploy_explains(
    tmp_path: Path, hit: list[int], agreement: str
) -> None:
    """Its status is 143 then; that of another part explains nothing."""
    block = Block("inline")
    (task,) = block.request("POST /action")
    block.event(task, "write_log", "started", block.doomed())
    block.effect(task, "write_log")
    begun_ns = block.tick()
    block.container_dies(status=143)
    block.fault("deploy", begun_ns, *hit)
    block.expect(task, "done", agreement)
    assert found(block.write(tmp_path / "block")) == block.expected


def one_taken(block: Block) -> int:
    """Add a task that a worker has taken from the broker and not begun; return a worker that the lab kills at last."""
    (task,) = block.request("POST /action")
    block.unacked.append({"task_id": str(task), "chain": [], "visible_since_wall_s": 1.5})
    pid = block.doomed()
    block.killed_at_the_end.add(pid)
    return pid


def a_fault(block: Block, _: int) -> None:
    block.fault("cut-worker-broker", block.tick())


def another_death(block: Block, _: int) -> None:
    block.dies(block.doomed())


def an_orderly_end(block: Block, pid: int) -> None:
    block.killed_at_the_end.remove(pid)


def test_what_a_worker_had_taken_when_the_lab_killed_it_is_pending(tmp_path: Path) -> None:
    block = Block("celery")
    one_taken(block)
    assert [fate for fate, _ in found(block.write(tmp_path / "block")).values()] == ["pending"]


def test_what_a_worker_has_taken_that_lives_on_is_pending(tmp_path: Path) -> None:
    """Though it has not begun it; a death and a fault before the request are of no account."""
    block = Block("celery")
    another_death(block, 0)
    a_fault(block, 0)
    pid = one_taken(block)
    block.killed_at_the_end.remove(pid)
    block.lives_on(pid)
    folder = block.write(tmp_path / "block")
    assert [fate for fate, _ in found(folder).values()] == ["pending"]


@pytest.mark.parametrize("but", [a_fault, another_death])
def test_what_lives_on_need_not_have_what_was_taken_before(tmp_path: Path, but: Callable[[Block, int], None]) -> None:
    """It may have been the one that died, or the connection was cut on which it came."""
    block = Block("celery")
    pid = one_taken(block)
    block.killed_at_the_end.remove(pid)
    but(block, pid)
    block.lives_on(pid)
    assert [fate for fate, _ in found(block.write(tmp_path / "block")).values()] == ["stranded"]


@pytest.mark.parametrize("but", [a_fault, another_death, an_orderly_end])
def test_what_may_have_been_taken_by_another_is_stranded(tmp_path: Path, but: Callable[[Block, int], None]) -> None:
    """Nobody says which worker has taken it."""
    block = Block("celery")
    but(block, one_taken(block))
    assert [fate for fate, _ in found(block.write(tmp_path / "block")).values()] == ["stranded"]


def test_a_kill_in_a_hurry_ends_nothing_that_was_held(tmp_path: Path) -> None:
    """All was settled: what has no end then will never have one."""
    block = Block("inline")
    PLANTS["held_at_the_end"](block, "POST /multi-tasks")
    block.hurried = True
    assert {fate for fate, _ in found(block.write(tmp_path / "block")).values()} == {"lost"}


def test_a_kill_of_the_same_pid_on_another_host_ends_nothing_that_was_held(tmp_path: Path) -> None:
    block = Block("inline")
    PLANTS["held_at_the_end"](block, "POST /action")
    folder = block.write(tmp_path / "block")
    processes = folder / "evidence" / "processes.jsonl"
    processes.write_text(
        processes.read_text().replace('"signal":9,"hostname":"some-host"', '"signal":9,"hostname":"x"')
    )
    assert {fate for fate, _ in found(folder).values()} == {"lost"}


def test_an_effect_without_an_id_is_nobodys_and_unexplained(tmp_path: Path) -> None:
    """A mail without its header is an error of the lab."""
    block = Block("inline")
    block.lines["mail.jsonl"].append({"task_id": None, "t_ns": 5, "to": ["a@example.org"], "subject": "?"})
    assert found(block.write(tmp_path / "block")) == {ledger.NIL: ("unexpected", "unexplained")}


@pytest.mark.parametrize("broken", [b"{", b"[]", b"\xff", b'{"event": "failed", "error": "\\ud800"}', b'{"t_ns": "x"}'])
def test_a_line_of_the_journal_that_cannot_be_read_is_passed_over(tmp_path: Path, broken: bytes) -> None:
    """As an app of one's own may write it; the lines before and after it count."""
    block = Block("celery")
    PLANTS["done"](block, "POST /action")
    PLANTS["failed"](block, "POST /register")
    folder = block.write(tmp_path / "block")
    for file in (folder / "evidence" / "journal").iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\n" + broken + b"\n"))
    files = list((folder / "evidence" / "journal").iterdir())
    broken_lines = sum(file.read_bytes().count(b"\n" + broken + b"\n") for file in files)
    assert ledger.settle(folder) == broken_lines > 0
    assert found(folder) == block.expected


@pytest.mark.parametrize("contender", CONTENDERS)
def test_where_nobody_could_be_asked_nothing_is_lost(contender: str, tmp_path: Path) -> None:
    """What was not done may wait or run; and what no request asked for may be another block's, so it is left out."""
    block = everything(contender)
    folder = block.write(tmp_path / "block")
    with (folder / "evidence" / "processes.jsonl").open("a") as processes:
        processes.write('{"event": "unseen"}\n')
    asked = {
        str(uuid5(UUID(row["request_id"]), str(position))) for row in block.requests for position in range(row["tasks"])
    }
    fates = {task: fate for task, (fate, _) in block.expected.items()}
    assert {"lost", "unexpected"} <= set(fates.values())
    assert fates.keys() - asked
    expected = {
        task: "pending" if fate in ("lost", "stranded") else fate for task, fate in fates.items() if task in asked
    }
    assert {task: fate for task, (fate, _) in found(folder).items()} == expected


def test_a_block_in_which_nothing_happened_has_no_tasks(tmp_path: Path) -> None:
    """Empty files and missing ones are no error."""
    assert found(Block("celery").write(tmp_path / "block")) == {}


def test_times_and_attempts_are_those_of_the_journal(tmp_path: Path) -> None:
    """The first start, the first success, and how often it was tried."""
    block = Block("celery")
    PLANTS["done_after_a_failed_attempt"](block, "POST /action")
    ledger.settle(block.write(tmp_path / "block"))
    (accepted,) = block.journals[block.api]
    first, _, _, last = block.journals[block.runner]
    columns = "job, attempts, intended_ns, accepted_ns, started_ns, ended_ns"
    (row,) = duckdb.execute(f"SELECT {columns} FROM '{tmp_path / 'block' / 'tasks.parquet'}'").fetchall()
    intended_ns = block.requests[0]["intended_ns"]
    assert row == ("write_log", 2, intended_ns, accepted["t_ns"], first["t_ns"], last["t_ns"])


def test_the_history_of_a_lost_task_shows_why(tmp_path: Path) -> None:
    """Request, events and the death of its process; nothing of other requests."""
    block = Block("celery")
    PLANTS["lost_in_the_middle"](block, "POST /register")
    PLANTS["done"](block, "POST /action")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    task_id = next(iter(block.expected))
    told = "\n".join(ledger.history(folder, UUID(task_id)))
    for fragment in (
        "POST /register",
        "journal of celery-worker, process 102",
        "acknowledged",
        "accepted",
        "started",
        "process 102",
        "ended",
        "is lost",
    ):
        assert fragment in told
    assert "/action" not in told


def test_the_history_shows_which_fault_was_on(tmp_path: Path) -> None:
    """With its times and the processes it hit."""
    block = Block("inline")
    PLANTS["lost_in_the_middle"](block, "POST /action")
    due_ns = block.requests[0]["intended_ns"]
    fault = {"fault": "api-sigkill", "injected_ns": due_ns + 5_000_000, "healed_ns": due_ns + 9_000_000}
    before = {"fault": "before", "injected_ns": due_ns - 2_000_000, "healed_ns": due_ns - 1_000_000}
    after = {"fault": "after", "injected_ns": due_ns + 10_000_000, "healed_ns": due_ns + 11_000_000}
    block.faults = [one | {"pids": [101], "confirmed": True} for one in (before, fault, after)]
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    told = ledger.history(folder, UUID(next(iter(block.expected))))
    assert "+0.005 s: fault api-sigkill was injected (processes 101, which this is about)." in told
    assert "+0.009 s: fault api-sigkill was healed." in told
    assert not [sentence for sentence in told if "before" in sentence or "after was" in sentence]


def test_the_history_shows_a_death_and_a_fault_in_a_container(tmp_path: Path) -> None:
    """There a process has another pid than outside; that of another container is not its death."""
    told = []
    for end in ("inside", "whole"):
        block = Block("inline")
        (task,) = block.request("POST /action")
        pid = block.doomed()
        block.event(task, "write_log", "started", pid)
        fault = {"fault": "api-kill", "injected_ns": block.tick(), "healed_ns": block.tick(), "confirmed": True}
        block.faults = [fault | {"pids": [7]}]
        block.container_dies("another-host")
        block.dies_in_a_container(pid) if end == "inside" else block.container_dies()
        folder = block.write(tmp_path / end)
        ledger.settle(folder)
        told.append("\n".join(ledger.history(folder, task)))
    assert all("fault api-kill was injected (processes 7, which this is about)" in history for history in told)
    assert "process 101 (x) ended." in told[0]
    assert "container" not in told[0]
    assert "the container of process 101 (x) ended with status 137." in told[1]
    assert told[1].count(" ended with status") == 1


def test_the_history_of_a_request_shows_all_its_tasks(tmp_path: Path) -> None:
    """Steps that travel inside the message of another included."""
    block = Block("celery")
    PLANTS["stranded"](block, "POST /multi-tasks")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    told = "\n".join(ledger.history(folder, UUID(block.requests[0]["request_id"])))
    assert all(task_id in told for task_id in block.expected)
    assert told.count("is stranded") == 3
    assert "inside" in told


@pytest.mark.parametrize("hours", [0.5, 1.5])
def test_the_history_says_when_a_stranded_task_was_taken_and_is_due_again(hours: float, tmp_path: Path) -> None:
    """An hour after it was taken, if that is not over; and what stands in no index is never due again."""
    block = Block("celery")
    PLANTS["stranded"](block, "POST /action")
    PLANTS["stranded"](block, "POST /register")
    taken, unknown = (UUID(message["task_id"]) for message in block.unacked)
    # The journal's anchor has both clocks at 1 ns.
    block.unacked[0]["visible_since_wall_s"] = (block.requests[0]["intended_ns"] + 2_000_000_000) / 1e9
    block.unacked[1]["visible_since_wall_s"] = None
    block.tick(hours * 3_600_000)
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    due = "due again after the visibility timeout of 1 h (Celery's default)"
    told, told_of_unknown = ledger.history(folder, taken), ledger.history(folder, unknown)
    within = ", which was within the block" if hours > 1 else ""
    assert f"+2.000 s: task {taken} was taken by a worker, {due}{within}." in told
    assert not [sentence for sentence in told_of_unknown if "due again" in sentence]
    assert f"At the end: no index of the broker's has {unknown}, so it is never given out again." in told_of_unknown


def test_the_history_tells_what_was_not_sent_from_what_may_have_been(tmp_path: Path) -> None:
    """Of a lost Locust worker's requests nobody knows."""
    block = Block("celery")
    block.request("POST /action", "unsent", error="in-flight cap reached")
    block.request("POST /action", "indeterminate", sent_ns=None, ended_ns=None, error="its Locust worker was lost")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    told = ["\n".join(ledger.history(folder, UUID(row["request_id"]))) for row in block.requests]
    assert "the request was never sent: in-flight cap reached" in told[0]
    assert "the request may have been sent or not: its Locust worker was lost" in told[1]


def test_the_history_says_that_the_end_of_the_block_ended_a_task(tmp_path: Path) -> None:
    block = Block("inline")
    PLANTS["held_at_the_end"](block, "POST /action")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    *_, stop, death, _, fate, _ = ledger.history(folder, UUID(next(iter(block.expected))))
    assert stop.endswith(" s: the lab told all that runs the app's code to end: the block was over.")
    assert death.endswith("(inline-api) ended by signal 9.")
    assert " is pending: never executed to its end; " in fate


def test_the_history_says_that_a_process_lived_on(tmp_path: Path) -> None:
    block = Block("inline")
    PLANTS["under_way_in_what_lives_on"](block, "POST /action")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    told = "\n".join(ledger.history(folder, UUID(next(iter(block.expected)))))
    assert " s: process 101 (inline-api) lived, and went on: the evidence was copied.\n" in told
    assert "process 101 (inline-api) ended" not in told
    assert " is pending: never executed to its end; " in told


@pytest.mark.parametrize(
    ("file", "damaged"),
    [
        ("evidence/broker.json", "{"),
        ("evidence/broker.json", "3"),
        ("evidence/broker.json", '{"queue": [{"task_id": "x"}], "unacked": []}'),
        ("evidence/processes.jsonl", '{"event": "ended"'),
        ("evidence/processes.jsonl", '["ended"]'),
        ("evidence/processes.jsonl", '{"event": "ended", "t_ns": 1}'),
        ("evidence/processes.jsonl", '{"event": "stopping", "t_ns": "1"}'),
        ("faults.json", "[{"),
        ("faults.json", '[{"injected_ns": 1, "healed_ns": null}]'),
        ("evidence/journal/some-host.jsonl", "{}"),
        ("evidence/journal/celery-worker-some-host-7-abc.jsonl", '{"service"'),
        ("evidence/journal/celery-worker-some-host-7-abc.jsonl", "[]"),
        ("evidence/journal/celery-worker-some-host-7-abc.jsonl", '{}\n{"task_id": "TASK", "event": "started"}'),
        ("evidence/journal/celery-worker-some-host-7-abc.jsonl", "{}\n\udcff"),
        ("evidence/actions.log", '{"task_id": "TASK", "t_ns": "soon"}'),
        ("evidence/mail.jsonl", '"TASK"'),
        ("evidence/rows.jsonl", '{"task_id": "TASK", "kind"'),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(file: str, damaged: str, tmp_path: Path) -> None:
    """Whatever is wrong with it."""
    block = Block("celery")
    PLANTS["stranded"](block, "POST /action")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    (task,) = block.expected
    (folder / file).write_bytes(damaged.replace("TASK", task).encode(errors="surrogateescape"))
    with pytest.raises(LabError) as caught:
        ledger.history(folder, UUID(task))
    assert str(caught.value).startswith(f"{folder / file} is damaged: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_planted_task_has_a_history(name: str, tmp_path: Path) -> None:
    """It ends with the fate that the ledger found."""
    block = Block("celery")
    PLANTS[name](block, "POST /chat")
    folder = block.write(tmp_path / "block")
    ledger.settle(folder)
    for task_id, (fate, _) in block.expected.items():
        told = ledger.history(folder, UUID(task_id))
        assert any(f"is {fate.replace('_', ' ')}" in sentence for sentence in told)
    for request in block.requests:
        assert ledger.history(folder, UUID(request["request_id"]))


def test_an_unknown_id_has_no_history(tmp_path: Path) -> None:
    """Nothing is made up."""
    assert ledger.history(Block("inline").write(tmp_path / "block"), uuid4()) == []


def test_mails_to_a_server_that_cannot_be_asked_are_taken_from_the_journal(tmp_path: Path) -> None:
    """With `SMTP_URL` there is no mail.jsonl; a task whose journal says nothing is lost all the same."""
    block = Block("celery")
    PLANTS["done"](block, "POST /register")
    PLANTS["lost_before_the_start"](block, "POST /register")
    folder = block.write(tmp_path / "block")
    (folder / "evidence" / "mail.jsonl").unlink()
    assert found(folder) == block.expected
