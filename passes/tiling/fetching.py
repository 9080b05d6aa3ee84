"""Inputs that are asked for before they are used: prefetches in the loops that go through large arguments once.

A core that reads one page after the other waits: the prefetcher of the hardware follows a page of 4 KB to its end and begins
anew with the next, and rows that are worked on for a while leave the memory idle meanwhile. So the last loop of a row that
reads an argument also asks, at every vector, for a line of what comes 32 KB later, of eight pages in turn. Requires: Computes
with their methods. Guarantees: only ``Compute.ahead`` changes, and no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...ir.expr import Expr, Read, Select, integer, op, ranks_of, reads_of
from ...ir.index import affine_in
from ...ir.target import Target
from ...ir.tile import Ahead, Compute, Decision, Loop, Method, Node, Scope, TileProgram, When, walk
from ..analysis.presence import TRUE
from .large import all_of, at_least, elements


def fetching(program: TileProgram, target: Target) -> TileProgram:
    """``program`` with what its Computes ask for ahead (``Compute.ahead``), for targets with caches."""
    if target.kind != "cpu":
        return program
    return _Fetching(program, target).program()


class _Fetching:
    def __init__(self, program: TileProgram, target: Target) -> None:
        self.source, self.target = program, target
        self.inputs = {b.name: b for b in program.buffers if b.scope is Scope.INPUT and b.dtype.bits in (8, 16, 32, 64)}
        self.large: dict[str, Expr] = {}
        for name, buffer in self.inputs.items():
            condition = at_least(elements(buffer.shape), 8 * target.cores * target.l2 // buffer.dtype.bits)
            if condition is not None:
                self.large[name] = condition

    def program(self) -> TileProgram:
        body = self._nodes(self.source.body, frozenset())
        if body == self.source.body:
            return self.source
        names = dict.fromkeys(a.read.tensor for n in walk(body) if isinstance(n, Compute) for a in n.ahead)
        decisions = tuple(
            Decision(
                made_by="fetch",
                subject=name,
                chosen="asked for ahead" + ("" if self.large[name] == TRUE else " where it is large"),
                because="it comes from beyond the second-level caches, row by row",
            )
            for name in names
        )
        return replace(self.source, body=body, decisions=(*self.source.decisions, *decisions))

    def _nodes(self, nodes: tuple[Node, ...], around: frozenset[str]) -> tuple[Node, ...]:
        """The nodes of one body, with the variables of the loops around it."""
        streams: dict[int, list[Read]] = {}
        readers: dict[str, list[int]] = {}
        for at, node in enumerate(nodes):
            if isinstance(node, Compute):
                streams[at] = [read for read in _streamed(node, around) if read.tensor in self.large]
                for read in streams[at]:
                    readers.setdefault(read.tensor, []).append(at)
        made: list[Node] = []
        for at, node in enumerate(nodes):
            match node:
                case Loop(variable=variable, inner=inner, body=body):
                    inside = around | {variable, *(r.name for r in inner)}
                    made.append(replace(node, body=self._nodes(body, inside)))
                case When(body=body):
                    made.append(replace(node, body=self._nodes(body, around)))
                case Compute():
                    asked: dict[str, Ahead] = {}
                    for read in streams[at]:
                        places = readers[read.tensor]
                        if ahead := self._ahead(node, read, at == places[-1], len(places) > 1):
                            asked.setdefault(read.tensor, ahead)
                    made.append(replace(node, ahead=tuple(asked.values())))
                case _:
                    made.append(node)
        return tuple(made)

    def _ahead(self, compute: Compute, read: Read, last: bool, again: bool) -> Ahead | None:
        """What a reader of an input asks for: the last one always, of the next tile where there are others (``again``), and the
        others for rows that leave the cache until the next one reads them."""
        assert compute.vector is not None
        large, nothing = self.large[read.tensor], integer(0)
        if not again:
            return Ahead(read=read, when=large, distance=nothing)
        limit = 8 * self.target.l2 // 2 // self.inputs[read.tensor].dtype.bits
        leaves = at_least(compute.extent(compute.vector), limit)
        if last:
            tile: Expr = integer(1)
            for r in compute.ranks:
                tile = op("mul", tile, r.extent)
            if leaves is not None:
                tile = nothing if leaves == TRUE else Select(condition=leaves, then=nothing, otherwise=tile, dtype=tile.dtype)
            return Ahead(read=read, when=large, distance=tile)
        both = all_of(large, leaves)
        return None if both is None else Ahead(read=read, when=both, distance=nothing)


def _streamed(compute: Compute, around: frozenset[str]) -> Iterator[Read]:
    """The reads of a Compute that go through a tensor element by element, in the order of the memory."""
    folds = compute.method is Method.FOLD
    if not folds and (compute.method is not Method.LANES or compute.reduction is not None):
        return
    if compute.scatter or compute.vector is None or (folds and len(compute.reduced) > 1):
        return
    own = around | {r.name for r in compute.ranks}
    for read in dict.fromkeys(r for e in (compute.value, *(c.value for c in compute.along)) for r in reads_of(e)):
        if not read.indices or any(reads_of(i) for i in read.indices):
            continue
        *outer, last = read.indices
        form = affine_in(last, (compute.vector,))
        if form is None or form.coefficient(compute.vector) != integer(1) or any(compute.vector in ranks_of(i) for i in outer):
            continue
        if own <= {name for i in read.indices for name in ranks_of(i)}:
            yield read
