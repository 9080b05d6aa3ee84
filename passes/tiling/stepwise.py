"""The columns of a recurrence: a rank along which every generation can be dealt out to threads, all of its Einsums together.

A generation of an LSTM multiplies the whole state by the weights, and an element of the new state needs the gates of its own
column only. What a generation reads of earlier ones is complete when it begins, so that only dependences among its own Einsums
count: a thread with a few columns of every gate computes these columns of the new state without waiting for another, and all
threads meet once a generation.

Requires: a verified cascade and a loop of its schedule. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.cascade import Cascade, Einsum
from ...ir.dependence import Loop, Straight
from ...ir.expr import Expr, Read, integer, ranks_of, reads_of, transform
from ...ir.index import constant_value, equal
from ..analysis.ranks import rank_classes
from . import contraction
from .grouping import offset, rereads_weights, shifted
from .independent import Independent, independent_classes
from .placement import Local, local_tensors

WIDTHS = (64, 96, 32)
"""Columns of a task: whole panels of every micro-kernel that packs ahead, if possible so many that they divide the rank."""

EARLIER = "~"
"""Marks a tensor's earlier generations, which no Einsum of this one writes; no program can spell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The rank ``cut`` of a generation's Einsums, and the dimension of every tensor that ``generations`` are counted by."""

    cut: Independent
    generations: Mapping[str, int] = field(hash=False)
    variables: Mapping[int, str] = field(hash=False)
    kept: frozenset[str]

    def width(self, lets: Mapping[str, Expr]) -> Expr:
        """The columns of one task."""
        extent = constant_value(self.cut.extent, lets)
        fitting = [w for w in WIDTHS if extent is not None and extent % w == 0]
        return integer(fitting[0] if fitting else WIDTHS[0])

    def locals(self, cascade: Cascade, members: Sequence[int]) -> dict[str, Local]:
        """The tensors that only one generation's Einsums touch: a task holds its columns of them."""
        loop = Independent(variables=self.variables, dims=self.generations, extent=self.cut.extent)
        found = local_tensors(cascade, tuple(members), [loop], self.cut, None, frozenset())
        return {name: local for name, local in found.items() if name not in self.kept}


def columns_of(cascade: Cascade, step: Loop) -> Columns | None:
    """The rank along which the generations of ``step`` are cut: one that also cuts the weights of their products, so that a
    thread keeps its part of them in its cache. None where there is none."""
    members = [part.einsum for part in step.body if isinstance(part, Straight)]
    if len(members) < len(step.body) or not rereads_weights(cascade, [step], []):
        return None
    lets = {let.name: let.value for let in cascade.lets}
    if not all(equal(cascade.einsums[i].extent(step.variables[i]), step.extent, lets) for i in members):
        return None
    generations = _generations(cascade, members, step.variables)
    if generations is None:
        return None
    apart: dict[int, Einsum] = {}
    kept: set[str] = set()
    for i in members:
        made = _with_earlier_apart(cascade, i, step, members, generations)
        if made is None:
            return None
        apart[i] = made
        kept |= {r.tensor.removesuffix(EARLIER) for r in made.reads() if r.tensor.endswith(EARLIER)}
    within = replace(cascade, einsums=tuple(apart.get(i, e) for i, e in enumerate(cascade.einsums)))
    classes = independent_classes(within, members, apart=[step.variables[members[0]]], ranks=rank_classes(cascade))
    cut = next((c for c in classes if _cuts_weights(cascade, members, step, c)), None)
    if cut is None:
        return None
    return Columns(cut=cut, generations=generations, variables=step.variables, kept=frozenset(kept))


def _generations(cascade: Cascade, members: Sequence[int], variables: Mapping[int, str]) -> dict[str, int] | None:
    """The dimension of every tensor that the members write that counts their generations."""
    found: dict[str, int] = {}
    for i in members:
        einsum = cascade.einsums[i]
        at = [d for d, index in enumerate(einsum.coords) if variables[i] in ranks_of(index)]
        if einsum.scatter or einsum.target in found or len(at) != 1 or shifted(einsum.coords[at[0]]) != variables[i]:
            return None
        found[einsum.target] = at[0]
    return found


def _with_earlier_apart(
    cascade: Cascade, member: int, step: Loop, members: Sequence[int], generations: Mapping[str, int]
) -> Einsum | None:
    """An Einsum whose reads of earlier generations are of tensors of their own; None where a read's generation is not known."""
    einsum, variable = cascade.einsums[member], step.variables[member]
    writers = {cascade.einsums[i].target: cascade.einsums[i] for i in members}
    unknown = False

    def rule(node: Expr) -> Expr | None:
        nonlocal unknown
        if not isinstance(node, Read) or node.tensor not in writers:
            return None
        dim = generations[node.tensor]
        if shifted(node.indices[dim]) != variable or any(reads_of(index) for index in node.indices):
            unknown = True
            return None
        same = offset(node.indices[dim]) == offset(writers[node.tensor].coords[dim])
        return None if same else replace(node, tensor=f"{node.tensor}{EARLIER}")

    made = replace(
        einsum,
        value=transform(einsum.value, rule),
        point_filter=tuple(transform(e, rule) for e in einsum.point_filter),
        output_filter=tuple(transform(e, rule) for e in einsum.output_filter),
    )
    return None if unknown else made


def _cuts_weights(cascade: Cascade, members: Sequence[int], step: Loop, found: Independent) -> bool:
    """Whether every product of a generation divides among the points of a rank what is the same in all generations."""
    products = [(i, p) for i in members if (p := contraction.product_of(cascade.einsums[i])) is not None]
    weights = [
        operand
        for i, p in products
        for operand in (p.left, p.right)
        if step.variables[i] not in ranks_of(operand) and found.variables[i] in ranks_of(operand)
    ]
    return bool(products) and len(weights) == len(products)
