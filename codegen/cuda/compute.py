"""Spells out a :class:`~einfall.ir.tile.Compute` for threads: every output point is one thread's, or one warp's or block's
where its vectors run along a reduced rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Cast, Const, Expr, Read, op, ranks_of, reads_of
from ...ir.index import upper_bound
from ...ir.operators import REDUCTIONS
from ...ir.tile import SUM, Compute, MatrixProduct, Method
from ...ir.types import I32, DType
from ..compute import ComputeEmitter
from ..context import Variables
from ..expressions import Evaluator
from ..invariant import filters, invariant
from ..microkernels.statements import Statements, as_index, ceil_div, constant, index
from ..reduction import Accumulator
from ..views import encode, zero
from .chunks import Chunks, chunks_along, moves_along
from .columns import ColumnFold, columns_of
from .folds import TOGETHER, RowFold, folded_rank
from .product import few_of
from .scattering import Scattering
from .statements import WARP, DeviceStatements, Team

LEAST_IN_CHUNKS = 128
"""Points of a rank of tiles below which each thread takes one: they are few enough for all threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceComputeEmitter(ComputeEmitter):
    """Emits one Compute for a team of threads."""

    team: Team

    def emit(self, s: Statements) -> None:
        """Adds the whole Compute to ``s``."""
        assert isinstance(s, DeviceStatements)
        compute = self.compute
        if compute.scatter:
            self._spread(s, self._scattered_ranks, Scattering(emitter=self).point)
        elif (rank := self._folds) is not None:
            self._folded(s, rank)
        elif (chunks := self._chunks()) is not None:
            self._spread_chunks(s, chunks)
        else:
            self._spread(s, compute.output_ranks, self._point)

    # -- points over threads -------------------------------------------------------------------------------------------

    def points(self, s: Statements) -> tirx.Expr:
        """How many threads (or groups of them, :meth:`workers`) have something to do."""
        if self.compute.scatter:
            return self._total(s, self._dealt(self._scattered_ranks)[0])[0]
        together, _ = self._dealt([r for r in self.compute.output_ranks if r != self._few])
        chunks = None if self._folds is not None else self._chunks()
        return self._total(s, together, chunks)[0]

    @property
    def _scattered_ranks(self) -> list[str]:
        """What threads share of a scatter: all its points."""
        return [*self.compute.reduced, *self.compute.output_ranks]

    @property
    def workers(self) -> int:
        """How many points a block has in hand side by side."""
        rank = self._folds
        if rank is not None:
            return self.team.threads // self._threads(rank)
        chunks = None if self.compute.scatter else self._chunks()
        columns = None if chunks is None else self._columns(chunks)
        return self.team.threads if columns is None else columns

    def _dealt(self, ranks: Sequence[str]) -> tuple[list[str], list[str]]:
        """(the ranks that threads share, slowest first, those that each goes through itself). The vector's comes last: what
        neighbouring threads read lies side by side."""
        fixed = [r for r in ranks if not self._is_ragged(r)]
        fixed.sort(key=lambda r: r == self._vector)
        return fixed, [r for r in ranks if r not in fixed]

    def _is_ragged(self, rank: str) -> bool:
        """Whether the threads of a team cannot share a rank: what data says of it they all know inside a kernel only."""
        return is_ragged(self.compute, rank, data=self.team.launch)

    @property
    def _vector(self) -> str | None:
        """The output rank along which what is written lies side by side."""
        compute = self.compute
        if compute.product is None:
            return compute.vector
        sides = (compute.product.columns, compute.product.rows)
        return next((r for r in sides if r is not None and moves_along(compute.indices, r)), None)

    def _total(self, s: Statements, ranks: Sequence[str], chunks: Chunks | None = None) -> tuple[tirx.Expr, list[tirx.Expr]]:
        extents = [s.bind(f"extent_{r}", self._extent(s, r, self.variables)) for r in ranks]
        if chunks is not None:
            extents[-1] = chunks.count(s, extents[-1])
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

    # -- chunks of points ----------------------------------------------------------------------------------------------

    def _chunks(self) -> Chunks | None:
        """The chunks that one thread computes together; None where each point is by itself."""
        compute, views = self.compute, self.context.views
        vector = self._vector
        if vector is None or (compute.product is None and compute.method is not Method.LANES) or compute.along:
            return None
        if any(map(self._is_ragged, compute.output_ranks)) or vector not in compute.output_ranks:
            return None
        if compute.reduction is not None and REDUCTIONS[compute.reduction].coordinate:
            return None  # an accumulator of coordinates has one point
        summing = compute if compute.product is None else self._summing.compute
        chunks = chunks_along(summing, vector, views, stores=True)
        if chunks is None or (compute.reduction is not None and not chunks.reads):
            return None
        most = upper_bound(compute.extent(vector), self.context.lets)
        touched = [views[compute.target], *(views[r.tensor] for r in chunks.reads)]
        if most is not None and (most < 2 * chunks.width or (most < LEAST_IN_CHUNKS and all(v.dense for v in touched))):
            return None
        return chunks

    def _columns(self, chunks: Chunks) -> int | None:
        return columns_of(self._summing.compute, chunks, self.team, self.context.lets)

    def _spread_chunks(self, s: DeviceStatements, chunks: Chunks) -> None:
        """A chunk for each thread."""
        compute, width = self.compute, index(chunks.width)
        shared, _ = self._dealt(compute.output_ranks)
        total, extents = self._total(s, shared, chunks)
        if (columns := self._columns(chunks)) is not None:
            ColumnFold(emitter=self._summing, whole=self, chunks=chunks, columns=columns).emit(s, total, shared, extents)
            return
        extent = s.bind("extent", self._extent(s, chunks.rank, self.variables))
        with self.team.each(s, total, index(self.team.threads), self.team.thread) as at:
            placed = {**self.variables, **s.coordinates(at, shared, extents)}
            start = self.context.evaluator(s, {**placed, chunks.rank: index(0)})
            shift = chunks.shift(s, self.target, start.offset(compute.target, compute.indices), extent)
            base = s.bind("base", placed[chunks.rank] * width - shift)
            whole = s.share(tirx.Cast("int32", tirx.And(base >= 0, base + width <= extent)))
            with s.when(tirx.NE(whole, tirx.IntImm("int32", 0))):
                self._chunk(s, {**placed, chunks.rank: base}, chunks)
            first, end = s.bind("first", tirx.max(base, index(0))), tirx.min(base + width, extent)
            with s.when(tirx.EQ(whole, tirx.IntImm("int32", 0))), s.loop("c", tirx.max(end - first, index(0))) as c:
                self._point(s, {**placed, chunks.rank: s.bind("place", first + c)})

    def _chunk(self, s: Statements, variables: Variables, chunks: Chunks) -> None:
        """All points of a whole chunk, whose first one is that of ``variables``."""
        compute = self.compute
        first = self.context.evaluator(s, variables)
        out = s.allocate("out", (chunks.width,), str(self.target.flat.dtype), scope="local")

        def keep(c: tirx.Expr, value: tirx.Expr) -> None:
            s.store(out, c, encode(value, self.target.dtype, 1))

        def body() -> None:
            if compute.reduction is None:
                parts = (e for e in invariant(compute.value, chunks.rank) if not e.dtype.is_bool)
                outside = self.context.evaluator(s, variables)
                shared = {e: s.share(outside.value(e)) for e in parts}
                loaded = chunks.load(s, first)
                with s.loop("c", chunks.width, kind=ForKind.UNROLLED) as c:
                    at = self._at(s, variables, chunks, c)
                    chunks.given(at.given(shared), loaded, c)
                    keep(c, self._convert(at, at.value_in(compute.value, self.target.dtype), compute.value.dtype))
            else:
                for c, total in enumerate(self._sums(s, variables, chunks)):
                    at = self._at(s, variables, chunks, index(c))
                    keep(index(c), self._final(s, at, total))

        def store() -> None:
            body()
            self.store_chunk(s, first, chunks, out)

        self._guarded_chunk(s, first, variables, chunks, store)

    def store_chunk(self, s: Statements, first: Evaluator, chunks: Chunks, out: tirx.Buffer) -> None:
        """Stores a whole chunk from registers, where it lies inside the target."""
        within = first.condition(self.compute.within)
        with s.when(True if within is None else within):
            chunks.store(s, first, self.compute.target, self.compute.indices, out)

    def _guarded_chunk(
        self, s: Statements, at: Evaluator, variables: Variables, chunks: Chunks, body: Callable[[], None]
    ) -> None:
        condition = at.condition(self.compute.condition)
        with s.when(True if condition is None else condition):
            body()
        if condition is not None:
            with s.when(tirx.Not(condition)), s.loop("c", chunks.width) as c:
                absent = self._at(s, variables, chunks, c)
                self._store(s, absent, zero(self.target.dtype, 1))

    def _at(self, s: Statements, variables: Variables, chunks: Chunks, c: tirx.Expr) -> Evaluator:
        place = s.bind("place", variables[chunks.rank] + c)
        return self.context.evaluator(s, {**variables, chunks.rank: place})

    def _sums(self, s: Statements, variables: Variables, chunks: Chunks) -> list[tirx.Expr]:
        """The finished reductions of the points of a chunk."""
        summing = self._summing
        compute = summing.compute
        assert compute.reduction is not None
        acc = Accumulator.start(s, compute.reduction, summing._combined, 1, chunks.width)
        outer, filtered = filters(compute, chunks.rank)

        def take(s: Statements, variables: Variables) -> None:
            first = self.context.evaluator(s, variables)
            where = first.condition(filtered)
            with s.when(True if where is None else where):
                loaded = chunks.load(s, self.context.evaluator(s, variables))
                for c in range(chunks.width):
                    at = chunks.given(summing._at(s, variables, chunks, index(c)), loaded, index(c))
                    summing._take(s, at, acc, None, c)

        with summing._where(s, outer, variables):
            summing._loops(s, compute.reduced, variables, (), take)
        return [acc.result_of(c) for c in range(chunks.width)]

    # -- one point -----------------------------------------------------------------------------------------------------

    @property
    def _summing(self) -> DeviceComputeEmitter:
        """The same, with what a matrix product adds up as its value."""
        compute, product = self.compute, self.compute.product
        if product is None:
            return self
        return replace(self, compute=replace(compute, value=_multiplied(product, compute.accumulator), product=None))

    def at_point(self, s: Statements, variables: Variables) -> None:
        """One output point, by one thread."""
        self._point(s, variables)

    def _point(self, s: Statements, variables: Variables) -> None:
        if self.compute.product is None:
            ComputeEmitter._point(self, s, variables)
            return
        at = self.context.evaluator(s, variables)
        self._guarded(s, at, variables, lambda: self._product(s, variables))

    def _product(self, s: Statements, variables: Variables) -> None:
        """The sum of a matrix product at one point, and its epilogue."""
        assert self.compute.reduction is not None
        self._finish(s, variables, self._summing._accumulated(s, self.compute.reduction, variables, None).result())

    def finish(self, s: Statements, variables: Variables, total: tirx.Expr) -> None:
        """Stores what becomes of the finished reduction at a point."""
        at = self.context.evaluator(s, variables)
        self._guarded(s, at, variables, lambda: self._finish(s, variables, total))

    def finished(self, s: Statements, variables: Variables, total: tirx.Expr) -> tirx.Expr:
        """What becomes of the finished sum of a product at a point, as the target holds it."""
        return encode(self._final(s, self.context.evaluator(s, variables), total), self.target.dtype, 1)

    def _finish(self, s: Statements, variables: Variables, total: tirx.Expr) -> None:
        at = self.context.evaluator(s, variables)
        self._store(s, at, self._final(s, at, total))

    def _final(self, s: Statements, at: Evaluator, total: tirx.Expr) -> tirx.Expr:
        """What is stored in the place of a finished reduction."""
        compute, product = self.compute, self.compute.product
        assert compute.reduction is not None
        if product is None or product.epilogue is None:
            source = I32 if REDUCTIONS[compute.reduction].coordinate else compute.accumulator
            return self._convert(at, total, source)
        at = self.context.evaluator(s, dict(at.variables), values={SUM: s.share(total)})
        return self._convert(at, at.value(product.epilogue), product.epilogue.dtype)

    # -- reductions by several threads -----------------------------------------------------------------------------------

    @property
    def _folds(self) -> str | None:
        return folded_rank(self.compute, self.team, self.context.lets)

    def _threads(self, rank: str) -> int:
        """How many threads reduce one output point along ``rank``."""
        threads = RowFold.threads_for(self._summing, rank)
        return max(threads, WARP) if self._dealt(self.compute.output_ranks)[1] else threads

    @property
    def _few(self) -> str | None:
        """A short side of a product that is reduced along its rows: all its points are done together, so that what the other
        side reads is read once."""
        product = self.compute.product
        if product is None or self._folds is None:
            return None
        return few_of(self.compute)

    def _folded(self, s: DeviceStatements, rank: str) -> None:
        """Lanes along a reduced rank: each thread adds up its share, and the shares are combined in a fixed order."""
        team, threads, few = self.team, self._threads(rank), self._few
        whole = threads == team.threads
        shared, rest = self._dealt([r for r in self.compute.output_ranks if r != few])
        total, extents = self._total(s, shared)
        fold = RowFold(emitter=self._summing, rank=rank, threads=threads, finish=self.finish, few=few)
        fold = replace(fold, rooms=fold.meeting_rooms(s) if whole else ())
        together = TOGETHER if few is None and not rest and not whole and fold.is_one_chunk() else 1
        groups = max(1, WARP // threads)
        beside = groups * together
        own, width = (index(0), index(1)) if whole else (s.bind("warp", team.warp), index(team.warps))

        def points(variables: Variables) -> list[Variables]:
            if few is None:
                return [variables]
            extent = self.compute.extent(few)
            assert isinstance(extent, Const)
            return [{**variables, few: index(n)} for n in range(int(extent.value))]

        with team.each(s, total if beside == 1 else s.bind("tasks", ceil_div(total, beside)), width, own) as task:
            places: list[Variables] = []
            insides: list[tirx.Expr | None] = []
            for n in range(together):
                at, inside = task, None
                if beside > 1:  # all threads of a warp come to its shuffles, whether their group has a point or not
                    group = tirx.truncdiv(team.lane, index(threads))
                    at = s.bind("at", task * beside + n * groups + group)
                    inside = at < total
                    at = s.bind("at", tirx.min(at, total - 1))
                places.append({**self.variables, **s.coordinates(at, shared, extents)})
                insides.append(inside)

            def row(s: Statements, variables: Variables) -> None:
                found = points(variables) if together == 1 else places
                fold.rows(s, found, insides * (len(found) // together))

            self._loops(s, rest, places[0], (), row)

    def take_beside(
        self, s: Statements, at: Evaluator, acc: Accumulator, made: Mapping[str, tirx.Buffer], c: tirx.Expr
    ) -> None:
        """Takes in the value at point number ``c`` of a chunk; what is stored along goes to ``made``."""
        for inner in self.compute.along:
            value = at.value_in(inner.value, self.context.views[inner.target].dtype)
            emitter = replace(self, compute=inner)
            if inner.target in made:
                converted = emitter._convert(at, value, inner.value.dtype)
                s.store(made[inner.target], c, encode(converted, emitter.target.dtype, 1))
            else:
                emitter._store(s, at, value)
            at.knows(Read(tensor=inner.target, indices=inner.indices, dtype=inner.value.dtype), value)
        replace(self, compute=replace(self.compute, along=()))._take(s, at, acc, None)

    def beside(self, s: Statements, rank: str, width: int) -> dict[str, tirx.Buffer]:
        """Registers for the chunks that are stored along a reduction."""
        made: dict[str, tirx.Buffer] = {}
        for inner in self.compute.along:
            view = self.context.views[inner.target]
            if inner.within is None and moves_along(inner.indices, rank) and constant(view.strides[-1]) == 1:
                made[inner.target] = s.allocate("out", (width,), str(view.flat.dtype), scope="local")
        return made


def is_ragged(compute: Compute, rank: str, *, data: bool = True) -> bool:
    """Whether the extent of a rank depends on other ranks of the Compute, or (``data``) on data."""
    extent = compute.extent(rank)
    if set(ranks_of(extent)) & {r.name for r in compute.ranks}:
        return True
    return data and any(True for _ in reads_of(extent))


def _multiplied(product: MatrixProduct, dtype: DType) -> Expr:
    """The product of the operands, in the type in which products are added up."""
    return op("mul", *(e if e.dtype == dtype else Cast(value=e, dtype=dtype) for e in (product.left, product.right)))


def blocks_for(points: tirx.Expr, workers: int) -> tirx.Expr:
    """The blocks of a launch in which each of ``workers`` in a block has one point."""
    return ceil_div(as_index(points), index(workers))
