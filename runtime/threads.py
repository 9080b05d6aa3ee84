"""How many threads a call uses, and whose they are."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from functools import lru_cache

from ..ir.diagnostics import error
from .tvm_runtime import global_function

SCALE_BIT = 16
"""From this bit on a setting holds the scale of a call, below it the number of threads."""


class Current(threading.local):
    """What a pool is set to in this Python thread; 0 before the first call."""

    setting = 0


class Pool:
    """Where a kernel's parallel loops run. This one is for kernels that have none."""

    def __init__(self) -> None:
        self.current = Current()

    def use(self, setting: int) -> None:
        """Make the calls of this Python thread run on ``setting`` threads, itself included, of the scale that it holds."""
        if self.current.setting != setting:
            self._set(setting)
            self.current.setting = setting

    def _set(self, setting: int) -> None:
        """What `use` does when the setting changes."""


NO_POOL = Pool()


def scale_of(bytes_: int) -> int:
    """The scale of a call on so many bytes, to be added to its number of threads: how long loops took is remembered
    for each scale."""
    return min(bytes_.bit_length(), 63) << SCALE_BIT


class TvmPool(Pool):
    """TVM's thread pool, one for each Python thread: for kernels that come without a launcher (see launcher.py).

    TVM's own default is unsuitable for a library: it binds the *calling* thread to one core for good and counts half of
    the cores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.orphaned = False  # the workers stayed in the parent of a fork
        self._counts = Current()

    def _set(self, setting: int) -> None:
        # A child of a fork inherits the pool without its workers: waiting for them would never end.
        count = 1 if self.orphaned else setting & (1 << SCALE_BIT) - 1
        if self._counts.setting != count:
            _configure()(1, count)
            self._counts.setting = count

    def after_fork(self) -> None:
        if self.current.setting:
            self.orphaned = True
            self.current.setting = self._counts.setting = 0


TVM_POOL = TvmPool()


def available_threads() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """The threads of a call that does not say: the available cores, or fewer by EINFALL_NUM_THREADS.

    Raises EinfallError E1203 when EINFALL_NUM_THREADS is not a positive integer.
    """
    wanted = os.environ.get("EINFALL_NUM_THREADS", "").strip()
    if not wanted:
        return available_threads()
    if not re.fullmatch(r"[1-9][0-9]{0,5}", wanted):
        raise error("E1203", f"EINFALL_NUM_THREADS is {wanted!r}, which is not a positive number of threads")
    return min(int(wanted), available_threads())


def checked_threads(wanted: object) -> int:
    """The threads that the user asks for: None stands for the default, more than there are cores for all of them.

    Raises EinfallError E1022 for anything but a positive integer or None.
    """
    if wanted is None:
        return default_threads()
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise error("E1022", f"`threads` is a positive whole number, not {wanted!r}", help="for example threads=4")
    return min(wanted, available_threads())


@lru_cache(maxsize=1)
def _configure() -> Callable[..., object]:
    # Read by TVM when a thread makes its pool.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
    return global_function("runtime.config_threadpool")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TVM_POOL.after_fork)
