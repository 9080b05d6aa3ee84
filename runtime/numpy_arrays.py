"""NumPy arrays, with ml_dtypes' element types, as arguments and results."""

from __future__ import annotations

from typing import cast

import numpy as np

from ..ir.diagnostics import error
from ..ir.types import DType
from .arrays import Family, Memory, is_repeated, repeated, scattered, travels_as_bytes, wrong_type
from .dltensor import bfloat16_handle, empty_handle
from .tvm_runtime import tvm_ffi

_ALIGNED_FROM = 1 << 16
"""Results of this many bytes start on a cache line; for small ones the time to arrange that is not won back."""


class NumpyFamily(Family):
    """NumPy arrays, ml_dtypes' element types included."""

    name = "numpy"

    def input(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        array = cast(np.ndarray, value)
        _check_numpy_type(name, dtype, array)
        if not array.flags.aligned or not _dense_rows(array):
            array = array.copy(order="C")
        return self.carrier(dtype, array), array.shape

    def output(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        array = cast(np.ndarray, value)
        _check_numpy_type(name, dtype, array)
        if not array.flags.writeable:
            raise error("E1016", f"`{name}` is to be written, but the array is read-only", help="pass a copy: out=x.copy()")
        if not array.flags.aligned or not _dense_rows(array):
            raise scattered(name)
        if is_repeated(array.shape, array.strides):
            raise repeated(name)
        return self.carrier(dtype, array), array.shape

    def memory(self, value: object) -> Memory:
        array = cast(np.ndarray, value)
        return Memory(
            address=array.__array_interface__["data"][0],
            shape=array.shape,
            strides=array.strides,
            itemsize=array.itemsize,
        )

    def empty(self, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        return empty_array(shape, dtype.storage)

    def carrier(self, dtype: DType, value: object) -> object:
        array = cast(np.ndarray, value)
        if array.size == 0:
            return empty_handle(array.shape, dtype)
        if dtype.name == "bf16":
            return bfloat16_handle(array)
        if travels_as_bytes(dtype):
            array = array.view(np.uint8)
        return array if array.flags.writeable else _read_only_tensor(array)

    def converted(self, value: object) -> object:
        return value


def empty_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-ordered array; a large one begins on a cache line, so that no vector store crosses two."""
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if size < _ALIGNED_FROM:
        return np.empty(shape, dtype)
    raw = np.empty(size + 64, np.uint8)
    offset = -raw.__array_interface__["data"][0] % 64
    return raw[offset : offset + size].view(dtype).reshape(shape)


def _dense_rows(array: np.ndarray) -> bool:
    """Whether DLPack can express the strides and neighbours of the last dimension are adjacent."""
    if array.flags.c_contiguous:
        return True
    size = array.itemsize
    strides = array.strides
    return strides[-1] == size and all(stride % size == 0 for stride in strides)


def _check_numpy_type(name: str, dtype: DType, array: np.ndarray) -> None:
    wanted = dtype.storage
    if array.dtype == wanted:
        return
    if array.dtype.newbyteorder("=") == wanted:
        raise wrong_type(name, dtype, f"{array.dtype} in the other byte order", f"{name}.astype(np.{wanted.name})")
    home = "np" if wanted.isbuiltin == 1 else "ml_dtypes"
    raise wrong_type(name, dtype, str(array.dtype), f"{name}.astype({home}.{wanted.name})")


def _read_only_tensor(array: np.ndarray) -> object:
    """DLPack before version 1 cannot say "read-only", so NumPy exports such arrays to newer importers only."""
    return tvm_ffi().from_dlpack(array.__dlpack__(max_version=(1, 0)))
