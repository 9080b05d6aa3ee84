"""Tensor arguments of a function: what it declares of them, and the memory that it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..ir.types import DType
from .element import argument, stored
from .microkernels.statements import Statements, index

FAR = 1 << 40
"""The declared extent of memory whose extent is checked elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A tensor argument: its declaration, the extents and strides that it comes with, and views of its memory.

    ``flat`` is of the stored type, ``typed`` of the declared one where that differs.
    """

    declared: tirx.Buffer
    extents: tuple[tirx.Expr, ...]
    strides: tuple[tirx.Expr, ...]
    flat: tirx.Buffer
    typed: tirx.Buffer | None

    @staticmethod
    def declare(s: Statements, name: str, dtype: DType, dimensions: int) -> Argument:
        """An argument of so many dimensions. Its extents are variables of their own, its last dimension is dense."""
        extents = [tirx.Var(f"{name}_extent{d}", "int64") for d in range(dimensions)]
        strides = [tirx.Var(f"{name}_stride{d}", "int64") for d in range(dimensions)]
        size = max(1, dtype.bits // 8)
        declared = tirx.decl_buffer(extents, argument(dtype), name=name, strides=strides, data_alignment=size)
        flat = tirx.decl_buffer((index(FAR),), stored(dtype), name=f"{name}_flat", data_alignment=size)
        s.add(tirx.DeclBuffer(flat, data=declared.data))
        typed = None
        if dtype.name == "bf16":
            typed = tirx.decl_buffer((index(FAR),), "bfloat16", name=f"{name}_bf16", data_alignment=2)
            s.add(tirx.DeclBuffer(typed, data=declared.data))
        dense = [*strides[:-1], index(1)] if strides else []
        return Argument(declared=declared, extents=tuple(extents), strides=tuple(dense), flat=flat, typed=typed)
