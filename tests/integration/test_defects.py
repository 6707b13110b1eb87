"""Real contenders with a deliberate defect, run by the real lab, are caught with the right counts.

Each defective contender writes down itself which tasks it mistreated; the ledger must find exactly those.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.rundir import BlockRecord, ContenderRecord, ScenarioRecord
from lab.stacks.local import Servers
from tests.realblocks import load_of, measure_block

KNOWN = load_contenders(PROJECT / "contenders.toml")
Row = dict[str, Any]


def defective(name: str, account: Path, **defect: int) -> ContenderRecord:
    """Return a contender of ``contenders.toml`` whose tasks are mistreated."""
    known = KNOWN[name]
    account.mkdir()
    replaced = {"inline_app.main:app": "tests.defects.inline:app", "celery_app.worker": "tests.defects.worker"}
    return known.model_copy(
        update={
            "name": f"defective-{name}",
            "api": [replaced.get(part, part) for part in known.api],
            "workers": [[replaced.get(part, part) for part in worker] for worker in known.workers],
            "env": {"ACCOUNT": str(account)} | {key: str(value) for key, value in defect.items()},
        }
    )


def measured(
    shared: Servers,
    out: Path,
    contender: ContenderRecord,
    scenario: ScenarioRecord,
    faults: tuple[str, ...] = (),
    injections: int = 4,
    horizon_s: float = 15,
    fault_duration_s: float = 10,
) -> tuple[BlockRecord, list[Row]]:
    """Run one block of the contender as `lab` does; return its record and its tasks."""
    block, folder = measure_block(
        shared, out, contender, scenario,
        faults=list(faults), injections=injections, horizon_s=horizon_s,
        fault_duration_s=fault_duration_s,
    )  # fmt: skip
    assert block.state == "finished", block.why
    return block, rows_of(folder / "tasks.parquet")


def rows_of(table: Path) -> list[Row]:
    """Return the rows of a Parquet file."""
    with duckdb.cursor() as db:
        result = db.execute("SELECT * FROM read_parquet($table)", {"table": str(table)})
        names = [column[0] for column in result.description or []]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def ids(tasks: list[Row], fate: str) -> set[str]:
    """Return the ids of the tasks that the ledger gave a fate."""
    return {task["task_id"] for task in tasks if task["fate"] == fate}


def written_down(account: Path, what: str) -> set[str]:
    """Return the ids that the contender itself wrote down; none of them twice."""
    lines = (account / what).read_text().split()
    assert len(set(lines)) == len(lines)
    return set(lines)


@pytest.mark.parametrize("name", ["inline", "celery"])
def test_dropped_tasks_are_lost_and_doubled_ones_duplicated(shared: Servers, tmp_path: Path, name: str) -> None:
    """Every 50th task is acknowledged and never run, every 70th run twice; the ledger finds these and no others."""
    account = tmp_path / "account"
    contender = defective(name, account, DROPS_EVERY=50, DOUBLES_EVERY=70)
    _, tasks = measured(shared, tmp_path, contender, load_of("action", rate=60))
    assert {task["request_outcome"] for task in tasks} == {"acknowledged"}
    assert len(tasks) >= 300
    assert ids(tasks, "lost") == written_down(account, "dropped")
    assert len(ids(tasks, "lost")) == len(tasks) // 50
    assert ids(tasks, "duplicated") == written_down(account, "doubled")
    assert len(ids(tasks, "duplicated")) == len(tasks) // 70 - len(tasks) // 350  # every 350th is dropped
    assert {task["fate"] for task in tasks} == {"done", "lost", "duplicated"}
    expected = {"done": (1, 1), "lost": (0, 0), "duplicated": (2, 2)}
    for task in tasks:
        assert (task["n_effects"], task["n_journal"]) == expected[task["fate"]], task
        assert task["agreement"] == "equal", task


def test_a_doubled_row_is_duplicated_and_a_false_claim_voids_the_block(shared: Servers, tmp_path: Path) -> None:
    """Storing a conversation twice leaves one row: the journal tells. It is not believed where there is no row."""
    account = tmp_path / "account"
    contender = defective("inline", account, DOUBLES_EVERY=40, CLAIMS_EVERY=50)
    block, tasks = measured(shared, tmp_path, contender, load_of("chat", rate=40))
    doubled, claimed = written_down(account, "doubled"), written_down(account, "claimed")
    assert ids(tasks, "duplicated") == doubled
    assert len(doubled) == len(tasks) // 40 - len(tasks) // 200
    assert ids(tasks, "lost") == claimed
    assert len(claimed) == len(tasks) // 50
    assert {task["fate"] for task in tasks} == {"done", "lost", "duplicated"}
    expected = {"done": (1, 1), "lost": (0, 1), "duplicated": (1, 2)}
    for task in tasks:
        assert (task["n_effects"], task["n_journal"]) == expected[task["fate"]], task
        assert task["agreement"] == ("unexplained" if task["task_id"] in claimed else "equal"), task
    assert not block.valid
    assert any(f"unexplained, for {len(claimed)} of the tasks" in why for why in block.why), block.why


def test_what_is_forgotten_after_a_kill_is_lost(shared: Servers, tmp_path: Path) -> None:
    """The successor of a killed API writes down what its predecessor had taken and not done: just that is lost."""
    account = tmp_path / "account"
    contender = defective("inline", account, FORGETS=1)
    scenario = load_of("probe", rate=60, probe_work="io", probe_seconds=0.5)
    _, tasks = measured(shared, tmp_path, contender, scenario, faults=("api-kill",))
    forgotten = written_down(account, "forgotten")
    acknowledged = {task["task_id"] for task in tasks if task["request_outcome"] == "acknowledged"}
    assert ids(tasks, "lost") == forgotten & acknowledged
    assert len(ids(tasks, "lost")) > 20, "half a second's work at each kill"
    # Of a request whose answer was cut off nobody knows; the ledger does not call its task lost.
    assert forgotten - acknowledged <= ids(tasks, "not_done")
    assert ids(tasks, "done") == acknowledged - forgotten
    assert {task["fate"] for task in tasks} <= {"done", "lost", "not_done", "recovered"}
    assert not any(task["agreement"] == "unexplained" for task in tasks)


FORGETS_FIRST = 10
KILLS = 2
SLOTS = 40  # of celery-threads


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("inline", "api-kill"),
        # Beside others a worker takes up to half a minute to start, and there would be no second kill.
        pytest.param("celery-threads", "worker-kill", marks=pytest.mark.alone),
    ],
)
def test_what_a_successor_forgets_is_lost(shared: Servers, tmp_path: Path, name: str, fault: str) -> None:
    """Each successor of a killed process acknowledges its first ten tasks and forgets them: lost, as is what is cut.

    A successor that needs long to start is given fewer before the end of the load, or none.
    """
    account = tmp_path / "account"
    contender = defective(name, account, FORGETS_FIRST=FORGETS_FIRST)
    scenario = load_of("probe", rate=30, probe_work="io", probe_seconds=0.4)
    # Each successor needs its time to start, and then to be asked ten times, before the next kill and the end.
    block, tasks = measured(
        shared, tmp_path, contender, scenario, faults=(fault,), injections=KILLS, fault_duration_s=26
    )
    assert block.injections == KILLS
    forgotten = written_down(account, "forgotten")
    given = given_to_successors(account)
    assert len(forgotten) == sum(min(FORGETS_FIRST, tasks_given) for tasks_given in given)
    assert max(given) > FORGETS_FIRST, "one successor at least was to do what came after those that it forgets"
    done, ended = ids(tasks, "done"), written_down(account, "ended")
    acknowledged = {task["task_id"] for task in tasks if task["request_outcome"] == "acknowledged"}
    assert ended & acknowledged <= done
    cut_off = written_down(account, "begun") - ended - done
    assert cut_off
    (folder,) = tmp_path.glob("*-compare/blocks/*")
    held = held_by_broker(folder) & acknowledged - done
    taken = taken_and_not_begun(folder, account)
    # An event loop that has answered goes on with the task, without a look at any other request.
    assert name != "inline" or len(taken & acknowledged) <= KILLS
    # A worker may die between the beginning and its word of it to the broker, which then holds what was begun.
    assert ids(tasks, "stranded") == held
    assert not held & forgotten
    assert ids(tasks, "lost") == (forgotten | cut_off | taken) & acknowledged - held
    assert done == acknowledged - forgotten - cut_off - taken - held
    assert {task["fate"] for task in tasks} <= {"done", "lost", "stranded", "not_done", "recovered"}
    assert not any(task["agreement"] == "unexplained" for task in tasks)


def given_to_successors(account: Path) -> list[int]:
    """Return how many tasks each process was given that came after a killed one."""
    first, *successors = [int(line) for line in (account / "starts").read_text().split()]
    assert first == 0
    begins = [*successors, (account / "counter").stat().st_size]
    return [after - before for before, after in pairwise(begins)]


def held_by_broker(folder: Path) -> set[str]:
    """Return the ids of what a worker had taken, by the broker."""
    return {message["task_id"] for message in broker_of(folder)["unacked"]}


def broker_of(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return what the broker still had, by place; nothing where there is none."""
    left: dict[str, list[dict[str, str]]] = json.loads((folder / "evidence" / "broker.json").read_text())
    return left


def taken_and_not_begun(folder: Path, account: Path) -> set[str]:
    """Return the ids of what went with a process before it was begun: on its way from the broker, or before a thread.

    Of inline it is what was killed between the answer and the task. Nobody writes these down: they were accepted, and
    neither begun nor forgotten, and no broker has them. That was before a kill had come about: the last process did all
    it was given.
    """
    lines = [
        line for file in (folder / "evidence" / "journal").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    events = [json.loads(line) for line in lines]
    accepted_ns = {event["task_id"]: event["t_ns"] for event in events if event.get("event") == "accepted"}
    in_broker = {message["task_id"] for messages in broker_of(folder).values() for message in messages}
    gone = accepted_ns.keys() - written_down(account, "begun") - written_down(account, "forgotten") - in_broker
    kills = [fault["ended_ns"] for fault in json.loads((folder / "faults.json").read_text())]
    assert all(accepted_ns[task_id] < max(kills) for task_id in gone)
    assert len(gone) <= len(kills) * SLOTS
    return gone


@pytest.mark.parametrize("name", ["inline", "celery"])
def test_an_end_that_the_journal_does_not_know_voids_the_block(shared: Servers, tmp_path: Path, name: str) -> None:
    """Nobody was killed, so nothing explains it: that all processes end in order with the block least of all."""
    account = tmp_path / "account"
    contender = defective(name, account, WITHHOLDS_EVERY=25)
    block, tasks = measured(shared, tmp_path, contender, load_of("action", rate=40), horizon_s=5)
    withheld = written_down(account, "withheld")
    assert withheld
    assert ids(tasks, "done") == {task["task_id"] for task in tasks}
    assert {task["task_id"] for task in tasks if task["agreement"] == "unexplained"} == withheld
    assert not block.valid
    assert any(f"unexplained, for {len(withheld)} of the tasks" in why for why in block.why), block.why


@pytest.mark.parametrize("name", ["inline", "celery", "celery-threads"])
def test_what_outlasts_its_block_without_any_fault_is_pending(shared: Servers, tmp_path: Path, name: str) -> None:
    """No defect, and none is found: it was the end of the block that ended the tasks, of either contender alike."""
    scenario = load_of("probe", rate=6, probe_work="io", probe_seconds=20, duration_s=1)
    _, tasks = measured(shared, tmp_path, KNOWN[name], scenario, horizon_s=1)
    assert len(tasks) == 12
    assert {(task["fate"], task["agreement"]) for task in tasks} == {("pending", "equal")}, tasks
