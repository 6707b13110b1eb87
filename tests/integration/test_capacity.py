"""`lab capacity` as a whole, on a server whose capacity is known."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lab import capacity, compare, search
from lab.errors import COULD_NOT_MEASURE, MEASURED, VOID
from lab.interrupt import Interrupt
from lab.rundir import ContenderRecord, Plan, RunDir, Slo
from lab.search import capacity_plan, work_to_do

# One slot: a request waits until those before it have had their 17 ms each, so it does 59 a second at most.
SERVER = r"""
import asyncio, re, sys

async def serve(reader, writer):
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        if length := re.search(rb"content-length: *(\d+)", head, re.IGNORECASE):
            await reader.readexactly(int(length[1]))
        if head.startswith(b"POST"):
            async with slot:
                await asyncio.sleep(0.017)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

slot = asyncio.Lock()
asyncio.run(main())
"""
KNOWN_PER_S = 1 / 0.017


class NoInterrupt(Interrupt):
    """Ctrl-C is pytest's."""

    def __init__(self) -> None:
        self.asked = False


def plan_for(folder: Path) -> Plan:
    """Return the plan of a short search on the server: a factor of 1.5 is narrow enough, and once is enough."""
    (folder / "server.py").write_text(SERVER)
    contender = ContenderRecord(
        name="one-slot",
        title="one slot of 17 ms",
        api=["{python}", "server.py", "{port}"],
        journal=False,
        folder=str(folder),
        slots="one",
    )
    scenarios = work_to_do(["blocking"], seconds=0.01, duration_s=1.5)
    return capacity_plan([contender], scenarios, Slo(), budget_min=2, seed=3)


@pytest.mark.alone
def test_the_interval_contains_what_the_server_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the search was cut off, `lab resume` goes on with it: what is finished is kept."""
    monkeypatch.setattr(compare, "Interrupt", NoInterrupt)
    monkeypatch.setattr(capacity, "PRECISION", 1.5)
    monkeypatch.setattr(capacity, "REPEATS", 1)
    monkeypatch.setattr(search, "WARMUP_S", 0.3)
    console = Console(file=(printed := io.StringIO()), width=200)

    status = compare.run_plan(plan_for(tmp_path), tmp_path / "runs", console, as_json=False)

    (path,) = (tmp_path / "runs").iterdir()
    directory = RunDir(path)
    record = directory.read()
    ramp, *fresh = record.blocks
    assert ramp.rate is None
    assert [step.rate for step in ramp.ramp][:2] == [50, 100]
    if status == VOID:
        assert not any(block.valid for block in fresh)
        return
    assert status == MEASURED, printed.getvalue()
    assert_contains_the_known_capacity(path)
    assert "one-slot" in printed.getvalue()

    cut_off, kept = fresh[-1], record.blocks[:-1]
    record.blocks, record.interrupted = [*kept, cut_off.model_copy(update={"state": "planned", "valid": None})], True
    assert record.searched == [("one-slot", "blocking")]
    record.searched = []
    directory.write(record)
    assert compare.conclude(directory, console, as_json=False) == COULD_NOT_MEASURE
    assert json.loads((path / "summary.json").read_text())["capacities"][0]["ended"] == "interrupted"

    compare.resume(directory, console, as_json=False)

    again = directory.read()
    assert again.blocks[: len(kept)] == kept
    assert again.blocks[len(kept)].rate == cut_off.rate
    assert not again.interrupted
    assert again.searched == [("one-slot", "blocking")]


def assert_contains_the_known_capacity(path: Path) -> None:
    """Look at the summary, and at what stands in the report."""
    (found,) = json.loads((path / "summary.json").read_text())["capacities"]
    assert found["low"] < KNOWN_PER_S
    assert found["high"] is None or found["high"] > found["low"]
    if found["ended"] == "narrow" and found["limit"] != "generator":
        assert found["high"] > KNOWN_PER_S
    held = {point["rate"] for point in found["curve"] if point["broken"] == []}
    failed = {point["rate"] for point in found["curve"] if point["broken"]}
    assert found["low"] in held
    assert not failed or found["low"] < min(failed)
    for report in ("report.md", "report.html"):
        assert f"{found['low']:g}" in (path / report).read_text()
