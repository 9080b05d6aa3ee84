"""Kernels on the emulator, called with NumPy arrays: built, launched in several orders of their threads, compared."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from . import toolchain
from .translation import Parameter, Signature, translated

Array: TypeAlias = npt.NDArray[np.generic]
Extent: TypeAlias = int | Sequence[int]
Argument: TypeAlias = "Array | TensorMap | int | float"

FORWARD, REVERSE, RANDOM = 0, 1, 2
ORDERS: tuple[tuple[int, int], ...] = ((FORWARD, 0), (REVERSE, 0), (RANDOM, 1), (RANDOM, 2))
"""(order, seed): how runnable threads, and the blocks of a grid, follow each other."""

SCALARS: dict[str, type[ctypes._SimpleCDataT]] = {  # type: ignore[type-arg]
    "int": ctypes.c_int32,
    "int32_t": ctypes.c_int32,
    "uint": ctypes.c_uint32,
    "unsigned": ctypes.c_uint32,
    "unsigned int": ctypes.c_uint32,
    "uint32_t": ctypes.c_uint32,
    "long": ctypes.c_int64,
    "long long": ctypes.c_int64,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "unsigned long long": ctypes.c_uint64,
    "short": ctypes.c_int16,
    "char": ctypes.c_int8,
    "signed char": ctypes.c_int8,
    "bool": ctypes.c_bool,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


@dataclass(frozen=True, kw_only=True)
class TensorMap:
    """An array behind a `CUtensorMap` parameter: the box that one copy moves (row-major, like the array's shape) and the
    span of the swizzle in bytes: 0, 32, 64 or 128."""

    array: Array
    box: tuple[int, ...]
    swizzle: int = 0

    def encoded(self, address: int) -> ctypes.Array[ctypes.c_char]:
        """The 128 bytes that the kernel gets. Raises ValueError for what the driver refuses."""
        rank, strides = self.array.ndim, self.array.strides
        extents = (ctypes.c_uint64 * rank)(*reversed(self.array.shape))
        outer = (ctypes.c_uint64 * rank)(*reversed(strides[:-1]))
        box, ones = (ctypes.c_uint32 * rank)(*reversed(self.box)), (ctypes.c_uint32 * rank)(*[1] * rank)
        kind = {1: 0, 2: 1, 4: 2, 8: 4}[self.array.itemsize]
        swizzle = {0: 0, 32: 1, 64: 2, 128: 3}[self.swizzle]
        target = ctypes.create_string_buffer(128)
        if library().emulation_encode_tensor_map(target, kind, rank, address, extents, outer, box, ones, 0, swizzle):
            raise ValueError(f"no tensor map of {self.array.shape} with boxes of {self.box} and a swizzle of {self.swizzle}")
        return target


class EmulationError(Exception):
    """A defect of the kernel that the emulator found: a race, an access out of bounds, a deadlock, ..."""


@functools.cache
def library() -> ctypes.CDLL:
    """The runtime, with its functions typed. Its symbols are global: kernels find them when they are loaded."""
    loaded = ctypes.CDLL(str(toolchain.runtime()), mode=ctypes.RTLD_GLOBAL)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("emulation_load", pointer, [ctypes.c_char_p, ctypes.c_char_p]),
        ("emulation_kernel", pointer, [pointer, ctypes.c_char_p]),
        ("emulation_set_order", None, [ctypes.c_int, ctypes.c_uint32]),
        ("emulation_launch", ctypes.c_int, [pointer, pointer, pointer, size, pointer]),
        ("emulation_last_error", ctypes.c_char_p, []),
        ("emulation_forget_error", None, []),
        ("emulation_count_traffic", None, [ctypes.c_int]),
        ("emulation_traffic", ctypes.c_char_p, []),
        ("emulation_allocate", pointer, [size]),
        ("emulation_release", ctypes.c_int, [pointer]),
        (
            "emulation_encode_tensor_map",
            ctypes.c_int,
            [pointer, ctypes.c_int, ctypes.c_uint32, *[pointer] * 5, *[ctypes.c_int] * 2],
        ),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """A built source: `kernels` by name."""

    kernels: dict[str, Signature]
    path: Path
    module: int

    def launch(
        self,
        kernel: str,
        grid: Extent,
        block: Extent,
        arguments: Sequence[Argument],
        *,
        shared_bytes: int = 0,
        orders: Sequence[tuple[int, int]] = ORDERS,
        tolerance: float = 0.0,
    ) -> None:
        """Runs a kernel on copies of its arguments once for each order, and writes the results of the first back.

        Arrays are C-contiguous and stand for pointer parameters, tensor maps for theirs, numbers for the others.
        `tolerance` is the relative difference between orders that is no defect (atomic sums of floats depend on the order).

        Raises EmulationError for a defect, TypeError for arguments that do not fit the kernel.
        """
        signature = self.kernels[kernel]
        if len(arguments) != len(signature.parameters):
            raise TypeError(f"{kernel} has {len(signature.parameters)} parameters, not {len(arguments)}")
        handle = library().emulation_kernel(self.module, kernel.encode())
        first: list[Array] | None = None
        for order in orders:
            arrays = run_once(handle, signature, extents(grid), extents(block), shared_bytes, arguments, order)
            if first is None:
                first = arrays
            for parameter, expected, got in zip(buffers_of(signature), first, arrays, strict=True):
                compare(kernel, parameter, expected, got, order, tolerance)
        given = [array for argument in arguments if (array := array_of(argument)) is not None]
        for array, result in zip(given, first or (), strict=True):
            array[...] = result


def build(source: str) -> Emulator:
    """Translates and compiles a CUDA source.

    Raises UnsupportedError, which names the instruction or the declaration, and BuildError with g++'s messages.
    """
    text, kernels = translated(source)
    runtime = library()
    path, cuda = toolchain.kernel_library(source, text)
    module = runtime.emulation_load(str(path).encode(), str(cuda).encode())
    if not module:
        raise toolchain.BuildError(f"{path} cannot be loaded")
    return Emulator(kernels={kernel.name: kernel for kernel in kernels}, path=path, module=module)


def extents(extent: Extent) -> tuple[int, int, int]:
    given = (extent,) if isinstance(extent, int) else tuple(extent)
    x, y, z = (*given, 1, 1, 1)[:3]
    return x, y, z


def array_of(argument: Argument) -> Array | None:
    match argument:
        case TensorMap(array=array):
            return array
        case np.ndarray():
            return argument
        case _:
            return None


def buffers_of(signature: Signature) -> list[Parameter]:
    """The parameters for which arrays are given."""
    return [each for each in signature.parameters if each.is_pointer or each.type == "CUtensorMap"]


def run_once(
    handle: int,
    signature: Signature,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    arguments: Sequence[Argument],
    order: tuple[int, int],
) -> list[Array]:
    """The arrays after one launch."""
    runtime = library()
    buffers: list[tuple[int, Array]] = []
    values: list[ctypes._SimpleCData[int] | ctypes.Array[ctypes.c_char]] = []  # type: ignore[type-arg]
    try:
        for parameter, argument in zip(signature.parameters, arguments, strict=True):
            array = array_of(argument)
            if (array is not None) != (parameter in buffers_of(signature)):
                raise TypeError(f"{signature.name}: {type(argument).__name__} for {parameter.name}")
            if array is None:
                values.append(SCALARS[parameter.type](argument))
                continue
            if not array.flags.c_contiguous:
                raise TypeError(f"{signature.name}: the array for {parameter.name} is not C-contiguous")
            address = runtime.emulation_allocate(array.nbytes)
            if not address:
                raise MemoryError(f"{array.nbytes} bytes for {parameter.name}")
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
            buffers.append((address, array))
            values.append(argument.encoded(address) if isinstance(argument, TensorMap) else ctypes.c_void_p(address))
        packed = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(value) for value in values))
        runtime.emulation_set_order(*order)
        failed = runtime.emulation_launch(handle, (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_bytes, packed)
        if failed:
            raise EmulationError(runtime.emulation_last_error().decode(errors="replace"))
        results = []
        for address, array in buffers:
            result = np.empty_like(array)
            ctypes.memmove(result.ctypes.data, address, array.nbytes)
            results.append(result)
        return results
    finally:
        for address, _ in buffers:
            runtime.emulation_release(address)


def compare(kernel: str, parameter: Parameter, expected: Array, got: Array, order: tuple[int, int], tolerance: float) -> None:
    """Raises EmulationError where the result depends on the order of the threads."""
    if expected.tobytes() == got.tobytes():
        return
    with np.errstate(invalid="ignore"):
        a, b = expected.astype(np.float64), got.astype(np.float64)
        differ = ~(np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    if not differ.any():
        return
    where = tuple(int(axis) for axis in np.argwhere(differ)[0])
    raise EmulationError(
        f"{kernel}: {parameter.name}{list(where)} depends on the order of the threads: {expected[where]} and {got[where]} "
        f"(order {order}); {int(differ.sum())} of {differ.size} elements differ"
    )
