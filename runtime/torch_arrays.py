"""PyTorch tensors as arguments and results. PyTorch is not imported here, but by who made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol, cast

import numpy as np

from ..ir.diagnostics import EinfallError, error
from ..ir.types import DTYPES, DType
from .arrays import (
    Family,
    Memory,
    check_aligned,
    foreign_device,
    is_repeated,
    repeated,
    scattered,
    travels_as_bytes,
    wrong_type,
)
from .dltensor import CPU, empty_handle
from .streams import CUDA

_NOT_NUMPY = ("bf16", "f8_e4m3", "f8_e5m2")


class _Device(Protocol):
    type: str


class _Tensor(Protocol):
    """The part of ``torch.Tensor`` that is used here."""

    device: _Device
    dtype: object
    is_quantized: bool
    layout: object
    nbytes: int
    ndim: int
    requires_grad: bool
    shape: Sequence[int]

    def contiguous(self) -> _Tensor: ...
    def cpu(self) -> _Tensor: ...
    def data_ptr(self) -> int: ...
    def detach(self) -> _Tensor: ...
    def element_size(self) -> int: ...
    def is_neg(self) -> bool: ...
    def numel(self) -> int: ...
    def numpy(self) -> np.ndarray: ...
    def resolve_neg(self) -> _Tensor: ...
    def stride(self) -> tuple[int, ...]: ...
    def view(self, dtype: object) -> _Tensor: ...


class TorchFamily(Family):
    """PyTorch tensors in the CPU's memory, or on GPU number ``gpu``."""

    name = "torch"

    def __init__(self, torch: ModuleType, gpu: int | None = None) -> None:
        self.torch = torch
        self.gpu = gpu
        self.device = "cpu" if gpu is None else f"cuda:{gpu}"
        self.dtypes = _torch_types(torch)
        self._fake = _fake_class(torch)

    def input(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        tensor = self._checked(name, dtype, value)
        if self.torch.is_grad_enabled() and tensor.requires_grad:
            raise error(
                "E1011",
                f"`{name}` requires a gradient, which does not flow through a kernel",
                help=f"pass {name}.detach(), or call inside torch.no_grad()",
            )
        tensor = tensor.detach().resolve_neg()
        if not _dense_rows(tensor):
            tensor = tensor.contiguous()
        return self.carrier(dtype, tensor), tuple(tensor.shape)

    def output(self, name: str, dtype: DType, value: object) -> tuple[object, tuple[int, ...]]:
        tensor = self._checked(name, dtype, value)
        if tensor.requires_grad or tensor.is_neg():
            raise error("E1016", f"`{name}` is to be written, but takes part in automatic differentiation")
        shape = tuple(tensor.shape)
        if is_repeated(shape, tensor.stride()):
            raise repeated(name)
        if not _dense_rows(tensor):
            raise scattered(name)
        return self.carrier(dtype, tensor), shape

    def memory(self, value: object) -> Memory:
        tensor = cast(_Tensor, value)
        size = tensor.element_size()
        return Memory(
            address=tensor.data_ptr(),
            shape=tuple(tensor.shape),
            strides=tuple(s * size for s in tensor.stride()),
            itemsize=size,
        )

    def empty(self, shape: tuple[int, ...], dtype: DType) -> object:
        made = self.torch.empty(shape, dtype=self.dtypes[dtype.name], device=self.device)
        if isinstance(made, self._fake):
            raise _without_elements("the result")
        return made

    def stream(self, value: object) -> tuple[int, object]:
        assert self.gpu is not None
        return current_stream(self.torch)(self.gpu), None  # PyTorch's streams are never destroyed

    def carrier(self, dtype: DType, value: object) -> object:
        tensor = cast(_Tensor, value)
        if tensor.numel() == 0:
            return empty_handle(tensor.shape, dtype, (CPU, 0) if self.gpu is None else (CUDA, self.gpu))
        return tensor.view(self.torch.uint8) if travels_as_bytes(dtype) else tensor

    def as_numpy(self, value: object) -> np.ndarray:
        """A view of a tensor's elements; types that NumPy lacks become ml_dtypes'."""
        tensor = cast(_Tensor, value).detach().resolve_neg().cpu()
        for name in _NOT_NUMPY:
            if tensor.dtype is self.dtypes.get(name):
                wanted = DTYPES[name].storage
                carrier = self.torch.uint16 if wanted.itemsize == 2 else self.torch.uint8
                return tensor.contiguous().view(carrier).numpy().view(wanted)
        return tensor.numpy()

    def converted(self, value: object) -> object:
        return value

    def _checked(self, name: str, dtype: DType, value: object) -> _Tensor:
        tensor, torch = cast(_Tensor, value), self.torch
        wanted = self.dtypes[dtype.name]
        if isinstance(tensor, self._fake):
            raise _without_elements(f"`{name}`")
        if self.gpu is None and tensor.device.type != "cpu":
            raise foreign_device(name, str(tensor.device), f"{name}.cpu()")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise error("E1011", f"`{name}` is a sparse or quantised tensor; a kernel takes dense ones", help="x.to_dense()")
        if tensor.dtype is not wanted:
            raise wrong_type(name, dtype, str(tensor.dtype), f"{name}.to({wanted})")
        try:
            address = tensor.data_ptr()
        except RuntimeError:
            raise error(
                "E1011",
                f"`{name}` is inside of torch.func.vmap or another transformation, in which a kernel does not take part",
                help="call the kernel outside of it; a rank variable more in the program does what vmap does",
            ) from None
        if self.gpu is not None:
            check_aligned(name, address, dtype)
        return tensor


def current_stream(torch: ModuleType) -> Callable[[int], int]:
    """The function that tells PyTorch's current stream on a GPU: the one that its own compiled code asks, where it is there."""
    quick: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return quick or (lambda gpu: int(torch.cuda.current_stream(gpu).cuda_stream))


def _fake_class(torch: ModuleType) -> type:
    """The class of PyTorch's stand-ins for tensors, which have a shape and no elements (torch.export and others use them)."""
    found: type = getattr(getattr(torch, "_subclasses", None), "FakeTensor", _NoFake)
    return found


class _NoFake:
    """Stands for the class where this PyTorch has none."""


def _without_elements(what: str) -> EinfallError:
    return error(
        "E1011",
        f"{what} is a FakeTensor: PyTorch is tracing, with tensors that have a shape and no elements",
        help="wrap the call in torch.library.custom_op, with a register_fake of its own",
    )


def _dense_rows(tensor: _Tensor) -> bool:
    """Whether neighbours of the last dimension are adjacent in memory."""
    return tensor.ndim == 0 or tensor.stride()[-1] == 1 or tensor.shape[-1] <= 1


def _torch_types(torch: ModuleType) -> dict[str, object]:
    """PyTorch's type for each element type; the formats that it lacks are given as their bytes."""
    names = {
        **{f"f{b}": f"float{b}" for b in (64, 32, 16)},
        "bf16": "bfloat16",
        "f8_e4m3": "float8_e4m3fn",
        "f8_e5m2": "float8_e5m2",
        "bool": "bool",
        **{f"i{b}": f"int{b}" for b in (64, 32, 16, 8)},
        **{f"u{b}": f"uint{b}" for b in (64, 32, 16, 8)},
        **dict.fromkeys(("i4", "i3", "i2", "i1", "t2"), "int8"),
        **dict.fromkeys(("u4", "u3", "u2", "f6_e3m2", "f6_e2m3", "f4_e2m1"), "uint8"),
    }
    return {name: getattr(torch, spelled) for name, spelled in names.items() if hasattr(torch, spelled)}
