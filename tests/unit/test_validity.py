"""Each rule that makes a block void, with a block that breaks it, and what must never make one void."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import ledger, validity
from lab.pulse import Pulse
from lab.stacks.supervisor import StackError
from tests.blockmaker import INSTRUMENT, MS, PLANTS, Block, record


def judged(block: Block, folder: Path, **changes: Any) -> list[str]:
    """Settle a block and return why it is void."""
    ledger.settle(block.write(folder / "block"))
    return validity.judge(folder / "block", record(block, **changes))


@pytest.fixture
def block() -> Block:
    """Return a block with requests of about a millisecond, each sent 0.1 ms after it was due."""
    block = Block("celery")
    for _ in range(20):
        PLANTS["done"](block, "POST /action")
    return block


def only(sentences: list[str], fragment: str) -> None:
    """Check that there is one reason, and which."""
    assert len(sentences) == 1, sentences
    assert fragment in sentences[0]


def test_an_undisturbed_block_is_valid(block: Block, tmp_path: Path) -> None:
    """Nothing is wrong with it."""
    assert judged(block, tmp_path) == []


def test_a_late_generator_is_void(block: Block, tmp_path: Path) -> None:
    """Lateness of 3 ms is more than 2 ms and more than 5 % of a response time of 4 ms."""
    for row in block.requests:
        row["sent_ns"], row["ended_ns"] = row["intended_ns"] + 3 * MS, row["intended_ns"] + 4 * MS
    only(judged(block, tmp_path), "late by 3.0 ms")


def test_lateness_that_is_small_beside_the_response_time_is_not(block: Block, tmp_path: Path) -> None:
    """3 ms of 100 ms do not matter."""
    for row in block.requests:
        row["sent_ns"], row["ended_ns"] = row["intended_ns"] + 3 * MS, row["intended_ns"] + 100 * MS
    assert judged(block, tmp_path) == []


def test_requests_that_failed_hide_no_lateness(block: Block, tmp_path: Path) -> None:
    """Beside them the p99 is infinite: the lateness is held against the highest percentile that is not."""
    for row in block.requests[2:]:
        row["sent_ns"], row["ended_ns"] = row["intended_ns"] + 3 * MS, row["intended_ns"] + 4 * MS
    block.request("POST /action", "indeterminate")
    only(judged(block, tmp_path), "late by 3.0 ms (p99), 75% of the response time's")


def test_no_lateness_matters_where_hardly_any_request_succeeds(block: Block, tmp_path: Path) -> None:
    """Every figure of response time is infinite, whenever they were sent."""
    for row in block.requests:
        row["sent_ns"], row["ended_ns"] = row["intended_ns"] + 3 * MS, row["intended_ns"] + 4 * MS
    for _ in range(30):
        block.request("POST /action", "indeterminate")
    assert judged(block, tmp_path) == []


def test_bystanders_that_were_sent_late_are_void(block: Block, tmp_path: Path) -> None:
    """Of them figures are reported too; few requests of the load may all have been in time."""
    for _ in range(20):
        block.request("GET /ping/loop", stream="bystander")
        row = block.requests[-1]
        row["sent_ns"], row["ended_ns"] = row["intended_ns"] + 3 * MS, row["intended_ns"] + 4 * MS
    only(judged(block, tmp_path), "bystanders were sent late by 3.0 ms")


def test_a_lagging_loop_is_void(block: Block, tmp_path: Path) -> None:
    """It stamps the ends late."""
    only(judged(block, tmp_path, instrument=INSTRUMENT | {"loop_lag_p99_ms": 8.0}), "event loop")


def test_samples_that_were_cut_off_are_void(block: Block, tmp_path: Path) -> None:
    """The last line with the loop's lag is missing."""
    only(judged(block, tmp_path, instrument={"steal_share": 0.0}), "cut off")


@pytest.mark.parametrize(
    ("instrument", "by_generator"),
    [({"loop_lag_p99_ms": 8.0}, True), ({"workers": 4, "workers_lost": 1}, True), ({"steal_share": 0.5}, False)],
)
def test_whether_the_generator_made_a_block_void(
    instrument: dict[str, float], by_generator: bool, block: Block, tmp_path: Path
) -> None:
    """A search for a capacity asks that: what the generator cannot send is no limit of the contender."""
    why = judged(block, tmp_path, instrument=INSTRUMENT | instrument)
    assert why
    assert validity.by_generator(why) is by_generator


def test_requests_that_were_not_sent_are_the_generators_doing(block: Block, tmp_path: Path) -> None:
    """While the contender had room."""
    block.request("POST /action", "unsent")
    assert validity.by_generator(judged(block, tmp_path))


@pytest.mark.parametrize("instrument", [INSTRUMENT, {"steal_share": 0.0}])
def test_a_lost_locust_worker_is_void(instrument: dict[str, float], block: Block, tmp_path: Path) -> None:
    """What it did not send is no further reason, and neither is the last line without a lag where all were lost."""
    block.request("POST /action", "unsent")
    only(
        judged(block, tmp_path, instrument=instrument | {"workers": 4, "workers_lost": 1}), "1 of its 4 Locust workers"
    )


def test_several_locust_workers_are_no_reason(block: Block, tmp_path: Path) -> None:
    """As long as none was lost."""
    assert judged(block, tmp_path, instrument=INSTRUMENT | {"workers": 4, "workers_lost": 0}) == []


def test_a_journal_that_cannot_be_read_is_void(block: Block, tmp_path: Path) -> None:
    """Of whom the lines tell is not known, so nobody's fate is."""
    only(judged(block, tmp_path, instrument=INSTRUMENT | {"journal_lines_unreadable": 2}), "2 lines of the journal")


@pytest.mark.parametrize("clock", [lambda ns: ns // 1000, lambda ns: ns + 1_764_000_000 * 10**9], ids=["µs", "wall"])
def test_a_journal_of_another_clock_is_void(clock: Callable[[int], int], block: Block, tmp_path: Path) -> None:
    """Its times cannot be held against those of the requests; one such task is enough."""
    block.tick(3_600_000)
    PLANTS["done"](block, "POST /action")
    task = next(reversed(block.expected))
    for lines in (*block.lines.values(), *block.journals.values()):
        lines[:] = [one | {"t_ns": clock(one["t_ns"])} if one.get("task_id") == task else one for one in lines]
    only(judged(block, tmp_path), f"before they were asked for, or after the block; one of them is {task}")


def test_a_stolen_cpu_is_void(block: Block, tmp_path: Path) -> None:
    """Above 5 %."""
    only(judged(block, tmp_path, instrument=INSTRUMENT | {"steal_share": 0.07}), "7%")


@pytest.mark.parametrize("step_ms", [-60.0, 60.0])
def test_a_clock_step_is_void(step_ms: float, block: Block, tmp_path: Path) -> None:
    """In both directions."""
    only(judged(block, tmp_path, instrument=INSTRUMENT | {"clock_step_ms": step_ms}), "clock stepped")


def test_unsent_requests_with_room_are_void(block: Block, tmp_path: Path) -> None:
    """Hardly any other request was under way."""
    block.request("POST /action", "unsent")
    only(judged(block, tmp_path), "not sent")


def test_unsent_requests_at_the_cap_are_the_contenders_result(block: Block, tmp_path: Path) -> None:
    """A thousand requests hang, so the next is not sent."""
    for _ in range(1000):
        block.request("POST /action", "indeterminate", ended_ns=block.now_ns + 10_000 * MS)
    block.request("POST /action", "unsent")
    assert judged(block, tmp_path) == []


def test_a_shared_server_that_is_silent_or_hangs_up_is_void(block: Block, tmp_path: Path) -> None:
    """A second is still nothing."""
    only(judged(block, tmp_path, instrument=INSTRUMENT | {"mail_silent_s": 1.5}), "mail sink hung")
    only(judged(block, tmp_path / "again", instrument=INSTRUMENT | {"postgres_hung_up": 1.0}), "PostgreSQL was away")
    assert judged(block, tmp_path / "third", instrument=INSTRUMENT | {"postgres_silent_s": 0.9}) == []


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "smtp://127.0.0.1:1"])
def test_a_shared_server_that_is_not_there_begins_no_block(url: str) -> None:
    """Nobody is left to be asked beside it."""
    name = "mail" if url.startswith("smtp") else "postgres"
    with pytest.raises(StackError, match=f"{name} does not answer"), Pulse({name: url}):
        pass


@pytest.mark.parametrize("name", ["postgres", "mail"])
def test_a_shared_server_that_ended_is_void_unless_it_was_the_fault(name: str, block: Block, tmp_path: Path) -> None:
    """The contender cannot help it."""
    pid = block.process("celery-worker")
    block.names[pid] = name
    block.dies(pid)
    only(judged(block, tmp_path), "was away")
    block.faults = [{"fault": "kill", "injected_ns": 1, "healed_ns": 2, "pids": [pid], "confirmed": True}]
    assert judged(block, tmp_path / "again") == []


def test_a_fault_that_did_not_happen_is_void(block: Block, tmp_path: Path) -> None:
    """It was injected and not confirmed; that a part of the contender's did not run is the contender's doing."""
    fault = {"fault": "worker-sigkill", "injected_ns": 1, "healed_ns": 2, "pids": [7]}
    block.faults = [fault | {"confirmed": False}]
    only(judged(block, tmp_path), "worker-sigkill")
    block.faults = [fault | {"confirmed": True}]
    assert judged(block, tmp_path / "again") == []
    block.faults = [fault | {"confirmed": False, "absent": ["worker-1"]}]
    assert judged(block, tmp_path / "absent") == []


def test_an_unexplained_difference_is_void(block: Block, tmp_path: Path) -> None:
    """The sentence names a task to look at."""
    PLANTS["end_without_an_effect"](block, "POST /register")
    only(judged(block, tmp_path), next(reversed(block.expected)))


@pytest.mark.parametrize(
    "name",
    ["lost_in_the_middle", "lost_before_the_start", "stranded", "pending", "duplicated", "failed", "given_up",
     "not_done", "recovered", "refused", "unexpected", "done_without_a_word"],
)  # fmt: skip
def test_what_a_contender_does_wrong_is_its_result(name: str, block: Block, tmp_path: Path) -> None:
    """However bad, it does not make the block void."""
    for _ in range(50):
        PLANTS[name](block, "POST /multi-tasks")
    assert judged(block, tmp_path) == []


def test_a_contender_that_answers_nothing_is_its_result(tmp_path: Path) -> None:
    """Every response time is infinite, and so is what lateness is compared with."""
    block = Block("inline")
    for _ in range(50):
        block.request("POST /action", "refused", status=None, error="connection refused")
    assert judged(block, tmp_path) == []


def test_a_fault_that_was_never_injected_voids_its_block(block: Block, tmp_path: Path) -> None:
    """Four do not fit into every window; with none at all it is no fault block."""
    only(judged(block, tmp_path, fault="deploy"), "deploy was never injected")
