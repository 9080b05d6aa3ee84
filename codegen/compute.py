"""Spells out the inner iteration of a :class:`~einfall.ir.tile.Compute`: loops, vectors, accumulators, masked edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ..ir.expr import Expr, Op, Rank, Read
from ..ir.operators import REDUCTIONS
from ..ir.tile import Compute, Method
from ..ir.types import DType
from . import fetching, streaming
from .arithmetic import convert, lanes_of
from .context import Context, Variables
from .element import computed, stored
from .expressions import Evaluator, Lanes
from .invariant import filters, invariant, shared_by_row
from .microkernels.statements import Statements, as_index, ceil_div, constant, index, maximum, minimum, positive
from .reduction import Accumulator
from .views import View, broadcast, encode, load_scalar, load_vector, store_scalar, store_vector, zero

_LARGEST_CHUNK = 512
"""Vectors of a one-dimensional iteration that one task takes, so that short ones stay on one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeEmitter:
    """Emits one Compute at a place where ``variables`` (of the loops around it) are known."""

    context: Context
    compute: Compute
    variables: Variables
    serial: bool  # inside a parallel loop: no threads of its own

    def emit(self, s: Statements) -> None:
        """Adds the whole Compute to ``s``."""
        compute = self.compute
        match compute.method:
            case Method.LANES:
                outer = [r for r in compute.output_ranks if r != compute.vector]
                if compute.scatter:
                    self._loops(s, [*compute.reduced, *outer], self.variables, (), self._scatter_lanes)
                else:
                    self._loops(s, outer, self.variables, self._parallel(outer), self._lanes)
            case Method.FOLD:
                self._loops(s, compute.output_ranks, self.variables, self._parallel(compute.output_ranks), self._fold)
            case _ if compute.scatter:
                self._loops(s, [*compute.reduced, *compute.output_ranks], self.variables, (), self._scatter_point)
            case _:
                self._loops(s, compute.output_ranks, self.variables, self._parallel(compute.output_ranks), self._point)

    # -- iteration ---------------------------------------------------------------------------------------------------

    def _parallel(self, outer: Sequence[str]) -> tuple[str, ...]:
        return () if self.serial else tuple(r for r in outer if r in self.compute.parallel)

    def _extent(self, s: Statements, rank: str, variables: Variables) -> tirx.Expr:
        return as_index(self.context.evaluator(s, variables).value(self.compute.extent(rank)))

    def _loops(
        self,
        s: Statements,
        ranks: Sequence[str],
        variables: Variables,
        parallel: tuple[str, ...],
        body: Callable[[Statements, Variables], None],
    ) -> None:
        """Nested loops over ``ranks``; those of ``parallel`` (outermost) become one loop over threads."""
        inside = dict(variables)
        with ExitStack() as stack:
            if parallel:
                extents = [s.bind(f"extent_{r}", self._extent(s, r, inside)) for r in parallel]
                total = extents[0]
                for extent in extents[1:]:
                    total = total * extent
                flat = stack.enter_context(s.loop("task", total, kind=ForKind.PARALLEL, after=self._after))
                inside |= s.coordinates(flat, parallel, extents)
            for rank in ranks:
                if rank not in parallel:
                    inside[rank] = stack.enter_context(s.loop(rank, self._extent(s, rank, inside)))
            body(s, inside)

    def _blocks(
        self, s: Statements, rank: str, variables: Variables, body: Callable[[Statements, Lanes, Variables], None]
    ) -> None:
        """``rank`` by vectors: whole ones, then one with a mask. Spread over threads when nothing else is."""
        lanes = self.lanes
        extent = s.bind("extent", self._extent(s, rank, variables))
        head, streams = self._to_line(s, rank, extent, variables)
        whole = s.bind("whole", tirx.truncdiv(extent - head, index(lanes)))
        rest = s.bind("rest", extent - head - whole * lanes)
        with s.when(positive(head)):
            body(s, Lanes(rank=rank, base=index(0), count=lanes, valid=head), variables)
        if rank in self.compute.parallel and not self.serial and len(self.compute.output_ranks) == 1:
            chunk = s.bind("chunk", minimum(maximum(ceil_div(whole, 4 * self.context.threads), 64), _LARGEST_CHUNK))
            with s.loop("task", ceil_div(whole, chunk), kind=ForKind.PARALLEL, after=self._after) as task:
                first = s.bind("first", task * chunk)
                with s.loop("block", minimum(chunk, whole - first)) as block:
                    base = s.bind("base", head + (first + block) * lanes)
                    body(s, Lanes(rank=rank, base=base, count=lanes, streams=streams), variables)
        else:
            with s.loop("block", whole) as block:
                base = s.bind("base", head + block * lanes)
                body(s, Lanes(rank=rank, base=base, count=lanes, streams=streams), variables)
        with s.when(positive(rest)):
            base = s.bind("base", head + whole * lanes)
            body(s, Lanes(rank=rank, base=base, count=lanes, valid=rest), variables)

    def _to_line(self, s: Statements, rank: str, extent: tirx.Expr, variables: Variables) -> tuple[tirx.Expr, tirx.Expr | None]:
        if self.compute.streams is None or rank != self.compute.vector:
            return index(0), None
        at = self.context.evaluator(s, variables, Lanes(rank=rank, base=index(0), count=self.lanes))
        return streaming.to_line(s, at, self.compute, extent)

    @property
    def _after(self) -> tirx.Expr | None:
        """What a thread does when its part of a parallel loop is done."""
        return None if self.compute.streams is None else streaming.fence()

    @property
    def lanes(self) -> int:
        """Elements of a vector: as many as the widest type of the value and the accumulator allows."""
        widths = [32, self.compute.value.dtype.bits, self.compute.accumulator.bits]
        return max(4, self.context.vector_bits // max(w if w <= 32 else 64 for w in widths))

    # -- points ------------------------------------------------------------------------------------------------------

    def _guarded(self, s: Statements, at: Evaluator, variables: Variables, body: Callable[[], None]) -> None:
        """``body`` where the output point is present, else a zero, for conditions that all lanes share."""
        condition = at.condition(self.compute.condition)
        if condition is None or lanes_of(condition) > 1:
            body()
            return
        with s.when(condition):
            body()
        with s.when(tirx.Not(condition)):
            absent = self.context.evaluator(s, variables, at.lanes)
            self._store(s, absent, zero(self.target.dtype, 1))

    def _point(self, s: Statements, variables: Variables) -> None:
        at = self.context.evaluator(s, variables)

        def body() -> None:
            inner = self.context.evaluator(s, variables)
            self._store(s, inner, self._reduced(s, inner, variables, None))

        self._guarded(s, at, variables, body)

    def _lanes(self, s: Statements, variables: Variables) -> None:
        compute = self.compute
        assert compute.vector is not None

        together = self._together(s, variables)
        if together > 1:
            self._side_by_side(s, variables, together)
            return
        shared: dict[Expr, tirx.Expr] = {}

        def block(s: Statements, lanes: Lanes, variables: Variables) -> None:
            at = self.context.evaluator(s, variables, lanes)

            def body() -> None:
                inner = self.context.evaluator(s, variables, lanes).given(shared)
                fetching.ask(s, inner, compute)
                value = self._reduced(s, inner, variables, lanes)
                condition = inner.condition(compute.condition)
                if condition is not None and lanes_of(condition) > 1:
                    width = lanes.count
                    value = tirx.Select(condition, broadcast(value, width, lanes_of(value)), zero(self.target.dtype, width))
                self._store(s, inner, value)

            self._guarded(s, at, variables, body)

        if compute.reduction is not None or compute.condition is not None or compute.within is not None:
            self._blocks(s, compute.vector, variables, block)
            return
        # What all lanes share is computed before the loop, where there is a loop: there the reads are known to be inside.
        with s.when(positive(self._extent(s, compute.vector, variables))):
            outside = self.context.evaluator(s, variables)
            # In registers: memory is read again after every store that might have written it.
            shared.update(
                (e, s.share(outside.value(e))) for e in invariant(compute.value, compute.vector) if not e.dtype.is_bool
            )
            self._blocks(s, compute.vector, variables, block)

    def _together(self, s: Statements, variables: Variables) -> int:
        """Vectors that are reduced side by side: their sums hide one another's latency and share what no lane varies."""
        compute = self.compute
        assert compute.vector is not None
        extent = constant(self._extent(s, compute.vector, variables))
        if not compute.along or compute.condition is not None or compute.reduction != "+" or extent is None:
            return 1
        return next((n for n in (4, 3, 2) if extent % (n * self.lanes) == 0), 1)

    def _side_by_side(self, s: Statements, variables: Variables, count: int) -> None:
        """A sum with Computes along it, ``count`` whole vectors at a time."""
        compute, lanes = self.compute, self.lanes
        assert compute.vector is not None
        extent = constant(self._extent(s, compute.vector, variables))
        assert extent is not None
        with s.loop("blocks", index(extent // (count * lanes))) as turn:
            base = s.bind("base", turn * (count * lanes))
            vectors = [Lanes(rank=compute.vector, base=s.bind("base", base + n * lanes), count=lanes) for n in range(count)]
            sums = [Accumulator.start(s, "+", self._combined, lanes) for _ in vectors]

            def take(s: Statements, variables: Variables) -> None:
                first = self.context.evaluator(s, variables, vectors[0])
                for vector, acc in zip(vectors, sums, strict=True):
                    self._take(s, first if vector is vectors[0] else first.beside(vector), acc, None)

            self._loops(s, compute.reduced, variables, (), take)
            for vector, acc in zip(vectors, sums, strict=True):
                at = self.context.evaluator(s, variables, vector)
                self._store(s, at, self._convert(at, acc.result(), acc.result_type))

    def _reduced(self, s: Statements, at: Evaluator, variables: Variables, lanes: Lanes | None) -> tirx.Expr:
        """The value to store at an output point (or vector of them), in the target's computed type."""
        compute = self.compute
        if compute.reduction is None:
            return self._convert(at, at.value_in(compute.value, self.target.dtype), compute.value.dtype)
        acc = self._accumulated(s, compute.reduction, variables, lanes)
        return self._convert(at, acc.result(), acc.result_type)

    def _accumulated(self, s: Statements, reduction: str, variables: Variables, lanes: Lanes | None) -> Accumulator:
        """The reduction at an output point (or vector of them), finished."""
        compute = self.compute
        acc = Accumulator.start(s, reduction, self._combined, 1 if lanes is None else lanes.count)
        outer, filtered = filters(compute, None if lanes is None else lanes.rank)

        def take(s: Statements, variables: Variables) -> None:
            inner = self.context.evaluator(s, variables, lanes)
            where = inner.condition(filtered)
            if where is not None and lanes_of(where) == 1:
                with s.when(where):
                    self._take(s, self.context.evaluator(s, variables, lanes), acc, None)
            else:
                self._take(s, inner, acc, where)

        with self._where(s, outer, variables):
            self._loops(s, compute.reduced, variables, (), take)
        return acc

    @contextmanager
    def _where(self, s: Statements, conditions: Sequence[Expr], variables: Variables) -> Iterator[None]:
        """What is inside, only where scalar conditions hold."""
        with ExitStack() as stack:
            for condition in conditions:
                stack.enter_context(s.when(self.context.evaluator(s, variables).value(condition)))
            yield

    def _take(
        self, s: Statements, at: Evaluator, acc: Accumulator, where: tirx.Expr | None, copy: int = 0, *, watched: bool = False
    ) -> tirx.Expr:
        """Takes in a value, and gives it; ``watched``: an extreme, whose caller looks for NaN."""
        value = self.compute.value
        count = acc.lanes
        for inner in self.compute.along:
            made = at.value_in(inner.value, self.context.views[inner.target].dtype)
            replace(self, compute=inner)._store(s, at, made)
            at.knows(Read(tensor=inner.target, indices=inner.indices, dtype=inner.value.dtype), made)
        coordinate = None
        if REDUCTIONS[acc.reduction].coordinate:
            (rank,) = self.compute.reduced
            coordinate = convert(at.value(Rank(name=rank, dtype=self.compute.extent(rank).dtype)), "int32")
            coordinate = broadcast(coordinate, count, lanes_of(coordinate))
        match value:
            case Op(op="mul", args=(a, b)) if (
                acc.reduction == "+"
                and acc.dtype.is_float
                and self.context.fused
                and computed(value.dtype) == computed(acc.dtype)
            ):
                factors = [at.value(a), at.value(b)]
                x, y = (broadcast(f, count, lanes_of(f)) for f in factors)
                if where is None:
                    acc.take(s, x, where=None, product=(x, y), copy=copy)
                    return x
        taken = convert(at.value(value), computed(acc.dtype)) if not acc.dtype.is_bool else at.value(value)
        taken = broadcast(taken, count, lanes_of(taken))
        if watched:
            return acc.take_extreme(s, taken, where=where, copy=copy)
        acc.take(s, taken, where=where, coordinate=coordinate, copy=copy)
        return taken

    def _fold(self, s: Statements, variables: Variables) -> None:
        """Vectors along a reduced rank, several accumulators to hide the latency of the combination."""
        compute = self.compute
        assert compute.vector is not None and compute.reduction is not None
        vector, lanes, copies = compute.vector, self.lanes, 4
        others = [r for r in compute.reduced if r != vector]
        outer, filtered = filters(compute)
        at = self.context.evaluator(s, variables)

        def body() -> None:
            acc = Accumulator.start(s, compute.reduction or "+", self._combined, lanes, copies)
            shared: dict[Expr, tirx.Expr] = {}

            def take(s: Statements, lanes: Lanes, variables: Variables, copy: int) -> tirx.Expr:
                return self._fold_block(s, acc, self.context.evaluator(s, variables, lanes).given(shared), filtered, copy)

            def run(s: Statements, variables: Variables) -> None:
                extent = s.bind("extent", self._extent(s, vector, variables))
                turns = s.bind("turns", tirx.truncdiv(extent, index(lanes * copies)))
                with s.loop("turn", turns) as turn:
                    taken = []
                    for copy in range(copies):
                        base = s.bind("base", turn * (lanes * copies) + copy * lanes)
                        taken.append(take(s, Lanes(rank=vector, base=base, count=lanes), variables, copy))
                    for copy in range(0, copies if acc.is_watched else 0, 2):
                        acc.watch(s, *taken[copy : copy + 2], copy=copy)
                done = s.bind("done", turns * (lanes * copies))
                whole = s.bind("whole", tirx.truncdiv(extent - done, index(lanes)))
                with s.loop("block", whole) as block:
                    base = s.bind("base", done + block * lanes)
                    one = take(s, Lanes(rank=vector, base=base, count=lanes), variables, 0)
                    if acc.is_watched:
                        acc.watch(s, one, one)
                base = s.bind("base", done + whole * lanes)
                rest = s.bind("rest", extent - base)
                with s.when(positive(rest)):
                    one = take(s, Lanes(rank=vector, base=base, count=lanes, valid=rest), variables, 0)
                    if acc.is_watched:
                        acc.watch(s, one, one)

            with self._where(s, outer, variables):
                outside = self.context.evaluator(s, variables)
                shared.update((e, outside.value(e)) for e in shared_by_row(compute, vector))
                self._loops(s, others, variables, (), run)
            inner = self.context.evaluator(s, variables)
            self._store(s, inner, self._convert(inner, acc.folded(s), acc.result_type))

        self._guarded(s, at, variables, body)

    def _fold_block(self, s: Statements, acc: Accumulator, at: Evaluator, filtered: Expr | None, copy: int) -> tirx.Expr:
        """Takes in one vector, and gives its value."""
        lanes = at.lanes
        assert lanes is not None
        fetching.ask(s, at, self.compute)
        where = at.condition(filtered)
        if where is not None:
            where = broadcast(where, lanes.count, lanes_of(where))
        if lanes.mask is not None:
            where = lanes.mask if where is None else tirx.And(where, lanes.mask)
        return self._take(s, at, acc, where, copy, watched=acc.is_watched)

    # -- scatter -----------------------------------------------------------------------------------------------------

    def _scatter_point(self, s: Statements, variables: Variables) -> None:
        self._scattered(s, self.context.evaluator(s, variables), variables, None)

    def _scatter_lanes(self, s: Statements, variables: Variables) -> None:
        assert self.compute.vector is not None

        def block(s: Statements, lanes: Lanes, variables: Variables) -> None:
            self._scattered(s, self.context.evaluator(s, variables), variables, lanes)

        self._blocks(s, self.compute.vector, variables, block)

    def _scattered(self, s: Statements, at: Evaluator, variables: Variables, lanes: Lanes | None) -> None:
        """Combines one value (or vector) into the target where the filter, shared by all lanes, holds."""
        compute = self.compute
        assert compute.reduction is not None
        condition = at.condition(compute.filter)
        with ExitStack() as stack:
            if condition is not None:
                stack.enter_context(s.when(condition))
            inner = self.context.evaluator(s, variables, lanes)
            count = 1 if lanes is None else lanes.count
            position = (inner if lanes is None else inner.first_lane()).offset(compute.target, compute.indices)
            position = s.bind("position", position)
            value = convert(inner.value(compute.value), computed(self.target.dtype))
            value = broadcast(value, count, lanes_of(value))
            acc = Accumulator.start(s, compute.reduction, self.target.dtype, count)
            view, mask = self.target, None if lanes is None else lanes.mask
            old = load_scalar(view, position, None) if lanes is None else load_vector(view, position, count, mask)
            acc.take(s, old, where=None)
            acc.take(s, value, where=None)
            self._put(s, position, acc.result(), lanes)

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def target(self) -> View:
        return self.context.views[self.compute.target]

    @property
    def _combined(self) -> DType:
        """The type in which values are combined: coordinates are chosen by values of the value's own type."""
        assert self.compute.reduction is not None
        coordinate = REDUCTIONS[self.compute.reduction].coordinate
        return self.compute.value.dtype if coordinate else self.compute.accumulator

    def _convert(self, at: Evaluator, value: tirx.Expr, source: DType) -> tirx.Expr:
        """From the value's type to the type in which the target is computed; storing rounds small floats."""
        target = self.target.dtype
        if target.is_float:
            return convert(value, computed(target))
        return at.cast(value, source, target)

    def _store(self, s: Statements, at: Evaluator, value: tirx.Expr) -> None:
        """Stores a point, or the lanes of a vector wherever they go; nothing for points outside the target."""
        within = at.condition(self.compute.within)
        if within is not None and lanes_of(within) == 1:
            with s.when(within):
                self._store_within(s, at, value, None)
        else:
            self._store_within(s, at, value, within)

    def _store_within(self, s: Statements, at: Evaluator, value: tirx.Expr, within: tirx.Expr | None) -> None:
        compute, lanes = self.compute, at.lanes
        if lanes is None:
            s.add(store_scalar(self.target, at.offset(compute.target, compute.indices), value))
            return
        value = broadcast(value, lanes.count, lanes_of(value))
        if at.lane_step(compute.target, compute.indices) == 1:
            position = at.first_lane().offset(compute.target, compute.indices)
            mask = lanes.mask
            if within is not None:
                mask = within if mask is None else tirx.And(mask, within)
            if mask is not None or lanes.streams is None:
                rounded = compute.reduction is None and at.rounds(compute.value, self.target.dtype)
                s.add(store_vector(self.target, position, value, lanes.count, mask, rounded=rounded))
                return
            with s.when(lanes.streams):
                s.add(streaming.store(self.target, position, value, lanes.count))
            with s.when(tirx.Not(lanes.streams)):
                s.add(store_vector(self.target, position, value, lanes.count, None))
            return
        raw = s.allocate("spread", (lanes.count,), stored(self.target.dtype), scope="local")
        s.store(raw, tirx.Ramp(index(0), index(1), lanes.count), encode(value, self.target.dtype, lanes.count))
        with s.loop("lane", lanes.count if lanes.valid is None else lanes.valid) as lane:
            point = at.at(None, **{lanes.rank: s.bind("point", lanes.base + lane)})
            inside = None if within is None else point.condition(compute.within)
            with ExitStack() as stack:
                if inside is not None:
                    stack.enter_context(s.when(inside))
                position = point.offset(compute.target, compute.indices)
                s.store(self.target.flat, position, tirx.BufferLoad(raw, [lane]))

    def _put(self, s: Statements, position: tirx.Expr, value: tirx.Expr, lanes: Lanes | None) -> None:
        if lanes is None:
            s.add(store_scalar(self.target, position, value))
        else:
            s.add(store_vector(self.target, position, value, lanes.count, lanes.mask))
