"""Which parallel loops go through rows several times, and what of a row its threads keep in registers between the passes.

A softmax reads a row for its maximum, for its sum and for its result. Where the elements that a thread takes are the same in
each pass, they need to be read from memory once: a thread holds its chunks of the row, or what an earlier pass has computed of
them (the exponentials), up to the registers that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ...ir.expr import Expr, Op, Rank, Read, Select, Size, children, ranks_of, reads_of, walk
from ...ir.index import upper_bound
from ...ir.tile import Buffer, Compute, Fill, Loop, Method, Node, accesses
from ...ir.tile import walk as nodes_of
from ..element import computed, stored
from ..views import View
from .chunks import Chunks, chunks_along
from .statements import WARP

KEPT = 32
"""Registers of a thread that hold its part of a row: with as many again for all else, 1024 threads can have them."""

FEW = 16
"""Those that it holds where there can be more threads instead: more blocks are under way on a multiprocessor."""

WRITTEN = 2048
"""Operations that are written out for a thread's part of a row: many points of small integers fit in registers, and what is
computed of each of them must still be assembled in seconds."""

FEWEST = 8
"""Those below which a row gets less than a warp."""

SIDES = (WARP, 256, 1024)
"""Threads for a row of free length, of which the host chooses at launch the fewest whose registers the row fits."""

BLOCK = 128
"""Threads of a block that has several rows."""

DEAR = frozenset(["exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf"])
"""Operators whose values are kept instead of computed again."""


Key = tuple[str, Expr]
"""The rank and the extent by which passes over the same points are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A Compute, and the rank of the row that it goes through (None: it is about the row's point alone)."""

    compute: Compute
    rank: str | None

    @property
    def values(self) -> tuple[Expr, ...]:
        return (self.compute.value, *(a.value for a in self.compute.along))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What several passes over the same points of one rank have in common.

    ``held`` are reads that stay in registers from the first pass on, ``made`` those among them that the pass of that number
    stores, ``parts`` values that later passes take from the one of that number. ``words`` counts the registers of an element,
    ``width`` the points of a chunk, ``operations`` what is computed of an element in all passes.
    """

    rank: str
    extent: Expr
    width: int
    passes: tuple[Compute, ...]
    held: tuple[Read, ...]
    made: Mapping[Read, int]
    parts: Mapping[Expr, int]
    words: float
    operations: int

    @property
    def key(self) -> Key:
        return self.rank, self.extent

    def number(self, compute: Compute) -> int:
        """That of a pass."""
        return next(n for n, each in enumerate(self.passes) if each is compute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """``threads`` for each row, each of which has so many points of it; fits where the extents of ``short`` are in them."""

    threads: int
    points: Mapping[Key, int]
    short: tuple[Key, ...]

    @property
    def beside(self) -> int:
        """The rows of a block."""
        return BLOCK // self.threads if self.threads <= WARP else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A parallel loop as rows.

    ``points`` are the ranks that number the rows of a turn, of these ``extents``, which ``bounds`` limit; ``units`` are ranks
    with one point. ``numbers`` are elements of results, one for each row, that later passes read.
    """

    points: tuple[str, ...]
    extents: tuple[Expr, ...]
    bounds: tuple[int, ...]
    units: frozenset[str]
    forms: tuple[Form, ...]
    numbers: tuple[Read, ...] = ()

    @property
    def most(self) -> int:
        """A bound of the rows of a turn."""
        return prod(self.bounds)


def rows_of(loop: Loop, views: Mapping[str, View], lets: Mapping[str, Expr]) -> Rows | None:
    """The rows of a parallel loop that reads them several times; None where it does not, or does something else besides."""
    nodes = list(nodes_of(loop.body))
    computes = [n for n in nodes if isinstance(n, Compute)]
    first = next((c for c in computes if c.reduction is not None), None)
    if first is None or len(computes) < 2 or not all(_is_plain(n) for n in nodes):
        return None
    several = {r.name for c in computes for r in c.ranks if upper_bound(r.extent, lets) != 1}
    several |= {c.vector for c in computes if c.reduction is not None and c.vector is not None}
    units = frozenset(r.name for c in computes for r in c.ranks) - several
    points = tuple(r for r in first.output_ranks if r not in units)
    bounds = [upper_bound(first.extent(r), lets) for r in points]
    if any(bound is None for bound in bounds):
        return None
    found = Rows(
        points=points,
        extents=tuple(first.extent(r) for r in points),
        bounds=tuple(b for b in bounds if b is not None),
        units=units,
        forms=(),
    )
    tiles = {b.name: b for n in (loop, *nodes) if isinstance(n, Loop) for b in n.buffers}
    found = replace(found, numbers=tuple(_numbers(loop, views)))
    if not _is_local(loop, found, tiles, lets):
        return None
    if any(stored(b.dtype) != computed(b.dtype) or b.dtype.is_bool for b in tiles.values()):
        return None
    passes = [pass_of(c, found, views) for c in computes]
    if any(p is None for p in passes):
        return None
    nested = any(isinstance(n, Loop) for n in loop.body)
    rows = [row for level in _levels(loop.body) for row in rows_in(level, found, views).values() if row.held or row.parts]
    forms = _forms(rows, nested, lets)
    return replace(found, forms=forms) if forms else None


def rows_in(nodes: Sequence[Node], found: Rows, views: Mapping[str, View]) -> dict[Key, Row]:
    """The rows that the Computes directly among ``nodes`` go through, by rank and extent."""
    passes: dict[Key, list[tuple[int, Pass]]] = {}
    for number, node in enumerate(nodes):
        if isinstance(node, Compute) and (each := pass_of(node, found, views)) is not None and each.rank is not None:
            passes.setdefault((each.rank, node.extent(each.rank)), []).append((number, each))
    return {key: _row(*key, mine, nodes, views) for key, mine in passes.items()}


def pass_of(compute: Compute, found: Rows, views: Mapping[str, View]) -> Pass | None:
    """How a Compute goes through rows; None where it does so in another way."""
    own = [r for r in compute.output_ranks if r not in found.units]
    extra = [r for r in own if r not in found.points]
    same = all(compute.extent(r) == e for r, e in zip(found.points, found.extents, strict=True) if r in own)
    if compute.filter is not None or not same or len(extra) > 1:
        return None
    if compute.reduction is not None:
        folds = compute.method is Method.FOLD and compute.reduced == (compute.vector,) and not extra
        if not folds or compute.vector is None or not set(found.points) <= set(own):
            return None
        chunks = chunks_along(compute, compute.vector, views, stores=False)
        return None if chunks is None or not chunks.reads else Pass(compute=compute, rank=compute.vector)
    if compute.along or not set(found.points) <= set(own):
        return None
    if not extra:
        return Pass(compute=compute, rank=None)
    plain = compute.method is Method.LANES and compute.vector == extra[0] and compute.condition is None
    if not plain or compute.within is not None or chunks_along(compute, extra[0], views, stores=True) is None:
        return None
    return Pass(compute=compute, rank=extra[0])


def chunks_of(compute: Compute, row: Row, views: Mapping[str, View]) -> Chunks:
    """The chunks of a pass, as wide as all of its row are."""
    found = chunks_along(compute, row.rank, views, stores=compute.reduction is None)
    assert found is not None
    return Chunks(rank=row.rank, width=row.width, reads=found.reads)


def stored_read(compute: Compute, views: Mapping[str, View]) -> Read:
    """How what a Compute stores is read again."""
    return Read(tensor=compute.target, indices=compute.indices, dtype=views[compute.target].dtype)


def divisors(value: Expr, rank: str) -> Iterator[Expr]:
    """What all points of a row are divided by, whatever else holds, and no number that the compiler knows."""
    match value:
        case Select(condition=condition):
            yield from divisors(condition, rank)
            return
        case Op(op="div", args=(over, by)) if computed(by.dtype) == "float32" and rank in ranks_of(over):
            if rank not in ranks_of(by) and any(isinstance(e, Read | Rank | Size) for e in walk(by)):
                yield by
    for child in children(value):
        yield from divisors(child, rank)


def used(values: Sequence[Expr], parts: Sequence[Expr]) -> set[Expr]:
    """The reads of values, and those of ``parts`` that are taken in the place of theirs."""
    found: set[Expr] = set()
    for value in values:
        if value in parts or isinstance(value, Read):
            found.add(value)
        if value not in parts:
            found |= used(tuple(children(value)), parts)
    return found


# -- the loop ------------------------------------------------------------------------------------------------------------


def _is_plain(node: Node) -> bool:
    match node:
        case Compute(product=product, window=window, scatter=scatter):
            return product is None and window is None and not scatter
        case Loop(parallel=parallel, extents=extents):
            return not parallel and not any(True for e in extents for _ in reads_of(e))
        case Fill():
            return True
        case _:
            return False


def _is_local(loop: Loop, found: Rows, tiles: Mapping[str, Buffer], lets: Mapping[str, Expr]) -> bool:
    """Whether the threads of a row need of what the loop writes nothing but numbers of its own point, and what they have stored
    themselves."""
    nodes = list(nodes_of(loop.body))
    computes = [n for n in nodes if isinstance(n, Compute)]
    written = {name for node in nodes for name in accesses(node)[1]}
    own = {r.tensor for r in found.numbers}
    own |= {name for name in written - set(tiles) if all(_is_own(name, level) for level in _levels(loop.body))}
    if any(isinstance(node, Fill) and node.target not in tiles for node in nodes):
        return False
    for compute in computes:
        extents = {r.tensor for rank in compute.ranks for r in reads_of(rank.extent)}
        read = {r.tensor for r in compute.reads()}
        if (read & written) - set(tiles) - own or extents & (written | set(tiles)):
            return False
        places = [(r.tensor, r.indices) for r in compute.reads() if r.tensor in tiles]
        places += [(c.target, c.indices) for c in (compute, *compute.along) if c.target in tiles]
        numbers = {Rank(name=r, dtype=compute.extent(r).dtype) for r in found.points if r in compute.output_ranks}
        for name, indices in places:
            if {e for e in indices if e in numbers} != numbers:
                return False
            if any(e not in numbers and upper_bound(d, lets) != 1 for e, d in zip(indices, tiles[name].shape, strict=True)):
                return False
    return True


def _numbers(loop: Loop, views: Mapping[str, View]) -> Iterator[Read]:
    """What a Compute directly in the loop stores at its row's point, and others after it read there, as it was stored."""
    tiles = {b.name for b in loop.buffers}
    for n, node in enumerate(loop.body):
        if not isinstance(node, Compute) or node.target in tiles or node.along or node.within is not None:
            continue
        if node.reduction is None and node.vector is not None and any(node.vector in ranks_of(e) for e in node.indices):
            continue
        dtype, read = views[node.target].dtype, stored_read(node, views)
        reads = [
            (m, r) for m, each in enumerate(loop.body) for c in nodes_of((each,)) if isinstance(c, Compute) for r in c.reads()
        ]
        mine = [(m, r) for m, r in reads if r.tensor == node.target]
        writers = [c for c in nodes_of(loop.body) if node.target in accesses(c)[1]]
        plain = len(writers) == 1 and stored(dtype) == computed(dtype) and not dtype.is_bool
        if plain and mine and all(m > n and r == read for m, r in mine):
            yield read


def _is_own(name: str, level: Sequence[Node]) -> bool:
    """Whether one pass stores a tensor, and others after it, over the same points, read it where it was stored."""
    direct = [n for n in level if isinstance(n, Compute)]
    inside = [n for node in level if isinstance(node, Loop) for n in nodes_of(node.body)]
    writers = [n for n, c in enumerate(direct) if name in c.targets]
    readers = [n for n, c in enumerate(direct) if any(r.tensor == name for r in c.reads())]
    if any(name in accesses(n)[0] | accesses(n)[1] for n in inside):
        return not writers and not readers
    if not writers or not readers:
        return not readers
    first = direct[writers[0]]
    if (
        len(writers) > 1
        or name != first.target
        or first.reduction is not None
        or first.vector is None
        or readers[0] <= writers[0]
    ):
        return False
    key = first.vector, first.extent(first.vector) if first.vector in first.output_ranks else None
    for n in readers:
        c = direct[n]
        if c.vector != key[0] or c.extent(c.vector or "") != key[1]:
            return False
        if any(r.indices != first.indices for r in c.reads() if r.tensor == name):
            return False
    return True


def _levels(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    yield nodes
    for node in nodes:
        if isinstance(node, Loop):
            yield from _levels(node.body)


# -- what is kept --------------------------------------------------------------------------------------------------------


def _row(rank: str, extent: Expr, mine: Sequence[tuple[int, Pass]], nodes: Sequence[Node], views: Mapping[str, View]) -> Row:
    makers: dict[Expr, int] = {}
    for n, (number, each) in enumerate(mine):
        for part in (e for value in each.values for e in _dear(value, rank)):
            at = [later for later, q in mine[n + 1 :] if any(part in walk(v) for v in q.values)]
            if part not in makers and at and not _changes(part, nodes[number : at[-1]]):
                makers[part] = n
    taken = [used(p.values, [e for e, maker in makers.items() if maker < n]) for n, (_, p) in enumerate(mine)]
    chunks = [c for _, p in mine if (c := chunks_along(p.compute, rank, views, stores=p.compute.reduction is None)) is not None]
    moving = dict.fromkeys(r for c in chunks for r in c.reads)
    stored_by = {stored_read(p.compute, views): n for n, (_, p) in enumerate(mine) if p.compute.reduction is None}
    spans = {r: [n for n, each in enumerate(taken) if r in each or stored_by.get(r) == n] for r in moving}
    held = tuple(r for r, at in spans.items() if len(at) > 1)
    live = [(spans[r][0], spans[r][-1], views[r.tensor].dtype.bits / 32) for r in held]
    live += [(maker, max(n for n, each in enumerate(taken) if e in each), 1.0) for e, maker in makers.items()]
    words = max((sum(w for first, last, w in live if first < n <= last) for n in range(1, len(mine))), default=0.0)
    return Row(
        rank=rank,
        extent=extent,
        width=max((c.width for c in chunks), default=1),
        passes=tuple(p.compute for _, p in mine),
        held=held,
        made={r: stored_by[r] for r in held if r in stored_by},
        parts=makers,
        words=words,
        operations=sum(len({e for v in p.values for e in walk(v) if children(e)}) for _, p in mine),
    )


def _dear(expr: Expr, rank: str) -> list[Expr]:
    """The parts of a value that are always computed, differ along ``rank`` and cost more than a register: the largest first."""
    match expr:
        case Select(condition=condition):
            return _dear(condition, rank)
        case Op(op=name) if name in DEAR and computed(expr.dtype) == "float32" and rank in ranks_of(expr):
            return [expr]
        case _:
            return [e for child in children(expr) for e in _dear(child, rank)]


def _changes(expr: Expr, nodes: Sequence[Node]) -> bool:
    """Whether one of the nodes writes what an expression reads."""
    read = {r.tensor for r in reads_of(expr)}
    return any(read & accesses(node)[1] for node in nodes_of(tuple(nodes)))


# -- how many threads ----------------------------------------------------------------------------------------------------


def _forms(rows: Sequence[Row], nested: bool, lets: Mapping[str, Expr]) -> tuple[Form, ...]:
    if not rows:
        return ()
    bounds = {row.key: upper_bound(row.extent, lets) for row in rows}
    free = [row for row in rows if bounds[row.key] is None]
    words, operations = [row.words for row in rows], [row.operations for row in rows]
    if any(ranks_of(row.extent) or any(True for _ in reads_of(row.extent)) for row in free):
        return ()

    def form(threads: int, points: Mapping[Key, int]) -> Form | None:
        registers, written = (
            sum(points[row.key] * n for row, n in zip(rows, each, strict=True)) for each in (words, operations)
        )
        fits = registers <= KEPT and written <= WRITTEN
        return Form(threads=threads, points=points, short=tuple(row.key for row in free)) if fits else None

    def fitting(threads: int) -> dict[Key, int]:
        """The points of each thread, of rows of known length."""
        lengths = [(row, length) for row in rows if (length := bounds[row.key]) is not None]
        return {row.key: row.width * max(1, -(-length // (threads * row.width))) for row, length in lengths}

    if free:
        widest = max(row.width for row in rows)
        each = widest * int(min(KEPT // (widest * sum(words)), WRITTEN // (widest * max(1, sum(operations)))))
        forms = (form(t, {row.key: each for row in free} | fitting(t)) for t in SIDES)
        return tuple(f for f in forms if f is not None) if each else ()
    least = WARP if nested else 1
    sides = [(t, FEWEST) for t in (1, 2, 4, 8, 16) if t >= least] + [(WARP, KEPT)]
    sides += [(t, FEW) for t in (64, 128, 256, 512)] + [(1024, KEPT)]
    for threads, most in sides:
        points = fitting(threads)
        if sum(points[row.key] * row.words for row in rows) <= most and (made := form(threads, points)) is not None:
            return (made,)
    return ()
