"""How many threads a call uses: TVM's thread pool, configured per calling thread.

TVM's own default is unsuitable for a library: it binds the *calling* thread to one core for good and counts half of the
cores. Each Python thread that calls kernels has a pool of its own, so that concurrent calls are independent.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from functools import lru_cache

from ..ir.diagnostics import error


class _State(threading.local):
    """What the pool of this thread is set to; 0 before the first call."""

    count = 0
    orphaned = False  # the workers stayed in the parent of a fork


state = _State()


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


def use_threads(count: int) -> None:
    """Make the calls of this Python thread run on ``count`` threads, itself included."""
    if state.count == count:
        return
    # A child of a fork inherits the pool without its workers: waiting for them would never end.
    _configure()(1, 1 if state.orphaned else count)
    state.count = count


@lru_cache(maxsize=1)
def _configure() -> Callable[[int, int], None]:
    # Read by TVM when a thread makes its pool.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
    import tvm

    configure: Callable[[int, int], None] = tvm.get_global_func("runtime.config_threadpool")
    return configure


def _after_fork() -> None:
    if state.count:
        state.count, state.orphaned = 0, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
