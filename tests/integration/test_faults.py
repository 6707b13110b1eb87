"""The faults: each is really done to a real stack, seen to have happened, and healed; one that is not says so."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from lab import faults
from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus, place
from lab.errors import COULD_NOT_MEASURE, LabError
from lab.faults import FAULTS, Fault, Nemesis, deploy, inject, stands_still
from lab.rundir import ContenderRecord
from lab.stacks.local import LocalStack, Servers
from lab.stacks.stack import Stack
from tests.support import alive, until

INJECTIONS = 4
PLACEMENT = place(available_cpus())
KNOWN = load_contenders(PROJECT / "contenders.toml")

# An API that is healthy (there is a file of that name), and takes SIGTERM as it is told to.
STUB = """
import http.server, pathlib, signal, sys
signal.signal(signal.SIGTERM, getattr(signal, sys.argv[2]))
pathlib.Path("health").touch()
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


def stub(folder: Path, on_term: str = "SIG_DFL") -> ContenderRecord:
    """Return a contender that is up in no time, and comes back as fast."""
    program = f"import os; os.chdir({str(folder)!r})\n{STUB}"
    api = ["{python}", "-c", program, "{port}", on_term]
    return ContenderRecord(name="stub", title="Stub", slots="none", api=api)


def stack(shared: Servers, contender: ContenderRecord, folder: Path) -> LocalStack:
    """Return a stack that is not yet up."""
    return LocalStack(shared.supervisor, contender, shared, folder / "block", PLACEMENT)


def family(running: LocalStack, names: list[str]) -> list[psutil.Process]:
    """Return processes of a stack with all that they have started."""
    main = [psutil.Process(running.supervisor.children[name].pid) for name in names]
    return main + [child for process in main for child in process.children(recursive=True)]


@pytest.mark.parametrize("contender", ["inline", "celery"])
def test_each_fault_ends_what_it_hits_and_the_stack_comes_back(shared: Servers, tmp_path: Path, contender: str) -> None:
    """Prefork's children included; what was not to be hit runs on, and new processes do work again."""
    with stack(shared, KNOWN[contender], tmp_path) as running:
        everything = [running.api, *running.workers]
        here = [fault for fault in FAULTS.values() if "local" in fault.stacks]
        for fault in (fault for fault in here if fault.applies_to(KNOWN[contender])):
            names = fault.targets(running)
            hit = family(running, names)
            spared = family(running, [name for name in everything if name not in names])
            done = inject(fault, running)
            assert done.confirmed, fault.name
            if fault.heal:
                assert alive(hit) == hit, fault.name
                continue
            assert not alive(hit), fault.name
            assert alive(spared) == spared, fault.name
            assert set(done.pids) >= {process.pid for process in hit[: len(names)]}
            assert done.ended_ns is not None
            assert done.healed_ns is not None
            assert done.injected_ns < done.ended_ns < done.healed_ns
            assert running.is_ready()
            assert not {process.pid for process in family(running, names)} & {process.pid for process in hit}


def test_a_deploy_kills_what_outlasts_the_grace_period(shared: Servers, tmp_path: Path) -> None:
    """A process that takes no notice of SIGTERM is given its time, and no more."""
    with stack(shared, stub(tmp_path, on_term="SIG_IGN"), tmp_path) as running:
        hit = family(running, [running.api])
        done = inject(deploy(grace_s=0.5), running)
    assert done.confirmed
    assert not alive(hit)
    assert done.ended_ns is not None
    assert done.ended_ns - done.injected_ns >= 0.5e9
    assert done.pids == [hit[0].pid], "each once"
    ends = [record for record in shared.supervisor.records if record["event"] == "ended"]
    assert [record["signal"] for record in ends if record["pid"] == hit[0].pid] == [signal.SIGKILL]


def test_a_fault_that_does_not_bite_is_not_confirmed(
    shared: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process takes no notice and runs on; it is there, so it counts as healed."""
    monkeypatch.setattr(faults, "CONFIRMED_WITHIN_S", 0.3)

    def terminate(_stack: Stack, names: list[str], _over: Event) -> list[int]:
        return [pid for name in names for pid in shared.supervisor.signal(name, signal.SIGTERM)]

    harmless = Fault("api-term", "SIGTERM of the API", lambda stack: [stack.api], terminate)
    with stack(shared, stub(tmp_path, on_term="SIG_IGN"), tmp_path) as running:
        hit = family(running, [running.api])
        done = inject(harmless, running)
        assert alive(hit) == hit
    assert done.pids == [hit[0].pid]
    assert not done.confirmed
    assert done.ended_ns is None


def test_a_fault_with_nothing_to_hit_is_not_confirmed(shared: Servers, tmp_path: Path) -> None:
    """Neither where there is no such process, nor where it is dead already and not yet started again."""
    with stack(shared, stub(tmp_path), tmp_path) as running:
        nothing = inject(FAULTS["worker-kill"], running)
        assert (nothing.pids, nothing.confirmed, nothing.absent) == ([], False, [])
        shared.supervisor.signal(running.api, signal.SIGKILL)
        assert until(lambda: shared.supervisor.children[running.api].poll() is not None)
        late = inject(FAULTS["api-kill"], running)
        assert (late.pids, late.confirmed, late.absent) == ([], False, [running.api])
        assert late.healed_ns is not None


@pytest.mark.parametrize("fault", ["deploy", "worker-kill"])
def test_a_fault_that_finds_a_part_dead_is_not_confirmed(shared: Servers, tmp_path: Path, fault: str) -> None:
    """What it did to the others it did, and that is not what was asked for."""
    idle = ["{python}", "-c", "import time; time.sleep(600)"]
    contender = stub(tmp_path).model_copy(update={"workers": [idle, idle]})
    with stack(shared, contender, tmp_path) as running:
        dead, *others = FAULTS[fault].targets(running)[::-1]
        shared.supervisor.signal(dead, signal.SIGKILL)
        assert until(lambda: shared.supervisor.children[dead].poll() is not None)
        hit = [running.instances([name])[name] for name in others]
        done = inject(FAULTS[fault], running)
        assert sorted(done.pids) == sorted(hit)
        assert done.ended_ns is not None
        assert not done.confirmed
        assert done.absent == [dead]
        assert until(lambda: len(running.instances([dead, *others])) == 1 + len(others))
        assert inject(FAULTS[fault], running).confirmed, "now that it runs"


def test_what_has_ended_does_not_stand_still(shared: Servers, tmp_path: Path) -> None:
    """A process that was paused and is gone, or is another one by now, does nothing, but not for that reason."""
    with stack(shared, stub(tmp_path), tmp_path) as running:
        before = running.instances([running.api])
        running.pause(before)
        assert until(lambda: stands_still(running, before))
        running.kill(before)
        assert until(lambda: running.instances(before) != before)
        assert not stands_still(running, before)


def under_load(folder: Path, start_s: float, end_s: float) -> tuple[Path, int, int]:
    """Write the first line of a samples file: the load has begun, and its window is from now + start to now + end."""
    now_ns = time.monotonic_ns()
    start_ns, end_ns = now_ns + int(start_s * 1e9), now_ns + int(end_s * 1e9)
    samples = folder / "requests.jsonl"
    samples.write_text(json.dumps({"window_start_ns": start_ns, "window_end_ns": end_ns}) + "\n")
    return samples, start_ns, end_ns


def test_the_nemesis_spreads_its_injections_over_the_window(shared: Servers, tmp_path: Path) -> None:
    """Each at its time, none in the lead, each hitting another process, each confirmed and healed."""
    with stack(shared, stub(tmp_path), tmp_path) as running:
        samples, start_ns, end_ns = under_load(tmp_path, 0.2, 10.2)
        with Nemesis(FAULTS["api-kill"], running, samples, seed=1, injections=INJECTIONS) as nemesis:
            records: list[dict[str, Any]] = nemesis.records()
    lead_ns = faults.LEAD_S * 1e9
    part_ns = (end_ns - start_ns - lead_ns) / INJECTIONS
    planned = [start_ns + lead_ns + number * part_ns for number in range(INJECTIONS)]
    assert [record["fault"] for record in records] == ["api-kill"] * INJECTIONS
    for record, planned_ns in zip(records, planned, strict=True):
        assert record["confirmed"]
        assert planned_ns <= record["injected_ns"] < record["ended_ns"] < record["healed_ns"]
        assert record["injected_ns"] < end_ns
    assert len({pid for record in records for pid in record["pids"]}) == INJECTIONS
    assert json.loads(json.dumps(records)) == records, "as faults.json"


def test_without_a_fault_nothing_is_done(shared: Servers, tmp_path: Path) -> None:
    """The process that was there is still there after the window."""
    with stack(shared, stub(tmp_path), tmp_path) as running:
        hit = family(running, [running.api])
        samples, _, end_ns = under_load(tmp_path, 0, 0.5)
        with Nemesis(None, running, samples, seed=1, injections=INJECTIONS) as nemesis:
            assert until(lambda: time.monotonic_ns() > end_ns)
            assert nemesis.records() == []
        assert alive(hit) == hit


def test_the_nemesis_leaves_with_the_load(shared: Servers, tmp_path: Path) -> None:
    """Where the load never begins, or is cut short, no injection comes after it."""
    with stack(shared, stub(tmp_path), tmp_path) as running:
        hit = family(running, [running.api])
        for samples in (tmp_path / "never", under_load(tmp_path, 60, 120)[0]):
            with Nemesis(FAULTS["api-kill"], running, samples, seed=1, injections=INJECTIONS) as nemesis:
                pass
            assert nemesis.records() == []
        assert alive(hit) == hit


LONG_S = 600


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "patient",
    [deploy(grace_s=LONG_S), replace(FAULTS["worker-pause"], targets=lambda stack: [stack.api], on_for_s=LONG_S)],
    ids=lambda fault: str(fault.name),
)
def test_an_injection_is_cut_short_where_the_nemesis_leaves(shared: Servers, tmp_path: Path, patient: Fault) -> None:
    """No grace period is waited for then, and what stands still goes on."""
    begun = Event()

    def inject_and_say_so(stack: Stack, names: list[str], over: Event) -> list[int]:
        begun.set()
        return patient.inject(stack, names, over)

    with stack(shared, stub(tmp_path, on_term="SIG_IGN"), tmp_path) as running:
        hit = family(running, [running.api])
        samples, _, _ = under_load(tmp_path, -10, 600)
        with Nemesis(replace(patient, inject=inject_and_say_so), running, samples, seed=1, injections=1) as nemesis:
            assert begun.wait(10)
        (record,) = nemesis.records()
        assert record["healed_ns"] is None, "nobody waited for that"
        if patient.heal:
            assert hit[0].status() != psutil.STATUS_STOPPED
        else:
            assert until(lambda: not alive(hit))


# A nemesis that cannot leave, and a lab that is told to end.
STUCK = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from lab.faults import Fault, Nemesis
from lab.interrupt import Interrupt, Interrupted

def inject(stack, names, over):
    print("injected", flush=True)
    return []

interrupt = Interrupt()
stack = SimpleNamespace(instances=lambda names: {})
fault = Fault("stuck", "", lambda stack: [], inject, heal=lambda stack, names: time.sleep(600))
with Nemesis(fault, stack, Path(sys.argv[1]), seed=1, injections=1):
    try:
        while True:
            interrupt.check()
            time.sleep(0.02)
    except Interrupted:
        print("leaving", flush=True)
        raise
"""


@pytest.mark.timeout(60)
def test_the_second_ctrl_c_does_not_wait_for_an_injection(tmp_path: Path) -> None:
    """The first one does, where an injection cannot be cut short."""
    samples, _, _ = under_load(tmp_path, -10, 600)
    command = [sys.executable, "-c", STUCK, str(samples)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as lab:
        try:
            assert lab.stdout is not None
            assert lab.stdout.readline() == "injected\n"
            lab.send_signal(signal.SIGINT)
            assert lab.stdout.readline() == "leaving\n"
            assert lab.poll() is None
            lab.send_signal(signal.SIGINT)
            _, said = lab.communicate(timeout=30)
        finally:
            lab.kill()
    assert lab.returncode == COULD_NOT_MEASURE
    assert said == ""


def test_what_goes_wrong_in_the_nemesis_is_raised(shared: Servers, tmp_path: Path) -> None:
    """It happens in a thread, and must not be lost there; whatever it is, it is the block that fails, and no more."""

    def fail(_stack: Stack, _names: list[str], _over: Event) -> list[int]:
        raise OSError("no more processes")

    with stack(shared, stub(tmp_path), tmp_path) as running:
        samples, _, _ = under_load(tmp_path, 0, 0.4)
        broken = Fault("broken", "fails", lambda stack: [stack.api], fail)
        with (
            Nemesis(broken, running, samples, seed=1, injections=INJECTIONS) as nemesis,
            pytest.raises(LabError, match=r"^A fault could not be injected: OSError\('no more processes'\)\.$"),
        ):
            nemesis.records()
