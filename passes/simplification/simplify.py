"""Makes a cascade smaller without changing what it computes: constants, identities, certain conditions, duplicates, dead code.

Requires a verified cascade. Guarantees: the results are the same at every point (sums of constants: over the reals), the
parameters and sizes are those that were, the result prints and parses back, and simplifying it again changes nothing. What
was done is in the decisions. The interpreter never runs this pass: it stays the oracle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from ...ir.cascade import Cascade, Einsum, Tensor
from ...ir.expr import Const, Expr, Read, children, walk, with_children
from ...ir.printer import expr_to_source
from ...ir.tile import Decision
from ...ir.types import BOOL, DType
from ..analysis.structure import Structure
from ..rewriting import Rewriting
from .constants import constant_tensors, may_have_constants, reduced_constant, with_constants
from .duplicates import merge_equal, share_value
from .identities import Facts, rules_for
from .restate import Restated, bound, restate
from .unused import without_unused


def simplify(cascade: Cascade) -> Rewriting:
    """The cascade with constants folded, equal work done once, and nothing in it that no result needs."""
    decisions: list[Decision] = []
    while True:
        before = cascade
        for stage in (_fold, _merge, _share, _drop):
            cascade, made = stage(cascade)
            decisions += made
        if cascade is before:
            return Rewriting(cascade=cascade, decisions=tuple(dict.fromkeys(decisions)))


_Stage = tuple[Cascade, list[Decision]]


class _Folding:
    """The folding of every Einsum of one cascade."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.lets = {let.name: let.value for let in cascade.lets}
        self.rules: dict[str, None] = {}

    @cached_property
    def structure(self) -> Structure:
        return Structure(self.cascade)

    @cached_property
    def constants(self) -> dict[str, Const]:
        return constant_tensors(self.structure) if may_have_constants(self.cascade) else {}

    def einsum(self, old: Einsum) -> Restated | None:
        """``old`` with simpler expressions; None where there are none, or where the language could not state them."""
        self.rules = {}
        extents = {r.name: r.extent for r in old.ranks}
        facts = Facts(
            extents=extents,
            lets=self.lets,
            always_present=lambda e: isinstance(e, Const) or self.structure.always_present(e, extents),
            literals=not any(
                _is_narrow(node.dtype) for e in (old.value, *old.point_filter, *old.output_filter) for node in walk(e)
            ),
        )
        value = self.expression(old.value, facts)
        point_filter = tuple(self.conditions(old.point_filter, facts))
        output_filter = tuple(self.conditions(old.output_filter, facts))
        folded = replace(old, value=value, point_filter=point_filter, output_filter=output_filter)
        constant = reduced_constant(self.cascade, folded, facts)
        if constant is not None:
            self.rules["reduced_constant"] = None
            return bound(self.cascade, old, constant)
        if folded == old:
            return None
        return restate(self.cascade, old, value=value, point_filter=point_filter, output_filter=output_filter)

    def conditions(self, filters: tuple[Expr, ...], facts: Facts) -> Iterator[Expr]:
        """The conditions that may be false; one that never holds stays, for it says that nothing is present."""
        for old in filters:
            new = self.expression(old, facts)
            if new == Const(value=True, dtype=BOOL):
                self.rules["certain"] = None
            elif isinstance(new, Const):
                yield old
            else:
                yield new

    def expression(self, expr: Expr, facts: Facts) -> Expr:
        """Bottom-up, until no identity applies. What is inside indices stays: they bound the rank variables."""
        if isinstance(expr, Read):
            if not facts.literals or not self.constants:
                return expr
            new = with_constants(expr, self.constants, facts)
            if new is not expr:
                self.rules["constant_tensor"] = None
            return new
        old = children(expr)
        if not old:
            return expr
        parts = tuple(self.expression(c, facts) for c in old)
        node = expr if all(a is b for a, b in zip(old, parts, strict=True)) else with_children(expr, parts)
        for rule in rules_for(node):
            result = rule(node, facts)
            if result is not None and result.dtype == node.dtype:
                self.rules[rule.__name__] = None
                return self.expression(result, facts)
        return node


def _is_narrow(dtype: DType) -> bool:
    return dtype.bits < 32 and not dtype.is_bool


def _fold(cascade: Cascade) -> _Stage:
    """Identities in every Einsum, one after the other: what one becomes, the next ones see."""
    folding = _Folding(cascade)
    decisions: list[Decision] = []
    einsums: list[Einsum] = []
    tensors: dict[str, Tensor] = {}
    for old in cascade.einsums:
        new = folding.einsum(old)
        if new is None or new.einsum == old:
            einsums.append(old)
            continue
        rules = ", ".join(name.replace("_", " ") for name in folding.rules)
        origin = replace(old.origin, made_by="simplify:fold")
        einsums.append(replace(new.einsum, origin=origin))
        tensors[new.target.name] = new.target
        decisions.append(
            Decision(
                made_by="simplify:fold",
                subject=old.target,
                chosen=f"computed as {expr_to_source(new.einsum.value)}",
                because=f"the same at every point: {rules}",
            )
        )
    if not decisions:
        return cascade, []
    all_tensors = tuple(tensors.get(t.name, t) for t in cascade.tensors)
    return replace(cascade, einsums=tuple(einsums), tensors=all_tensors), decisions


def _merge(cascade: Cascade) -> _Stage:
    """Equal tensors, one pair after the other."""
    decisions: list[Decision] = []
    while (found := merge_equal(cascade)) is not None:
        cascade = found.cascade
        because = f"`{found.kept}` holds the same at every point"
        decisions.append(
            Decision(made_by="simplify:merge_equal", subject=found.gone, chosen=f"read from {found.kept}", because=because)
        )
    return cascade, decisions


def _share(cascade: Cascade) -> _Stage:
    """Costly values that several Einsums of one pass compute."""
    decisions: list[Decision] = []
    while (found := share_value(cascade)) is not None:
        cascade = found.cascade
        because = f"several Einsums of one pass compute {found.gone}"
        decisions.append(Decision(made_by="simplify:share_value", subject=found.kept, chosen="computed once", because=because))
    return cascade, decisions


def _drop(cascade: Cascade) -> _Stage:
    """What no result needs."""
    kept = without_unused(cascade)
    gone = {t.name: "no result needs it" for t in cascade.tensors if t.name not in kept.by_name}
    lines = {t.name: len(cascade.writers(t.name)) - len(kept.writers(t.name)) for t in kept.locals}
    gone |= {f"a generation of {name}": "nothing reads it" for name, n in lines.items() if n}
    gone |= {let.name: "nothing is of that size" for let in cascade.lets if let not in kept.lets}
    return kept, [
        Decision(made_by="simplify:unused", subject=subject, chosen="not computed", because=because)
        for subject, because in gone.items()
    ]
