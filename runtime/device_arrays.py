"""Arrays in a GPU's memory as arguments and results: PyTorch's tensors, and those of whatever else speaks DLPack.

Nothing is copied between devices, and nobody is waited for: a kernel that is given PyTorch's tensors runs on PyTorch's current
stream (TVM's bindings ask for it), others run on the default stream.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, cast

import numpy as np

from ..ir.diagnostics import EinfallError, error
from ..ir.types import DType, Kind
from .arrays import Family, Memory, repeated, scattered, travels_as_bytes, wrong_type
from .devices import CUDA
from .dltensor import empty_handle, tensor_handle
from .torch_arrays import TorchFamily
from .tvm_runtime import global_function, tvm_ffi


class _Exported(Protocol):
    """The part of ``tvm_ffi.Tensor`` that is used here. Strides count elements."""

    dtype: object
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def data_ptr(self) -> int: ...


class DeviceFamily(Family):
    """Arrays of the library ``package`` on GPU number ``device``, read through DLPack; ``convert`` makes the library's own of
    results."""

    def __init__(self, package: str, device: int, convert: Callable[[object], object] | None = None) -> None:
        self.name = package  # type: ignore[misc]
        self.device = device
        self._convert = convert

    def input(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        array = self._checked(name, dtype, value)
        if not _dense_rows(array):
            raise error(
                "E1011",
                f"the innermost elements of `{name}` are not adjacent in memory",
                help="make a contiguous copy of it: a kernel copies nothing on a GPU",
            )
        return self._handle(dtype, array, value), tuple(array.shape)

    def output(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        array = self._checked(name, dtype, value)
        if 0 not in array.shape and any(n > 1 and s == 0 for n, s in zip(array.shape, array.strides, strict=True)):
            raise repeated(name)
        if not _dense_rows(array):
            raise scattered(name)
        return self._handle(dtype, array, value), tuple(array.shape)

    def memory(self, value: object) -> Memory:
        array = _exported("out", value)
        size = np.dtype(_width(str(array.dtype))).itemsize
        strides = tuple(s * size for s in array.strides)
        return Memory(address=array.data_ptr(), shape=tuple(array.shape), strides=strides, itemsize=size)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> object:
        allocate = global_function("runtime.TVMTensorAllocWithScope")
        return allocate(tvm_ffi().Shape(shape), _spelled(dtype)[0], tvm_ffi().device(CUDA, self.device), None)

    def carrier(self, dtype: DType, value: object) -> object:
        return self._handle(dtype, _exported("out", value), value)

    def converted(self, value: object) -> object:
        return value if self._convert is None else self._convert(value)

    def _checked(self, name: str, dtype: DType, value: object) -> _Exported:
        array = _exported(name, value)
        if str(array.dtype) not in _spelled(dtype):
            raise wrong_type(name, dtype, str(array.dtype), f"convert it to {_spelled(dtype)[0]} first")
        return array

    def _handle(self, dtype: DType, array: _Exported, owner: object) -> object:
        shape = tuple(array.shape)
        if 0 in shape:
            return empty_handle(shape, dtype, (CUDA, self.device))
        return tensor_handle(array.data_ptr(), shape, tuple(array.strides), dtype, (CUDA, self.device), (array, owner))


def device_family(name: str, value: object) -> Family:
    """The family of the array ``value``, given for the argument ``name`` of a kernel for a GPU.

    Raises EinfallError E1008 for what is no array, E1010 for arrays that are not on a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cuda":
            raise _not_on_gpu(name, str(value.device), f"{name}.cuda()")
        return _torch_family(int(value.device.index or 0))
    if isinstance(value, np.ndarray):
        raise _not_on_gpu(name, "the CPU", f"torch.from_numpy({name}).cuda(), or cupy.asarray({name})")
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise error(
            "E1008",
            f"`{name}` is a {type(value).__name__}, not an array",
            help="PyTorch, CuPy, JAX and other DLPack arrays on a GPU are taken",
        )
    kind, device = value.__dlpack_device__()
    if int(kind) != CUDA:
        raise _not_on_gpu(name, f"another device (DLPack device type {int(kind)})", "copy it to the GPU first")
    return _family(type(value).__module__.partition(".")[0], int(device))


def anywhere() -> Family:
    """The family of results where there is no array to tell."""
    return _family("tvm_ffi", 0)


def uploaded(array: np.ndarray, gpu: int = 0) -> object:
    """A copy of a NumPy array on a GPU, as a DLPack array of TVM's. Types that NumPy lacks are ml_dtypes'."""
    dense = np.ascontiguousarray(array).reshape(array.shape)
    name = "uint8" if dense.dtype.itemsize == 1 and dense.dtype.kind not in "biu" else str(dense.dtype)
    allocate, copy = (global_function(f"runtime.TVMTensor{does}") for does in ("AllocWithScope", "CopyFromBytes"))
    made = allocate(tvm_ffi().Shape(dense.shape), name, tvm_ffi().device(CUDA, gpu), None)
    if dense.size:
        copy(made, ctypes.c_void_p(dense.__array_interface__["data"][0]), dense.nbytes)
    return made


def downloaded(array: object, dtype: np.dtype) -> np.ndarray:
    """A copy of a DLPack array on a GPU as a NumPy array of elements that are ``dtype``."""
    held = _exported("result", array)
    found = np.empty(tuple(held.shape), dtype)
    if found.size:
        copy = global_function("runtime.TVMTensorCopyToBytes")
        copy(held, ctypes.c_void_p(found.__array_interface__["data"][0]), found.nbytes)
    return found


@lru_cache(maxsize=16)
def _torch_family(device: int) -> TorchFamily:
    return TorchFamily(sys.modules["torch"], device)


@lru_cache(maxsize=16)
def _family(package: str, device: int) -> DeviceFamily:
    convert: Callable[[object], object] | None = None
    if package == "cupy":
        convert = sys.modules["cupy"].from_dlpack
    elif package in ("jax", "jaxlib"):
        from jax.dlpack import from_dlpack

        package, convert = "jax", from_dlpack
    return DeviceFamily(package, device, convert)


def _exported(name: str, value: object) -> _Exported:
    try:
        return cast(_Exported, tvm_ffi().from_dlpack(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as failure:
        reason = str(failure).strip().partition("\n")[0]
        raise error("E1008", f"`{name}` ({type(value).__name__}) cannot be read as an array: {reason}") from None


def _not_on_gpu(name: str, where: str, help: str) -> EinfallError:
    return error("E1010", f"`{name}` is on {where}; this kernel runs on a GPU", help=help)


def _dense_rows(array: _Exported) -> bool:
    return not array.shape or array.strides[-1] == 1 or array.shape[-1] <= 1


def _spelled(dtype: DType) -> tuple[str, ...]:
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


def _width(name: str) -> str:
    """A NumPy type of the same width."""
    return {"bool": "uint8", "bfloat16": "uint16"}.get(name, "uint8" if name.startswith("float8") else name)
