"""What is done to each element of a product's result, on the registers that hold its sums.

Identity: with C[m, n] = Σ_k A[m, k] · B[k, n] read by one element-wise step D[m, n] = f(C[m, n], …) only, the sum is
replaced by f of it where it is stored, and C is not stored at all. The step may read what D[m, n] held before (a running
sum that is rescaled). Requires: a list of nodes that run in order, and the tensors that nobody else reads. Guarantees: the
same values in the same order of rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...ir.cascade import RankExtent
from ...ir.expr import Cast, Expr, Rank, Read, Select, rank, ranks_of, reads_of, substitute, transform
from ...ir.index import affine
from ...ir.tile import SUM, Buffer, Compute, Fill, Joined, Loop, Node, When, walk
from ...ir.types import DType
from ..analysis.presence import zero_of


def absorb(nodes: tuple[Node, ...], buffers: dict[str, Buffer], private: Iterable[str]) -> tuple[Node, ...]:
    """``nodes`` with element-wise readers of products made epilogues, wherever the product's result is one of ``private``."""
    for name in private:
        readers = [n for n in walk(nodes) if isinstance(n, Compute) and any(r.tensor == name for r in n.reads())]
        if len(readers) == 1:
            nodes = _in_list(nodes, name, readers[0], buffers)
    return nodes


def unused(nodes: tuple[Node, ...], names: Iterable[str]) -> set[str]:
    """Those of ``names`` that no node reads or writes any more."""
    used: set[str] = set()
    for node in walk(nodes):
        match node:
            case Compute():
                used |= {*node.targets, *(r.tensor for r in node.reads())}
            case Fill(target=target):
                used.add(target)
            case When(condition=condition):
                used |= {r.tensor for r in reads_of(condition)}
            case Loop(extent=extent):
                used |= {r.tensor for r in reads_of(extent)}
    return set(names) - used


def _in_list(nodes: tuple[Node, ...], name: str, reader: Compute, buffers: dict[str, Buffer]) -> tuple[Node, ...]:
    """The list that holds ``reader`` together with the writers of ``name``, the reader absorbed where it can be."""
    at = next((i for i, node in enumerate(nodes) if node is reader), None)
    if at is None:
        return tuple(
            replace(n, body=_in_list(n.body, name, reader, buffers)) if isinstance(n, Loop | When) else n for n in nodes
        )
    writers = [i for i, n in enumerate(nodes) if any(_writes(w, name) for w in walk((n,)))]
    if not writers or writers[-1] >= at or any(_writes(n, name) for n in nodes[at:]):
        return nodes
    made: list[Node] = []
    fused = False
    for i in writers:
        match nodes[i]:
            case Compute() as product if (one := _fused(product, reader, buffers)) is not None:
                made.append(one)
                fused = True
            case When(condition=condition, body=(Compute() as product,)):
                one = _fused(product, reader, buffers)
                fused |= one is not None
                made.append(When(condition=condition, body=(product, reader) if one is None else (one,)))
            case _:
                return nodes
    between = [n for i, n in enumerate(nodes[writers[0] : at], writers[0]) if i not in writers]
    if not fused or not _independent(made, between):
        return nodes
    kept = [n for i, n in enumerate(nodes[:at]) if i not in writers]
    return (*kept, *made, *nodes[at + 1 :])


def _independent(moved: list[Node], between: list[Node]) -> bool:
    """Whether ``moved`` may run after ``between``: nothing there writes what they read or write."""
    computes = [n for n in walk(tuple(moved)) if isinstance(n, Compute)]
    touched = {r.tensor for n in computes for r in n.reads()} | {n.target for n in computes}
    touched |= {r.tensor for n in moved if isinstance(n, When) for r in reads_of(n.condition)}
    return not any(_writes(n, name) for n in walk(tuple(between)) for name in touched)


def _writes(node: Node, name: str) -> bool:
    return name in node.targets if isinstance(node, Compute) else isinstance(node, Fill) and node.target == name


def _fused(product: Compute, reader: Compute, buffers: dict[str, Buffer]) -> Compute | None:
    """``product`` with ``reader`` as its epilogue; None where it is no product, or the reader no element-wise step of it."""
    matrix = product.product
    if matrix is None or product.condition is not None or product.within is not None:
        return None
    if matrix.joined is None and len(product.reduced) > 1:
        return None
    if reader.reduction is not None or reader.filter is not None or reader.within is not None or reader.product is not None:
        return None
    if reader.target in (product.target, *(r.tensor for e in (matrix.left, matrix.right) for r in reads_of(e))):
        return None
    renamed = _renaming(product, reader)
    if renamed is None or any(affine(i) is None or reads_of(i) for i in reader.indices):
        return None
    if any(r.tensor == reader.target and (matrix.joined or r.indices != reader.indices) for r in reader.reads()):
        return None  # what an implicit product has made may be made again
    names = {a: rank(b) for a, b in renamed.items()}
    held = buffers[product.target].dtype
    value = _value(product, held, names)

    def put(node: Expr) -> Expr | None:
        return value if isinstance(node, Read) and node.tensor == product.target else None

    result = transform(reader.value, put)
    if reader.condition is not None:
        dtype = result.dtype
        result = Select(condition=transform(reader.condition, put), then=result, otherwise=zero_of(dtype), dtype=dtype)
    extents = {r.name: r.extent for r in reader.ranks}
    ranks = tuple(
        RankExtent(name=renamed.get(r.name, r.name), extent=extents.get(renamed.get(r.name, r.name), r.extent))
        for r in product.ranks
    )
    return replace(
        product,
        target=reader.target,
        indices=reader.indices,
        value=substitute(product.value, ranks=names),
        filter=None if product.filter is None else substitute(product.filter, ranks=names),
        ranks=ranks,
        parallel=tuple(renamed.get(r, r) for r in product.parallel),
        product=replace(
            matrix,
            rows=None if matrix.rows is None else renamed[matrix.rows],
            columns=None if matrix.columns is None else renamed[matrix.columns],
            left=substitute(matrix.left, ranks=names),
            right=substitute(matrix.right, ranks=names),
            joined=None if matrix.joined is None else _renamed(matrix.joined, renamed),
            epilogue=result,
        ),
    )


def _renamed(joined: Joined, names: Mapping[str, str]) -> Joined:
    rows, columns = (tuple(names[r] for r in ranks) for ranks in (joined.rows, joined.columns))
    return replace(joined, rows=rows, columns=columns)


def _value(product: Compute, held: DType, names: dict[str, Rank]) -> Expr:
    """What the product would have stored, as its reader would have read it."""
    matrix = product.product
    assert matrix is not None
    value: Expr = Read(tensor=SUM, indices=(), dtype=product.accumulator)
    if matrix.epilogue is not None:
        value = substitute(matrix.epilogue, ranks=names)
    return value if value.dtype == held else Cast(value=value, dtype=held)


def _renaming(product: Compute, reader: Compute) -> dict[str, str] | None:
    """The reader's name of each output rank of the product, when it reads every element of it once, at its own point."""
    places = {r.indices for r in reader.reads() if r.tensor == product.target}
    if len(places) != 1:
        return None
    (place,) = places
    found: dict[str, str] = {}
    for written, seen in zip(product.indices, place, strict=True):
        match written, seen:
            case Rank(name=a), Rank(name=b) if a in product.output_ranks:
                if a in found or b in found.values() or b not in reader.output_ranks:
                    return None
                found[a] = b
            case _ if written == seen and not set(ranks_of(written)) & set(product.output_ranks):
                continue
            case _:
                return None
    if set(found) != set(product.output_ranks) or set(found.values()) != set(reader.output_ranks):
        return None
    if set(found.values()) & set(product.reduced):
        return None
    return found if all(product.extent(a) == reader.extent(b) for a, b in found.items()) else None
