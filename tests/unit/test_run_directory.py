"""The run directory: what is said where its disk fails, and where other software would go on with it."""

import errno
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.cli import check_same_software
from lab.compare import check_same_servers
from lab.environment import available_cpus, describe, git_commit, machine_changes, packages, place, python
from lab.errors import LabError, UsageError
from lab.rundir import RunDir
from tests.runmaker import empty_run, plan


def test_each_run_has_a_directory_of_its_own_also_within_a_second(tmp_path: Path) -> None:
    """Two loads of `lab up` may be saved so, and two labs may begin so."""
    run = empty_run(plan(["inline"], rounds=1))
    with ThreadPoolExecutor(3) as labs:
        paths = [made.path for made in labs.map(lambda _: RunDir.create(tmp_path, "exploratory", run), range(3))]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert len(set(paths)) == 3


def test_a_full_disk_is_named_by_the_run_directory(tmp_path: Path) -> None:
    """The kernel's error for a write names no file; what failed otherwise is not the disk's."""
    directory = RunDir.create(tmp_path, "compare")
    with pytest.raises(LabError) as raised, directory.claim(), open("/dev/full", "w") as full:
        full.write("the samples of a block")
    assert str(raised.value) == f"{directory.path} could not be written to: No space left on device."
    with pytest.raises(ConnectionRefusedError), directory.claim():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_a_run_is_not_resumed_with_other_software(tmp_path: Path) -> None:
    """A commit says nothing of what is installed."""
    run = empty_run(plan(["inline"], rounds=1))
    directory = RunDir.create(tmp_path, "compare", run)
    run.environment.python, run.environment.packages = python(), packages()
    directory.write(run)
    check_same_software(directory)
    now = packages()["celery"]
    run.environment.packages["celery"] = "1.0"
    directory.write(run)
    with pytest.raises(UsageError, match=f"celery 1.0, now {now}\\)"):
        check_same_software(directory)
    run.environment.python, run.environment.packages = "CPython 2.7", packages()
    directory.write(run)
    with pytest.raises(UsageError, match=rf"\(CPython 2.7, now {python()}\)"):
        check_same_software(directory)


def test_a_run_is_not_resumed_with_other_servers() -> None:
    run = empty_run(plan(["inline"], rounds=1))
    check_same_servers(run, {"redis": "9.1"})
    with pytest.raises(UsageError, match=r"\(redis 9\.1, now 9\.2\)"):
        check_same_servers(run, {"redis": "9.2"})
    run.environment.servers = {}
    check_same_servers(run, {"redis": "9.2"})


def test_another_machine_is_named_by_what_differs() -> None:
    here = describe(place(available_cpus()), servers={})
    assert not machine_changes(here)
    there = here.model_copy(update={"cpu": "Some CPU", "memory_bytes": 2**30})
    gib = round(here.memory_bytes / 2**30)
    assert machine_changes(there) == f"CPU Some CPU, now {here.cpu}; GiB of memory 1, now {gib}"
    assert not machine_changes(here.model_copy(update={"memory_bytes": here.memory_bytes - 4096}))


def test_changes_that_are_not_committed_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "code.py"

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    def changed_to(text: str) -> str:
        file.write_text(text)
        return git_commit(tmp_path)

    assert git_commit(tmp_path) == "unknown"
    git("init")
    file.write_text("1")
    git("add", "code.py")
    git("commit", "-m", "First")
    commit = git_commit(tmp_path)
    two, three = changed_to("2"), changed_to("3")
    assert two.startswith(f"{commit}-dirty-")
    assert three.startswith(f"{commit}-dirty-")
    assert two != three
    assert changed_to("2") == two
    assert changed_to("1") == commit
