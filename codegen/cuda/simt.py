"""Products by multiply-adds of single threads, each of which has sums of its own, from operands in shared memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import tvm_ffi
from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Cast, Expr, reads_of
from ...ir.tile import Compute, MatrixProduct
from ..context import Context, Variables
from ..element import computed
from ..functions.lanes import pure
from ..microkernels.statements import Statements, ceil_div, index
from ..views import moves_along
from .operands import Side
from .statements import DeviceStatements, Team

if TYPE_CHECKING:
    from .product import Shape


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


class Scalars:
    """Sums of f32, f64 or integers in the registers of single threads: rows side by side, columns a warp's width apart."""

    def __init__(self, s: DeviceStatements, context: Context, compute: Compute, team: Team, shape: Shape) -> None:
        self.context, self.compute, self.team, self.shape = context, compute, team, shape
        self.element = computed(compute.accumulator)
        self.across = min(16, shape.columns)
        self.down = team.threads // self.across
        self.height, self.width = -(-shape.rows // self.down), shape.columns // self.across
        self.stride = shape.depth + 1  # lines of neighbouring threads lie in different banks
        self.sums = s.allocate("sums", (self.height * self.width,), self.element, scope="local")
        with s.loop("i", self.height * self.width, kind=ForKind.UNROLLED) as i:
            s.store(self.sums, i, tirx.const(0, self.element))

    @property
    def product(self) -> MatrixProduct:
        assert self.compute.product is not None
        return self.compute.product

    def steps(
        self, scratch: tirx.Buffer, sides: tuple[Side, Side], depth: tirx.Expr, s: DeviceStatements, variables: Variables
    ) -> None:
        """All steps of the depth."""
        flats, start = [], 0
        for side in sides:
            flats.append(_Staged.at(s, scratch, start, self.element))
            start += self.bytes(side.height)
        with s.loop("step", ceil_div(depth, self.shape.depth)) as step:
            first = s.bind("first", step * self.shape.depth)
            for side, flat in zip(sides, flats, strict=True):
                self._stage(s, side, flat, variables, first, depth)
            s.barrier()
            self.multiply(s, *flats)
            s.barrier()

    def _stage(
        self,
        s: DeviceStatements,
        side: Side,
        flat: _Staged,
        variables: Variables,
        first: tirx.Expr,
        depth: tirx.Expr,
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
                value = s.allocate("value", (1,), self.element, scope="local")
                s.store(value, 0, tirx.const(0, self.element))
                with s.when(tirx.And(row < side.most, k < depth)):
                    s.store(value, 0, self._number(s, side.expr, {**variables, side.rank: row, inner: k}))
                s.store(flat.buffer, flat.first + line * self.stride + step, tirx.BufferLoad(value, [index(0)]))

    def _number(self, s: Statements, expr: Expr, variables: Variables) -> tirx.Expr:
        """An operand's element in the type in which products are added up."""
        wide = expr if expr.dtype == self.compute.accumulator else Cast(value=expr, dtype=self.compute.accumulator)
        return self.context.evaluator(s, variables).value(wide)

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
