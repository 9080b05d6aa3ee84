"""Convolutions on the matrix-product micro-kernel, with the general way for the calls that it cannot take.

The result's points are the columns of the product, the window's points its depth: passes/tiling/window.py has the identity.
Elements outside of the image are multiplied as 0, which is only seen where a weight is not finite: then some result is not
finite either, so that results are looked at, and made again by the general way, which skips absent elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ..ir.expr import Const, Expr
from ..ir.index import affine_in
from ..ir.machine import Machine
from ..ir.microkernels import BY_NAME, FMA
from ..ir.tile import Compute, Window
from .arithmetic import lanes_of
from .compute import ComputeEmitter
from .context import Context, Variables
from .element import computed
from .microkernels.dot import emit_dot
from .microkernels.families import panel_product
from .microkernels.gemm import emit_gemm
from .microkernels.operand import Operand
from .microkernels.packing import PackedMatrix
from .microkernels.panels import PackedWords
from .microkernels.point_words import PointWords
from .microkernels.points import PointProduct
from .microkernels.statements import Statements, as_index, both, ceil_div, constant, index, maximum, minimum, negation
from .microkernels.vector import first_lanes, load_masked, splat
from .microkernels.window import Axis, WindowOperand
from .views import View, encode

_DTYPE = "float32"

_REACH = 1 << 29
"""How far columns and taps together move in the image. An image of less than twice as many is out of reach from a point three
times as far away, on either side: so a window's start is never taken for farther, and a position fits 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEmitter:
    """Emits one Compute whose method is a window."""

    context: Context
    compute: Compute
    variables: Variables
    serial: bool
    machine: Machine
    packed: PackedMatrix | PackedWords | None

    @property
    def window(self) -> Window:
        assert self.compute.window is not None
        return self.compute.window

    def emit(self, s: Statements) -> None:
        """Adds the convolution to ``s``."""
        window, compute = self.window, self.compute
        roles = (window.rows, *window.columns)
        batch = [r for r in compute.output_ranks if r not in roles]
        undone = s.allocate("undone", (1,), "int32")
        s.store(undone, 0, tirx.IntImm("int32", 1))
        with s.when(self._dense(s)):
            s.store(undone, 0, tirx.IntImm("int32", 0))
            self._batched(s, batch, dict(self.variables), undone)
        with s.when(tirx.BufferLoad(undone, [index(0)]) != tirx.IntImm("int32", 0)):
            general = replace(compute, window=None, method=window.otherwise)
            ComputeEmitter(context=self.context, compute=general, variables=self.variables, serial=self.serial).emit(s)

    def _batched(self, s: Statements, batch: Sequence[str], variables: Variables, undone: tirx.Buffer) -> None:
        if batch:
            with s.loop(batch[0], self._extent(s, batch[0])) as at:
                self._batched(s, batch[1:], {**variables, batch[0]: at}, undone)
            return
        window = self.window
        sides = [int(e.value) for t in window.taps if isinstance(e := self.compute.extent(t), Const)]
        columns = [s.bind("columns", self._extent(s, r)) for r in window.columns]
        taps = 1
        for side in sides:
            taps *= side
        rows = s.bind("rows", self._extent(s, window.rows))
        width = s.bind("width", _product(columns))
        depth = s.bind("depth", self._extent(s, window.channel) * taps if window.channel else index(taps))
        weights, result = self.context.views[window.weights.tensor], self.context.views[self.compute.target]
        c = self._matrix(s, result, self.compute.indices, variables)
        a = self._matrix(s, weights, window.weights.indices, variables)
        image = self._image(s, variables, columns, sides)
        if window.kernel != FMA:
            self._dot(s, a, image, self._result(c), rows, width, depth)
            self._finish(s, c, rows, width, undone)
            return
        plan = window.plan
        assert plan is not None
        if isinstance(self.packed, PackedMatrix):
            product = PointProduct(
                weights=self.packed, image=image, c=self._result(c), rows=rows,
                points=width, k=depth, dtype=_DTYPE, plan=plan,
            )  # fmt: skip
            product.emit_tasks(s, parallel=not self.serial)
            self._finish(s, c, rows, width, undone)
            return
        if constant(depth) is not None and constant(rows) is not None:
            # Rows at a known distance, and no tile that goes beyond them: they are read where they lie.
            a = replace(a, row_stride=depth, slack=plan.mr)
        s.add(
            emit_gemm(
                a=a,
                b=image,
                c=self._result(c),
                m=rows,
                n=width,
                k=depth,
                dtype=_DTYPE,
                accumulate=False,
                plan=plan,
                parallel=not self.serial,
            )
        )
        self._finish(s, c, rows, width, undone)

    def _dot(
        self,
        s: Statements,
        weights: Operand,
        image: WindowOperand,
        c: Operand,
        rows: tirx.Expr,
        points: tirx.Expr,
        depth: tirx.Expr,
    ) -> None:
        """The same on dot-product instructions: of bytes, whose sums are exact, in another way where the weights are bound."""
        window, parallel = self.window, not self.serial
        plan, raw = window.dot_plan, f"uint{window.image.dtype.bits}"
        kernel = panel_product(BY_NAME[window.kernel], computed(self.compute.accumulator))
        assert plan is not None
        ahead: tirx.Expr | bool = False
        if isinstance(self.packed, PackedWords):
            ahead = self.packed.ahead
            channels = s.bind("channels", self._extent(s, window.channel or ""))
            product = PointWords(
                kernel=kernel.mirrored(), weights=self.packed, image=image, c=c, rows=rows, points=points, channels=channels,
                raw=raw, plan=plan,
            )  # fmt: skip
            with s.when(ahead):
                product.emit_tasks(s, parallel=parallel)
        with s.when(negation(ahead)):
            s.add(
                emit_dot(
                    kernel=kernel, a=weights, b=image, c=c, raw=raw, m=rows, n=points, k=depth, accumulate=False, plan=plan,
                    parallel=parallel,
                )
            )  # fmt: skip

    def _finish(self, s: Statements, c: Operand, rows: tirx.Expr, width: tirx.Expr, undone: tirx.Buffer) -> None:
        """Looks at what a window has made that meets elements outside of the image: of floats, which may not be finite."""
        if self.compute.filter is not None and self.compute.accumulator.is_float:
            self._look(s, c, rows, width, undone)

    def _result(self, c: Operand) -> Operand:
        """C as sums are stored in it."""
        view = self.context.views[self.compute.target]
        if view.dtype == self.compute.accumulator:
            return c
        return replace(c, buffer=view.flat, encode=lambda value: encode(value, view.dtype, lanes_of(value)))

    def _look(self, s: Statements, c: Operand, rows: tirx.Expr, width: tirx.Expr, undone: tirx.Buffer) -> None:
        """Notes in ``undone`` that some element of C is not finite: x · 0 is 0 for all others."""
        lanes = self.machine.vector_bits // 32
        kind = ForKind.SERIAL if self.serial else ForKind.PARALLEL
        with s.loop("row", rows, kind=kind) as row:
            harm = s.allocate("harm", (lanes,), _DTYPE, scope="local")
            ramp = tirx.Ramp(index(0), index(1), lanes)
            zero = splat(tirx.FloatImm(_DTYPE, 0.0), lanes)
            s.store(harm, ramp, zero)
            with s.loop("chunk", ceil_div(width, lanes)) as chunk:
                col = s.bind("col", chunk * lanes)
                value = load_masked(c.buffer, c.at(row, col), first_lanes(width - col, lanes), _DTYPE, lanes)
                s.store(harm, ramp, tirx.BufferLoad(harm, [ramp]) + value * zero)
            with s.loop("lane", lanes) as lane:
                harmless = tirx.BufferLoad(harm, [lane]) == tirx.FloatImm(_DTYPE, 0.0)
                with s.when(negation(harmless)):
                    s.store(undone, 0, tirx.IntImm("int32", 1))

    # -- operands ------------------------------------------------------------------------------------------------------

    def _extent(self, s: Statements, rank: str) -> tirx.Expr:
        return as_index(self.context.evaluator(s, self.variables).value(self.compute.extent(rank)))

    def _dense(self, s: Statements) -> tirx.Expr:
        """Whether the columns of the result, and the depth of the weights, lie without gaps; and places fit 32 bits."""
        window = self.window
        result, weights = self.context.views[self.compute.target], self.context.views[window.weights.tensor]
        depth = [r for r in (window.rows, window.channel, *window.taps) if r is not None]
        found = both(self._gapless(s, result, window.columns), self._gapless(s, weights, depth))
        columns = {r: self._extent(s, r) for r in window.columns}
        taps = {t: self._extent(s, t) for t in window.taps}
        most, reach = _product(list(columns.values())), index(0)
        image = self.context.views[window.image.tensor]
        moving = {*window.columns, *window.taps}
        for i, extent, stride in zip(window.image.indices, image.extents, image.strides, strict=True):
            if form := {r: c for r, c in _form(i, moving).items() if r in moving}:
                step = s.bind("step", maximum(tirx.Max(stride, -stride), 1))
                most = tirx.Max(most, extent * step)
                reach = reach + sum((as_index({**columns, **taps}[r]) * abs(c) for r, c in form.items()), index(0)) * step
        return both(both(found, most < index(1 << 30)), reach < index(_REACH))

    def _gapless(self, s: Statements, view: View, ranks: Sequence[str]) -> tirx.Expr | bool:
        """Whether the last dimensions of a tensor, those of ``ranks``, are one block."""
        found: tirx.Expr | bool = True
        wanted: tirx.Expr = index(1)
        for rank, stride in zip(reversed(ranks), reversed(view.strides), strict=False):
            found = both(found, stride == wanted) if constant(stride) != constant(wanted) or constant(stride) is None else found
            wanted = s.bind("wanted", wanted * self._extent(s, rank))
        return found

    def _matrix(self, s: Statements, view: View, indices: tuple[Expr, ...], variables: Variables) -> Operand:
        """The weights, or the result: rows of the rank ``rows``, all that follows it in one dense dimension."""
        window = self.window
        origin = {**variables, **{r: index(0) for r in (window.rows, *window.columns, *self.compute.reduced)}}
        at = self.context.evaluator(s, origin)
        offset = s.bind("origin", view.offset([as_index(at.value(i)) for i in indices]))
        stride = next(stride for i, stride in zip(indices, view.strides, strict=True) if window.rows in _form(i, {window.rows}))
        return Operand(buffer=_memory(view), offset=offset, row_stride=stride, col_stride=1)

    def _image(self, s: Statements, variables: Variables, columns: Sequence[tirx.Expr], taps: Sequence[int]) -> WindowOperand:
        window = self.window
        view = self.context.views[window.image.tensor]
        moving = (*window.columns, *window.taps)
        still = {**variables, **{r: index(0) for r in (*moving, *self.compute.reduced)}}
        at = self.context.evaluator(s, still)
        axes: list[Axis] = []
        offset: tirx.Expr = index(0)
        channel: tirx.Expr = index(0)
        for i, extent, stride in zip(window.image.indices, view.extents, view.strides, strict=True):
            form = _form(i, set(moving))
            if any(r in form for r in moving):
                axes.append(
                    Axis(
                        extent=extent,
                        stride=stride,
                        start=s.bind("start", maximum(minimum(as_index(at.value(i)), 3 * _REACH), -3 * _REACH)),
                        by_column=tuple(form.get(r, 0) for r in window.columns),
                        by_tap=tuple(form.get(r, 0) for r in window.taps),
                    )
                )
            elif window.channel is not None and window.channel in _form(i, {window.channel}):
                channel = stride
            else:
                offset = offset + as_index(at.value(i)) * stride
        return WindowOperand(
            buffer=_memory(view),
            offset=s.bind("origin", offset),
            axes=tuple(axes),
            columns=tuple(columns),
            taps=tuple(taps),
            channel_stride=channel,
        )


def _memory(view: View) -> tirx.Buffer:
    """A tensor under its own type."""
    return view.flat if view.typed is None else view.typed


def _form(expr: Expr, ranks: set[str]) -> dict[str, int]:
    """The constant coefficients of ``ranks`` in an index."""
    form = affine_in(expr, ranks)
    assert form is not None
    return {r: int(c.value) for r, c in form.terms if r in ranks and isinstance(c, Const)}


def _product(values: Sequence[tirx.Expr]) -> tirx.Expr:
    total = values[0]
    for value in values[1:]:
        total = total * value
    return total
