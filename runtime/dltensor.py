"""DLTensor records made by hand: for bfloat16, which NumPy does not export through DLPack, and for empty arrays, whose
strides libraries report in ways that kernels refuse.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..ir.types import DType, Kind

CPU = 1
"""DLPack's number of the device type kDLCPU."""

_CODES = {Kind.SIGNED: 0, Kind.BIPOLAR: 0, Kind.TERNARY: 0, Kind.UNSIGNED: 1, Kind.FLOAT: 2, Kind.BOOL: 6}
_BFLOAT = 4


class _DLTensor(ctypes.Structure):
    """DLTensor of DLPack 1.0 (dlpack.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _Handle(ctypes.c_void_p):
    """The address of a record, which keeps alive what it points to."""

    owned: tuple[object, ...] = ()


def bfloat16_handle(array: np.ndarray) -> ctypes.c_void_p:
    """A handle that a compiled kernel takes as a bfloat16 tensor. ``array`` has 2-byte elements, dense along rows."""
    strides = None if array.flags.c_contiguous else tuple(s // 2 for s in array.strides)
    return _handle(array.__array_interface__["data"][0], array.shape, strides, _BFLOAT, 16, array)


def empty_handle(shape: Sequence[int], dtype: DType, device: tuple[int, int] = (CPU, 0)) -> ctypes.c_void_p:
    """A handle of a tensor without elements (some extent is 0), of the type in which ``dtype`` travels."""
    return _handle(_EMPTY.ctypes.data, shape, None, *_travels_as(dtype), _EMPTY, device)


def tensor_handle(
    address: int, shape: Sequence[int], strides: Sequence[int], dtype: DType, device: tuple[int, int], owner: object
) -> ctypes.c_void_p:
    """A handle of the tensor at ``address`` on a device (DLPack's type and number), of the type in which ``dtype`` travels."""
    return _handle(address, shape, strides, *_travels_as(dtype), owner, device)


def _travels_as(dtype: DType) -> tuple[int, int]:
    """DLPack's type code, and bits."""
    if dtype.name == "bf16":
        return _BFLOAT, 16
    if dtype.is_float and dtype.bits <= 8:
        return _CODES[Kind.UNSIGNED], 8
    return _CODES[dtype.kind], 8 * dtype.storage.itemsize


_EMPTY = np.zeros(8, np.float64)
"""Where empty tensors point to."""


def _handle(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    code: int,
    bits: int,
    owner: object,
    device: tuple[int, int] = (CPU, 0),
) -> ctypes.c_void_p:
    """Strides count elements; without them the tensor is compact in row-major order."""
    ndim = len(shape)
    extents = (ctypes.c_int64 * (2 * ndim or 1))(*shape, *(strides or ()))
    first = ctypes.addressof(extents)
    record = _DLTensor(address, *device, ndim, code, bits, 1, first, None if strides is None else first + 8 * ndim, 0)
    handle = _Handle(ctypes.addressof(record))
    handle.owned = (record, extents, owner)
    return handle
