"""What asks the lab to end."""

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.environment import PROJECT
from lab.errors import COULD_NOT_MEASURE
from lab.interrupt import Interrupt, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give pytest its handlers back."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_heeded_when_the_work_can_be_left(number: signal.Signals) -> None:
    """Not at the moment at which it comes."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = Interrupt()
    interrupt.check()
    signal.raise_signal(number)
    with pytest.raises(Interrupted):
        interrupt.check()


def test_a_lab_under_nohup_outlives_its_terminal() -> None:
    """There SIGHUP is ignored from the beginning, and stays so."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = Interrupt()
    signal.raise_signal(signal.SIGHUP)
    interrupt.check()


# What takes its time to be imported, by the lab itself and by a command.
SLOW = """
import time
print("importing", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("slow", ["typer", "jinja2"])
def test_ctrl_c_while_the_lab_is_still_imported_ends_with_a_sentence(tmp_path: Path, slow: str) -> None:
    (tmp_path / f"{slow}.py").write_text(SLOW)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "lab", "compare", "--quick", "--out", str(tmp_path / "runs")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where tests run in the background it is ignored
    with subprocess.Popen(command, cwd=PROJECT, env=environment, preexec_fn=heeded, **pipes) as lab:
        try:
            assert lab.stdout is not None
            assert lab.stdout.readline() == "importing\n"
            lab.send_signal(signal.SIGINT)
            _, said = lab.communicate(timeout=30)
        finally:
            lab.kill()
    assert (lab.returncode, said) == (COULD_NOT_MEASURE, "lab: Interrupted.\n")


def test_the_command_begins_where_ctrl_c_is_taken_care_of() -> None:
    """`lab` as it is installed, like `python -m lab`."""
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"lab": "lab.__main__:main"}
