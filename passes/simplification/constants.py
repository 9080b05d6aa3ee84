"""Constant tensors: Einsums whose value is one constant, reductions of constants, and what reads them.

Identities: Σᵣ 0 = 0, Σᵣ c = c·|r|, ⊕ᵣ c = c for an idempotent ⊕ over at least one point, ⊕ over no point = its identity.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Cast, Const, Expr, Read, op, transform
from ...ir.index import non_negative
from ...ir.operators import FUNCTIONS, REDUCTIONS
from ...ir.types import F32, DType, Kind
from ..analysis.certainty import decide
from ..analysis.structure import Structure
from .folding import stored
from .identities import Facts


def may_have_constants(cascade: Cascade) -> bool:
    """Whether :func:`constant_tensors` is worth asking: an Einsum that is no part of a recurrence states one constant."""
    writers = Counter(e.target for e in cascade.einsums)
    return any(isinstance(e.value, Const) and writers[e.target] == 1 for e in cascade.einsums)


def constant_tensors(structure: Structure) -> dict[str, Const]:
    """What the tensors hold whose every element is present and one constant."""
    found: dict[str, Const] = {}
    for i in structure.straight:
        einsum = structure.cascade.einsums[i]
        if not isinstance(einsum.value, Const) or einsum.output_filter or not structure.is_pointwise(i):
            continue
        const = stored(einsum.value, structure.cascade.by_name[einsum.target].value)
        if const is not None and structure.is_always(einsum.target):
            found[einsum.target] = const
    return found


def with_constants(expr: Expr, known: dict[str, Const], facts: Facts) -> Expr:
    """``expr`` with the reads of constant tensors replaced by the constants, where they are inside the tensor."""

    def rule(node: Expr) -> Expr | None:
        match node:
            case Read(tensor=name) if name in known and facts.always_present(node):
                return known[name]
            case _:
                return None

    return transform(expr, rule)


def reduced_constant(cascade: Cascade, einsum: Einsum, facts: Facts) -> Einsum | None:
    """A reduction of one constant, or over no point, as a pointwise Einsum."""
    if einsum.reduction is None or einsum.scatter or REDUCTIONS[einsum.reduction].coordinate:
        return None
    value = _over_nothing(einsum, facts) or _total(einsum, facts)
    if value is None:
        return None
    target = cascade.by_name[einsum.target].value
    value = _settled(value, target)
    if value is None:
        return None
    output = tuple(r for r in einsum.ranks if r.name not in einsum.reduced)
    return replace(einsum, value=value, ranks=output, reduced=(), reduction=None, point_filter=(), accumulator=value.dtype)


def _over_nothing(einsum: Einsum, facts: Facts) -> Expr | None:
    """A reduction none of whose points is present is the identity of its operator."""
    assert einsum.reduction is not None
    if not any(decide(c, facts.extents, facts.lets) is False for c in einsum.point_filter):
        return None
    identity = REDUCTIONS[einsum.reduction].identity(einsum.accumulator)
    return Const(value=identity, dtype=einsum.accumulator)


def _total(einsum: Einsum, facts: Facts) -> Expr | None:
    """The reduction of one constant over all points of the reduced ranks."""
    if not isinstance(einsum.value, Const):
        return None
    assert einsum.reduction is not None
    reduction = REDUCTIONS[einsum.reduction]
    const = stored(einsum.value, einsum.accumulator)
    if const is None or const.dtype.kind in (Kind.BIPOLAR, Kind.TERNARY):
        return None
    neutral = reduction.identity(einsum.accumulator)
    if const.value == neutral:
        return Const(value=neutral, dtype=einsum.accumulator)
    extents = [facts.extents[r] for r in einsum.reduced]
    if einsum.point_filter or not all(non_negative(n, facts.lets) for n in extents):
        return None
    if reduction.idempotent:
        return const if all(_is_some(n, facts) for n in extents) else None
    if FUNCTIONS[reduction.combine].inverse != "sub":
        return None
    total: Expr = const
    for extent in extents:
        total = op("mul", total, Cast(value=extent, dtype=const.dtype))
    return total


def _is_some(extent: Expr, facts: Facts) -> bool:
    return non_negative(op("sub", extent, Const(value=1, dtype=extent.dtype)), facts.lets)


def _settled(value: Expr, target: DType) -> Expr | None:
    """The value as a pointwise Einsum states it for a target of that type."""
    wanted = F32 if target.is_float and target.bits < 32 else target
    if value.dtype == wanted:
        return value
    if isinstance(value, Const):
        const = stored(value, wanted)
        return const if const is not None and const.value == value.value else None
    return None
