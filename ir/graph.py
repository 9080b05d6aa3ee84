"""A cascade as a networkx graph, for analyses, drawings and notebooks."""

from __future__ import annotations

import networkx as nx

from .cascade import Cascade
from .flow import dependences, generation_distance

TensorNode = tuple[str, str]
EinsumNode = tuple[str, int]


def cascade_graph(cascade: Cascade) -> nx.MultiDiGraph[TensorNode | EinsumNode]:
    """The bipartite graph of tensors ``("tensor", name)`` and Einsums ``("einsum", index)``.

    Nodes carry their IR object as ``tensor`` or ``einsum``. An edge from a tensor to an Einsum is one distinct read and
    carries it as ``read``; its ``distance`` holds, for each iterative dimension of the tensor, the number of
    generations between the Einsum that writes and this one that reads (None where that is not one number, or where
    only an initialiser's points are read). Edges from an Einsum to its target carry nothing.
    """
    graph: nx.MultiDiGraph[TensorNode | EinsumNode] = nx.MultiDiGraph(name=cascade.name)
    for tensor in cascade.tensors:
        graph.add_node(("tensor", tensor.name), tensor=tensor)
    flows = dependences(cascade)
    for index, einsum in enumerate(cascade.einsums):
        graph.add_node(("einsum", index), einsum=einsum)
        graph.add_edge(("einsum", index), ("tensor", einsum.target))
        for read in dict.fromkeys(einsum.reads()):
            distance: dict[int, int | None] = dict.fromkeys(cascade.by_name[read.tensor].iterative_dims)
            for flow in flows:
                if flow.reader != index or flow.read != read or cascade.einsums[flow.writer].initialiser:
                    continue
                for dim in distance:
                    distance[dim] = generation_distance(cascade, flow, dim)
            graph.add_edge(("tensor", read.tensor), ("einsum", index), read=read, distance=distance)
    return graph


def einsum_graph(cascade: Cascade) -> nx.MultiDiGraph[int]:
    """The Einsums (by index) with an edge for every dependence between them, as attribute ``dependence``.

    ``distance`` is as in :func:`cascade_graph`.
    """
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph(name=cascade.name)
    for index, einsum in enumerate(cascade.einsums):
        graph.add_node(index, einsum=einsum)
    for flow in dependences(cascade):
        dims = cascade.by_name[flow.tensor].iterative_dims
        distance = {dim: generation_distance(cascade, flow, dim) for dim in dims}
        graph.add_edge(flow.writer, flow.reader, dependence=flow, distance=distance)
    return graph
