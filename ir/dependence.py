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
from itertools import pairwise

import networkx as nx

from .cascade import Cascade, Role
from .diagnostics import EinfallError, error
from .expr import Expr, integer, op, substitute
from .flow import Dependence, Flows, indices_of, shifted_rank
from .index import equal
from .printer import index_to_source


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


def schedule(cascade: Cascade) -> tuple[Step, ...]:
    """The steps that compute a cascade, in order; deterministic, ready Einsums in source order.

    Raises E0601 for a cyclic dependence that no loop order satisfies.
    """
    scheduler = _Scheduler(cascade)
    return scheduler.order(range(len(cascade.einsums)), scheduler.flows.dependences)


def einsums_of(step: Step) -> tuple[int, ...]:
    """The Einsums that a step executes, in order."""
    match step:
        case Straight(einsum=index):
            return (index,)
        case Loop(body=body):
            return tuple(index for inner in body for index in einsums_of(inner))


def live_generations(cascade: Cascade, loop: Loop, tensor: str, outer: Sequence[Loop] = ()) -> tuple[int, int] | None:
    """The dimension along which ``loop`` writes ``tensor``, and how many of its generations must be kept.

    None where all are needed: the tensor is a result, or something outside the loop reads another than the final
    generation. An initialiser may read the initial one (``D[0, j+1] = D[0, j] + g``), which is written before the
    loop starts. ``outer`` are the loops around ``loop``: where one of their earlier generations is read, all of
    what it wrote must be kept.
    """
    if cascade.by_name[tensor].role is Role.RESULT:
        return None
    scheduler = _Scheduler(cascade)
    writers = [i for i in loop.variables if cascade.einsums[i].target == tensor]
    dims = {scheduler.loop_dim(i, loop.variables[i]) for i in writers}
    if len(dims) != 1 or (dim := dims.pop()) is None:
        return None
    kept = 1
    for flow in scheduler.flows.dependences:
        if flow.tensor != tensor or flow.read is None:
            continue
        if flow.reader not in loop.variables:
            if not scheduler.reads_end(flow, dim, loop, writers):
                return None
            continue
        if shifted_rank(flow.read.indices[dim]) != loop.variables[flow.reader]:
            return None
        if flow.writer in loop.variables:
            low, high = scheduler.flows.distance(flow, loop.variables)
            if low is None or low != high:
                return None
            if any(scheduler.flows.distance(flow, around.variables) != (0, 0) for around in outer):
                return None
            kept = max(kept, abs(low) + 1)
    return dim, kept


class _Scheduler:
    """Orders the Einsums of one cascade."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.flows = Flows(cascade)

    def loop_dim(self, index: int, variable: str) -> int | None:
        """The dimension of an Einsum's target that its loop variable indexes."""
        coords = self.cascade.einsums[index].coords
        dims = [d for d, coord in enumerate(coords) if shifted_rank(coord) == variable]
        return dims[0] if len(dims) == 1 else None

    def reads_end(self, flow: Dependence, dim: int, loop: Loop, writers: list[int]) -> bool:
        """Whether a read outside the loop sees its final generation, or is an initialiser's at the initial one."""
        assert flow.read is not None
        last = integer(0) if loop.reverse else op("sub", loop.extent, integer(1))
        ends = [substitute(self.cascade.einsums[w].coords[dim], ranks={loop.variables[w]: last}) for w in writers]
        if all(equal(flow.read.indices[dim], end, self.flows.lets) for end in ends):
            return True
        return flow.writer not in loop.variables and self.cascade.einsums[flow.reader].initialiser

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
        condensed.add_edges_from((components[a], components[b]) for a, b in graph.edges if components[a] != components[b])
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
        for writers in self.flows.writers.values():
            for first in writers:
                for second in writers:
                    if first not in graph or second not in graph or not self.cascade.einsums[first].initialiser:
                        continue
                    if not self.cascade.einsums[second].initialiser and not nx.has_path(graph, second, first):
                        graph.add_edge(first, second)

    def _loop(self, component: list[int], edges: tuple[Dependence, ...]) -> Loop:
        for variables in self._candidates(component, edges):
            spans = [self.flows.distance(e, variables) for e in edges]
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
        shifted = dict.fromkeys(v for v in map(shifted_rank, coords) if v is not None)
        return tuple(v for v in shifted if v not in self.cascade.einsums[einsum].reduced)

    def _hand_on(self, chosen: dict[int, str], edges: tuple[Dependence, ...]) -> tuple[int, str] | None:
        for e in edges:
            if e.writer in chosen and e.reader not in chosen:
                for v, u in self.flows.aligned(e):
                    if v == chosen[e.writer] and u in self._own_ranks(e.reader):
                        return e.reader, u
        return None

    def _hand_back(self, chosen: dict[int, str], edges: tuple[Dependence, ...]) -> tuple[int, str] | None:
        for e in edges:
            if e.reader in chosen and e.writer not in chosen:
                for v, u in self.flows.aligned(e):
                    if u == chosen[e.reader] and v in self._own_ranks(e.writer):
                        return e.writer, v
        return None

    def _extent(self, variables: Mapping[int, str]) -> Expr:
        extents: list[Expr] = []
        for i, v in variables.items():
            extent = self.cascade.einsums[i].extent(v)
            if not any(equal(extent, other, self.flows.lets) for other in extents):
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
            used = _place(hop.tensor, indices_of(hop, reader))
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


def _place(tensor: str, indices: tuple[Expr, ...]) -> str:
    return f"{tensor}[{', '.join(index_to_source(i) for i in indices)}]"
