"""Permission to use AMX: Linux gives a process the state of the tile registers only when it asks."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache

_ARCH_PRCTL = 158  # number of the system call on x86-64
_ARCH_REQ_XCOMP_PERM = 0x1023  # Documentation/arch/x86/xstate.rst of the Linux kernel
_XFEATURE_XTILEDATA = 18


@lru_cache(maxsize=1)
def request_tiles() -> bool:
    """Ask once for the tile registers, for all threads of the process. False where there are none to be had.

    An AMX instruction in a process without the permission ends it with SIGILL.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)) == 0
