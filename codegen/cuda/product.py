"""Matrix products by the threads of a block: operands in steps of the depth through shared memory, sums in registers.

A tile of C is dealt to the block's warps in rectangles. On tensor cores a warp's rectangle is made of fragments of 16 × 8 sums
(``mma.sync`` m16n8k16 for 16-bit floats; PTX ISA, section Matrix Fragments for mma.m16n8k16), elsewhere each thread has sums of
its own. Operands are whatever can be evaluated at a point; elements beyond an edge are 0, as is what they are multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import tvm_ffi
from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Cast, Expr, Read, ranks_of, reads_of
from ...ir.microkernels import BY_NAME, FMA
from ...ir.tile import Compute, MatrixProduct
from ..context import Context, Variables
from ..element import computed
from ..functions.lanes import pure
from ..microkernels.statements import Statements, as_index, ceil_div, index
from ..views import encode, moves_along
from . import mma
from .statements import WARP, DeviceStatements, Team

Finish = Callable[[Statements, Variables, tirx.Expr], None]
"""Stores the finished sum of a point of C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Knobs: the ``rows`` and ``columns`` of C that a block computes at a time, in steps of ``depth``, and how many warps share
    its rows and its columns."""

    rows: int
    columns: int
    depth: int
    warps: tuple[int, int]

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * WARP


def shape_of(kernel: str, rows: int | None, columns: int | None, threads: int | None = None) -> Shape:
    """The tile for a product of at most so many rows and columns (None: any number); ``threads`` are given inside a block."""
    cores = kernel != FMA
    most = 128 if cores else 64
    height, width = (_side(extent, most) for extent in (rows, columns))
    warps = (8 if height * width > 64 * 64 else 4) if threads is None else threads // WARP
    # Rectangles of a warp are whole fragments, and as square as can be: what is loaded is their sides.
    down = min(
        (d for d in (1, 2, 4, 8) if d <= warps and height // d >= mma.ROWS),
        key=lambda d: (max(width, mma.COLUMNS * (warps // d)), height // d + width * d // warps),
    )
    width = max(width, mma.COLUMNS * (warps // down))
    return Shape(rows=height, columns=width, depth=32 if cores else 16, warps=(down, warps // down))


def _side(extent: int | None, most: int) -> int:
    side = mma.ROWS
    while side < most and (extent is None or side < extent):
        side *= 2
    return side


def on_blocks(compute: Compute) -> bool:
    """Whether a block computes the product in tiles: a matrix by a matrix, all of whose points count."""
    product = compute.product
    if product is None or product.rows is None or product.columns is None or compute.filter is not None:
        return False
    tile = {product.rows, product.columns, product.inner}
    return not any(set(ranks_of(r.extent)) & tile for r in compute.ranks)


def scratch_of(compute: Compute, shape: Shape) -> int:
    """Bytes of shared memory that the operands of a product are staged in."""
    product = compute.product
    assert product is not None
    if product.kernel != FMA:
        line = mma.line_bytes(shape.depth)
    else:
        line = (shape.depth + 1) * (8 if computed(compute.accumulator).endswith("64") else 4)
    return (shape.rows + shape.columns) * line


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockProduct:
    """One product at the point of its batch that ``variables`` tell; ``finish`` stores its sums."""

    context: Context
    compute: Compute
    team: Team
    shape: Shape
    finish: Finish
    scratch: tirx.Buffer  # bytes of shared memory, as many as :func:`scratch_of` says

    @property
    def product(self) -> MatrixProduct:
        assert self.compute.product is not None
        return self.compute.product

    def everywhere(self, s: DeviceStatements, variables: Variables) -> None:
        """All tiles of C one after the other, by one block."""
        rows, columns = (self._extent(s, r, variables) for r in (self.product.rows, self.product.columns))
        with s.loop("down", ceil_div(rows, self.shape.rows)) as i, s.loop("across", ceil_div(columns, self.shape.columns)) as j:
            self.tile(s, variables, s.bind("top", i * self.shape.rows), s.bind("left", j * self.shape.columns))

    def tile(self, s: DeviceStatements, variables: Variables, top: tirx.Expr, left: tirx.Expr) -> None:
        """The tile of C whose first point is (top, left)."""
        product, compute, shape = self.product, self.compute, self.shape
        m, n, k = (self._extent(s, r, variables) for r in (product.rows, product.columns, product.inner))
        kernel = BY_NAME.get(product.kernel)
        numbers = computed(compute.accumulator)
        work = _Scalar(s, self.team, shape, numbers) if kernel is None else mma.Fragments(s, self.team, shape, kernel.left)
        sides = (
            _Side(expr=product.left, rank=product.rows or "", top=top, height=shape.rows, most=m),
            _Side(expr=product.right, rank=product.columns or "", top=left, height=shape.columns, most=n),
        )
        flats, start = [], 0
        for side in sides:
            flats.append(_Staged.at(s, self.scratch, start, work.element))
            start += work.bytes(side.height)

        def steps(s: Statements, variables: Variables) -> None:
            assert isinstance(s, DeviceStatements)
            with s.loop("step", ceil_div(k, shape.depth)) as step:
                first = s.bind("first", step * shape.depth)
                for side, flat in zip(sides, flats, strict=True):
                    self._stage(s, side, flat, variables, first, k, work.stride, work.element)
                s.barrier()
                work.multiply(s, *flats)
                s.barrier()

        outer = [r for r in compute.reduced if r != product.inner]
        self._around(s, outer, variables, steps)

        def done(s: Statements, row: tirx.Expr, column: tirx.Expr, value: tirx.Expr) -> None:
            i, j = s.bind("i", top + row), s.bind("j", left + column)
            with s.when(tirx.And(i < m, j < n)):
                self.finish(s, {**variables, product.rows or "": i, product.columns or "": j}, value)

        work.results(s, done)

    def _around(
        self, s: Statements, ranks: Sequence[str], variables: Variables, body: Callable[[Statements, Variables], None]
    ) -> None:
        if not ranks:
            body(s, variables)
            return
        with s.loop(ranks[0], self._extent(s, ranks[0], variables)) as at:
            self._around(s, ranks[1:], {**variables, ranks[0]: at}, body)

    def _extent(self, s: Statements, rank: str | None, variables: Variables) -> tirx.Expr:
        value = self.context.evaluator(s, variables).value(self.compute.extent(rank or ""))
        return s.bind("extent", as_index(value))

    def _stage(
        self,
        s: DeviceStatements,
        side: _Side,
        flat: _Staged,
        variables: Variables,
        first: tirx.Expr,
        depth: tirx.Expr,
        stride: int,
        element: str,
    ) -> None:
        """A panel of an operand into shared memory, ``height`` lines of ``shape.depth`` elements."""
        steps, threads, inner = self.shape.depth, self.team.threads, self.product.inner
        along = sum(moves_along(r, inner) for r in reads_of(side.expr))
        across = sum(moves_along(r, side.rank) for r in reads_of(side.expr))
        total = side.height * steps
        with s.loop("turn", -(-total // threads), kind=ForKind.UNROLLED) as turn:
            at = s.bind("at", turn * threads + self.team.thread)
            # Neighbouring threads read what lies side by side.
            fast = steps if along >= across else side.height
            major, minor = s.bind("major", tirx.truncdiv(at, index(fast))), s.bind("minor", tirx.truncmod(at, index(fast)))
            line, step = (major, minor) if along >= across else (minor, major)
            with s.when(True if total % threads == 0 else at < total):
                row, k = s.bind("row", side.top + line), s.bind("k", first + step)
                value = s.allocate("value", (1,), element, scope="local")
                s.store(value, 0, tirx.const(0, element))
                with s.when(tirx.And(row < side.most, k < depth)):
                    s.store(value, 0, self._element(s, side.expr, {**variables, side.rank: row, inner: k}, element))
                s.store(flat.buffer, flat.first + line * stride + step, tirx.BufferLoad(value, [index(0)]))

    def _element(self, s: Statements, expr: Expr, variables: Variables, element: str) -> tirx.Expr:
        """An operand's element as it is staged: as its bits for tensor cores, as a number else."""
        at = self.context.evaluator(s, variables)
        kernel = BY_NAME.get(self.product.kernel)
        if kernel is None:
            wide = expr if expr.dtype == self.compute.accumulator else Cast(value=expr, dtype=self.compute.accumulator)
            return at.value(wide)
        if isinstance(expr, Read) and expr.tensor in self.context.views:
            view = self.context.views[expr.tensor]
            raw: tirx.Expr = tirx.BufferLoad(view.flat, [at.offset(expr.tensor, expr.indices)])
        else:
            raw = encode(at.value(expr), expr.dtype, 1)
        return raw if str(raw.ty.dtype) == element else tirx.reinterpret(element, raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """An operand: its expression, the rank of its lines, the first line, how many are staged, how many there are."""

    expr: Expr
    rank: str
    top: tirx.Expr
    height: int
    most: tirx.Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staged:
    """An operand in shared memory: its elements begin at number ``first`` of ``buffer``."""

    buffer: tirx.Buffer
    first: int

    @staticmethod
    def at(s: Statements, scratch: tirx.Buffer, start: int, element: str) -> _Staged:
        buffer = tirx.decl_buffer((index(1 << 20),), element, name="staged", data=scratch.data)
        s.add(tirx.DeclBuffer(buffer, data=scratch.data))
        return _Staged(buffer=buffer, first=start // tvm_ffi.dtype(element).itemsize)


class _Scalar:
    """Sums of f32, f64 or integers in the registers of single threads: rows side by side, columns a warp's width apart."""

    def __init__(self, s: DeviceStatements, team: Team, shape: Shape, numbers: str) -> None:
        self.team, self.shape, self.element = team, shape, numbers
        self.across = min(16, shape.columns)
        self.down = team.threads // self.across
        self.height, self.width = -(-shape.rows // self.down), shape.columns // self.across
        self.stride = shape.depth + 1  # lines of neighbouring threads lie in different banks
        self.sums = s.allocate("sums", (self.height * self.width,), numbers, scope="local")
        with s.loop("i", self.height * self.width, kind=ForKind.UNROLLED) as i:
            s.store(self.sums, i, tirx.const(0, numbers))

    def bytes(self, lines: int) -> int:
        return lines * self.stride * (8 if self.element.endswith("64") else 4)

    def _place(self, s: Statements) -> tuple[tirx.Expr, tirx.Expr]:
        return (
            s.bind("down", tirx.truncdiv(self.team.thread, index(self.across))),
            s.bind("across", tirx.truncmod(self.team.thread, index(self.across))),
        )

    def multiply(self, s: DeviceStatements, a: _Staged, b: _Staged) -> None:
        down, across = self._place(s)
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        left = s.allocate("left", (self.height,), self.element, scope="local")
        right = s.allocate("right", (self.width,), self.element, scope="local")
        with unrolled("k", self.shape.depth) as k:
            with unrolled("i", self.height) as i:
                line = tirx.min(down + i * self.down, index(self.shape.rows - 1))
                s.store(left, i, tirx.BufferLoad(a.buffer, [a.first + line * self.stride + k]))
            with unrolled("j", self.width) as j:
                s.store(right, j, tirx.BufferLoad(b.buffer, [b.first + (across + j * self.across) * self.stride + k]))
            with unrolled("i", self.height) as i, unrolled("j", self.width) as j:
                at = i * self.width + j
                x, y = tirx.BufferLoad(left, [i]), tirx.BufferLoad(right, [j])
                total = tirx.BufferLoad(self.sums, [at])
                s.store(self.sums, at, pure("llvm.fma", x, y, total) if "float" in self.element else total + x * y)

    def results(self, s: DeviceStatements, done: Callable[[Statements, tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        down, across = self._place(s)
        with s.loop("i", self.height) as i, s.loop("j", self.width) as j:
            row = s.bind("row", down + i * self.down)
            with s.when(True if self.shape.rows % self.down == 0 else row < self.shape.rows):
                done(s, row, across + j * self.across, s.share(tirx.BufferLoad(self.sums, [i * self.width + j])))


__all__ = ["BlockProduct", "Finish", "Shape", "on_blocks", "scratch_of", "shape_of"]
