"""Which tensors are iterative, along which dimensions, and which Einsums give their first generations.

A dimension of a tensor is iterative when the Einsum that writes it at ``t + c`` (c ≥ 1) depends, through any chain of
Einsums, on an earlier generation of it; or, backwards, when it is written at ``t``, depends on later generations, and
an initialiser gives those beyond the last (``B[T, s] = 1`` with ``B[t, s] = … B[t+1, r] …``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import networkx as nx

from ..ir.cascade import Role
from ..ir.diagnostics import Diagnostics
from .analysis import EinsumInfo
from .names import TensorInfo

Dim = tuple[str, int]


@dataclass(slots=True)
class Iteration:
    """The iterative dimensions of a kernel's tensors.

    ``offsets`` gives the c by which the extent of a dimension exceeds its number of steps; ``main`` the Einsum that
    takes the steps of a tensor.
    """

    offsets: dict[Dim, int] = field(default_factory=dict)
    forward: set[Dim] = field(default_factory=set)
    main: dict[str, EinsumInfo] = field(default_factory=dict)
    cycles: dict[str, frozenset[str]] = field(default_factory=dict)

    def offset(self, tensor: TensorInfo, dim: int) -> int | None:
        """The steps' distance to the extent for an iterative dimension, None for an ordinary one."""
        return self.offsets.get((tensor.name, dim))


def find_iteration(infos: list[EinsumInfo], diagnostics: Diagnostics) -> Iteration:
    """The iterative dimensions; marks initialisers, and reports tensors that are written twice (E0203)."""
    iteration = Iteration()
    usable = [info for info in infos if not info.broken]
    iteration.cycles = _cycles(usable)
    graph = _distances(usable, iteration)
    for component in list(nx.strongly_connected_components(graph)):
        part = graph.subgraph(component)
        backward = _negative_cycle(part, "high", -1)
        if _negative_cycle(part, "low", 1):
            _forward(component, usable, iteration)
        if backward:
            _backward(component, usable, iteration)
    _assign_writers(infos, iteration, diagnostics)
    return iteration


def _cycles(infos: Iterable[EinsumInfo]) -> dict[str, frozenset[str]]:
    """The tensors that depend on themselves, each with those of its cycles."""
    reads: nx.DiGraph[str] = nx.DiGraph()
    for info in infos:
        reads.add_edges_from((info.target.name, tensor.name) for tensor in info.tensors_read)
    groups = map(frozenset, nx.strongly_connected_components(reads))
    return {name: group for group in groups for name in group if len(group) > 1 or reads.has_edge(name, name)}


def _distances(infos: Iterable[EinsumInfo], iteration: Iteration) -> nx.DiGraph[Dim]:
    """Edges from a written dimension to a read one, with the least and greatest distance in generations."""
    graph: nx.DiGraph[Dim] = nx.DiGraph()

    def connect(start: Dim, end: Dim, distance: int) -> None:
        if graph.has_edge(start, end):
            edge = graph.edges[start, end]
            edge["low"], edge["high"] = min(edge["low"], distance), max(edge["high"], distance)
        else:
            graph.add_edge(start, end, low=distance, high=distance)

    for info in infos:
        cycle = iteration.cycles.get(info.target.name, frozenset())
        for d, coord in enumerate(info.coords):
            if coord.variable is None or coord.offset is None:
                continue
            for access in info.reads:
                if access.tensor.name not in cycle:
                    continue
                for e, index in enumerate(access.indices):
                    if index.variable == coord.variable and index.offset is not None:
                        distance = index.offset - coord.offset
                        connect((info.target.name, d), (access.tensor.name, e), distance)
                    elif access.tensor is info.target and d == e and coord.offset >= 1:
                        # Another variable, a constant or a table gives the generation: some earlier one.
                        connect((info.target.name, d), (info.target.name, d), -1)
    return graph


def _negative_cycle(graph: nx.DiGraph[Dim], weight: str, sign: int) -> bool:
    """Whether a strongly connected graph has a cycle of negative (positive for sign -1) total distance."""
    signed: nx.DiGraph[Dim] = nx.DiGraph()
    signed.add_weighted_edges_from((a, b, sign * w) for a, b, w in graph.edges(data=weight))
    return bool(signed) and nx.negative_edge_cycle(signed)


def _forward(component: Iterable[Dim], infos: list[EinsumInfo], iteration: Iteration) -> None:
    for name, d in component:
        shifts = [
            info.coords[d].offset or 0 for info in infos if info.target.name == name and info.coords[d].variable is not None
        ]
        if shifts and max(shifts) >= 1:
            iteration.offsets[name, d] = max(shifts)
            iteration.forward.add((name, d))


def _backward(component: set[Dim], infos: list[EinsumInfo], iteration: Iteration) -> None:
    for name, d in component:
        writers = [info for info in infos if info.target.name == name]
        main = [info for info in writers if info.coords[d].is_bare]
        if len(main) != 1 or not any(info.coords[d].constant is not None for info in writers):
            continue
        reach = [
            index.offset
            for info in infos
            if info.target.name in iteration.cycles.get(name, ())
            for access in info.reads
            if access.tensor.name == name and (index := access.indices[d]).variable is not None
            if index.offset is not None
        ]
        if reach and max(reach) >= 1 and (name, d) not in iteration.offsets:
            iteration.offsets[name, d] = max(reach)


def _assign_writers(infos: list[EinsumInfo], iteration: Iteration, diagnostics: Diagnostics) -> None:
    mistaken = any(info.broken for info in infos)
    circular = _cycles(infos)  # through Einsums with a mistake too
    by_target: dict[str, list[EinsumInfo]] = {}
    for info in infos:
        by_target.setdefault(info.target.name, []).append(info)
    for name, writers in by_target.items():
        dims = [d for tensor, d in iteration.offsets if tensor == name]
        main: EinsumInfo | None = None
        for info in writers:
            if info.target.role not in (Role.LOCAL, Role.RESULT):
                continue
            complete = len(info.coords) == len(info.syntax.target.indices)
            if dims and complete and any(info.coords[d].constant is not None for d in dims):
                info.initialiser = True
            elif main is None:
                main = info
            elif mistaken and not dims and name in circular:
                info.broken = info.target.broken = True  # iterative, but for the mistake
            else:
                _written_twice(name, main, info, bool(dims), diagnostics)
        if main is not None:
            iteration.main[name] = main


def _written_twice(name: str, first: EinsumInfo, second: EinsumInfo, iterative: bool, diagnostics: Diagnostics) -> None:
    second.broken = second.target.broken = True
    starts = any(c.constant is not None for c in (*first.coords, *second.coords))
    if starts and not iterative:
        advice = (
            "a first generation is given beside an Einsum that writes the later ones, `S[0] = …` and "
            "`S[t+1] = … S[t] …`; where the first one reads nothing, `S[t-1] ?? 0` needs no initialiser"
        )
    else:
        advice = "give the second one a name of its own and combine them in a third Einsum"
    diagnostics.add(
        "E0203",
        f"`{name}` is written twice",
        span=second.syntax.target.span,
        notes=[f"line {first.syntax.span.line} writes it first; one Einsum defines a tensor"],
        help=advice,
    )
