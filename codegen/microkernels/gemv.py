"""Products with very few rows: B is read once, as it lies, at the speed of memory; nothing is packed.

Two forms, by the direction in which B is contiguous. Along its rows (`axpy`): a strip of columns is summed in L1, a
few rows of B at a time, so that memory sees a few long ascending streams. Along its columns (`dot`): a few columns at
a time, each a stream, with vectors along k. The number of rows is a run-time loop inside, over what has just been
read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.stmt import ForKind

from .fma import emit_store_vector
from .operand import Epilogue, Formula, Operand, Site, load
from .plan import GemmPlan
from .statements import Statements, both, ceil_div, condition, constant, index, maximum, minimum, negation, round_up
from .vector import (
    first_lanes,
    fma,
    horizontal_sum,
    lane_type,
    load_aligned,
    load_masked,
    splat,
    zeros,
)

STRIP = 1024
"""Columns that the axpy form sums at a time: a strip of every row of C and the vectors of B in use stay in L1."""
STREAMS = 8
"""Rows (axpy) or half the columns (dot) of B that are read side by side: below what the hardware prefetchers follow."""
CHAINS = 2
"""Independent sums of one dot product: with the columns side by side they hide the latency of the multiply-add."""


def is_skinny(m: tirx.Expr | int, b: Operand | Formula, plan: GemmPlan) -> bool | tirx.Expr:
    """Whether m rows are so few that B should not be packed: a literal, or a condition for run time."""
    if plan.skinny == 0 or isinstance(b, Formula) or not (b.rows_contiguous or b.columns_contiguous):
        return False
    known = constant(m)
    return m <= plan.skinny if known is None else known <= plan.skinny


def emit_skinny(
    s: Statements,
    *,
    a: Operand | Formula,
    b: Operand | Formula,
    c: Operand,
    m: tirx.Expr,
    n: tirx.Expr,
    k: tirx.Expr,
    dtype: str,
    accumulate: bool,
    plan: GemmPlan,
    epilogue: Epilogue | None,
    parallel: bool,
) -> tirx.Expr:
    """Emits the product for few rows or few columns, where it can come to that; gives the condition that it does not."""
    wide = condition(True)
    for x, y, z, rows, cols, finish in (
        (a, b, c, m, n, epilogue),
        (b.transposed(), a.transposed(), c.transposed(), n, m, None if epilogue is None else epilogue.transposed()),
    ):
        few = is_skinny(rows, y, plan)
        if constant(both(wide, few)) == 0 or isinstance(y, Formula):
            continue
        with s.when(both(wide, few)):
            SkinnyProduct(
                a=x, b=y, c=z, m=rows, n=cols, k=k, dtype=dtype, accumulate=accumulate, plan=plan, epilogue=finish
            ).emit(s, parallel=parallel)  # fmt: skip
        wide = s.bind("wide", both(wide, negation(few)))
    return wide


@dataclass(frozen=True, slots=True, kw_only=True)
class SkinnyProduct:
    """C[m, n] = epilogue((C +) A[m, k] · B[k, n]) with m ≤ plan.skinny; see `emit_gemm` for the operands."""

    a: Operand | Formula
    b: Operand
    c: Operand
    m: tirx.Expr
    n: tirx.Expr
    k: tirx.Expr
    dtype: str
    accumulate: bool
    plan: GemmPlan
    epilogue: Epilogue | None

    def emit(self, s: Statements, *, parallel: bool) -> None:
        body = self._emit_strips if self.b.rows_contiguous else self._emit_dots
        if not parallel or self.plan.threads == 1:
            body(s, index(0), self.n)
            return
        cols = s.bind("cols", maximum(round_up(ceil_div(self.n, self.plan.threads), self.plan.lanes), self.plan.lanes))
        with s.loop("task", self.plan.threads, kind=ForKind.PARALLEL) as task:
            first = s.bind("first", task * cols)
            body(s, first, s.bind("width", minimum(cols, self.n - first)))

    def _emit_strips(self, s: Statements, first: tirx.Expr, width: tirx.Expr) -> None:
        lanes, dtype = self.plan.lanes, self.dtype
        sums = s.allocate("sums", (self.plan.skinny * STRIP,), dtype)
        turns = s.bind("turns", tirx.truncdiv(self.k, index(STREAMS)))
        with s.loop("strip", ceil_div(maximum(width, 0), STRIP)) as strip:
            col = s.bind("col", first + strip * STRIP)
            cols = s.bind("cols", minimum(width - strip * STRIP, STRIP))
            vectors = s.bind("vectors", ceil_div(cols, lanes))
            with s.loop("i", self.m) as i, s.loop("v", vectors) as v:
                s.store(sums, _lanes(i * STRIP + v * lanes, lanes), zeros(dtype, lanes))

            def update(p: tirx.Expr, steps: int, col: tirx.Expr, cols: tirx.Expr, vectors: tirx.Expr) -> None:
                with s.loop("v", vectors) as v:
                    mask = first_lanes(cols - v * lanes, lanes)
                    b = []
                    for u in range(steps):
                        at = self.b.at(p + u, col + v * lanes)
                        b.append(s.bind(f"b_{u}", load_masked(self.b.buffer, at, mask, dtype, lanes)))
                    with s.loop("i", self.m) as i:
                        where = s.bind("where", i * STRIP + v * lanes)
                        total = load_aligned(sums, where, lanes)
                        for u, vector in enumerate(b):
                            one = Site(row=i, col=s.bind("col", p + u), lanes=1, count=1)
                            a = splat(load(s, self.a, one, dtype), lanes)
                            total = fma(a, vector, total, fused=self.plan.fused)
                        s.store(sums, _lanes(where, lanes), total)

            with s.loop("p", turns) as turn:
                update(turn * STREAMS, STREAMS, col, cols, vectors)
            with s.loop("p_tail", self.k - turns * STREAMS) as rest:
                update(turns * STREAMS + rest, 1, col, cols, vectors)
            with s.loop("i", self.m) as i, s.loop("v", vectors) as v:
                self._emit_store(s, load_aligned(sums, i * STRIP + v * lanes, lanes), i, col + v * lanes, cols - v * lanes)

    def _emit_dots(self, s: Statements, first: tirx.Expr, width: tirx.Expr) -> None:
        lanes, dtype = self.plan.lanes, self.dtype
        side = min(STREAMS // 2, lanes)
        sums = s.allocate("sums", (self.plan.skinny * lanes,), dtype, scope="local")
        whole = CHAINS * lanes
        turns = s.bind("turns", tirx.truncdiv(self.k, index(whole)))
        rest = s.bind("rest", self.k - turns * whole)
        with s.loop("group", ceil_div(maximum(width, 0), lanes)) as group:
            col = s.bind("col", first + group * lanes)
            cols = s.bind("cols", minimum(width - group * lanes, lanes))
            with s.loop("q", ceil_div(cols, side)) as q, s.loop("i", self.m) as i:
                totals = [
                    [s.allocate(f"total_{j}_{u}", (1,), lane_type(dtype, lanes), scope="local") for u in range(CHAINS)]
                    for j in range(side)
                ]
                for chain in totals:
                    for total in chain:
                        s.store(total, 0, zeros(dtype, lanes))
                columns = [s.bind(f"column_{j}", col + minimum(q * side + j, cols - 1)) for j in range(side)]

                def update(p: tirx.Expr, u: int, mask: tirx.Expr) -> None:
                    a = self._along_k(s, i, p, mask)
                    for column, chain in zip(columns, totals, strict=True):
                        b = load_masked(self.b.buffer, self.b.at(p, column), mask, dtype, lanes)
                        held = tirx.BufferLoad(chain[u], [index(0)])
                        s.store(chain[u], 0, fma(a, b, held, fused=self.plan.fused))

                with s.loop("p", turns) as turn:
                    for u in range(CHAINS):
                        update(turn * whole + u * lanes, u, first_lanes(lanes, lanes))
                for u in range(CHAINS):
                    with s.when(rest > u * lanes):
                        update(turns * whole + u * lanes, u, first_lanes(rest - u * lanes, lanes))
                for j, chain in enumerate(totals):
                    total = tirx.BufferLoad(chain[0], [index(0)])
                    for other in chain[1:]:
                        total = total + tirx.BufferLoad(other, [index(0)])
                    total = s.bind("total", total)
                    s.store(sums, i * lanes + q * side + j, horizontal_sum(total, lanes))
            with s.loop("i", self.m) as i:
                self._emit_store(s, load_aligned(sums, i * lanes, lanes), i, col, cols)

    def _along_k(self, s: Statements, i: tirx.Expr, p: tirx.Expr, mask: tirx.Expr) -> tirx.Expr:
        """Consecutive elements of a row of A, zeros outside the mask: what meets B's zeros there may not be infinite."""
        site = Site(row=i, col=p, lanes=self.plan.lanes, count=self.k - p)
        if isinstance(self.a, Operand) and self.a.rows_contiguous:
            at = self.a.at(i, p)
            return s.bind("a", load_masked(self.a.buffer, at, mask, self.dtype, self.plan.lanes))
        return s.bind("a", tirx.Select(mask, load(s, self.a, site, self.dtype), zeros(self.dtype, self.plan.lanes)))

    def _emit_store(self, s: Statements, value: tirx.Expr, row: tirx.Expr, col: tirx.Expr, count: tirx.Expr) -> None:
        site = Site(row=row, col=s.bind("first_col", col), lanes=self.plan.lanes, count=s.bind("count", count))
        emit_store_vector(
            s, value, c=self.c, site=site, dtype=self.dtype, add=self.accumulate, last=True, epilogue=self.epilogue
        )


def _lanes(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(start, index(1), lanes)
