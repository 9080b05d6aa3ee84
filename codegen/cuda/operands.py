"""Operands of a block's product on their way to shared memory: as they lie in global memory, or element by element.

An operand can be whatever has a value at a point; only what is read as it lies in memory is copied in chunks. Elements beyond
an edge are 0, as is what they are multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Cast, Expr, Read, reads_of
from ...ir.types import DType
from ..context import Context, Variables
from ..element import computed
from ..microkernels.statements import Statements, as_index
from ..views import encode, moves_along
from .operand_loads import order_of
from .staging import Lines, Panel, Source, i32, lies_along, narrow, source_of
from .statements import DeviceStatements, Team

RAW = {1: "uint8", 2: "uint16", 4: "float32"}
"""The type in which operands of tensor cores are staged, by its bytes: bits, where the computed type is another."""

BATCH, SHORT_BATCH = 8, 4
"""Elements that a thread loads before it stores the first, and those where its registers are full of tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """How an operand lies in shared memory: in a ``panel``, whose lines are of k where it is ``along``, else k runs from
    line to line. ``number``: it is converted to this type."""

    panel: Panel
    along: bool
    number: DType | None = None

    @property
    def raw(self) -> str:
        """The type in which it is staged."""
        return RAW[self.panel.size] if self.number is None else computed(self.number)

    @property
    def interleaved(self) -> bool:
        """Whether row (column) g of the first of two fragments is number 2 g of both together, that of the second 2 g + 1."""
        return not self.along and self.panel.size == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An operand: its expression, the rank of its rows or columns, the first one, how many are staged, how many there are."""

    expr: Expr
    rank: str
    top: tirx.Expr
    height: int
    most: tirx.Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand(Staging):
    """How an operand is staged; k is ``inner``. ``read`` is the operand where it lies in memory as a matrix; ``lies_along``:
    with the lines of k."""

    context: Context
    side: Side
    inner: str
    read: Read | None
    lies_along: bool

    @staticmethod
    def of(context: Context, side: Side, inner: str, depth: int, size: int, *, paired: bool = False) -> Operand:
        """An operand of elements of ``size`` bytes, in steps of ``depth``, as it lies in memory, if it does, else by lines of
        k; ``paired`` as in :class:`.operand_loads.Staged`."""
        read, along = matrix_of(context, side.expr, side.rank, inner)
        lines, width = (side.height, depth) if along else (depth, side.height)
        panel = Panel(lines=lines, width=width, size=size, order=order_of(size, along=along, paired=paired))
        return Operand(context=context, side=side, inner=inner, panel=panel, along=along, read=read, lies_along=along)

    @staticmethod
    def by_steps(context: Context, side: Side, inner: str, depth: int, number: DType) -> Operand:
        """An operand as f32 or f64, k from line to line, however it lies in memory."""
        read, along = matrix_of(context, side.expr, side.rank, inner)
        if side.expr.dtype != number:
            read = None
        panel = Lines(lines=depth, width=side.height, size=number.bits // 8)
        return Operand(
            context=context, side=side, inner=inner, panel=panel, along=False, read=read, lies_along=along, number=number
        )

    def source(self, s: Statements, variables: Variables, depth: tirx.Expr) -> Source | None:
        """The matrix in global memory that the operand is at a point of the batch, whose depth is ``depth``."""
        if self.read is None:
            return None
        line, column = (self.side.rank, self.inner) if self.lies_along else (self.inner, self.side.rank)
        lines, width = (self.side.most, depth) if self.lies_along else (depth, self.side.most)
        return source_of(s, self.context, self.read, line, column, variables, lines, width)

    def corner(self, first: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The line and the column at which the panel of the steps from ``first`` on begins."""
        return (self.side.top, first) if self.along else (first, self.side.top)

    def elements(
        self,
        s: DeviceStatements,
        team: Team,
        raw: tirx.Buffer,
        start: tirx.Expr,
        variables: Variables,
        first: tirx.Expr,
        depth: tirx.Expr,
        *,
        batch: int = BATCH,
    ) -> None:
        """The panel of the steps from ``first`` on, element by element, to number ``start`` (int32) of ``raw`` and those after
        it. A thread loads ``batch`` elements before it stores the first."""
        side, panel = self.side, self.panel
        thread = narrow(s, team.thread)
        along = sum(moves_along(r, self.inner) for r in reads_of(side.expr))
        across = sum(moves_along(r, side.rank) for r in reads_of(side.expr))
        # Neighbouring threads read what lies side by side.
        swapped = (along >= across) != self.along
        fast = panel.lines if swapped else panel.width
        total = panel.lines * panel.width
        each = min(batch, max(1, total // team.threads))
        values = s.allocate("values", (each,), self.raw, scope="local")

        def element(turn: tirx.Expr, number: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
            mine = tirx.Cast("int32", turn) * each + tirx.Cast("int32", number)
            at = s.share(mine * team.threads + thread)
            major, minor = s.share(at >> i32(fast.bit_length() - 1)), s.share(at & i32(fast - 1))
            return (at, minor, major) if swapped else (at, major, minor)

        with s.loop("elements", -(-total // (each * team.threads))) as turn:
            # All loads of a batch first: the memory's latency is waited for once.
            with s.loop("load", each, kind=ForKind.UNROLLED) as number:
                at, line, column = element(turn, number)
                own, step = (line, column) if self.along else (column, line)
                row, k = s.bind("row", side.top + as_index(own)), s.bind("k", first + as_index(step))
                s.store(values, number, tirx.const(0, self.raw))
                with s.when(tirx.And(at < i32(total), tirx.And(row < side.most, k < depth))):
                    inside = {**variables, side.rank: row, self.inner: k}
                    s.store(values, number, self._bits(s, side.expr, inside))
            with s.loop("store", each, kind=ForKind.UNROLLED) as number:
                at, line, column = element(turn, number)
                with s.when(True if total % (each * team.threads) == 0 else at < i32(total)):
                    s.store(raw, as_index(start + panel.element(line, column)), tirx.BufferLoad(values, [number]))

    def _bits(self, s: Statements, expr: Expr, variables: Variables) -> tirx.Expr:
        """An operand's element: as its bits, as tensor cores take it, or as a number."""
        at = self.context.evaluator(s, variables)
        if self.number is not None:
            return at.value(expr if expr.dtype == self.number else Cast(value=expr, dtype=self.number))
        if isinstance(expr, Read) and expr.tensor in self.context.views:
            view = self.context.views[expr.tensor]
            raw: tirx.Expr = tirx.BufferLoad(view.flat, [at.offset(expr.tensor, expr.indices)])
        else:
            raw = encode(at.value(expr), expr.dtype, 1)
        return raw if str(raw.ty.dtype) == self.raw else tirx.reinterpret(self.raw, raw)


def matrix_of(context: Context, expr: Expr, rank: str, inner: str) -> tuple[Read | None, bool]:
    """(an operand along ``rank`` and ``inner`` where it lies in memory as a matrix, whether its lines are of ``inner``)."""
    if not isinstance(expr, Read) or lies_along(context, expr, rank, inner):
        return expr if isinstance(expr, Read) else None, True
    across = lies_along(context, expr, inner, rank)
    return expr if across else None, not across
