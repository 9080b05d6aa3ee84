"""PyTorch as a peer: tensors over NumPy's memory, weights packed beforehand, `torch.compile`.

The packed forms are what `torch.compile` with frozen weights calls: oneDNN's and MKL's own layouts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from field import Array, Call

if TYPE_CHECKING:
    from torch import Tensor

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


def tensor(x: Array) -> Tensor:
    """A tensor over the same memory, bf16 included. Raises ImportError where PyTorch is not installed."""
    if torch is None:
        raise ImportError("PyTorch is not installed")
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype.name == "bfloat16" else torch.from_numpy(x)


def tensors(*arrays: Array) -> tuple[Tensor, ...]:
    """Each of them."""
    return tuple(map(tensor, arrays))


def packed_linear(x: Array, weight: Array, bias: Array | None = None) -> Call:
    """``x · weightᵀ (+ bias)`` for f32 or bf16, ``weight`` (N, K) in the library's own layout."""
    a, w = tensors(x, weight)
    b = None if bias is None else tensor(bias)
    rows = a.shape[0]
    if a.dtype == torch.float32 and torch.backends.mkl.is_available():
        packed = torch.ops.mkl._mkl_reorder_linear_weight(w, rows)
        return lambda: torch.ops.mkl._mkl_linear(a, packed, w, b, rows)
    packed = torch.ops.mkldnn._reorder_linear_weight(w, rows)
    return lambda: torch.ops.mkldnn._linear_pointwise(a, packed, b, "none", [], "")


def packed_quantised_linear(x: Array, weight: Array, scale: float, scales: Array) -> Call:
    """``x · weightᵀ`` of u8 and i8 times the scales, of the whole ``x`` and of each row of ``weight`` (N, K), in f32."""
    a, w, s = tensors(x, weight, scales)
    packed = torch.ops.onednn.qlinear_prepack(w, list(a.shape))
    zeros = torch.zeros(len(s), dtype=torch.int32)
    linear = torch.ops.onednn.qlinear_pointwise
    return lambda: linear(a, scale, 0, packed, s, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def compile_for(function: Callable[..., object], *arguments: object) -> Call:
    """The call of the compiled function with these arguments, compiled already."""
    fast = torch.compile(function, dynamic=False)
    fast(*arguments)
    return lambda: fast(*arguments)


def compile_frozen(module: Callable[..., object], *arguments: object) -> Call:
    """The same for a module whose weights stay as they are, so that they are packed."""
    from torch._inductor import config

    with config.patch(freezing=True):
        fast = torch.compile(module, dynamic=False)
        fast(*arguments)
    return lambda: fast(*arguments)


def forget() -> None:
    """Lets go of what compiled functions keep: their arguments stay alive otherwise, for the whole run."""
    if torch is not None and "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
