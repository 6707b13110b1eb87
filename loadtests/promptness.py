"""Promptness: the generator wakes for a moment at each arrival, and must not wait for those who compute for longer."""

import ctypes
import os
import platform
import struct

SLICE_NS = 100_000  # the shortest that Linux grants
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # a system call for which neither Python nor all of libc has a name
_FIELDS = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def be_prompt() -> bool:
    """Have the calling thread run soon after it wakes, at no greater share of the CPU; say whether that was granted.

    Linux since 6.12 lets a thread ask for short time slices, without privileges; who does comes first when it wakes.
    Otherwise it would wait for what shares its CPU, a PostgreSQL backend or the mail sink, to end its slice of some
    milliseconds. Older kernels take the wish and ignore it. Policy and nice value stay as they are.
    """
    call = _SCHED_SETATTR.get(platform.machine())
    if call is None or platform.system() != "Linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = _FIELDS.pack(_FIELDS.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    return bool(ctypes.CDLL(None).syscall(call, 0, wish, 0) == 0)
