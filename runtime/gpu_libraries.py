"""The libraries whose arrays lie on a GPU: how each is read, what it allocates, and which of its streams is current."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Protocol, cast

from ..ir.types import DType, Kind
from .arrays import travels_as_bytes
from .streams import CUDA, current
from .tvm_runtime import global_function, tvm_ffi

_NO_WAITING = -1
"""DLPack's way to say that the consumer runs on the producer's stream."""


class Exported(Protocol):
    """A tensor of TVM's bindings, as far as it is used here. Strides count elements."""

    dtype: object
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def data_ptr(self) -> int: ...


class Library:
    """A library that only speaks DLPack: its arrays are ready on the default stream, where kernels run; results are TVM's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exported(self, value: object) -> Exported:
        """A view of an array. Raises whatever the library raises."""
        return cast(Exported, tvm_ffi().from_dlpack(value))

    def stream(self, value: object, gpu: int) -> tuple[int, object]:
        """(the stream on which a kernel runs that reads ``value``, what keeps the stream alive)."""
        return 0, None

    def empty(self, shape: tuple[int, ...], dtype: DType, gpu: int) -> object:
        """A new array that a kernel can write."""
        return allocated(shape, spelled(dtype)[0], gpu)

    def made(self, value: object) -> Exported:
        """A view of an array that :meth:`empty` made."""
        return cast(Exported, tvm_ffi().from_dlpack(value))

    def given(self, value: object) -> object:
        """What the caller gets for it."""
        return value

    def is_dense(self, value: object) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        array = self.exported(value)
        expected = 1
        for extent, stride in zip(reversed(array.shape), reversed(array.strides), strict=True):
            if extent != 1 and stride != expected:
                return False
            expected *= extent
        return True


class Tvm(Library):
    """Tensors of TVM itself: on the stream that is set in its bindings."""

    def exported(self, value: object) -> Exported:
        return cast(Exported, value)

    def stream(self, value: object, gpu: int) -> tuple[int, object]:
        return current(gpu), None

    def is_dense(self, value: object) -> bool:
        return bool(value.is_contiguous())  # type: ignore[attr-defined]


class Cupy(Library):
    """CuPy: kernels run on its current stream of the GPU, and results are from its pool."""

    def __init__(self, cupy: ModuleType) -> None:
        super().__init__("cupy")
        self._cupy = cupy

    def exported(self, value: object) -> Exported:
        return cast(Exported, tvm_ffi().from_dlpack(value.__dlpack__(stream=_NO_WAITING)))  # type: ignore[attr-defined]

    def stream(self, value: object, gpu: int) -> tuple[int, object]:
        current = self._cupy.cuda.get_current_stream(gpu)
        return int(current.ptr), current

    def empty(self, shape: tuple[int, ...], dtype: DType, gpu: int) -> object:
        if dtype.storage.isbuiltin != 1:
            return super().empty(shape, dtype, gpu)
        with self._cupy.cuda.Device(gpu):
            return self._cupy.empty(shape, dtype.storage)

    def made(self, value: object) -> Exported:
        return self.exported(value) if isinstance(value, self._cupy.ndarray) else super().made(value)

    def given(self, value: object) -> object:
        return value if isinstance(value, self._cupy.ndarray) else self._cupy.from_dlpack(value)

    def is_dense(self, value: object) -> bool:
        return bool(value.flags.c_contiguous)  # type: ignore[attr-defined]


class Jax(Library):
    """JAX, which has no current stream: kernels run on the one that it has for work of others, and on which it waits for it."""

    def __init__(self, jax: ModuleType) -> None:
        super().__init__("jax")
        self._jax = jax

    def exported(self, value: object) -> Exported:
        stream, _ = self.stream(value, 0)
        return cast(Exported, tvm_ffi().from_dlpack(value.__dlpack__(stream=stream)))  # type: ignore[attr-defined]

    def stream(self, value: object, gpu: int) -> tuple[int, object]:
        (device,) = value.devices()  # type: ignore[attr-defined]
        return int(device.get_stream_for_external_ready_events()), None

    def given(self, value: object) -> object:
        return self._jax.dlpack.from_dlpack(value)


@lru_cache(maxsize=16)
def library(package: str) -> Library:
    """The library whose arrays' classes are defined in ``package``, which has been imported by whoever made them."""
    match package:
        case "cupy":
            return Cupy(sys.modules["cupy"])
        case "jax" | "jaxlib":
            import jax.dlpack

            return Jax(jax)
        case "tvm" | "tvm_ffi":
            return Tvm("tvm_ffi")
        case _:
            return Library(package)


def allocated(shape: Sequence[int], dtype: str, gpu: int) -> object:
    """A new tensor of TVM's on a GPU."""
    allocate = global_function("runtime.TVMTensorAllocWithScope")
    return allocate(tvm_ffi().Shape(tuple(shape)), dtype, tvm_ffi().device(CUDA, gpu), None)


def spelled(dtype: DType) -> tuple[str, ...]:
    """How DLPack names the type, the form in which it travels first."""
    if dtype.is_bool:
        return ("bool",)
    if dtype.name == "bf16":
        return ("bfloat16",)
    if travels_as_bytes(dtype):
        return ("uint8", {"f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2"}.get(dtype.name, "uint8"))
    if dtype.is_float:
        return (f"float{dtype.bits}",)
    return (f"{'uint' if dtype.kind is Kind.UNSIGNED else 'int'}{max(8, dtype.bits)}",)
