"""Which library an argument comes from.

NumPy and PyTorch have families of their own. Whatever else speaks DLPack on the CPU (JAX and others) is viewed as a
NumPy array first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..ir.diagnostics import error
from ..ir.types import DType
from .arrays import Family, Memory, foreign_device
from .device_arrays import device_family
from .numpy_arrays import NumpyFamily
from .torch_arrays import TorchFamily

_CPU = 1  # DLPack's kDLCPU


class DlpackFamily(NumpyFamily):
    """Other libraries' arrays: viewed as NumPy arrays, results converted by the library's own DLPack import."""

    def __init__(self, name: str, convert: Callable[[object], object] | None) -> None:
        self.name = name  # type: ignore[misc]
        self._convert = convert

    def input(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        return super().input(name, dtype, _viewed(name, value))

    def output(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        return super().output(name, dtype, _viewed(name, value))

    def memory(self, value: object) -> Memory:
        return super().memory(_viewed("out", value))

    def converted(self, value: object) -> object:
        return value if self._convert is None else self._convert(value)


NUMPY = NumpyFamily()


def family_of(name: str, value: object, *, on_gpu: bool = False) -> Family:
    """The family that the array ``value``, given for the argument ``name``, belongs to; ``on_gpu``: of a kernel for a GPU.

    Raises EinfallError E1008 for what is no array, E1010 for arrays where the kernel does not run, E1011 for arrays that a
    kernel cannot read.
    """
    if on_gpu:
        return device_family(name, value)
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise error("E1011", f"`{name}` is a masked array; a kernel would not see the mask", help=f"{name}.filled(0)")
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return torch_family()
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _dlpack_family(type(value).__module__.partition(".")[0])
    raise error(
        "E1008",
        f"`{name}` is a {type(value).__name__}, not an array",
        help=f"np.asarray({name}) makes an array; NumPy, PyTorch, JAX and other DLPack arrays are taken",
    )


@lru_cache(maxsize=1)
def torch_family() -> TorchFamily:
    """PyTorch's family; PyTorch has been imported by whoever made the tensor."""
    return TorchFamily(sys.modules["torch"])


def as_numpy(name: str, value: object) -> np.ndarray:
    """Any argument as a NumPy array: a view where it is an array, a conversion where it is a number or a list.

    Raises EinfallError E1008, E1010, E1011.
    """
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value
    if isinstance(value, bool | int | float | list | tuple | np.generic):
        try:
            return np.asarray(value)
        except ValueError:
            raise error("E1008", f"`{name}` is a list whose rows differ in length, not an array") from None
    family = family_of(name, value)
    return family.as_numpy(value) if isinstance(family, TorchFamily) else _viewed(name, value)


def _viewed(name: str, value: object) -> np.ndarray:
    """A view of another library's array."""
    device = value.__dlpack_device__()  # type: ignore[attr-defined]
    if int(device[0]) != _CPU:
        raise foreign_device(name, f"another device (DLPack device type {int(device[0])})", "copy it to the CPU first")
    try:
        view: np.ndarray = np.from_dlpack(value)  # type: ignore[arg-type]
        return view
    except (BufferError, RuntimeError, TypeError, ValueError, NotImplementedError):
        # NumPy's DLPack knows no bfloat16, but the array may give itself as an ml_dtypes array.
        array = np.asarray(value)
        if array.dtype == object:
            raise error("E1008", f"`{name}` ({type(value).__name__}) cannot be read as an array") from None
        return array


@lru_cache(maxsize=16)
def _dlpack_family(package: str) -> DlpackFamily:
    convert: Callable[[object], object] | None = None
    if package in ("jax", "jaxlib"):
        from jax.numpy import asarray

        convert = asarray
        package = "jax"
    return DlpackFamily(package, convert)
