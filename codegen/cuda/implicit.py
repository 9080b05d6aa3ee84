"""Convolutions by the tiles of a block: matrix products whose sides are points of several ranks (passes/tiling/implicit.py).

A step of a tile multiplies some channels at one tap of the window. The taps of the same channels follow each other, so that
what they read of the weights and of the image, nearly the same lines of memory, is in the first-level cache.

What a window meets outside of the image is staged as 0, though the language says that such a product is absent: the two differ
where the weight is not finite, and 0 · w is NaN then. So a tile in which any sum is NaN is computed again, point by point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.expr import Expr, Rank
from ...ir.microkernels import BY_NAME
from ...ir.tile import Joined
from ...ir.types import F64
from ..context import Variables
from ..element import computed, stored
from ..microkernels.statements import Statements, both, ceil_div, condition, index
from . import mma, simt, wgmma
from .gathered import Gathered, Points
from .product import BlockProduct
from .simt import Scalars
from .staging import Bring, Slot, Source, aligned, i32
from .statements import DeviceStatements
from .writing import TOGETHER, can_store, store_together

_IS_NAN = """
__device__ __forceinline__ int einfall_is_nan_TYPE(TYPE x) {
  return x != x;
}
"""

_ANY = """
__device__ __forceinline__ int einfall_any(int mine) {
  return __syncthreads_or(mine);
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitProduct(BlockProduct):
    """As :class:`.product.BlockProduct`, of a product with joined roles. ``again`` computes and stores one point of the result,
    as written."""

    again: Callable[[Statements, Variables], None]

    @staticmethod
    def of(product: BlockProduct, again: Callable[[Statements, Variables], None]) -> ImplicitProduct:
        return ImplicitProduct(**{field.name: getattr(product, field.name) for field in fields(product)}, again=again)

    @property
    def joined(self) -> Joined:
        assert self.product.joined is not None
        return self.product.joined

    def tile(self, s: DeviceStatements, variables: Variables, top: tirx.Expr, left: tirx.Expr) -> None:
        """The tile of C whose first point is (top, left)."""
        product, shape, kernel = self.product, self.shape, BY_NAME.get(self.product.kernel)
        down = self._side(s, self.joined.rows, top, shape.rows, variables)
        across = self._side(s, self.joined.columns, left, shape.columns, variables)
        operands = [self._operand(product.left, down), self._operand(product.right, across)]
        depth = self._extent(s, product.inner, variables)
        pieces = s.bind("pieces", ceil_div(depth, shape.depth if kernel else simt.DEPTH))
        taps = [self._extent(s, tap, variables) for tap in self.joined.taps]
        steps = pieces
        for extent in taps:
            steps = s.bind("steps", steps * extent)

        def bringing(chunks: Sequence[bool]) -> Bring:
            owns = [operand.own(s, self.team, chunks=each) for operand, each in zip(operands, chunks, strict=True)]

            def bring(s: DeviceStatements, number: int, step: tirx.Expr, slot: Slot) -> None:
                at = s.coordinates(step, ["piece", *self.joined.taps], [pieces, *taps])
                first, point = s.bind("first", at.pop("piece") * (shape.depth if kernel else simt.DEPTH)), {**variables, **at}
                operands[number].bring(s, self.team, owns[number], slot, point, first, depth, chunks=chunks[number])

            return bring

        work: mma.Fragments | Scalars
        if kernel is None:
            work = Scalars.start(s, self.team, shape, computed(self.compute.accumulator))
            work.pipelined(s, self.scratch, operands, steps, bringing([False, False]))
        else:
            turned = (operands[0].interleaved, operands[1].interleaved)
            work = (wgmma.Groups if shape.grouped else mma.Fragments)(s, self.team, shape, kernel, turned)
            chunks = [operand.in_chunks for operand in operands]
            tests = [operand.aligned(s) for operand in operands if operand.in_chunks]
            whole = s.share(i32(0) if not tests else tests[0] if len(tests) == 1 else tests[0] * tests[1])
            if tests:
                with s.when(tirx.NE(whole, i32(0))):
                    self.pipelined(s, work, operands, steps, bringing(chunks))
            with s.when(tirx.EQ(whole, i32(0)) if tests else True):
                self.pipelined(s, work, operands, steps, bringing([False, False]))
        self._write(s, work, variables, down, across)

    def _side(self, s: Statements, ranks: tuple[str, ...], top: tirx.Expr, height: int, variables: Variables) -> Points:
        extents = tuple(self._extent(s, r, variables) for r in ranks)
        most = extents[0]
        for extent in extents[1:]:
            most = s.bind("most", most * extent)
        return Points(ranks=ranks, extents=extents, top=top, height=height, most=most)

    def _operand(self, expr: Expr, points: Points) -> Gathered:
        kernel, number = BY_NAME.get(self.product.kernel), self.compute.accumulator
        if kernel is None:
            return Gathered.of(self.context, expr, points, self.product.inner, simt.DEPTH, number, number.bits // 8)
        size = mma.element_bytes(kernel)
        return Gathered.of(self.context, expr, points, self.product.inner, self.shape.depth, None, size)

    def _write(
        self, s: DeviceStatements, work: mma.Fragments | Scalars, variables: Variables, down: Points, across: Points
    ) -> None:
        """Stores the finished sums, four neighbours of a row at once where these may lie side by side."""
        undone = s.allocate("undone", (1,), "int32", scope="local")
        s.store(undone, 0, i32(0))
        looks = self.compute.filter is not None and self.compute.accumulator.is_float
        view = self.context.views[self.compute.target]
        four = self._four(s, across) if work.fours else None
        nowhere: Variables = dict.fromkeys(self.compute.output_ranks, index(0))

        def look(s: Statements, total: tirx.Expr) -> None:
            if looks:
                kind = "double" if self.compute.accumulator == F64 else "float"
                code = _IS_NAN.replace("TYPE", kind)
                bad = cuda_func_call(f"einfall_is_nan_{kind}", total, source_code=code, return_type="int32")
                s.store(undone, 0, tirx.BufferLoad(undone, [index(0)]) | bad)

        def together(s: DeviceStatements, row: tirx.Expr, column: tirx.Expr, sums: tirx.Buffer) -> None:
            i, j = s.bind("i", down.top + row), s.bind("j", across.top + column)
            # Divided before anything is asked: the compiler then finds that a thread has the same columns in all its rows.
            own = {**variables, **down.at(s, i)}
            sides = [across.at(s, s.bind("j", j + e)) for e in range(TOGETHER)]
            places = [self._place(s, {**nowhere, **side}) for side in sides]
            start = self._place(s, {**own, **dict.fromkeys(across.ranks, index(0))})
            made = s.allocate("made", (TOGETHER,), stored(view.dtype), scope="local")
            whole = s.share(i32(0) if four is None else tirx.Select(j + TOGETHER <= across.most, four, i32(0)))
            with s.when(i < down.most):
                for e, (side, place) in enumerate(zip(sides, places, strict=True)):
                    with s.when(j + e < across.most):
                        total = s.share(tirx.BufferLoad(sums, [index(e)]))
                        look(s, total)
                        s.store(made, e, self.value(s, {**own, **side}, total))
                        with s.when(tirx.EQ(whole, i32(0))):
                            s.store(view.flat, start + place, tirx.BufferLoad(made, [index(e)]))
                with s.when(tirx.NE(whole, i32(0))):
                    store_together(s, view.flat, start + places[0], made, TOGETHER * view.dtype.bits // 8)

        def done(s: Statements, row: tirx.Expr, column: tirx.Expr, value: tirx.Expr) -> None:
            i, j = s.bind("i", down.top + row), s.bind("j", across.top + column)
            point = {**variables, **down.at(s, i), **across.at(s, j)}
            with s.when(tirx.And(i < down.most, j < across.most)):
                look(s, value)
                self.finish(s, point, value)

        if self.shape.stages > 1 and work.fours:
            s.barrier()  # all are done with the operands
            work.by_rows(s, self.scratch, together)
        else:
            work.results(s, done)
        if looks:
            self._again(s, variables, down, across, undone)

    def _place(self, s: Statements, point: Variables) -> tirx.Expr:
        at = self.context.evaluator(s, point)
        return s.bind("place", at.offset(self.compute.target, self.compute.indices))

    def _four(self, s: Statements, across: Points) -> tirx.Expr | None:
        """Whether four columns from any multiple of four on lie side by side, aligned: an int32; None where they never do. The
        last ranks of the columns may be one block without gaps."""
        view = self.context.views[self.compute.target]
        names = [i.name if isinstance(i, Rank) else "" for i in self.compute.indices]
        if names[-1] != across.ranks[-1] or not can_store(TOGETHER * view.dtype.bits // 8):
            return None
        extents = dict(zip(across.ranks, across.extents, strict=True))
        run, steps, follows = extents[names[-1]], index(0), condition(True)
        joins = [*reversed(across.ranks), *[""] * len(names)]
        for name, join, stride in list(zip(reversed(names), joins, reversed(view.strides), strict=False))[1:]:
            follows = both(follows, tirx.EQ(stride, run) if name == join else False)
            if name == join:
                run = s.bind("run", tirx.Select(follows, run * extents[name], run))
            steps = s.bind("steps", steps | tirx.Select(follows, index(0), stride))
        source = Source(
            flat=view.flat, origin=index(0), stride=steps | run, lines=index(1), width=index(1), size=view.dtype.bits // 8
        )
        return s.share(aligned(source, TOGETHER * source.size))

    def _again(self, s: DeviceStatements, variables: Variables, down: Points, across: Points, undone: tirx.Buffer) -> None:
        """All points of the tile as written, where any thread has something to do again."""
        mine = tirx.BufferLoad(undone, [index(0)])
        some = s.share(cuda_func_call("einfall_any", mine, source_code=_ANY, return_type="int32"))
        high, wide = (s.bind("some", tirx.min(side.most - side.top, index(side.height))) for side in (down, across))
        total = s.bind("points", tirx.Select(tirx.NE(some, i32(0)), high * wide, index(0)))
        with self.team.each(s, total, index(self.team.threads), self.team.thread) as number:
            i, j = s.bind("i", tirx.truncdiv(number, wide)), s.bind("j", tirx.truncmod(number, wide))
            self.again(s, {**variables, **down.at(s, down.top + i), **across.at(s, across.top + j)})
