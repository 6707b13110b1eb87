"""The run directory: what is said where its disk fails."""

import errno
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.rundir import RunDir


def test_a_full_disk_is_named_by_the_run_directory(tmp_path: Path) -> None:
    """The kernel's error for a write names no file; what failed otherwise is not the disk's."""
    directory = RunDir.create(tmp_path, "compare")
    with pytest.raises(LabError) as raised, directory.claim(), open("/dev/full", "w") as full:
        full.write("the samples of a block")
    assert str(raised.value) == f"{directory.path} could not be written to: No space left on device."
    with pytest.raises(ConnectionRefusedError), directory.claim():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
