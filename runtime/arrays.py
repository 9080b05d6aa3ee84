"""Arrays of whatever library, as the runtime sees them: what it asks of a library, and where an array lies in memory.

An input is copied in one case only: where its innermost elements are not adjacent in memory, or not aligned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np

from ..ir.diagnostics import EinfallError, error
from ..ir.types import DType
from .tvm_runtime import tvm_ffi


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where an array lies: the address of its first element, and per dimension the extent and the stride in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The half-open range of addresses in which all elements lie; empty for an empty array."""
        if 0 in self.shape:
            return self.address, self.address
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.address + sum(r for r in reach if r < 0)
        return low, self.address + sum(r for r in reach if r > 0) + self.itemsize


class Family(ABC):
    """What the runtime asks of a library's arrays."""

    name: ClassVar[str]

    @abstractmethod
    def input(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        """(what to pass to the kernel, shape) of an argument. Raises EinfallError E1009, E1010, E1011."""

    @abstractmethod
    def output(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        """The same of an array that is to be written. Raises EinfallError E1009, E1010, E1011, E1016."""

    @abstractmethod
    def memory(self, value: object) -> Memory:
        """Where the elements of one of the family's arrays lie."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DType) -> object:
        """A new array in which the kernel can write a result."""

    @abstractmethod
    def carrier(self, dtype: DType, value: object) -> object:
        """What is passed to the kernel for an array that :meth:`empty` made."""

    def stream(self, value: object) -> tuple[int, object]:
        """(the stream of the GPU on which a kernel runs whose first array is ``value``, what keeps the stream alive)."""
        raise NotImplementedError(f"{self.name} arrays are not on a GPU")

    @abstractmethod
    def converted(self, value: object) -> object:
        """The array that the caller gets for one that :meth:`empty` made."""


def travels_as_bytes(dtype: DType) -> bool:
    """Whether elements are passed to the kernel as uint8, one per byte (8-bit and smaller floats)."""
    return dtype.is_float and dtype.bits <= 8


def as_tensors(arguments: Sequence[object]) -> list[object]:
    """The arguments of a function with each array exported once, so that a repeated call does not do it again."""
    ffi = tvm_ffi()
    return [ffi.from_dlpack(a) if hasattr(a, "__dlpack__") else a for a in arguments]


def overlap(a: Memory, b: Memory) -> bool:
    """Whether some byte belongs to both arrays (bounds first; exactly where the bounds meet)."""
    (low, high), (other_low, other_high) = a.bounds, b.bounds
    if high <= other_low or other_high <= low or low == high or other_low == other_high:
        return False
    start, end = min(low, other_low), max(high, other_high)
    try:
        return bool(np.shares_memory(_image(a, start, end), _image(b, start, end), max_work=cast(Literal[0], 100_000)))
    except (np.exceptions.TooHardError, ValueError, OverflowError):
        return True


def is_repeated(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether several elements share one place in memory: some dimension is expanded."""
    return 0 not in shape and any(n > 1 and s == 0 for n, s in zip(shape, strides, strict=True))


def check_aligned(name: str, address: int, dtype: DType) -> None:
    """Raise EinfallError E1011 for an array on a GPU whose elements lie across their natural boundaries: reading one would end
    the process's use of the GPU."""
    size = dtype.storage.itemsize
    if address % size:
        raise error(
            "E1011",
            f"`{name}` begins {address % size} bytes after a multiple of {size}, the size of its elements",
            help=f"pass a copy of `{name}`: a GPU reads elements only where they are aligned",
        )


def wrong_type(name: str, dtype: DType, found: str, help: str) -> EinfallError:
    """E1009; ``help`` converts an argument, which is of no use for a result."""
    if name == "out" or name.startswith("out of "):
        help = f"pass an array of {dtype.storage.name}, or leave out= away"
    return error("E1009", f"`{name}` must be {dtype.name} ({dtype.storage.name}), but is {found}", help=help)


def foreign_device(name: str, device: str, help: str) -> EinfallError:
    return error("E1010", f"`{name}` is on {device}; this kernel runs on the CPU", help=help)


def scattered(name: str) -> EinfallError:
    return error(
        "E1016",
        f"`{name}` is to be written, but its innermost elements are not adjacent in memory",
        help="pass an array whose last dimension is contiguous (a slice of rows is fine), or leave out= away",
    )


def repeated(name: str) -> EinfallError:
    return error("E1016", f"`{name}` is to be written, but several of its elements share one place in memory")


class _Span:
    """A stretch of memory for ``np.asarray``, which never looks at the bytes here."""

    def __init__(self, start: int, end: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (start, True),
            "shape": (end - start,),
            "typestr": "|u1",
        }


def window(start: int, end: int) -> np.ndarray:
    """The bytes from one address to another, to be compared with other arrays' places, never to be read."""
    return np.asarray(_Span(start, end))


def _image(memory: Memory, start: int, end: int) -> np.ndarray:
    """A NumPy array of the same places in memory, of elements without a type."""
    kind = np.dtype(f"V{memory.itemsize}")
    image: np.ndarray = np.ndarray(memory.shape, kind, window(start, end), memory.address - start, memory.strides)
    return image
