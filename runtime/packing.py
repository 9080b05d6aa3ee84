"""Bound constants in the order in which a kernel's micro-kernels read them: made once, kept with the kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .signature import PackedForm
from .tvm_runtime import tvm_ffi

_LINE = 64  # bytes of a cache line, on which packed constants begin


def packed(form: PackedForm, packer: Callable[..., object], shape: tuple[int, ...], carrier: object) -> object:
    """A constant of this shape, ``carrier`` being what kernels take for it, as ``packer`` packs it. Raises MemoryError."""
    target = _tensor(form.size(shape))
    packer(carrier, target)
    return target


@lru_cache(maxsize=1)
def missing() -> object:
    """What a kernel takes for a constant that is not bound: it packs the constant in the call."""
    return _tensor(1)


def _tensor(size: int) -> object:
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE
    return tvm_ffi().from_dlpack(raw[start : start + size])
