"""Puts pointwise Einsums in place of the reads of what they write, where that saves memory traffic and repeats no work.

A tensor that is only another view of a parameter (the tiles ``BK[m1, m0, e] = K[m1*M0 + m0, e]`` of an online form) is read
where it is. A value that one reduction or pointwise Einsum consumes, each element once, stays in a register between them; one
that takes a single operation is computed again for each of a few consumers. Operands of matrix products stay as they are,
unless they are views: a product reads each element many times.

Requires: a verified cascade and its schedule. Guarantees: every point has the value and the presence that it had, and is
rounded where an annotated type says so; only Einsums without conditions of their own disappear.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ...ir.cascade import Cascade, Einsum, Role, Tensor
from ...ir.expr import Expr, Op, Rank, Read, ranks_of, reads_of, walk
from ...ir.index import affine, equal
from ...ir.operators import FUNCTIONS
from ...ir.tile import Decision
from ..analysis.structure import Structure
from ..construct import transform_einsum
from ..rewriting import Rewriting
from . import contraction
from .methods import lane_step

CHEAP = 1
"""Operations that are done again for every consumer rather than stored and loaded."""

CHEAP_ON_GPU = 16
"""The same on a GPU, where what a row of values is made of is read again from caches that hold it, and there is no memory near
by for the row itself: an exponential costs a tenth of the time in which its operand comes from memory."""

MOST_CONSUMERS = 3
"""Consumers of a cheap value beyond which it is stored."""

LARGEST = 48
"""Nodes of an expression beyond which nothing more is put into it: vector registers are few."""


def inline(cascade: Cascade, *, on_gpu: bool = False) -> Rewriting:
    """The cascade without the pointwise Einsums that are better computed where they are read, and what they were."""
    removed: list[tuple[str, str]] = []
    while True:
        structure = Structure(cascade)
        chosen: dict[str, str] = {}
        touched: set[str] = set()
        for target, because in _candidates(structure, on_gpu):
            # One at a time where they meet: what a reader becomes decides whether more is put into it.
            meets = {target, *(e.target for e in cascade.readers(target))}
            if not meets & touched:
                chosen[target] = because
                touched |= meets
        if not chosen:
            break
        cascade = _without(structure, chosen.keys())
        removed += chosen.items()
    return Rewriting(
        cascade=cascade,
        decisions=tuple(
            Decision(made_by="inline", subject=t, chosen="computed where it is read", because=b) for t, b in removed
        ),
    )


def _candidates(structure: Structure, on_gpu: bool) -> Iterator[tuple[str, str]]:
    """The tensors to inline, with the reason."""
    cascade = structure.cascade
    for i, einsum in enumerate(cascade.einsums):
        tensor = cascade.by_name[einsum.target]
        if tensor.role is not Role.LOCAL or not structure.is_pointwise(i) or einsum.point_filter or einsum.output_filter:
            continue
        if tensor.value != einsum.value.dtype and (tensor.annotated or not tensor.value.is_float):
            continue
        readers = [e for e in cascade.einsums if any(r.tensor == einsum.target for r in e.reads())]
        if not readers or not all(_reads_whole(e, einsum) for e in readers):
            continue
        # A GPU's thread block does all of a row after its recurrence, whoever reads what that ends with.
        if _ends_recurrence(cascade, einsum) and not (on_gpu and all(_ends_recurrence(cascade, e) for e in readers)):
            continue
        because = _reason(cascade, einsum, tensor, readers, CHEAP_ON_GPU if on_gpu else CHEAP)
        if because is not None:
            yield einsum.target, because


def _reason(cascade: Cascade, einsum: Einsum, tensor: Tensor, readers: list[Einsum], cheap: int) -> str | None:
    """Why an Einsum is better computed where it is read; None where it is not."""
    if _is_view(cascade, einsum):
        return f"it is a view of `{reads_of(einsum.value)[0].tensor}`"
    if any(_is_operand(e, einsum.target) or e.scatter or e.initialiser for e in readers):
        return None
    if any(sum(1 for _ in walk(v)) > LARGEST for e in readers for v in (e.value, einsum.value)):
        return None
    if not all(_reads_once(e, einsum) for e in readers):
        return None
    cost = sum(FUNCTIONS[n.op].flops for n in walk(einsum.value) if isinstance(n, Op))
    if len(readers) == 1 and sum(r.tensor == einsum.target for r in readers[0].reads()) == 1:
        return f"only `{readers[0].target}` reads it, each element once"
    if cost <= cheap and len(readers) <= MOST_CONSUMERS:
        return "computing it again is cheaper than storing it"
    return None


def _ends_recurrence(cascade: Cascade, einsum: Einsum) -> bool:
    """Whether an Einsum takes what a recurrence ends with: read elsewhere, all its generations would have to be stored."""
    return any(
        not ranks_of(read.indices[dim]) for read in einsum.reads() for dim in cascade.by_name[read.tensor].iterative_dims
    )


def _is_view(cascade: Cascade, einsum: Einsum) -> bool:
    """Whether an Einsum only renames the coordinates of a parameter, and keeps the dimension that is dense."""
    match einsum.value:
        case Read(tensor=name, indices=indices, dtype=dtype) if cascade.by_name[name].is_parameter:
            if dtype != cascade.by_name[einsum.target].value or any(affine(i) is None or reads_of(i) for i in indices):
                return False
            last = einsum.coords[-1] if einsum.coords else None
            return not isinstance(last, Rank) or lane_step(indices, last.name) in (0, 1)
        case _:
            return False


def _reads_whole(reader: Einsum, writer: Einsum) -> bool:
    """Whether every read stays within the tensor's shape, so that no point becomes present that was not."""
    extents = {r.name: r.extent for r in reader.ranks}
    own = {r.name: r.extent for r in writer.ranks}
    for read in reader.reads():
        if read.tensor != writer.target:
            continue
        if any(read in reads_of(c) for c in reader.coords):
            return False
        for index, coord in zip(read.indices, writer.coords, strict=True):
            assert isinstance(coord, Rank)
            if not (isinstance(index, Rank) and index.name in extents and equal(extents[index.name], own[coord.name])):
                return False
    return True


def _reads_once(reader: Einsum, writer: Einsum) -> bool:
    """Whether the reader goes through the points of the writer, each once."""
    wanted = {r.name for r in reader.ranks}
    return all(
        {i.name for i in read.indices if isinstance(i, Rank)} == wanted
        for read in reader.reads()
        if read.tensor == writer.target
    )


def _is_operand(reader: Einsum, tensor: str) -> bool:
    """Whether a matrix product multiplies elements of a tensor."""
    product = contraction.product_of(reader)
    return product is not None and any(r.tensor == tensor for e in (product.left, product.right) for r in reads_of(e))


def _without(structure: Structure, targets: Collection[str]) -> Cascade:
    cascade = structure.cascade

    def rule(node: Expr) -> Expr | None:
        return structure.inlined(node) if isinstance(node, Read) and node.tensor in targets else None

    return replace(
        cascade,
        tensors=tuple(t for t in cascade.tensors if t.name not in targets),
        einsums=tuple(transform_einsum(e, rule, reading=targets) for e in cascade.einsums if e.target not in targets),
    )
