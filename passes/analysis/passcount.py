"""Counts the passes that a cascade makes over the data along each rank, a lower bound for every mapping.

A pass over rank r is one traversal of every element of an r fibre; another begins where an element must be visited
again after all the others have been (FuseMax, Nayak et al., MICRO 2024, section 3; design page 3). Requires a verified
cascade; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum
from ...ir.dependence import Loop, Step, einsums_of, schedule
from ...ir.expr import Const, Expr, Read, integer, op, ranks_of
from ...ir.flow import Flows, shifted_rank
from ...ir.index import equal, simplify
from .ranks import RankClass, rank_classes, split_index


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTensor:
    """A tensor that several passes visit, to write or read it: ``elements`` of it (over sizes) stay live from the first to
    the last, the product of its extents at and inside the barrier between them."""

    tensor: str
    levels: tuple[int, ...]
    elements: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPasses:
    """The passes along one rank. ``levels`` gives, for each Einsum (by index) that iterates it, its pass, from 1;
    ``available`` how many whole passes must have ended before each tensor is known."""

    rank: RankClass
    passes: int
    levels: Mapping[int, int] = field(hash=False)
    available: Mapping[str, int] = field(hash=False)
    live: tuple[LiveTensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAnalysis:
    """The passes of a cascade along every rank, in order of the ranks' first occurrence."""

    ranks: tuple[RankPasses, ...]

    def of(self, name: str) -> RankPasses:
        """The rank called ``name``, of several the one with the most passes. Raises KeyError."""
        found = [r for r in self.ranks if r.rank.name == name]
        if not found:
            raise KeyError(name)
        return max(found, key=lambda r: r.passes)


def count(cascade: Cascade) -> dict[str, int]:
    """Passes along each rank, by its rank variable; for the inner part of a partitioned rank, within one tile."""
    result: dict[str, int] = {}
    for each in analyse(cascade).ranks:
        result[each.rank.name] = max(result.get(each.rank.name, 0), each.passes)
    return result


def analyse(cascade: Cascade, steps: tuple[Step, ...] | None = None) -> PassAnalysis:
    """Levels, passes and live footprints along every rank; ``steps`` is the cascade's schedule, where it is known."""
    classes = rank_classes(cascade)
    steps = schedule(cascade) if steps is None else steps
    order = [i for step in steps for i in einsums_of(step)]
    loops = [step for step in steps if isinstance(step, Loop)]
    carried = frozenset(_carried(Flows(cascade), loops)) if loops else frozenset[tuple[int, Read]]()
    return PassAnalysis(ranks=tuple(_Count(cascade, c, classes, order, carried).result() for c in classes))


def _carried(flows: Flows, steps: Iterable[Step]) -> Iterable[tuple[int, Read]]:
    """The reads of an earlier generation: the loop satisfies them, they order nothing within a step."""
    for step in steps:
        if not isinstance(step, Loop):
            continue
        yield from _carried(flows, step.body)
        for flow in flows.dependences:
            if flow.read is None or flow.writer not in step.variables or flow.reader not in step.variables:
                continue
            if flows.distance(flow, step.variables) != (0, 0):
                yield flow.reader, flow.read


class _Count:
    """The count along one rank."""

    def __init__(
        self,
        cascade: Cascade,
        rank: RankClass,
        classes: tuple[RankClass, ...],
        order: list[int],
        carried: frozenset[tuple[int, Read]],
    ) -> None:
        self.cascade, self.rank, self.classes, self.order, self.carried = cascade, rank, classes, order, carried
        self.lets = {let.name: let.value for let in cascade.lets}
        self.lineage: dict[str, str] = {}
        self.visits: dict[str, set[int]] = {}
        self.written: dict[str, set[int]] = {}
        self.barriers: set[int] = set()

    def result(self) -> RankPasses:
        available: dict[str, int] = {}
        levels: dict[int, int] = {}
        for i in self.order:
            einsum = self.cascade.einsums[i]
            reads = [r for r in dict.fromkeys(einsum.reads()) if (i, r) not in self.carried]
            final = {r for r in reads if self._is_final(r)}
            self.barriers |= {w for r in final for w in self._continuing(r.tensor)}
            need = max((available.get(r.tensor, 0) + (r in final) for r in reads), default=0)
            variable = self.rank.variables.get(i)
            reduces = variable is not None and variable in einsum.reduced
            available[einsum.target] = max(available.get(einsum.target, 0), need + reduces)
            if variable is None:
                continue
            levels[i] = need + 1
            if reduces:
                self.barriers.add(i)
            self._visit(i, einsum, need + 1)
        by_lineage: dict[str, set[int]] = {}
        for tensor, visited in self.visits.items():
            by_lineage.setdefault(self._root(tensor), set()).update(visited)
        return RankPasses(
            rank=self.rank,
            passes=max((len(v) for v in by_lineage.values()), default=1),
            levels=levels,
            available=available,
            live=tuple(self._live()),
        )

    def _visit(self, i: int, einsum: Einsum, level: int) -> None:
        produces = self._is_whole(i, einsum.coords)
        if produces:
            self.written.setdefault(einsum.target, set()).add(level)
        for read in dict.fromkeys(einsum.reads()):
            if self._is_whole(i, read.indices):
                self.visits.setdefault(read.tensor, set()).add(level)
                if produces:
                    self.lineage[self._root(read.tensor)] = self._root(einsum.target)

    def _is_whole(self, i: int, indices: tuple[Expr, ...]) -> bool:
        """Whether an access carries the whole rank: of a partitioned one, both parts."""
        variable, inner = self.rank.variables[i], self.rank.inner.get(i)
        einsum = self.cascade.einsums[i]
        names = {shifted_rank(index) for index in indices}
        if i not in self.rank.outer:
            splits = (split_index(index, einsum, self.lets) for index in indices)
            return variable in names or any(pair is not None and variable in pair for pair in splits)
        if variable in names:
            return inner is not None and inner in names
        return any(split_index(index, einsum, self.lets) == (variable, inner) for index in indices)

    def _is_final(self, read: Read) -> bool:
        """Whether a read sees a finished generation along this rank, for which the whole loop has run."""
        tensor = self.cascade.by_name[read.tensor]
        for dim in tensor.iterative_dims:
            writers = self._continuing(tensor.name)
            along = any(shifted_rank(self.cascade.einsums[i].coords[dim]) == self.rank.variables.get(i, "") for i in writers)
            index = read.indices[dim]
            if along and not ranks_of(index) and not equal(index, integer(0), self.lets):
                return True
        return False

    def _continuing(self, tensor: str) -> list[int]:
        """The Einsums that write a tensor and are no initialisers."""
        return [i for i, e in enumerate(self.cascade.einsums) if e.target == tensor and not e.initialiser]

    def _root(self, tensor: str) -> str:
        while (above := self.lineage.get(tensor, tensor)) != tensor:
            tensor = above
        return tensor

    def _live(self) -> Iterable[LiveTensor]:
        """Footprints: the extents of all ranks but those of every result that is waited for, which lie outside the barrier.

        What is waited for are reductions along the rank, and recurrences along it whose final generation is read.
        """
        outside = [self._output_classes(i) for i in sorted(self.barriers)]
        common = set.intersection(*outside) if outside else set()
        common -= {k for k, c in enumerate(self.classes) if c is self.rank}
        for tensor, read in self.visits.items():
            visited = read | self.written.get(tensor, set())
            if len(visited) < 2:
                continue
            kept: Expr = integer(1)
            for dim, extent in enumerate(self.cascade.by_name[tensor].shape):
                if not (self._classes_of(tensor, dim) & common):
                    kept = op("mul", kept, extent)
            yield LiveTensor(tensor=tensor, levels=tuple(sorted(visited)), elements=simplify(kept))

    def _output_classes(self, i: int) -> set[int]:
        names = self.cascade.einsums[i].output_ranks
        return {k for k, c in enumerate(self.classes) if c.variables.get(i) in names}

    def _classes_of(self, tensor: str, dim: int) -> set[int]:
        """The ranks that index a dimension."""
        found: set[int] = set()
        for i, einsum in enumerate(self.cascade.einsums):
            places = [(einsum.target, einsum.coords), *((r.tensor, r.indices) for r in einsum.reads())]
            for name, indices in places:
                if name == tensor and not isinstance(indices[dim], Const):
                    variable = shifted_rank(indices[dim])
                    found |= {k for k, c in enumerate(self.classes) if variable and c.variables.get(i) == variable}
        return found
