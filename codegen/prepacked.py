"""Constants packed ahead of their use: the function that packs one, and how a kernel comes to the packed form.

A kernel takes each packed form as one more argument, bytes that a function of the same library has filled. A caller that has
not bound the constant passes a single byte: the kernel then packs it itself, before anything else and in memory of its own, so
that the rest of its code is the same in either case.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.stmt import ForKind

from ..ir.tile import Prepacked
from ..ir.types import DType
from .argument import FAR, Argument
from .element import computed
from .machine import Machine
from .microkernels.operand import Operand
from .microkernels.packing import PackedMatrix, emit_pack_columns
from .microkernels.plan import GemmPlan, plan_gemm
from .microkernels.statements import Statements, both, ceil_div, index, maximum, minimum, round_up
from .views import View

_TOGETHER = 8
"""Panels of multiply-adds that one task packs: rows of a matrix are read half a page at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Packs one constant for one machine."""

    form: Prepacked
    machine: Machine
    dtype: DType
    """The type of the constant's elements."""

    @property
    def held(self) -> str:
        """The type in which packed elements are read."""
        return computed(self.dtype)

    def function(self, name: str) -> tirx.PrimFunc:
        """A function of the constant, of two dimensions, and of the bytes to be filled."""
        s = Statements()
        source = Argument.declare(s, self.form.parameter, self.dtype, 2)
        target = _bytes("target")
        k, n = reversed(source.extents) if self.form.transposed else source.extents
        words = tirx.decl_buffer((index(FAR),), self.held, name="packed", data_alignment=64)
        s.add(tirx.DeclBuffer(words, data=target.data))
        self.emit(s, self.operand(source.flat, source.typed, source.strides), words, k=k, n=n)
        function = tirx.PrimFunc([source.declared, target], s.finish())
        return function.with_attr({"global_symbol": name, "tirx.noalias": True, "s_tir": True})

    def operand(self, flat: tirx.Buffer, typed: tirx.Buffer | None, strides: tuple[tirx.Expr, ...]) -> Operand:
        """The constant as the matrix B[k, n]."""
        found = Operand(buffer=flat if typed is None else typed, row_stride=strides[0], col_stride=strides[1])
        return found.transposed() if self.form.transposed else found

    def elements(self, k: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        """Elements of the packed form."""
        return round_up(n, self.form.layout.columns) * self.height(k)

    def height(self, k: tirx.Expr) -> tirx.Expr:
        """Steps of k that a panel has room for."""
        return round_up(maximum(k, 1), self.form.layout.steps)

    def emit(self, s: Statements, b: Operand, target: tirx.Buffer, *, k: tirx.Expr, n: tirx.Expr) -> None:
        """Fills ``target`` in a parallel loop."""
        plan, height = self._plan(), s.bind("height", self.height(k))
        assert plan.nr == self.form.layout.columns and plan.lanes == self.form.layout.steps
        width = _TOGETHER * plan.nr
        with s.loop("group", ceil_div(n, width), kind=ForKind.PARALLEL) as group:
            col = s.bind("col", group * width)
            emit_pack_columns(
                s, b=b, target=target, base=s.bind("base", col * height), start=index(0), depth=k, col=col,
                cols=s.bind("cols", minimum(n - col, width)), plan=plan, dtype=self.held, height=height,
            )  # fmt: skip

    def _plan(self) -> GemmPlan:
        return plan_gemm(self.machine, self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A packed form inside a kernel: its argument, and what products read."""

    packer: Packer
    declared: tirx.Buffer
    matrix: PackedMatrix

    @staticmethod
    def declare(s: Statements, packer: Packer, constant_: View, needed: tirx.Expr | bool) -> Form:
        """Declares the argument, and packs the constant where it was not bound and is ``needed``."""
        form, held = packer.form, packer.held
        declared = _bytes(form.name.replace(".", "_"))
        n, k = constant_.extents if form.transposed else reversed(constant_.extents)
        missing = s.bind("missing", both(declared.shape[0] <= 1, needed))
        elements = tirx.Select(missing, packer.elements(k, n), index(1))
        own = tirx.decl_buffer((s.bind("size", elements),), held, name=f"{declared.name}_own", layout=None)
        s.add(tirx.AllocBuffer(own))
        with s.when(missing):
            packer.emit(s, packer.operand(constant_.flat, constant_.typed, constant_.strides), own, k=k, n=n)
        pointer = PointerType(PrimType(held), "global")
        chosen = tirx.Var(f"{declared.name}_at", pointer)
        given = tirx.call_intrin(pointer, "tirx.reinterpret", declared.data)
        s.add(tirx.Bind(chosen, tirx.call_intrin(pointer, "prim.if_then_else", missing, own.data, given)))
        view = tirx.decl_buffer((index(FAR),), held, name=f"{declared.name}_read", data_alignment=64)
        s.add(tirx.DeclBuffer(view, data=chosen))
        matrix = PackedMatrix(buffer=view, height=s.bind("height", packer.height(k)), single=False)
        return Form(packer=packer, declared=declared, matrix=matrix)


def _bytes(name: str) -> tirx.Buffer:
    return tirx.decl_buffer([tirx.Var(f"{name}_bytes", "int64")], "uint8", name=name, data_alignment=64)
