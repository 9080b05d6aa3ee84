"""What a tile program is expected to cost on a target: operations and bytes between the levels of the memory, as seconds.

The model is a roofline for every node with loops taken apart by reuse. A node whose operands fit a cache together brings
each of them in once; in a loop that does not fit, what varies with its variables is brought in by every iteration, and what
does not vary only where an iteration by itself fits. It orders forms of one program; it does not predict times to the
percent. Williams et al., Roofline, CACM 52(4), 2009, sections 3 and 5; the reuse rule is that of a fully associative cache.

Requires: a program, the sizes as numbers. Figures of the machine are those of the target's description, never measured
ones: the same program and target always give the same kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..ir.expr import Const, Expr, Read, conjuncts, integer, ranks_of, reads_of, substitute, transform
from ..ir.sizes import evaluate
from ..ir.target import Level, Target
from ..ir.tile import Buffer, Compute, Fill, Loop, Method, Node, Scope, TileProgram, When, all_buffers, packed_before
from ..ir.tile import walk as nodes_of
from ..ir.types import BOOL
from .analysis.operations import operations_of, weight_of
from .tiling.methods import lane_step

BRANCH = 4e-6
"""Seconds to start the threads on one parallel node and to wait for them."""

STEP = 5e-9
"""Seconds to start and to finish the loops of one Compute."""

_PRODUCT_SHARE = 0.8
"""Share of the multiply-add peak that a deep matrix product reaches."""

_HALF_DEPTH = 24
"""Inner extent at which a product reaches half of that: accumulators are loaded and stored around it."""

_PACKING = 0.35
"""Cycles to pack one element of a product's right operand."""

_BLOCK = 1024.0
"""Elements of a result that are one task of a matrix product."""

_VECTOR_SHARE = 0.5
"""Share of the vector issue rate that pointwise code reaches."""

_MANY = 1 << 40
"""What a number that is data is taken for: as many points as there are."""

_FITS = 0.75
"""Share of a cache that is counted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Expected seconds; operations (functions by weight); bytes read or written from beyond each level."""

    seconds: float = 0.0
    operations: float = 0.0
    beyond: Mapping[Level, float]


def estimate(program: TileProgram, target: Target, sizes: Mapping[str, int]) -> Cost:
    """The cost of one call at these sizes, every free size of the cascade given."""
    return _Model(program, target, sizes).total()


@dataclass(frozen=True, slots=True)
class _Access:
    """A tensor, and the ranks that move through it."""

    tensor: str
    ranks: frozenset[str]


@dataclass(slots=True)
class _Work:
    """Of one node: core-seconds of arithmetic, operations, what it touches, and bytes from beyond each level."""

    busy: float
    operations: float
    accesses: frozenset[_Access]
    extents: dict[str, float]
    beyond: dict[Level, dict[str, float]]


_CACHES: tuple[Level, ...] = ("l1", "l2", "l3")
_NEXT: Mapping[Level, Level] = {"l1": "l2", "l2": "l3", "l3": "dram"}


class _Model:
    def __init__(self, program: TileProgram, target: Target, sizes: Mapping[str, int]) -> None:
        self.program, self.target = program, target
        self.buffers: dict[str, Buffer] = {b.name: b for b in all_buffers(program)}
        self.sizes = dict(sizes)
        self.around: dict[str, int] = {}
        self.turns: dict[int, float] = {}
        self.values: dict[tuple[Expr, tuple[tuple[str, int], ...]], int] = {}
        self.extents: dict[int, tuple[Expr, ...]] = {}
        for let in (*program.cascade.lets, *program.derived):
            self.sizes[let.name] = self._value(let.value)
        self.values.clear()  # some were found without a size that was yet to come
        self.rate = target.nominal.core.ops["f32"]
        self.lanes = target.lanes(32)

    def total(self) -> Cost:
        seconds, operations = 0.0, 0.0
        beyond: dict[Level, float] = dict.fromkeys(_CACHES, 0.0)
        for node in self._outermost(self.program.body):
            work = self._node(node)
            cores = self._cores(node)
            arithmetic = work.busy / cores
            memory = 0.0
            for level in _CACHES:
                volume = sum(work.beyond[level].values())
                beyond[level] += volume
                memory = max(memory, volume / self._bandwidth(_NEXT[level], cores))
            # The prefetcher hides part of the shorter one behind the longer one.
            seconds += max(arithmetic, memory) + min(arithmetic, memory) / 2
            seconds += BRANCH if cores > 1 else 0.0
            operations += work.operations
        return Cost(seconds=seconds, operations=operations, beyond=beyond)

    def _bandwidth(self, level: Level, cores: float) -> float:
        one = self.target.nominal.core.read
        chip = self.target.nominal.chip.read
        known = level if level in one else "dram"
        return min(one[known] * cores, chip.get(known, one[known] * cores))

    def _outermost(self, nodes: Iterable[Node]) -> Iterator[Node]:
        for node in nodes:
            if isinstance(node, When):
                if self._holds(node.condition):
                    yield from self._outermost(node.body)
            else:
                yield node

    def _cores(self, node: Node) -> float:
        """The cores that the node keeps busy, on average."""
        match node:
            case Loop(parallel=True):
                tasks = float(self._value(node.extent))
                for r in node.inner:
                    tasks *= self._value(r.extent)
            case Compute(method=Method.CONTRACTION | Method.WINDOW):
                # The micro-kernel's loops share out blocks of rows and columns themselves.
                tasks = 1.0
                for name in node.output_ranks:
                    tasks *= self._value(node.extent(name))
                tasks /= _BLOCK
            case Compute(parallel=parallel) if parallel:
                tasks = 1.0
                for name in parallel:
                    tasks *= self._value(node.extent(name))
                if node.method is Method.LANES and parallel == (node.vector,):
                    tasks /= self.lanes
            case _:
                return 1.0
        if tasks <= 1:
            return 1.0
        rounds = -(-tasks // self.target.cores)
        return max(1.0, tasks / rounds)

    # -- work of nodes -----------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> _Work:
        match node:
            case Compute(filter=where) if not all(self._holds(c) for c in conjuncts(where)):
                return self._sequence(())
            case Compute():
                return self._compute(node)
            case Fill(target=name):
                ranks = {f"{name}:{d}": float(self._value(e)) for d, e in enumerate(self.buffers[name].shape)}
                return self._leaf(0.0, 0.0, [_Access(name, frozenset(ranks))], ranks)
            case Loop():
                return self._loop(node)
            case When(condition=condition, body=body):
                return self._sequence(body if self._holds(condition) else ())

    def _compute(self, compute: Compute) -> _Work:
        extents = {r.name: float(self._value(r.extent)) for r in compute.ranks}
        points = 1.0
        for extent in extents.values():
            points *= extent
        outputs = points
        for name in compute.reduced:
            outputs /= max(1.0, extents[name])
        reads = [n for e in _expressions(compute) for n in reads_of(e)]
        accesses = [_Access(compute.target, _ranks_in(compute.indices))]
        if compute.product is not None and compute.product.epilogue is not None:
            reads += reads_of(compute.product.epilogue)
        accesses += (_Access(r.tensor, _ranks_in(r.indices)) for r in reads if r.tensor in self.buffers)
        operations = points * operations_of(compute)
        match compute.method:
            case Method.CONTRACTION if compute.product is not None:
                depth = extents.get(compute.product.inner, 1.0)
                width = extents.get(compute.product.columns or "", 1.0)
                share = _PRODUCT_SHARE * depth / (depth + _HALF_DEPTH) * min(1.0, width / self.lanes)
                operations = 2 * points
                rows = max(1.0, extents.get(compute.product.rows or "", 1.0))
                cycles = _PACKING * points / rows / self.turns.get(id(compute), 1.0)
                busy = operations / (self.rate * max(share, 0.02)) + cycles * 4 * self.lanes / self.rate
                if compute.product.epilogue is not None:
                    busy += outputs * weight_of(compute.product.epilogue) / (self.rate / 2 * _VECTOR_SHARE)
            case Method.WINDOW if compute.window is not None:
                operations = 2 * points
                rows = max(1.0, extents[compute.window.rows])
                busy = operations / (self.rate * _PRODUCT_SHARE) + _PACKING * points / rows * 4 * self.lanes / self.rate
            case Method.LANES | Method.FOLD:
                # The peak counts a multiply-add as two; pointwise operations are one each.
                width = extents.get(compute.vector or "", 1.0)
                waste = self.lanes * -(-width // self.lanes) / max(width, 1.0)
                jumps = sum(1 for r in reads if lane_step(r.indices, compute.vector or "") is None)
                busy = (operations * waste / self.lanes + jumps * points) / (self.rate / 2 / self.lanes * _VECTOR_SHARE)
                if compute.method is Method.FOLD:
                    busy += outputs * 8 / (self.rate / 2 / self.lanes)
            case _:
                busy = (operations + points * (1 + len(reads))) / (self.rate / 2 / self.lanes * _VECTOR_SHARE)
        return self._leaf(busy, operations, accesses, extents)

    def _leaf(self, busy: float, operations: float, accesses: Iterable[_Access], extents: dict[str, float]) -> _Work:
        found = frozenset(accesses)
        touched = self._footprints(found, extents)
        total = sum(touched.values())
        beyond: dict[Level, dict[str, float]] = {}
        for level in _CACHES:
            private = {t for t in touched if self.buffers[t].scope is Scope.TILE and total <= self._capacity(level)}
            beyond[level] = {t: b for t, b in touched.items() if t not in private}
        return _Work(busy=busy + STEP, operations=operations, accesses=found, extents=extents, beyond=beyond)

    def _sequence(self, nodes: Iterable[Node]) -> _Work:
        works = [self._node(n) for n in nodes]
        accesses = frozenset(a for w in works for a in w.accesses)
        extents = {k: v for w in works for k, v in w.extents.items()}
        touched = self._footprints(accesses, extents)
        beyond: dict[Level, dict[str, float]] = {}
        for level in _CACHES:
            if sum(touched.values()) <= self._capacity(level):
                beyond[level] = {t: b for t, b in touched.items() if self.buffers[t].scope is not Scope.TILE}
            else:
                beyond[level] = _added(w.beyond[level] for w in works)
        return _Work(
            busy=sum(w.busy for w in works),
            operations=sum(w.operations for w in works),
            accesses=accesses,
            extents=extents,
            beyond=beyond,
        )

    def _loop(self, loop: Loop) -> _Work:
        variables = {loop.variable: loop.extent, **{r.name: r.extent for r in loop.inner}}
        trips = {name: float(self._value(extent)) for name, extent in variables.items()}
        for name, count in trips.items():
            self.around[name] = max(0, int(count) - 1) // 2
        once = packed_before(loop)
        self.turns.update((id(c), max(1.0, trips[loop.variable])) for c in once)
        body = self._turn(loop, {name: int(count) for name, count in trips.items()})
        for name in trips:
            del self.around[name]
        inside = self._footprints(body.accesses, body.extents)
        extents = {**body.extents, **trips}
        touched = self._footprints(body.accesses, extents)
        held = {b.name for b in loop.buffers}
        every = 1.0
        for count in trips.values():
            every *= count
        beyond: dict[Level, dict[str, float]] = {}
        for level in _CACHES:
            capacity = self._capacity(level)
            if sum(touched.values()) <= capacity:
                found = {t: b for t, b in touched.items() if self.buffers[t].scope is not Scope.TILE}
            else:
                fits = sum(inside.values()) <= capacity
                found = {t: b * self._times(t, body, trips, fits) for t, b in body.beyond[level].items()}
                if fits:
                    found = {t: b for t, b in found.items() if t not in held}
            beyond[level] = found
        accesses = frozenset(a for a in body.accesses if a.tensor not in held)
        return _Work(
            busy=body.busy * every, operations=body.operations * every, accesses=accesses, extents=extents, beyond=beyond
        )

    def _turn(self, loop: Loop, trips: Mapping[str, int]) -> _Work:
        """The mean of a loop's iterations: one in the middle, and the last one where less is left for it."""
        for name, count in trips.items():
            middle = self.around[name]
            if count > 1 and self._ends_early(loop, name, count - 1):
                rest = {n: c for n, c in trips.items() if n != name}
                most = self._turn(loop, rest)
                self.around[name] = count - 1
                last = self._turn(loop, rest)
                self.around[name] = middle
                return _mean(most, last, 1 / count)
        return self._sequence(loop.body)

    def _ends_early(self, loop: Loop, name: str, last: int) -> bool:
        middle = self.around[name]
        extents = self.extents.get(id(loop))
        if extents is None:
            extents = self.extents[id(loop)] = _extents(loop)
        for extent in (e for e in extents if name in ranks_of(e)):
            most = self._value(extent)
            self.around[name] = last
            least = self._value(extent)
            self.around[name] = middle
            if least < most:
                return True
        return False

    @staticmethod
    def _times(tensor: str, body: _Work, trips: Mapping[str, float], fits: bool) -> float:
        """How often an iteration brings a tensor in.

        The last of a loop's variables runs fastest: where an iteration fits, what it does not move stays while it runs.
        """
        names = list(trips)
        last = max((names.index(n) for a in body.accesses if a.tensor == tensor for n in a.ranks if n in trips), default=-1)
        times = 1.0
        for name in names[: last + 1] if fits else names:
            times *= trips[name]
        return times

    # -- sizes -------------------------------------------------------------------------------------------------------

    def _capacity(self, level: Level) -> float:
        size = self.target.capacity(level)
        return size * _FITS if size else 0.0

    def _footprints(self, accesses: Iterable[_Access], extents: Mapping[str, float]) -> dict[str, float]:
        """Bytes of each tensor that are touched while the given ranks run."""
        found: dict[str, float] = {}
        for access in accesses:
            elements = 1.0
            for name in access.ranks:
                elements *= extents.get(name, 1.0)
            buffer = self.buffers[access.tensor]
            whole = 1.0
            for extent in buffer.shape:
                whole *= self._value(extent)
            size = min(elements, whole) * buffer.dtype.storage.itemsize
            found[access.tensor] = max(size, found.get(access.tensor, 0.0))
        return found

    def _holds(self, condition: Expr) -> bool:
        """Whether a branch is taken; flags that are read are set (every element of an argument is finite)."""

        def flags(node: Expr) -> Expr | None:
            return Const(value=True, dtype=BOOL) if isinstance(node, Read) else None

        return bool(self._value(transform(condition, flags)))

    def _value(self, expr: Expr) -> int:
        """A size expression, loop variables in the middle of their range, counts that are data no limit; 1 where it cannot be
        told."""
        at = tuple((name, self.around[name]) for name in ranks_of(expr) if name in self.around)
        known = self.values.get((expr, at))
        if known is not None:
            return known
        numbers = expr
        if reads_of(expr):
            numbers = transform(expr, lambda node: integer(_MANY) if isinstance(node, Read) else None)
        if at:
            numbers = substitute(numbers, ranks={name: integer(value) for name, value in at})
        try:
            found = max(0, int(evaluate(numbers, self.sizes)))
        except (KeyError, ValueError, ArithmeticError):
            found = 1
        self.values[expr, at] = found
        return found


def _mean(most: _Work, last: _Work, share: float) -> _Work:
    """Iterations of which the ``share`` is like ``last``. What they touch is what the larger ones do."""
    return replace(
        most,
        busy=most.busy * (1 - share) + last.busy * share,
        operations=most.operations * (1 - share) + last.operations * share,
        beyond={
            level: {t: b * (1 - share) + last.beyond[level].get(t, 0.0) * share for t, b in found.items()}
            for level, found in most.beyond.items()
        },
    )


def _extents(loop: Loop) -> tuple[Expr, ...]:
    """Those of all loops and computations in a loop, each once."""
    found: dict[Expr, None] = {}
    for node in nodes_of(loop.body):
        match node:
            case Loop(extent=extent, inner=inner):
                found.update(dict.fromkeys((extent, *(r.extent for r in inner))))
            case Compute(ranks=ranks):
                found.update(dict.fromkeys(r.extent for r in ranks))
    return tuple(found)


def _expressions(compute: Compute) -> Iterator[Expr]:
    yield compute.value
    yield from (inner.value for inner in compute.along)
    for expr in (compute.filter, compute.condition):
        if expr is not None:
            yield expr


def _ranks_in(indices: Iterable[Expr]) -> frozenset[str]:
    return frozenset(r for i in indices for r in ranks_of(i))


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, volume in part.items():
            total[name] = total.get(name, 0.0) + volume
    return total
