"""What a calibration makes of the samples of a server whose latency is known, and who cites it."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from rich.console import Console

from lab import ledger, report
from lab.calibrate import Trials, calibration_blocks, calibration_plan, judge
from lab.calibration import FILE, cite
from lab.compare import resume
from lab.errors import UsageError
from lab.known_servers import SERVERS, fate
from lab.report.summary import Calibration, Generator, Latency, Planted
from lab.rundir import RunDir, RunRecord
from tests.blockmaker import INSTRUMENT, REQUEST_COLUMNS, STATUS, write_parquet
from tests.runmaker import empty_run, make_run, plan

IDS = UUID("6b3f5c1e-1d6c-4a55-9f59-93a4c2f3a0de")
START_NS = 1_000_000_000_000
REQUESTS = 4_000
CLOSED = Latency(p50_ms=1, p95_ms=1, p99_ms=1, p999_ms=1)
Times = Callable[[float], float]


def calibrated(
    directory: Path, server: str, seen_s: Times = lambda exact_s: exact_s, rows: int = REQUESTS, void: str = ""
) -> Calibration:
    """Return what a calibration says of one server, of whose requests the samples have times other than the exact."""
    asked = calibration_plan(seed=1)
    asked.contenders = [contender for contender in asked.contenders if contender.name == server]
    run = empty_run(plan(["inline"], rounds=1))
    run.plan, run.blocks = asked, calibration_blocks(asked)
    (block,) = run.blocks
    block.state, block.valid, block.why = "finished", not void, [void] if void else []
    block.window_start_ns, block.window_end_ns = START_NS, START_NS + 20_000_000_000
    block.instrument = INSTRUMENT
    directory.mkdir()
    folder = directory / block.folder
    folder.mkdir(parents=True)
    write_parquet(
        [sample(server, number, seen_s) for number in range(rows)], REQUEST_COLUMNS, folder / "requests.parquet"
    )
    ledger.settle(folder, journal=False)
    RunDir(directory).write(run)
    return judge(RunDir(directory), run, Trials({server: CLOSED}))


def sample(server: str, number: int, seen_s: Times) -> dict[str, object]:
    """Return a row of the samples."""
    request_id, at_ns = uuid5(IDS, str(number)), START_NS + number * 5_000_000
    found = fate(server, request_id, at_ns / 1e9)
    ended_ns = at_ns + round(seen_s(found.after_s) * 1e9)
    return {
        "seq": number, "stream": "load", "phase": "window", "route": "GET /work", "request_id": str(request_id),
        "tasks": 0, "intended_ns": at_ns, "sent_ns": at_ns, "ended_ns": ended_ns, "status": STATUS[found.outcome],
        "outcome": found.outcome, "error": None,
    }  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_exact_samples_are_within_bounds(server: str, tmp_path: Path) -> None:
    """Of every server; and half a millisecond more is still within."""
    assert calibrated(tmp_path / "exact", server).wrong == []
    assert calibrated(tmp_path / "near", server, lambda exact_s: exact_s + 0.0005).wrong == []


@pytest.mark.parametrize("server", SERVERS)
def test_samples_that_are_off_are_out_of_bounds(server: str, tmp_path: Path) -> None:
    """By three percent and 1.1 ms; the sentence says whose and which."""
    wrong = calibrated(tmp_path / "off", server, lambda exact_s: 1.03 * exact_s + 0.0011).wrong
    assert [sentence.partition(" is ")[0] for sentence in wrong][:2] == [f"{server}: p50", f"{server}: p95"]


def test_a_missing_row_is_out_of_bounds(tmp_path: Path) -> None:
    """Whatever the percentiles say."""
    wrong = calibrated(tmp_path / "r", "constant", rows=REQUESTS - 1).wrong
    assert wrong == ["constant: 3,999 requests are in the samples, and 4,000 were intended."]


def test_another_outcome_is_out_of_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that was taken for something else is found, though both count as infinite."""
    monkeypatch.setitem(STATUS, "refused", 503)
    calibration = calibrated(tmp_path / "r", "refusing")
    assert calibration.wrong == []
    refused = calibration.servers[0].outcomes["refused"]
    assert 80 < refused < 160
    run = RunDir(tmp_path / "r").read()
    run.plan.contenders[0].name = run.blocks[0].contender = "resetting"
    wrong = judge(RunDir(tmp_path / "r"), run, Trials({"resetting": CLOSED})).wrong
    assert wrong == [f"resetting: {refused} requests have another outcome than the server gave them."]


def test_a_void_block_is_not_judged(tmp_path: Path) -> None:
    """Which is not the same as being right."""
    calibration = calibrated(tmp_path / "r", "constant", void="The clock stepped.")
    assert calibration.servers == []
    assert calibration.wrong == ["constant was not judged: The clock stepped."]


def test_the_servers_are_what_their_titles_say() -> None:
    """By the ids of many requests; the stall by the clock."""
    drawn = [fate("heavy-tail", uuid5(IDS, str(number)), 0.0).after_s for number in range(10_000)]
    assert sorted(drawn)[5_000] == pytest.approx(0.004, rel=0.1)
    assert sorted(drawn)[9_500] == pytest.approx(0.04, rel=0.2)
    slow = [fate("two-modes", uuid5(IDS, str(number)), 0.0).after_s > 0.1 for number in range(10_000)]
    assert sum(slow) == pytest.approx(1_000, abs=100)
    waits = [fate("stall", IDS, 40 + at_s).after_s for at_s in (4.99, 5.0, 5.75, 6.0)]
    assert waits == pytest.approx([0, 1, 0.25, 0])


def test_a_calibration_is_not_resumed(tmp_path: Path) -> None:
    """Its closed loops would be missing."""
    calibrated(tmp_path / "r", "constant")
    with pytest.raises(UsageError, match="begun anew"):
        resume(RunDir(tmp_path / "r"), Console(), as_json=False)


@pytest.fixture
def calibration(tmp_path: Path) -> Calibration:
    """A calibration that found nothing wrong."""
    return calibrated(tmp_path / "a", "heavy-tail")


def leave(out: Path, name: str, calibration: Calibration, **changes: object) -> None:
    """Leave a calibration among the runs."""
    folder = out / f"{name}-calibrate"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(calibration.model_copy(update={"run": folder.name} | changes).model_dump_json())


def cited(out: Path, run: RunRecord) -> str | None:
    """Return the name of the calibration that a new run cites."""
    directory = RunDir.create(out, "compare", run)
    cite(directory, run.environment)
    file = directory.path / FILE
    return Calibration.model_validate_json(file.read_text()).run if file.exists() else None


def test_a_run_cites_the_newest_calibration_of_its_machine(calibration: Calibration, tmp_path: Path) -> None:
    """Not an older one, not one of another machine, and not one that another version wrote."""
    out, run = tmp_path / "runs", empty_run(plan(["inline"], rounds=1))
    now = datetime.now(UTC)
    leave(out, "1", calibration, made_at=now - timedelta(hours=2))
    leave(out, "2", calibration, made_at=now - timedelta(hours=1))
    leave(out, "3", calibration, environment=calibration.environment.model_copy(update={"cpu": "Another CPU"}))
    (out / "4-calibrate").mkdir()
    (out / "4-calibrate" / FILE).write_text('{"run": "4-calibrate"}')
    assert cited(out, run) == "2-calibrate"


def test_a_calibration_that_judged_nothing_gives_way_to_an_older_one(calibration: Calibration, tmp_path: Path) -> None:
    """One that found the instrument wrong does not; and where there is no other, it is cited all the same."""
    out, run = tmp_path / "runs", empty_run(plan(["inline"], rounds=1))
    missed = Planted(contender="inline", what="loss", planted=5, found=4, invented=0)
    now = datetime.now(UTC)
    void = calibrated(tmp_path / "void", "stall", void="The clock stepped.")
    leave(out, "void", void, made_at=now)
    assert cited(out, run) == "void-calibrate"
    leave(out, "good", calibration, made_at=now - timedelta(hours=2))
    assert cited(out, run) == "good-calibrate"
    wrong = calibrated(tmp_path / "wrong", "constant", lambda exact_s: exact_s + 1)
    leave(out, "wrong", wrong, made_at=now - timedelta(hours=1))
    assert cited(out, run) == "wrong-calibrate"
    leave(out, "missed", void, made_at=now - timedelta(minutes=30), planted=[missed])
    assert cited(out, run) == "missed-calibrate"


def test_a_run_without_a_calibration_cites_none(tmp_path: Path) -> None:
    """One of another machine is none."""
    assert cited(tmp_path / "runs", empty_run(plan(["inline"], rounds=1))) is None


def test_the_report_cites_the_calibration(calibration: Calibration, tmp_path: Path) -> None:
    """As a section of its own; what is wrong with the instrument stands above the numbers."""
    path = make_run(tmp_path / "r", {"inline": 1.0}, rounds=1)
    (path / FILE).write_text(calibration.model_dump_json())
    assert not any("calibrat" in sentence for sentence in report.write(path).limitations)
    for text in ((path / "report.md").read_text(), (path / "report.html").read_text()):
        assert "Calibration" in text
        assert "heavy-tail" in text
    broken = calibration.model_copy(update={"not_judged": ["stall was not judged: the clock stepped."]})
    (path / FILE).write_text(broken.model_dump_json())
    assert any("stall was not judged" in sentence for sentence in report.write(path).limitations)


def test_the_report_says_how_fast_the_generator_is(calibration: Calibration, tmp_path: Path) -> None:
    """In a table and in a sentence of its own, of each number of processes: a limit, a lower bound, or none."""
    fast = Generator(processes=1, rate=6_000, lateness_p99_ms=0.4, too_fast=6_500, real_time=False)
    bound = Generator(processes=4, rate=32_000, lateness_p99_ms=0.5, too_fast=None, real_time=False)
    slow = Generator(processes=8, rate=None, lateness_p99_ms=None, too_fast=500, real_time=None)
    path = make_run(tmp_path / "r", {"inline": 1.0}, rounds=1)
    (path / FILE).write_text(calibration.model_copy(update={"generators": [fast, bound, slow]}).model_dump_json())
    report.write(path)
    text = (path / "report.md").read_text()
    assert "| 1 | 6,000 | 0.4 ms | 6,500 | taking turns |" in text
    assert "alone, one process, sends 6,000 requests/s with a p99 lateness of 0.4 ms, not 6,500." in text
    assert "alone, 4 processes, sends 32,000 requests/s with a p99 lateness of 0.5 ms, the highest rate tried." in text
    assert "alone, 8 processes, was late or failed at every rate, from 500 requests/s on." in text
    assert "The load generator alone, up to a p99 lateness of 1 ms" in (path / "report.html").read_text()


def test_infinite_figures_survive_the_file(tmp_path: Path) -> None:
    """Three in a hundred refused: the p99 is infinite, and is read back as that."""
    calibration = calibrated(tmp_path / "r", "refusing")
    read = Calibration.model_validate_json(calibration.model_dump_json())
    assert read.servers[0].truth.p99_ms == read.servers[0].lab.p99_ms == math.inf
    assert read == calibration
