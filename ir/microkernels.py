"""Micro-kernels as data: which products of a tile each one computes, and on which machines.

A pass asks :func:`choose` for the kernel of a matrix product and writes its name into the tile program; code generation emits
what the name says. One more instruction family is one more line of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .target import Target
from .types import DType

FMA = "fma"
"""Vectors of f32 or f64 and multiply-adds; narrower floats are widened. For every machine."""

PRODUCTS = "products"
"""Who says of products of f32 whether they are on tensor cores (``made_by`` of a decision)."""

FEW_ROWS = 16
"""Rows of a product up to which its right operand is read once, as it lies, rather than packed in the call."""

_FEWER_ROWS = 4
"""The same where matrix tiles multiply a constant, which is packed ahead of time."""

_FEW_DOTS, _SHORT = 4, 256
"""The same where each element is a dot product of less than so many steps: adding up its lanes costs more than they do."""

FEW_BYTE_ROWS = 8
"""The same for bytes: rows up to which the vector unit keeps up with memory."""

WORDS, PANEL = 16, 32
"""Words of k in a step of the dot-product kernels, and lines of one of their panels (codegen/microkernels/words.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroKernel:
    """A product C[m, n] += A[m, k] · B[k, n] of ``left`` by ``right`` elements, added up in ``accumulator``.

    ``features`` are LLVM's names of what the machine must have, or ours of what a GPU has; ``instruction`` is the one that
    multiplies. A kernel that rounds its operands is taken where the program permits a relative error of ``tolerance``.
    """

    name: str
    instruction: str
    features: frozenset[str]
    left: str
    right: str
    accumulator: str
    tolerance: float = 0.0


def _tiles(instruction: str, feature: str, left: str, right: str, accumulator: str) -> MicroKernel:
    return MicroKernel(
        name=f"amx {left}·{right}",
        instruction=instruction,
        features=frozenset({"amx-tile", feature, "avx512bw", "avx512vl"}),
        left=left,
        right=right,
        accumulator=accumulator,
    )


def _dots(left: str, right: str) -> MicroKernel:
    return MicroKernel(
        name=f"vnni {left}·{right}",
        instruction="vpdpbusd",
        features=frozenset({"avx512vnni", "avx512bw", "avx512vl"}),
        left=left,
        right=right,
        accumulator="i32",
    )


def _fragments(dtype: str) -> MicroKernel:
    return MicroKernel(
        name=f"mma {dtype}·{dtype}",
        instruction="mma.sync.m16n8k16",
        features=frozenset({"mma"}),
        left=dtype,
        right=dtype,
        accumulator="f32",
    )


def _byte_fragments(left: str, right: str) -> MicroKernel:
    return MicroKernel(
        name=f"imma {left}·{right}",
        instruction="mma.sync.m16n8k32",
        features=frozenset({"mma"}),
        left=left,
        right=right,
        accumulator="i32",
    )


TF32 = MicroKernel(
    name="tf32 f32·f32",
    instruction="mma.sync.m16n8k8",
    features=frozenset({"mma"}),
    left="f32",
    right="f32",
    accumulator="f32",
    tolerance=2.0**-9,  # operands have 11 bits of significand, a relative error of 2⁻¹¹ each: four times that
)

KERNELS = (
    *map(_fragments, ("bf16", "f16")),
    *(_byte_fragments(left, right) for left in ("i8", "u8") for right in ("i8", "u8")),
    TF32,
    _tiles("tdpbf16ps", "amx-bf16", "bf16", "bf16", "f32"),
    _tiles("tdpbssd", "amx-int8", "i8", "i8", "i32"),
    _tiles("tdpbsud", "amx-int8", "i8", "u8", "i32"),
    _tiles("tdpbusd", "amx-int8", "u8", "i8", "i32"),
    _tiles("tdpbuud", "amx-int8", "u8", "u8", "i32"),
    *(_dots(left, right) for left in ("i8", "u8") for right in ("i8", "u8")),
)
"""Best first."""

BY_NAME = {kernel.name: kernel for kernel in KERNELS}


def packs_before(name: str) -> bool:
    """Whether the right operand of a micro-kernel may be packed before a loop around the product."""
    return name == FMA or BY_NAME[name].accumulator == "f32"


def choose(target: Target, left: DType, right: DType, accumulator: DType, tolerance: float | None = None) -> MicroKernel | None:
    """The best micro-kernel of ``target`` beside multiply-adds for elements of these types; None where there is none.

    ``tolerance`` is the relative error that the program permits (None: none beyond that of sums).
    """
    for kernel in KERNELS:
        types = (kernel.left, kernel.right, kernel.accumulator)
        fits = types == (left.name, right.name, accumulator.name) and kernel.tolerance <= (tolerance or 0.0)
        if fits and target.features >= kernel.features:
            return kernel
    return None


class Lies(Enum):
    """How the right operand B[k, n] of a product lies in memory: contiguous along n, along k (of bytes, both operands), or
    otherwise, or not at all."""

    ACROSS = "along n"
    ALONG = "along k"
    OTHERWISE = "otherwise"


def few_rows(kernel: str, lies: Lies, depth: int | None, *, packed: bool = False) -> int:
    """Rows up to which a product on a micro-kernel reads its right operand as it lies; 0 where it never does.

    ``depth``: the extent of k, where it is known. ``packed``: there is a form of it that was packed ahead of time.
    """
    if kernel != FMA and BY_NAME[kernel].accumulator != "f32":
        few = FEW_BYTE_ROWS if lies is Lies.ALONG else 0
    elif lies is Lies.ALONG and depth is not None and depth < _SHORT:
        few = _FEW_DOTS
    else:
        few = 0 if lies is Lies.OTHERWISE else FEW_ROWS
    return min(few, _FEWER_ROWS) if packed and kernel != FMA and "amx-tile" in BY_NAME[kernel].features else few
