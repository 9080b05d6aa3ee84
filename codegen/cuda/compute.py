"""Spells out a :class:`~einfall.ir.tile.Compute` for threads: every output point is one thread's, or one warp's or block's
where its vectors run along a reduced rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from ...ir.expr import Cast, Expr, op, ranks_of, reads_of
from ...ir.index import upper_bound
from ...ir.tile import SUM, Compute, MatrixProduct, Method
from ...ir.types import DType
from ..compute import ComputeEmitter
from ..context import Variables
from ..invariant import filters
from ..microkernels.statements import Statements, as_index, ceil_div, constant, index
from ..reduction import Accumulator
from .statements import WARP, DeviceStatements, Team, exchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceComputeEmitter(ComputeEmitter):
    """Emits one Compute for a team of threads."""

    team: Team

    def emit(self, s: Statements) -> None:
        """Adds the whole Compute to ``s``."""
        assert isinstance(s, DeviceStatements)
        compute = self.compute
        match compute.method:
            case _ if compute.scatter:
                # Where vectors may run along a rank, its points meet nobody else's; all others are taken in order.
                vector = compute.vector if compute.method is Method.LANES else None
                outer = [r for r in compute.output_ranks if r == vector]
                rest = [r for r in (*compute.reduced, *compute.output_ranks) if r != vector]
                self._spread(s, outer, lambda s, v: self._loops(s, rest, v, (), self._scatter_point))
            case Method.FOLD:
                self._folded(s)
            case _:
                self._spread(s, compute.output_ranks, self._point)

    # -- points over threads -------------------------------------------------------------------------------------------

    def points(self, s: Statements) -> tirx.Expr:
        """How many threads have something to do."""
        together, _ = self._dealt(self.compute.output_ranks)
        return self._total(s, together)[0]

    def _dealt(self, ranks: Sequence[str]) -> tuple[list[str], list[str]]:
        """(the ranks that threads share, slowest first, those that each goes through itself). The vector's comes last: what
        neighbouring threads read lies side by side."""
        fixed = [r for r in ranks if not is_ragged(self.compute, r)]
        fixed.sort(key=lambda r: r == self.compute.vector)
        return fixed, [r for r in ranks if r not in fixed]

    def _total(self, s: Statements, ranks: Sequence[str]) -> tuple[tirx.Expr, list[tirx.Expr]]:
        extents = [s.bind(f"extent_{r}", self._extent(s, r, self.variables)) for r in ranks]
        total: tirx.Expr = index(1)
        for extent in extents:
            total = extent if constant(total) == 1 else s.bind("total", total * extent)
        return total, extents

    def _spread(self, s: Statements, ranks: Sequence[str], body: Callable[[Statements, Variables], None]) -> None:
        """``body`` at every point of ``ranks``, each on one thread."""
        shared, own = self._dealt(ranks)
        total, extents = self._total(s, shared)
        with self.team.each(s, total, index(self.team.threads), self.team.thread) as at:
            self._loops(s, own, {**self.variables, **s.coordinates(at, shared, extents)}, (), body)

    # -- one point -----------------------------------------------------------------------------------------------------

    def _point(self, s: Statements, variables: Variables) -> None:
        if self.compute.product is None:
            ComputeEmitter._point(self, s, variables)
            return
        at = self.context.evaluator(s, variables)
        self._guarded(s, at, variables, lambda: self._product(s, variables))

    def _product(self, s: Statements, variables: Variables) -> None:
        """The sum of a matrix product at one point, and its epilogue."""
        compute, product = self.compute, self.compute.product
        assert product is not None and compute.reduction is not None
        summed = replace(self, compute=replace(compute, value=_multiplied(product, compute.accumulator), product=None))
        self._finish(s, variables, summed._accumulated(s, compute.reduction, variables, None).result())

    def finish(self, s: Statements, variables: Variables, total: tirx.Expr) -> None:
        """Stores what becomes of the finished sum of a product at a point."""
        at = self.context.evaluator(s, variables)
        self._guarded(s, at, variables, lambda: self._finish(s, variables, total))

    def _finish(self, s: Statements, variables: Variables, total: tirx.Expr) -> None:
        compute, product = self.compute, self.compute.product
        assert product is not None
        if product.epilogue is None:
            at = self.context.evaluator(s, variables)
            self._store(s, at, self._convert(at, total, compute.accumulator))
            return
        at = self.context.evaluator(s, variables, values={SUM: s.share(total)})
        self._store(s, at, self._convert(at, at.value(product.epilogue), product.epilogue.dtype))

    # -- reductions by several threads -----------------------------------------------------------------------------------

    @property
    def by_block(self) -> bool:
        """Whether a whole block reduces one point after the other: where there are so few that warps would be idle."""
        compute, most = self.compute, 1
        for rank in compute.output_ranks:
            extent = upper_bound(compute.extent(rank), self.context.lets)
            most = self.team.warps if extent is None else most * extent
        return most < self.team.warps

    @property
    def workers(self) -> int:
        """How many output points a block reduces side by side."""
        if self.compute.method is not Method.FOLD or self.compute.scatter:
            return self.team.threads
        return 1 if self.by_block else self.team.warps

    def _folded(self, s: DeviceStatements) -> None:
        """Lanes along a reduced rank: each thread adds up its share, and the shares are combined in a fixed order."""
        compute, team = self.compute, self.team
        whole = self.by_block
        own, width = (index(0), index(1)) if whole else (s.bind("warp", team.warp), index(team.warps))
        shared, rest = self._dealt(compute.output_ranks)
        total, extents = self._total(s, shared)
        scratch = self._scratch(s) if whole else None
        with team.each(s, total, width, own) as at:
            placed = {**self.variables, **s.coordinates(at, shared, extents)}
            self._loops(s, rest, placed, (), lambda _, variables: self._row(s, variables, scratch))

    def _scratch(self, s: DeviceStatements) -> tirx.Buffer:
        acc = Accumulator.start(s, self.compute.reduction or "+", self._combined, 1)
        return s.allocate("partial", (self.team.warps,), str(acc.state.dtype), scope="shared")

    def _row(self, s: DeviceStatements, variables: Variables, scratch: tirx.Buffer | None) -> None:
        """One output point, by the threads of a warp, or of a block that meet in ``scratch``."""
        compute, team = self.compute, self.team
        assert compute.vector is not None and compute.reduction is not None
        count, first = (WARP, team.lane) if scratch is None else (team.threads, team.thread)
        first = s.bind("first", first)
        others = [r for r in compute.reduced if r != compute.vector]
        outer, filtered = filters(compute)
        acc = Accumulator.start(s, compute.reduction, self._combined, 1)

        def run(s: Statements, variables: Variables) -> None:
            vector = compute.vector or ""
            extent = s.bind("extent", self._extent(s, vector, variables))
            with s.loop("turn", ceil_div(tirx.max(extent - first, index(0)), index(count))) as turn:
                at = {**variables, vector: s.bind(vector, turn * count + first)}
                inner = self.context.evaluator(s, at)
                where = inner.condition(filtered)
                with s.when(True if where is None else where):
                    self._take(s, self.context.evaluator(s, at), acc, None)

        condition = self.context.evaluator(s, variables).condition(compute.condition)
        with s.when(True if condition is None else condition), self._where(s, outer, variables):
            self._loops(s, others, variables, (), run)
        total = self._combined_by_warp(s, acc, acc.state)
        if scratch is not None:
            total = self._combined_by_block(s, acc, scratch)
        with s.when(tirx.EQ(first, index(0))):
            at = self.context.evaluator(s, variables)
            held = tirx.NE(total, tirx.IntImm(str(total.ty.dtype), 0)) if acc.dtype.is_bool else total
            self._guarded(s, at, variables, lambda: self._store(s, at, self._convert(at, held, acc.result_type)))

    def _combined_by_warp(self, s: Statements, acc: Accumulator, state: tirx.Buffer) -> tirx.Expr:
        """The results of a warp's threads as one, in all of them."""
        distance = WARP // 2
        while distance:
            mine = s.share(tirx.BufferLoad(state, [index(0)]))
            other = s.share(exchanged(mine, distance))
            # A fixed order of the operands, so that all threads hold the same bits.
            s.store(state, 0, acc.combine(mine, other))
            distance //= 2
        return tirx.BufferLoad(state, [index(0)])

    def _combined_by_block(self, s: DeviceStatements, acc: Accumulator, scratch: tirx.Buffer) -> tirx.Expr:
        """The results of a block's warps as one, added up by its first thread in the order of the warps."""
        team = self.team
        with s.when(tirx.EQ(team.lane, index(0))):
            s.store(scratch, team.warp, tirx.BufferLoad(acc.state, [index(0)]))
        s.barrier()
        with s.when(tirx.EQ(team.thread, index(0))), s.loop("w", index(team.warps - 1)) as w:
            other = s.share(tirx.BufferLoad(scratch, [w + 1]))
            s.store(acc.state, 0, acc.combine(tirx.BufferLoad(acc.state, [index(0)]), other))
        s.barrier()
        return tirx.BufferLoad(acc.state, [index(0)])


def is_ragged(compute: Compute, rank: str) -> bool:
    """Whether the extent of a rank depends on other ranks of the Compute, or on data."""
    extent = compute.extent(rank)
    return bool(set(ranks_of(extent)) & {r.name for r in compute.ranks}) or any(True for _ in reads_of(extent))


def _multiplied(product: MatrixProduct, dtype: DType) -> Expr:
    """The product of the operands, in the type in which products are added up."""
    return op("mul", *(e if e.dtype == dtype else Cast(value=e, dtype=dtype) for e in (product.left, product.right)))


def blocks_for(points: tirx.Expr, workers: int) -> tirx.Expr:
    """The blocks of a launch in which each of ``workers`` in a block has one point."""
    return ceil_div(as_index(points), index(workers))
