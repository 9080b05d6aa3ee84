"""The native launcher that kernels bring along: their parallel loops run on threads that this process shares.

The library of a kernel holds the code of `codegen/launcher.c`, whose header says what it does. That of the kernel that is
loaded first stays for good, and the loops of every kernel are directed to it.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from pathlib import Path

from .threads import NO_POOL, TVM_POOL, Pool

_HOOK = "__TVMBackendParallelLaunch"
"""The variable in a kernel's library with the address of what starts its threads; TVM sets it to that of its own pool."""

_WAYS = ("alone", "own", "openmp")


class NativePool(Pool):
    """The threads of the launcher in a library, which is never unloaded: threads may be in it at any time.

    Loops go to the OpenMP threads of the process where it has some, unless the environment says EINFALL_OPENMP=0.
    """

    def __init__(self, library: ctypes.PyDLL) -> None:
        super().__init__()
        self.address = ctypes.cast(library.einfall_launch, ctypes.c_void_p).value
        self._use = library.einfall_use
        self._last = library.einfall_last
        self.use_openmp = library.einfall_use_openmp
        self.use_openmp(os.environ.get("EINFALL_OPENMP", "").strip() != "0")

    def _set(self, setting: int) -> None:
        self._use(setting)

    def last_way(self) -> str:
        """How this thread's last loop ran: "alone", with workers of our "own", with those of "openmp"."""
        return _WAYS[self._last()]


def adopt(path: Path) -> Pool:
    """Where the loops of the kernel in this library run: its process's launcher, or TVM's pool if it brings none.

    The library has been loaded, and stays so while this runs.
    """
    # PyDLL keeps the interpreter lock: these calls are shorter than giving it away.
    library = ctypes.PyDLL(str(path))
    try:
        hook = ctypes.c_void_p.in_dll(library, _HOOK)
    except ValueError:
        return NO_POOL  # it has no parallel loop
    if not hasattr(library, "einfall_launch"):
        return TVM_POOL
    with _lock:
        first = not _found
        if first:
            _found.append(NativePool(library))
    hook.value = _found[0].address
    if not first:
        _ctypes.dlclose(library._handle)
    return _found[0]


_found: list[NativePool] = []
_lock = threading.Lock()
