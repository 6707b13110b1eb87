"""`memory-limit` where the kernel kills at once what is above a new limit (cgroup v2), and the engine trips over that.

The engine here is a `docker` that does as such a one does: the container is gone before it could be changed.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.contenders import load_contenders
from lab.environment import PROJECT
from lab.rundir import Placement
from lab.stacks.compose import ComposeStack
from lab.stacks.containers import Containers
from lab.stacks.supervisor import StackError

API = "inline-api"
INSPECTED = '[{"Config": {"Hostname": "h"}, "HostConfig": {"Memory": 1024}, "State": {"Pid": %d, "Running": true}}]'
GONE = "echo 'Error response from daemon: Cannot update container: container not running' >&2; exit 1"


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """The main process of the container."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def stack(tmp_path: Path, program: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> ComposeStack:
    """A stack of one container; `docker update` does what the file ``update`` says, a line each time it is asked."""
    client = tmp_path / "docker"
    client.write_text(f"""#!/bin/sh
case "$1" in
container) echo '{INSPECTED % program.pid}';;
update) next=$(head -n 1 {tmp_path}/update); sed -i 1d {tmp_path}/update; eval "$next";;
esac
""")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    testbed = SimpleNamespace(supervisor=None, placement=Placement(contender=[1], generator=[0], pinned=True))
    stack = ComposeStack(testbed, load_contenders(PROJECT / "contenders.toml")["inline"], tmp_path)  # type: ignore[arg-type]
    stack.watch = Containers({API: "0123"})
    return stack


def test_a_limit_that_cannot_be_set_because_it_has_killed_already_is_no_error(
    tmp_path: Path, stack: ComposeStack, program: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "update").write_text(f"kill -9 {program.pid}; {GONE}\n")
    assert stack.starve([API]) == [program.pid]
    assert stack.instances([API]) == {}


def test_a_limit_that_cannot_be_set_while_all_goes_on_is_an_error(tmp_path: Path, stack: ComposeStack) -> None:
    (tmp_path / "update").write_text(f"{GONE}\n")
    with pytest.raises(StackError, match="container not running"):
        stack.starve([API])


def test_a_limit_is_given_back_as_soon_as_the_engine_can(tmp_path: Path, stack: ComposeStack) -> None:
    (tmp_path / "update").write_text(f"true\n{GONE}\n{GONE}\ntrue\ntrue\n")
    stack.starve([API])
    stack.feed([API])
    assert (tmp_path / "update").read_text() == "true\n"
