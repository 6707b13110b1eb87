"""The load generator alone, for real: its search on a fast server, and whether it was before all others."""

import subprocess
import sys
from pathlib import Path

import pytest

from lab.environment import PROJECT, available_cpus, place
from lab.generator import Attempt, Bounds, GeneratorTrial
from lab.stacks.supervisor import Supervisor

BE_PROMPT = "from loadtests.promptness import be_prompt; print(be_prompt())"
SECONDS = 0.3


def test_each_attempt_sends_all_that_was_drawn_to_a_server_that_answers_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Low rates ask for a real-time policy, and high ones do not; so does each of two processes.

    None asks for more than may be in flight: however late the generator and the server are, nothing is unsent.
    """
    monkeypatch.setattr("lab.generator.WARMUP_S", 0.05)
    tried: list[Attempt] = []
    with Supervisor(tmp_path / "generator") as supervisor:
        trial = GeneratorTrial(supervisor, place(available_cpus()), lambda: None)
        for processes, rate in ((1, 1950.0), (1, 2100.0), (2, 150.0)):
            trial.run(processes, 3, Bounds(rate, rate, 0, SECONDS), tried.append)
    asked = subprocess.run([sys.executable, "-c", BE_PROMPT], cwd=PROJECT, capture_output=True, text=True, check=True)
    granted = asked.stdout == "True\n"
    assert {(one.rate, one.real_time) for one in tried} == {(150, granted), (1950, granted), (2100, False)}
    for one in tried:
        assert 1 / 2 < one.requests / (one.rate * SECONDS) < 2
        assert one.failed == 0
        assert one.lateness_p99_ms > 0
    assert not list((tmp_path / "generator").glob("*.jsonl.*"))
