"""Micro-kernels as data: which products of a tile each one computes, and on which machines.

A pass asks :func:`choose` for the kernel of a matrix product and writes its name into the tile program; code generation emits
what the name says. One more instruction family is one more line of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from .target import Target
from .types import DType

FMA = "fma"
"""Vectors of f32 or f64 and multiply-adds; narrower floats are widened. For every machine."""

FEW_ROWS = 16
"""Rows of a product up to which its right operand is read once, as it lies, rather than packed in the call."""

FEWER_ROWS = 4
"""The same where matrix tiles multiply a constant, which is packed ahead of time."""

WORDS, PANEL = 16, 32
"""Words of k in a step of the dot-product kernels, and lines of one of their panels (codegen/microkernels/words.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroKernel:
    """A product C[m, n] += A[m, k] · B[k, n] of ``left`` by ``right`` elements, added up in ``accumulator``.

    ``features`` are LLVM's names of what the machine must have; ``instruction`` is the one that multiplies.
    """

    name: str
    instruction: str
    features: frozenset[str]
    left: str
    right: str
    accumulator: str


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


KERNELS = (
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


def choose(target: Target, left: DType, right: DType, accumulator: DType) -> MicroKernel | None:
    """The best micro-kernel of ``target`` beside multiply-adds for elements of these types; None where there is none."""
    for kernel in KERNELS:
        types = (kernel.left, kernel.right, kernel.accumulator)
        if types == (left.name, right.name, accumulator.name) and target.features >= kernel.features:
            return kernel
    return None


def few_rows(kernel: str) -> int:
    """Rows up to which a product on a micro-kernel has no use for a right operand that was packed ahead of time."""
    return FEWER_ROWS if kernel in BY_NAME and "amx-tile" in BY_NAME[kernel].features else FEW_ROWS
