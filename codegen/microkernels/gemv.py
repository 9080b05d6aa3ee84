"""Products with very few rows: B is read once, as it lies, at the speed of memory; nothing is packed.

Two forms, by the direction in which B is contiguous. Along its rows (`axpy`): a strip of columns is summed in L1, a
few rows of B at a time, so that memory sees a few long ascending streams; the rows of A are a loop inside, over what has
just been read. Along its columns (`dot`): a few columns at a time, each a stream, times a few rows of A, with vectors along k
and the sums in registers. A is widened and computed once, where it is not a matrix of the type of the sums already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import tvm_ffi
from tvm import tirx

from ...ir.microkernels import FMA, Lies, few_rows
from ...ir.plans import GemmPlan
from .ahead import LINE, later
from .fma import emit_store_vector
from .halves import load_words, parted, widened
from .operand import Epilogue, Formula, Operand, Site, load
from .statements import Statements, as_index, both, ceil_div, condition, constant, index, maximum, minimum, negation, round_up
from .tasks import emit_strips
from .vector import (
    first_lanes,
    fma,
    lane_type,
    load_aligned,
    load_masked,
    load_scalar,
    prefetch,
    shuffle,
    splat,
    zeros,
)

L1 = 8192
"""Elements that the axpy form sums at a time: those of all rows, and the vectors of B in use, stay in L1."""
STRIP = 1024
"""Columns that it sums at most: a page of B, beyond which the hardware does not look ahead."""
STREAMS = 8
"""Rows of B that it reads side by side, and asks for before it does."""
SIDE = 4
"""Columns of B that the dot form reads side by side; twice as many for one row, which leaves registers for their sums."""
AHEAD = 1024
"""Bytes ahead of its use at which each of them is asked for,"""
PAGE = 2048
"""where it is longer than so many bytes: shorter ones are asked for as one stretch of memory, pages in turn."""


def lies(b: Operand | Formula) -> Lies:
    """How a right operand lies in memory."""
    if isinstance(b, Formula) or not (b.rows_contiguous or b.columns_contiguous):
        return Lies.OTHERWISE
    return Lies.ACROSS if b.rows_contiguous else Lies.ALONG


def is_skinny(m: tirx.Expr | int, b: Operand | Formula, k: int | None, plan: GemmPlan) -> bool | tirx.Expr:
    """Whether m rows are so few that B should not be packed: a literal, or a condition for run time.

    `k`: the depth, where it is known.
    """
    most = min(plan.skinny, few_rows(FMA, lies(b), k))
    if most == 0:
        return False
    known = constant(m)
    return m <= most if known is None else known <= most


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
    unless: tirx.Expr | bool = False,
) -> tirx.Expr:
    """Emits the product for few rows or few columns, where it can come to that, and never where `unless` holds; gives the
    condition that it does not come to it."""
    wide = condition(True)
    for x, y, z, rows, cols, finish in (
        (a, b, c, m, n, epilogue),
        (b.transposed(), a.transposed(), c.transposed(), n, m, None if epilogue is None else epilogue.transposed()),
    ):
        few = both(negation(unless), is_skinny(rows, y, constant(k), plan))
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
        held = self._emit_left(s)
        threads = self.plan.threads if parallel else 1
        emit_strips(s, partial(body, s, held), n=self.n, threads=threads, lanes=self.plan.lanes)

    def _emit_left(self, s: Statements) -> Operand:
        """A in the type of the sums, rows contiguous for the dot form: itself, or a copy made here, once for all tasks.

        Beyond the last column the copy holds zeros up to a whole vector.
        """
        a, lanes = self.a, self.plan.lanes
        if self._by_words:
            return self._emit_parted_left(s)
        if isinstance(a, Operand) and a.dtype == self.dtype and (a.rows_contiguous or self.b.rows_contiguous):
            return a
        pitch = s.bind("pitch", round_up(maximum(self.k, 1), lanes))
        buffer = s.reserve("left", maximum(self.m, 1) * pitch, self.dtype)
        with s.loop("i", self.m) as i, s.loop("chunk", ceil_div(self.k, lanes)) as chunk:
            step = s.bind("step", chunk * lanes)
            site = Site(row=i, col=step, lanes=lanes, count=s.bind("count", self.k - step))
            value = tirx.Select(site.mask, load(s, a, site, self.dtype), zeros(self.dtype, lanes))
            s.store(buffer, _lanes(i * pitch + step, lanes), value)
        return Operand(buffer=buffer, row_stride=pitch, col_stride=1)

    @property
    def _by_words(self) -> bool:
        """Whether B's elements are widened as even and odd ones of words: bf16 along k, vectors of 512 bits."""
        return self.b.dtype == "bfloat16" and not self.b.rows_contiguous and self.dtype == "float32" and self.plan.lanes == 16

    def _emit_parted_left(self, s: Statements) -> Operand:
        """A copy of A with the even elements of every two vectors before the odd ones."""
        lanes = self.plan.lanes
        pitch = s.bind("pitch", round_up(maximum(self.k, 1), 2 * lanes))
        buffer = s.reserve("left", maximum(self.m, 1) * pitch, self.dtype)
        with s.loop("i", self.m) as i, s.loop("chunk", ceil_div(self.k, 2 * lanes)) as chunk:
            both_vectors = []
            for part in range(2):
                step = s.bind("step", chunk * (2 * lanes) + part * lanes)
                there = s.bind("there", minimum(step, self.k - 1))  # the second vector may lie beyond the end
                site = Site(row=i, col=there, lanes=lanes, count=s.bind("count", self.k - there))
                inside = first_lanes(self.k - step, lanes)
                value = tirx.Select(inside, load(s, self.a, site, self.dtype), zeros(self.dtype, lanes))
                both_vectors.append(s.bind("value", value))
            for half in range(2):
                at = i * pitch + chunk * (2 * lanes) + half * lanes
                s.store(buffer, _lanes(at, lanes), parted(both_vectors[0], both_vectors[1], half, lanes))
        return Operand(buffer=buffer, row_stride=pitch, col_stride=1)

    def _emit_strips(self, s: Statements, a: Operand, first: tirx.Expr, width: tirx.Expr) -> None:
        lanes, dtype = self.plan.lanes, self.dtype
        length = s.bind("length", minimum(_power_below(s, tirx.truncdiv(index(L1), maximum(self.m, 1))), STRIP))
        narrow = both(_is(self.b.row_stride, self.n), _is(minimum(self.n, length), self.n))
        share = self._vectors_of_line
        sums = s.allocate("sums", (max(L1, self.plan.skinny * lanes),), dtype)
        turns = s.bind("turns", tirx.truncdiv(self.k, index(STREAMS)))
        with s.loop("strip", ceil_div(maximum(width, 0), length)) as strip:
            col = s.bind("col", first + strip * length)
            cols = s.bind("cols", minimum(width - strip * length, length))
            vectors = s.bind("vectors", ceil_div(cols, lanes))
            full = s.bind("full", tirx.truncdiv(cols, index(lanes)))
            with s.loop("i", self.m) as i, s.loop("v", vectors) as v:
                s.store(sums, _lanes(i * length + v * lanes, lanes), zeros(dtype, lanes))

            def update(p: tirx.Expr, steps: int, at: tirx.Expr, count: tirx.Expr | int) -> None:
                """Adds `steps` rows of B to the vector of sums at `at`, of which `count` lanes lie inside."""
                mask = first_lanes(count, lanes)
                b = []
                for u in range(0, steps, share):
                    row = p + u if share == 1 else p + u + tirx.truncmod(tirx.truncdiv(at, index(lanes)), index(share))
                    self._ask(s, row, col + at, self.b.at(row + STREAMS, col + at), dense=narrow, distance=0)
                for u in range(steps):
                    value = load_masked(self.b.buffer, self.b.at(p + u, col + at), mask, dtype, lanes)
                    b.append(s.bind(f"b_{u}", value))
                with s.loop("i", self.m) as i:
                    where = s.bind("where", i * length + at)
                    total = load_aligned(sums, where, lanes)
                    for u, vector in enumerate(b):
                        one = splat(load_scalar(a.buffer, a.at(i, p + u), dtype), lanes)
                        total = fma(one, vector, total, fused=self.plan.fused)
                    s.store(sums, _lanes(where, lanes), total)

            def sweep(p: tirx.Expr, steps: int) -> None:
                with s.loop("v", full) as v:
                    update(p, steps, s.bind("at", v * lanes), lanes)
                with s.loop("v", vectors - full):
                    at = s.bind("at", full * lanes)
                    update(p, steps, at, s.bind("count", cols - at))

            with s.loop("p", turns) as turn:
                sweep(s.bind("from", turn * STREAMS), STREAMS)
            with s.loop("p_tail", self.k - turns * STREAMS) as rest:
                sweep(s.bind("from", turns * STREAMS + rest), 1)
            with s.loop("i", self.m) as i, s.loop("v", vectors) as v:
                self._emit_store(s, load_aligned(sums, i * length + v * lanes, lanes), i, col + v * lanes, cols - v * lanes)

    def _emit_dots(self, s: Statements, a: Operand, first: tirx.Expr, width: tirx.Expr) -> None:
        """Columns in groups as wide as a vector; their sums wait in L1 until the lanes of all of them are added at once."""
        lanes = self.plan.lanes
        most, known = self._rows_at_once(), constant(self.m)
        capacity = round_up(self.plan.skinny if known is None else max(known, 1), 1)
        size = (int(constant(capacity) or 1) + most) * lanes * lanes
        waiting = s.allocate("waiting", (size,), self.dtype)
        with s.loop("group", ceil_div(maximum(width, 0), lanes)) as group:
            col = s.bind("col", first + group * lanes)
            cols = s.bind("cols", minimum(width - group * lanes, lanes))
            for rows, chosen in self._row_sets():
                side = min(self._side(rows), lanes)
                with s.when(chosen), s.loop("q", ceil_div(cols, side)) as q:
                    columns = [s.bind(f"column_{j}", col + minimum(q * side + j, cols - 1)) for j in range(side)]
                    with s.loop("set", ceil_div(self.m, rows)) as part:
                        at = [s.bind("at", minimum(part * rows + i, self.m - 1)) for i in range(rows)]
                        totals = self._emit_side(s, a, at, columns)
                        for i, row in enumerate(totals):
                            for j, total in enumerate(row):
                                where = ((part * rows + i) * lanes + q * side + j) * lanes
                                s.store(waiting, _lanes(where, lanes), total)
            with s.loop("i", self.m) as i:
                totals = [s.bind("total", load_aligned(waiting, (i * lanes + j) * lanes, lanes)) for j in range(lanes)]
                self._emit_store(s, sums_of_lanes(s, totals), i, col, cols)

    def _rows_at_once(self) -> int:
        """Rows of A whose sums with SIDE columns stay in registers beside what they are made of."""
        return 6 if self.plan.mr * self.plan.nv >= 24 else 2

    def _side(self, rows: int) -> int:
        """How many columns are read side by side with so many rows of A."""
        columns = constant(self.n)
        return 2 * SIDE if rows == 1 and (columns is None or columns > SIDE) else SIDE

    def _row_sets(self) -> list[tuple[int, tirx.Expr | bool]]:
        """How many rows are taken together, and when: equal shares of a number that is known."""
        most, known = self._rows_at_once(), constant(self.m)
        if known is not None:
            sets = ceil_div(max(known, 1), most)
            return [(int(constant(ceil_div(max(known, 1), sets)) or 1), True)]
        several = self.m > 1
        return [(1, negation(several)), (min(4, most), several)]

    def _emit_side(self, s: Statements, a: Operand, rows: list[tirx.Expr], columns: list[tirx.Expr]) -> list[list[tirx.Expr]]:
        """The dot products of rows of A with columns of B, not yet added over the lanes: `totals[row][column]`."""
        lanes, dtype = self.plan.lanes, self.dtype
        whole = 2 * lanes if self._by_words else lanes
        turns = s.bind("turns", tirx.truncdiv(self.k, index(whole)))
        rest = s.bind("rest", self.k - turns * whole)
        totals = [[s.allocate("total", (1,), lane_type(dtype, lanes), scope="local") for _ in columns] for _ in rows]
        for row in totals:
            for total in row:
                s.store(total, 0, zeros(dtype, lanes))

        def add(row: list[tirx.Buffer], one: tirx.Expr, factors: list[tirx.Expr]) -> None:
            for factor, total in zip(factors, row, strict=True):
                s.store(total, 0, fma(one, factor, tirx.BufferLoad(total, [index(0)]), fused=self.plan.fused))

        def update(p: tirx.Expr, mask: tirx.Expr) -> None:
            factors = [s.bind("b", load_masked(self.b.buffer, self.b.at(p, column), mask, dtype, lanes)) for column in columns]
            for at, row in zip(rows, totals, strict=True):
                add(row, s.bind("a", load_masked(a.buffer, a.at(at, p), mask, dtype, lanes)), factors)

        def update_words(p: tirx.Expr, count: tirx.Expr | int) -> None:
            words = [s.bind("words", load_words(self.b.buffer, self.b.at(p, column), count, lanes)) for column in columns]
            for half in range(2):
                factors = [s.bind("b", widened(each, half, lanes)) for each in words]
                for at, row in zip(rows, totals, strict=True):
                    add(row, s.bind("a", load_aligned(a.buffer, a.at(at, p + half * lanes), lanes)), factors)

        short = both(_is(self.b.col_stride, self.k), _is(minimum(self.k, PAGE * 8 // self._bits), self.k))
        with s.loop("p", turns) as turn:
            p = s.bind("p", turn * whole)
            for column in columns:
                if self.plan.again:
                    s.evaluate(prefetch(self.b.buffer, self.b.at(p, column + len(columns))))
                    continue
                ahead = self.b.at(p + AHEAD * 8 // self._bits, column)
                self._ask(s, p, column, ahead, dense=short, distance=0)
            if self._by_words:
                update_words(p, 2 * lanes)
            else:
                update(p, first_lanes(lanes, lanes))
        with s.when(rest > 0):
            if self._by_words:
                update_words(turns * whole, rest)
            else:
                update(turns * whole, first_lanes(rest, lanes))
        return [[tirx.BufferLoad(total, [index(0)]) for total in row] for row in totals]

    @property
    def _bits(self) -> int:
        return int(tvm_ffi.dtype(self.b.dtype).bits)

    @property
    def _vectors_of_line(self) -> int:
        return max(1, LINE * 8 // (self._bits * self.plan.lanes))

    def _ask(
        self, s: Statements, row: tirx.Expr, col: tirx.Expr, near: tirx.Expr, *, dense: tirx.Expr, distance: tirx.Expr | int
    ) -> None:
        """Asks for later elements of B: pages in turn where B is read in the order of the memory, else what is ``near``."""
        if self.plan.again:
            return
        if constant(dense) == 0:
            s.evaluate(prefetch(self.b.buffer, near))
            return
        far = later(s, s.bind("here", self.b.at(row, col)), self._bits, distance)
        s.evaluate(prefetch(self.b.buffer, far if constant(dense) == 1 else tirx.Select(dense, far, near)))

    def _emit_store(self, s: Statements, value: tirx.Expr, row: tirx.Expr, col: tirx.Expr, count: tirx.Expr) -> None:
        site = Site(row=row, col=s.bind("first_col", col), lanes=self.plan.lanes, count=s.bind("count", count))
        emit_store_vector(
            s, value, c=self.c, site=site, dtype=self.dtype, add=self.accumulate, last=True, epilogue=self.epilogue
        )


def sums_of_lanes(s: Statements, vectors: list[tirx.Expr]) -> tirx.Expr:
    """As many vectors as they have lanes, each added up: lane j is the sum of vector j, halves first.

    Two vectors are folded into one by a shuffle for each half and an addition, and so on with what results.
    """
    lanes = step = len(vectors)
    bits = lanes.bit_length() - 1
    vectors = [vectors[int(f"{j:0{bits}b}"[::-1], 2)] for j in range(lanes)] if bits else vectors
    while step > 1:
        step //= 2
        low = [lane // (2 * step) * 2 * step + lane % step + (lane // step % 2) * lanes for lane in range(lanes)]
        high = [lane + step for lane in low]
        vectors = [
            s.bind("folded", shuffle(pair, low) + shuffle(pair, high)) for pair in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _is(a: tirx.Expr | int, b: tirx.Expr | int) -> tirx.Expr:
    """Whether two numbers are equal: known, or a condition."""
    x, y = constant(a), constant(b)
    return condition(x == y) if x is not None and y is not None else tirx.EQ(as_index(a), as_index(b))


def _power_below(s: Statements, value: tirx.Expr) -> tirx.Expr:
    """The greatest power of two that is at most `value`, which is between 1 and L1."""
    known = constant(value)
    if known is not None:
        return index(1 << (known.bit_length() - 1))
    power = index(1)
    for bit in range(1, L1.bit_length()):
        power = tirx.Select(value >= (1 << bit), index(1 << bit), power)
    return s.bind("power", power)


def _lanes(start: tirx.Expr, lanes: int) -> tirx.Expr:
    return tirx.Ramp(start, index(1), lanes)
