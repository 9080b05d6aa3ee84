"""The streams of GPUs that kernels are put on: those that are current in the library whose arrays they are given.

TVM launches on a stream that is set for each thread and GPU, and takes scratch memory from a pool for each thread and GPU. Of
what uses a stream, everything is in order; where a thread goes from one stream to another, its pool is handed over in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

from .tvm_runtime import global_function, tvm_ffi

CUDA = 2
"""DLPack's number of the device type kDLCUDA."""


@lru_cache(maxsize=1)
def _setter() -> Callable[[int, int, int], int]:
    set_current: Callable[[int, int, int], int] = tvm_ffi().core._env_set_current_stream
    return set_current


@lru_cache(maxsize=1)
def _getter() -> Callable[[int, int], int]:
    get_current: Callable[[int, int], int] = tvm_ffi().core._env_get_current_stream
    return get_current


def enter(gpu: int, stream: int) -> int:
    """Make ``stream`` (a cudaStream_t) the one of this thread's launches on a GPU. Returns the one before, for `leave`."""
    return _setter()(CUDA, gpu, stream)


def current(gpu: int) -> int:
    """The stream that is set for this thread's launches on a GPU."""
    return int(_getter()(CUDA, gpu))


def leave(gpu: int, before: int) -> None:
    """What `enter` changed, as it was."""
    _setter()(CUDA, gpu, before)


class _Last(threading.local):
    """The stream that used the pool of this thread last, by GPU, with what keeps it alive."""

    def __init__(self) -> None:
        self.by_gpu: dict[int, tuple[int, object]] = {}


_last = _Last()


def hand_over(gpu: int, stream: int, owner: object = None) -> None:
    """Before a kernel with scratch memory goes on ``stream``: it waits, on the GPU, for the stream that had the memory before.

    ``owner`` is kept as long as the stream may be waited for.
    """
    before = _last.by_gpu.get(gpu)
    if before is None or before[0] != stream:
        if before is not None:
            device = tvm_ffi().device(CUDA, gpu)
            global_function("runtime.Device_StreamSyncFromTo")(device, before[0], stream)
        _last.by_gpu[gpu] = (stream, owner)
