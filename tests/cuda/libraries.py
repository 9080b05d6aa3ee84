"""Stand-ins for libraries of arrays on a GPU, which need one: what einfall asks of CuPy and JAX, around arrays
of TVM's, with streams that are numbers."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np

from einfall.runtime import device_arrays, gpu_libraries
from tests.cuda import kernels


class Array:
    """An array of a library; notes on which streams others asked to read it."""

    asked: list[object]

    def __init__(self, held: object) -> None:
        self.held = held
        self.shape = tuple(held.shape)
        self.device = DEVICE
        self.flags = SimpleNamespace(c_contiguous=held.is_contiguous())

    def devices(self) -> set[object]:
        return {DEVICE}

    def __dlpack__(self, *, stream: object = None, **_: object) -> object:
        type(self).asked.append(stream)
        return self.held.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.held.__dlpack_device__()


class Device:
    """The device of every array."""

    def get_stream_for_external_ready_events(self) -> int:
        """That of JAX."""
        return 77


DEVICE = Device()


def cupy() -> ModuleType:
    """A CuPy whose current stream is the number in ``cupy.current``."""
    module = ModuleType("cupy")
    module.current = 5
    module.ndarray = type("ndarray", (Array,), {"asked": [], "__module__": "cupy"})
    module.asarray = lambda array: module.ndarray(kernels.on_gpu(array))
    module.empty = lambda shape, dtype: module.asarray(np.zeros(shape, dtype))
    module.from_dlpack = module.ndarray
    stream = lambda gpu: SimpleNamespace(ptr=module.current)  # noqa: E731
    module.cuda = SimpleNamespace(get_current_stream=stream, Device=lambda gpu: nullcontext())
    _install(cupy=module)
    return module


def jax() -> ModuleType:
    """A JAX that gives others the stream 77."""
    module, dlpack = ModuleType("jax"), ModuleType("jax.dlpack")
    module.Array = type("Array", (Array,), {"asked": [], "__module__": "jax"})
    module.asarray = lambda array: module.Array(kernels.on_gpu(array))
    dlpack.from_dlpack = module.Array
    module.dlpack = dlpack
    _install(jax=module)
    sys.modules["jax.dlpack"] = dlpack
    return module


def _install(**modules: ModuleType) -> None:
    sys.modules.update(modules)
    for remembered in (gpu_libraries.library, device_arrays._family):
        remembered.cache_clear()
