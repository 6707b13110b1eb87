"""What the system offers for keeping hold of processes; each does nothing where the system does not have it."""

import ctypes
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IPC_RMID = 0
IPC_STAT = 2

LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def become_subreaper() -> None:
    """Make this process the new parent of every descendant whose own parent dies, see ``prctl(2)``."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; to be called after a change of user, which resets it."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)


def started_ns(pid: int) -> int | None:
    """Return when a process started, as monotonic ns to a hundredth of a second; None where it cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    ticks_since_boot = int(stat.rpartition(b")")[2].split()[19])
    # The kernel counts from the boot, sleep included; the monotonic clock stands still while the machine sleeps.
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return ticks_since_boot * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - asleep_ns


def remove_directory(directory: str | Path) -> None:
    """Remove a directory, and the shared memory of a PostgreSQL that was killed in it; what cannot be removed stays."""
    for lock_file in Path(directory).glob("*/postmaster.pid"):
        with suppress(OSError, ValueError, IndexError):
            key, segment = map(int, lock_file.read_text().splitlines()[6].split())
            _remove_segment(key, segment)
    shutil.rmtree(directory, ignore_errors=True)


def _remove_segment(key: int, segment: int) -> None:
    """Remove a shared memory segment, if its number is still the one of that key."""
    if _libc is None:
        return
    state = (ctypes.c_int32 * 64)()  # struct shmid_ds, which begins with the key
    if _libc.shmctl(segment, IPC_STAT, state) == 0 and state[0] == key:
        _libc.shmctl(segment, IPC_RMID, None)
