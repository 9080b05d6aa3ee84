"""The order in which the Einsums of a cascade run: straight-line steps and the loops of iterative ranks.

An Einsum depends on the writers of the tensors that it reads. Einsums that depend on one another form a
strongly connected component; it is executable as a loop over one rank variable of each of its Einsums when every
dependence within it has a distance ≥ 0 (or, backwards, ≤ 0) along that loop, as in Allen and Kennedy's loop
distribution (ACM TOPLAS 9(4), 1987). Dependences with a distance other than 0 are satisfied by the loop; what
remains is ordered, in the same way, within its body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce as fold
from itertools import islice, pairwise

import networkx as nx

from .cascade import Cascade, Einsum, Role
from .diagnostics import EinfallError, error
from .expr import Cast, Const, Expr, Op, Rank, Read, integer, op, rank, substitute, walk
from .index import affine, at_most, constant_difference, equal, non_negative, simplify
from .printer import index_to_source
from .types import INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Straight:
    """One Einsum, over all of its ranks but the variables of the loops around it."""

    einsum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """The body once for each generation 0 … extent - 1, from the last to the first where ``reverse``.

    ``variables`` gives, for each Einsum of the body, the rank variable that holds the generation. An Einsum whose
    own extent is less than the loop's sits out the generations beyond it.
    """

    variables: Mapping[int, str] = field(hash=False)
    extent: Expr
    reverse: bool
    body: tuple[Step, ...]


Step = Straight | Loop

_MOST_LIMITS = 64
"""Bounds of one index that are tried: those of a sum are the products of its terms' bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """``reader`` uses what ``writer`` stores (indices of the cascade's Einsums).

    ``read`` is None where both write overlapping points of one tensor and the later of the two must win.
    """

    writer: int
    reader: int
    tensor: str
    read: Read | None


def schedule(cascade: Cascade) -> tuple[Step, ...]:
    """The steps that compute a cascade, in order; deterministic, ready Einsums in source order.

    Raises E0601 for a cyclic dependence that no loop order satisfies.
    """
    analysis = _Analysis(cascade)
    return analysis.order(range(len(cascade.einsums)), analysis.dependences)


def dependences(cascade: Cascade) -> tuple[Dependence, ...]:
    """The dependences between Einsums, without those whose points provably never meet."""
    return _Analysis(cascade).dependences


def einsums_of(step: Step) -> tuple[int, ...]:
    """The Einsums that a step executes, in order."""
    match step:
        case Straight(einsum=index):
            return (index,)
        case Loop(body=body):
            return tuple(index for inner in body for index in einsums_of(inner))


def generation_distance(cascade: Cascade, dependence: Dependence, dim: int) -> int | None:
    """Generations between write and read along one dimension; None where that is not one number."""
    if dependence.read is None:
        return None
    ours, theirs = cascade.einsums[dependence.writer].coords[dim], dependence.read.indices[dim]
    v, u = _shifted(ours), _shifted(theirs)
    if v is None or u is None:
        return None
    lets = {let.name: let.value for let in cascade.lets}
    return constant_difference(op("sub", ours, rank(v)), op("sub", theirs, rank(u)), lets)


def live_generations(cascade: Cascade, loop: Loop, tensor: str, outer: Sequence[Loop] = ()) -> tuple[int, int] | None:
    """The dimension along which ``loop`` writes ``tensor``, and how many of its generations must be kept.

    None where all are needed: the tensor is a result, or something outside the loop reads another than the final
    generation. An initialiser may read the initial one (``D[0, j+1] = D[0, j] + g``), which is written before the
    loop starts. ``outer`` are the loops around ``loop``: where one of their earlier generations is read, all of
    what it wrote must be kept.
    """
    if cascade.by_name[tensor].role is Role.RESULT:
        return None
    analysis = _Analysis(cascade)
    writers = [i for i in loop.variables if cascade.einsums[i].target == tensor]
    dims = {analysis.loop_dim(i, loop.variables[i]) for i in writers}
    if len(dims) != 1 or (dim := dims.pop()) is None:
        return None
    kept = 1
    for flow in analysis.dependences:
        if flow.tensor != tensor or flow.read is None:
            continue
        if flow.reader not in loop.variables:
            if not analysis.reads_end(flow, dim, loop, writers):
                return None
            continue
        if _shifted(flow.read.indices[dim]) != loop.variables[flow.reader]:
            return None
        if flow.writer in loop.variables:
            low, high = analysis.distance(flow, loop.variables)
            if low is None or low != high:
                return None
            if any(analysis.distance(flow, around.variables) != (0, 0) for around in outer):
                return None
            kept = max(kept, abs(low) + 1)
    return dim, kept


class _Analysis:
    """The dependences of one cascade and the loops that satisfy them."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.lets = {let.name: let.value for let in cascade.lets}
        self.writers: dict[str, list[int]] = {}
        for i, einsum in enumerate(cascade.einsums):
            self.writers.setdefault(einsum.target, []).append(i)
        self.dependences = tuple(self._find())

    def _find(self) -> Iterable[Dependence]:
        einsums = self.cascade.einsums
        for reader, einsum in enumerate(einsums):
            for read in dict.fromkeys(einsum.reads()):
                for writer in self.writers.get(read.tensor, ()):
                    if self._meet(einsums[writer], einsum, read.indices):
                        yield Dependence(writer=writer, reader=reader, tensor=read.tensor, read=read)
        for tensor, writers in self.writers.items():
            for k, first in enumerate(writers):
                for second in writers[k + 1 :]:
                    if self._meet(einsums[first], einsums[second], einsums[second].coords):
                        yield Dependence(writer=first, reader=second, tensor=tensor, read=None)

    def _meet(self, writer: Einsum, reader: Einsum, indices: tuple[Expr, ...]) -> bool:
        """Whether the writer may store a point that the indices of the reader name."""
        shifts: dict[tuple[str, str], int | None] = {}
        for ours, theirs in zip(writer.coords, indices, strict=True):
            if self._apart(ours, writer, theirs, reader) or self._apart(theirs, reader, ours, writer):
                return False
            if (v := _shifted(ours)) is not None and (u := _shifted(theirs)) is not None:
                # Diagonal accesses such as S[t+1, t+1] against S[t, t+1] ask for two distances at once.
                shift = self._minus(ours, v, theirs, u)
                if shift is not None and shifts.setdefault((v, u), shift) != shift:
                    return False
        return True

    def _apart(self, low: Expr, low_of: Einsum, high: Expr, high_of: Einsum) -> bool:
        """Whether one index is provably always less than the other, each over its own rank variables."""
        above, below = self._bound(low, low_of, above=True), self._bound(high, high_of, above=False)
        if above is None or below is None:
            return False
        return at_most(op("add", above, integer(1)), below, self.lets)

    def _bound(self, index: Expr, einsum: Einsum, *, above: bool) -> Expr | None:
        """The greatest (least) value of an affine index over the ranges of its rank variables, over sizes."""
        form = affine(index)
        if form is None:
            return None
        total = form.constant
        for name, coefficient in form.terms:
            if non_negative(coefficient, self.lets):
                at_end = above
            elif non_negative(op("neg", coefficient), self.lets):
                at_end = not above
            else:
                return None
            if at_end:
                last = op("sub", einsum.extent(name), integer(1))
                total = op("add", total, op("mul", coefficient, last))
        return total

    def _minus(self, ours: Expr, v: str, theirs: Expr, u: str) -> int | None:
        """The difference of the offsets of two indices ``v + a`` and ``u + b``."""
        return constant_difference(op("sub", ours, rank(v)), op("sub", theirs, rank(u)), self.lets)

    def loop_dim(self, index: int, variable: str) -> int | None:
        """The dimension of an Einsum's target that its loop variable indexes."""
        coords = self.cascade.einsums[index].coords
        dims = [d for d, coord in enumerate(coords) if _shifted(coord) == variable]
        return dims[0] if len(dims) == 1 else None

    def reads_end(self, flow: Dependence, dim: int, loop: Loop, writers: list[int]) -> bool:
        """Whether a read outside the loop sees its final generation, or is an initialiser's at the initial one."""
        assert flow.read is not None
        last = integer(0) if loop.reverse else op("sub", loop.extent, integer(1))
        ends = [substitute(self.cascade.einsums[w].coords[dim], ranks={loop.variables[w]: last}) for w in writers]
        if all(equal(flow.read.indices[dim], end, self.lets) for end in ends):
            return True
        return flow.writer not in loop.variables and self.cascade.einsums[flow.reader].initialiser

    def distance(self, flow: Dependence, variables: Mapping[int, str]) -> tuple[int | None, int | None]:
        """Least and greatest number of generations from write to read along one loop; None where unbounded.

        A point that the writer stores at generation v is read at generation v + distance.
        """
        if flow.writer not in variables or flow.reader not in variables:
            return None, None
        v, u = variables[flow.writer], variables[flow.reader]
        reader = self.cascade.einsums[flow.reader]
        low: int | None = None
        high: int | None = None
        coords = self.cascade.einsums[flow.writer].coords
        for ours, theirs in zip(coords, _indices(flow, reader), strict=True):
            if _shifted(ours) != v:
                continue
            if _shifted(theirs) == u:
                exact = self._minus(ours, v, theirs, u)
                return exact, exact
            # v + c = index, so the distance u - v is u + c - index.
            start = op("add", rank(u), op("sub", ours, rank(v)))
            for limit in islice(self._limits(theirs, reader, above=True), _MOST_LIMITS):
                gap = constant_difference(start, limit, self.lets)
                low = gap if low is None else low if gap is None else max(low, gap)
            for limit in islice(self._limits(theirs, reader, above=False), _MOST_LIMITS):
                gap = constant_difference(start, limit, self.lets)
                high = gap if high is None else high if gap is None else min(high, gap)
        return low, high

    def _limits(self, index: Expr, einsum: Einsum, *, above: bool) -> Iterable[Expr]:
        """Expressions that an index never exceeds (or falls below) at the points that its Einsum uses.

        They come from the conditions (``where j <= i``, ``where parent[i] < i``), from a // c ≤ a for a ≥ 0, and
        from ``min`` and ``max``.
        """
        yield index
        match index:
            case Op(op="add" | "sub" as name, args=(a, b)):
                for left in self._limits(a, einsum, above=above):
                    for right in self._limits(b, einsum, above=above == (name == "add")):
                        yield op(name, left, right)
            case Op(op="floordiv", args=(a, Const(value=int(divisor)))) if above and divisor > 0:
                low = self._bound(a, einsum, above=False)
                if low is not None and non_negative(low, self.lets):
                    yield a
            case Op(op=name, args=args) if name == ("min" if above else "max"):
                for argument in args:
                    yield from self._limits(argument, einsum, above=above)
            case Rank() | Read():
                for condition in (*einsum.point_filter, *einsum.output_filter):
                    yield from _limits_from(condition, index, above=above)
            case Cast(value=value) if index.dtype.is_integer and value.dtype.is_integer:
                if index.dtype.bits >= value.dtype.bits and index.dtype.is_signed:
                    yield from self._limits(value, einsum, above=above)
            case _:
                return

    def order(self, einsums: Iterable[int], edges: Iterable[Dependence]) -> tuple[Step, ...]:
        """Steps for a set of Einsums under the dependences among them that no surrounding loop satisfies."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(einsums)
        edges = tuple(e for e in edges if e.writer in graph and e.reader in graph)
        graph.add_edges_from((e.writer, e.reader) for e in edges)
        self._initialisers_first(graph)
        components = {i: frozenset(c) for c in nx.strongly_connected_components(graph) for i in c}
        condensed: nx.DiGraph[frozenset[int]] = nx.DiGraph()
        condensed.add_nodes_from(components.values())
        condensed.add_edges_from(
            (components[a], components[b]) for a, b in graph.edges if components[a] != components[b]
        )
        steps: list[Step] = []
        for component in nx.lexicographical_topological_sort(condensed, key=min):
            inside = tuple(e for e in edges if e.writer in component and e.reader in component)
            if inside:
                steps.append(self._loop(sorted(component), inside))
            else:
                steps.append(Straight(einsum=min(component)))
        return tuple(steps)

    def _initialisers_first(self, graph: nx.DiGraph[int]) -> None:
        """Initialisers precede what continues their tensor, wherever the dependences leave the choice."""
        for writers in self.writers.values():
            for first in writers:
                for second in writers:
                    if first not in graph or second not in graph or not self.cascade.einsums[first].initialiser:
                        continue
                    if not self.cascade.einsums[second].initialiser and not nx.has_path(graph, second, first):
                        graph.add_edge(first, second)

    def _loop(self, component: list[int], edges: tuple[Dependence, ...]) -> Loop:
        for variables in self._candidates(component, edges):
            spans = [self.distance(e, variables) for e in edges]
            forward = all(low is not None and low >= 0 for low, _ in spans)
            backward = all(high is not None and high <= 0 for _, high in spans)
            if not (forward or backward) or all(low == high == 0 for low, high in spans):
                continue
            if forward:
                remaining = [e for e, (low, _) in zip(edges, spans, strict=True) if low == 0]
            else:
                remaining = [e for e, (_, high) in zip(edges, spans, strict=True) if high == 0]
            if len(remaining) == len(edges):
                continue
            return Loop(
                variables=variables,
                extent=self._extent(variables),
                reverse=not forward,
                body=self.order(component, remaining),
            )
        raise self._unsatisfiable(edges)

    def _candidates(self, component: list[int], edges: tuple[Dependence, ...]) -> Iterable[dict[int, str]]:
        """Choices of one rank variable for each Einsum of a component.

        Each starts from a variable of the first Einsum. A dependence hands the writer's variable, through the dimension
        that it indexes, on to the reader; where none does, the reader's is handed back to the writer.
        """
        for seed in self._own_ranks(component[0]):
            chosen = {component[0]: seed}
            while len(chosen) < len(component):
                handed = self._hand_on(chosen, edges) or self._hand_back(chosen, edges)
                if handed is None:
                    break
                chosen[handed[0]] = handed[1]
            else:
                yield dict(sorted(chosen.items()))

    def _own_ranks(self, einsum: int) -> tuple[str, ...]:
        """The output ranks that index a dimension of the target directly, in order."""
        coords = self.cascade.einsums[einsum].coords
        shifted = dict.fromkeys(v for v in map(_shifted, coords) if v is not None)
        return tuple(v for v in shifted if v not in self.cascade.einsums[einsum].reduced)

    def _hand_on(self, chosen: dict[int, str], edges: tuple[Dependence, ...]) -> tuple[int, str] | None:
        for e in edges:
            if e.writer in chosen and e.reader not in chosen:
                for v, u in self._aligned(e):
                    if v == chosen[e.writer] and u in self._own_ranks(e.reader):
                        return e.reader, u
        return None

    def _hand_back(self, chosen: dict[int, str], edges: tuple[Dependence, ...]) -> tuple[int, str] | None:
        for e in edges:
            if e.reader in chosen and e.writer not in chosen:
                for v, u in self._aligned(e):
                    if u == chosen[e.reader] and v in self._own_ranks(e.writer):
                        return e.writer, v
        return None

    def _aligned(self, flow: Dependence) -> Iterable[tuple[str, str]]:
        """The pairs of a writer's and a reader's rank variable that index one dimension."""
        coords = self.cascade.einsums[flow.writer].coords
        for ours, theirs in zip(coords, _indices(flow, self.cascade.einsums[flow.reader]), strict=True):
            if (v := _shifted(ours)) is not None and (u := _shifted(theirs)) is not None:
                yield v, u

    def _extent(self, variables: Mapping[int, str]) -> Expr:
        extents: list[Expr] = []
        for i, v in variables.items():
            extent = self.cascade.einsums[i].extent(v)
            if not any(equal(extent, other, self.lets) for other in extents):
                extents.append(extent)
        return fold(lambda a, b: op("max", a, b), extents)

    def _unsatisfiable(self, edges: tuple[Dependence, ...]) -> EinfallError:
        """The error for the shortest cycle among dependences that no loop satisfies."""
        flows = {(e.writer, e.reader): e for e in edges}
        graph: nx.DiGraph[int] = nx.DiGraph(list(flows))
        cycle = min(
            ([i, *path] for i in sorted(graph) for path in self._ways_back(graph, i)),
            key=lambda way: (len(way), way),
        )
        hops = [flows[a, b] for a, b in pairwise(cycle)]
        einsums = self.cascade.einsums
        places = [_place(einsums[i].target, einsums[i].coords) for i in cycle]
        notes = []
        for hop, place in zip(hops, places[1:], strict=True):
            reader = einsums[hop.reader]
            span = (hop.read.span if hop.read is not None else None) or reader.origin.span
            used = _place(hop.tensor, _indices(hop, reader))
            notes.append(f"`{place}` reads `{used}`" + (f" at {span}" if span is not None else ""))
        first = einsums[cycle[0]]
        return error(
            "E0601",
            f"no order of execution satisfies the cycle {' → '.join(places)}",
            span=first.origin.span,
            help="let each Einsum of the cycle read only generations that are written before its own, such "
            f"as `{first.target}[t]` in an Einsum that writes `{first.target}[t+1]`",
            notes=notes,
        )

    @staticmethod
    def _ways_back(graph: nx.DiGraph[int], start: int) -> Iterable[list[int]]:
        """The shortest path from each successor of a node back to it."""
        for successor in sorted(graph.successors(start)):
            if nx.has_path(graph, successor, start):
                yield nx.shortest_path(graph, successor, start)


_FLIPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq"}


def _limits_from(condition: Expr, atom: Expr, *, above: bool) -> Iterable[Expr]:
    """The bounds of ``atom`` that one condition states."""
    match condition:
        case Op(op="and", args=args):
            for part in args:
                yield from _limits_from(part, atom, above=above)
        case Op(op=name, args=(a, b)) if name in _FLIPPED:
            for left, right, relation in ((a, b, name), (b, a, _FLIPPED[name])):
                if not left.dtype.is_integer:
                    continue
                # left - right = atom + rest, so that atom is bounded by -rest.
                left, right, own = _as_index(left), _as_index(right), _as_index(atom)
                rest = simplify(op("sub", op("sub", left, right), own))
                if own in walk(rest):
                    continue
                if above and relation in ("lt", "le", "eq"):
                    yield op("sub", integer(-1 if relation == "lt" else 0), rest)
                elif not above and relation in ("gt", "ge", "eq"):
                    yield op("sub", integer(1 if relation == "gt" else 0), rest)
        case _:
            return


def _as_index(expr: Expr) -> Expr:
    return expr if expr.dtype == INDEX else Cast(value=expr, dtype=INDEX)


def _indices(flow: Dependence, reader: Einsum) -> tuple[Expr, ...]:
    return reader.coords if flow.read is None else flow.read.indices


def _shifted(index: Expr) -> str | None:
    """``v`` where an index is ``v + c`` for a rank variable v and a c over sizes."""
    form = affine(index)
    shifted = None if form is None else form.shifted_rank
    return None if shifted is None else shifted[0]


def _place(tensor: str, indices: tuple[Expr, ...]) -> str:
    return f"{tensor}[{', '.join(index_to_source(i) for i in indices)}]"
