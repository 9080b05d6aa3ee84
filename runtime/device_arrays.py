"""Arrays in a GPU's memory as arguments and results: PyTorch's tensors, and those of whatever else speaks DLPack.

Nothing is copied between devices, and nobody is waited for: a kernel runs on the stream that is current in the library of its
first array (streams.py).
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import cast

import numpy as np

from ..ir.diagnostics import EinfallError, error
from ..ir.types import DType
from .arrays import Family, Memory, check_aligned, is_repeated, repeated, scattered, wrong_type
from .dltensor import empty_handle, tensor_handle
from .gpu_libraries import Exported, Library, allocated, library, spelled
from .streams import CUDA
from .torch_arrays import TorchFamily
from .tvm_runtime import global_function, tvm_ffi


class DeviceFamily(Family):
    """Arrays of a library on GPU number ``device``, read through DLPack."""

    def __init__(self, library: Library, device: int) -> None:
        self.name = library.name  # type: ignore[misc]
        self.library, self.device = library, device

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
        if is_repeated(array.shape, array.strides):
            raise repeated(name)
        if not _dense_rows(array):
            raise scattered(name)
        return self._handle(dtype, array, value), tuple(array.shape)

    def memory(self, value: object) -> Memory:
        array = self._exported("out", value)
        size = np.dtype(_width(str(array.dtype))).itemsize
        strides = tuple(s * size for s in array.strides)
        return Memory(address=array.data_ptr(), shape=tuple(array.shape), strides=strides, itemsize=size)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> object:
        return self.library.empty(shape, dtype, self.device)

    def carrier(self, dtype: DType, value: object) -> object:
        return self._handle(dtype, self.library.made(value), value)

    def converted(self, value: object) -> object:
        return self.library.given(value)

    def stream(self, value: object) -> tuple[int, object]:
        return self.library.stream(value, self.device)

    def _checked(self, name: str, dtype: DType, value: object) -> Exported:
        array = self._exported(name, value)
        if str(array.dtype) not in spelled(dtype):
            packed = dtype.bits < 8 and str(array.dtype) == dtype.storage.name
            found, each = (f"{array.dtype} without gaps", ", one element in each byte") if packed else (str(array.dtype), "")
            raise wrong_type(name, dtype, found, f"convert it to {spelled(dtype)[0]} first{each}")
        check_aligned(name, array.data_ptr(), dtype)
        return array

    def _exported(self, name: str, value: object) -> Exported:
        try:
            return self.library.exported(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as failure:
            reason = str(failure).strip().partition("\n")[0]
            raise error("E1008", f"`{name}` ({type(value).__name__}) cannot be read as an array: {reason}") from None

    def _handle(self, dtype: DType, array: Exported, owner: object) -> object:
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
    made = allocated(dense.shape, name, gpu)
    if dense.size:
        copy = global_function("runtime.TVMTensorCopyFromBytes")
        copy(made, ctypes.c_void_p(dense.__array_interface__["data"][0]), dense.nbytes)
    return made


def downloaded(array: object, dtype: np.dtype) -> np.ndarray:
    """A copy of a DLPack array on a GPU as a NumPy array of elements that are ``dtype``."""
    held = cast(Exported, tvm_ffi().from_dlpack(array))
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
    return DeviceFamily(library(package), device)


def _not_on_gpu(name: str, where: str, help: str) -> EinfallError:
    return error("E1010", f"`{name}` is on {where}; this kernel runs on a GPU", help=help)


def _dense_rows(array: Exported) -> bool:
    return not array.shape or array.strides[-1] == 1 or array.shape[-1] <= 1


def _width(name: str) -> str:
    """A NumPy type of the same width."""
    return {"bool": "uint8", "bfloat16": "uint16"}.get(name, "uint8" if name.startswith("float8") else name)
