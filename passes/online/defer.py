"""Deferral: factors that are finished reductions move out of a sum, and the sum needs no pass of its own.

Identity: ⊕ᵣ G(x) ⊗ H(d) = (⊕ᵣ G(x)) ⊗ H(d) where ⊗ distributes over ⊕ and H has no reduced rank (design page 3; FuseMax,
section 4.2). A sum of terms with different H splits into one sum for each. Saves the per-element work, and the
pass that waits for d. Requires a verified cascade. Not done: rewrites that could overflow where the program as
written is finite (an exponential that only the deferred factor keeps small), or that look through a rounding.

Where no point of the sum is present, the sum as written is 0, but 0 ⊗ H(d) may be NaN (0 / 0): the result is guarded by
the emptiness of the reduction, never by the value of H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Origin, Tensor
from ...ir.expr import Cast, Const, Default, Expr, Op, Rank, Read, Select, op, ranks_of, reads_of
from ...ir.index import constant_value
from ...ir.operators import FUNCTIONS, REDUCTIONS
from ...ir.tile import Decision
from ...ir.types import BOOL, DType
from ..analysis.emptiness import emptiness
from ..analysis.exponents import may_overflow
from ..analysis.presence import FALSE
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure, is_widening, varies
from ..construct import einsum, local, product, result_type, rewritten, typed
from ..names import Names


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A product, with its sign, of factors with exponent +1 or -1."""

    sign: int
    factors: tuple[tuple[Expr, int], ...]

    def times(self, other: Term) -> Term:
        return Term(sign=self.sign * other.sign, factors=self.factors + other.factors)

    def inverse(self) -> Term:
        return Term(sign=self.sign, factors=tuple((f, -e) for f, e in self.factors))


def defer(cascade: Cascade) -> Cascade | None:
    """``cascade`` with every factor deferred that can be; None where there is none."""
    structure = Structure(cascade)
    deferred, _ = defer_explained(structure)
    return None if deferred is structure else deferred.cascade


def defer_explained(structure: Structure) -> tuple[Structure, tuple[Decision, ...]]:
    """The cascade with every factor deferred that can be, and the decisions: what was deferred, and what was not and why."""
    decisions: dict[str, Decision] = {}
    done: set[str] = set()
    while True:
        for i in structure.straight:
            target = structure.cascade.einsums[i].target
            if target in done:
                continue
            attempt = _Deferral(structure, i).run()
            if attempt is None:
                continue
            done.add(target)
            result, decision = attempt
            decisions[target] = decision
            if result is not None:
                structure = Structure(result)
                break
        else:
            return structure, tuple(decisions.values())


class _Deferral:
    """The attempt on one Einsum."""

    def __init__(self, structure: Structure, index: int) -> None:
        self.structure, self.cascade, self.index = structure, structure.cascade, index
        self.einsum: Einsum = self.cascade.einsums[index]
        self.filters: list[Expr] = []

    def run(self) -> tuple[Cascade | None, Decision] | None:
        """The new cascade, or the reason against it; None where there is nothing to defer."""
        einsum = self.einsum
        if einsum.reduction is None or einsum.scatter or not self.structure.is_plain(self.index):
            return None
        combine = REDUCTIONS[einsum.reduction].combine
        if combine not in FUNCTIONS["mul"].distributes_over or not einsum.value.dtype.is_float:
            return None
        self.over: list[RankClass] = [self.structure.class_of(self.index, r) for r in einsum.reduced]
        terms = list(self._terms(einsum.value))
        split = [self._split(term) for term in terms]
        if not any(outside for _, outside in split):
            return None
        reason = self._objection(terms, split)
        names = sorted({r.tensor for _, outside in split for f, _ in outside for r in reads_of(f)})
        subject = f"{einsum.target}: {' and '.join(f'`{n}`' for n in names)}"
        if reason is not None:
            return None, Decision(made_by="defer:factor", subject=subject, chosen="not deferred", because=reason)
        ranks = ", ".join(einsum.reduced)
        because = (
            f"the factor has no rank {ranks}, and multiplication distributes over the sum: one operation for each "
            f"point of `{einsum.target}` instead of one for each term"
        )
        decision = Decision(
            made_by="defer:factor", subject=subject, chosen=f"applied after the sum over {ranks}", because=because
        )
        return self._rewrite(split), decision

    # -- the value as a sum of products --------------------------------------------------------------------------------

    def _terms(self, expr: Expr) -> Iterator[Term]:
        match expr:
            case Op(op="add" | "sub" as name, args=(a, b)) if self._is_worth_splitting(a, b):
                yield from self._terms(a)
                sign = 1 if name == "add" else -1
                yield from (replace(t, sign=sign * t.sign) for t in self._terms(b))
            case Op(op="neg", args=(a,)):
                yield from (replace(t, sign=-t.sign) for t in self._terms(a))
            case Op(op="mul", args=(a, b)):
                right = list(self._terms(b))
                yield from (s.times(t) for s in self._terms(a) for t in right)
            case Op(op="div", args=(a, b)):
                below = list(self._terms(b))
                divisor = below[0] if len(below) == 1 else Term(sign=1, factors=((b, 1),))
                yield from (t.times(divisor.inverse()) for t in self._terms(a))
            case Cast() if is_widening(expr):
                yield from self._terms(expr.value)
            case Read() if (value := self._worth_inlining(expr)) is not None:
                yield from self._terms(value)
            case _:
                yield Term(sign=1, factors=((expr, 1),))

    def _is_worth_splitting(self, a: Expr, b: Expr) -> bool:
        """Addends that both vary, one of them with a factor to defer. A shift (x - μ) is never split: it would cancel."""
        reduced = self.einsum.reduced
        if not (varies(a, reduced) and varies(b, reduced)):
            return False
        return any(self._split(t)[1] for part in (a, b) for t in self._terms(part))

    def _worth_inlining(self, read: Read) -> Expr | None:
        """The value behind a read where it shows a factor to defer; its conditions join those of the sum."""
        if not varies(read, self.einsum.reduced):
            return None
        value = self.structure.inlined(read)
        if value is None or not any(self._split(t)[1] for t in self._terms(value)):
            return None
        for condition in self.structure.filters_at(read):
            if condition not in self.filters:
                self.filters.append(condition)
        return value

    def _split(self, term: Term) -> tuple[Term, tuple[tuple[Expr, int], ...]]:
        """The term without the factors to defer, and these."""
        outside = tuple((f, e) for f, e in term.factors if self._is_deferrable(f))
        inside = tuple(part for part in term.factors if part not in outside)
        return Term(sign=term.sign, factors=inside), outside

    def _is_deferrable(self, factor: Expr) -> bool:
        return not varies(factor, self.einsum.reduced) and self.structure.depends_on_reduction(factor, self.over)

    # -- conditions ----------------------------------------------------------------------------------------------------

    def _objection(self, terms: list[Term], split: list[tuple[Term, tuple[tuple[Expr, int], ...]]]) -> str | None:
        extents = {r.name: r.extent for r in self.einsum.ranks}
        for _, outside in split:
            for factor, _ in outside:
                if not self.structure.always_present(factor, extents):
                    return "the factor may be absent, and a term with an absent factor is not part of the sum"
        for inside, outside in split:
            if outside and may_overflow(self.structure, [f for f, e in inside.factors if e > 0]):
                return "without the factor an exponential of the sum is unbounded and may overflow"
        if len(split) > 1:
            whole = self._presence(terms)
            if any(self._presence([inside]) != whole for inside, _ in split):
                return "the terms are present at different points, so their sums can not be taken apart"
        if any(set(self.einsum.reduced).isdisjoint(ranks_of(e)) for inside, _ in split for e in self._values(inside)):
            return "a term does not vary along the reduced rank"
        return None

    def _presence(self, terms: list[Term]) -> frozenset[Expr]:
        parts: set[Expr] = set()
        for term in terms:
            for factor, _ in term.factors:
                parts |= self.structure.conditions(replace(self.einsum, point_filter=(), output_filter=()), factor)
        return frozenset(parts)

    def _values(self, term: Term) -> Iterator[Expr]:
        value = product(term.factors, self.einsum.value.dtype)
        if value is not None:
            yield value

    # -- the rewritten cascade -----------------------------------------------------------------------------------------

    def _rewrite(self, split: list[tuple[Term, tuple[tuple[Expr, int], ...]]]) -> Cascade:
        written, names = self.einsum, Names(self.cascade)
        origin = Origin(span=written.origin.span, made_by="defer:factor")
        dtype = self._type(split)
        extents = {r.name: r.extent for r in written.ranks}
        where = (*written.point_filter, *self.filters)
        groups: dict[tuple[tuple[Expr, int], ...], list[Term]] = {}
        for inside, outside in split:
            groups.setdefault(outside, []).append(inside)
        sums: list[Einsum] = []
        tensors: dict[str, Tensor] = {}
        total: Expr | None = None
        for number, (outside, insides) in enumerate(groups.items()):
            value = _sum([(t.sign, v) for t in insides for v in self._values(t)], dtype)
            sign = 1
            if value is None:
                value, sign = _sum([(-t.sign, v) for t in insides for v in self._values(t)], dtype), -1
            assert value is not None
            mentioned = {n for e in (value, *where) for n in ranks_of(e)}
            coords = tuple(c for c in written.coords if isinstance(c, Rank) and c.name in mentioned)
            name = names.tensor(f"S{written.target}" + (str(number + 1) if len(groups) > 1 else ""))
            made = einsum(
                target=name,
                coords=coords,
                value=value,
                extents=extents,
                origin=origin,
                reduction=written.reduction,
                where=where,
            )
            sums.append(made)
            kind = result_type(made.reduction, value.dtype)
            tensors[name] = local(name, kind, tuple(made.extent(r) for r in made.output_ranks), origin)
            part = product([(Read(tensor=name, indices=coords, dtype=kind), 1), *outside], dtype)
            assert part is not None
            total = _plus(total, sign, part)
        assert total is not None
        values = [v for inside, _ in split for v in self._values(inside)]
        guard = self._guard(names, sums, tensors, origin, values, where)
        if guard is not None:
            total = Select(condition=guard, then=total, otherwise=Const(value=0.0, dtype=dtype), dtype=dtype)
        finish = einsum(
            target=written.target,
            coords=written.coords,
            value=total,
            extents=extents,
            origin=replace(written.origin, made_by="defer:factor"),
            where=written.output_filter,
        )
        einsums = list(self.cascade.einsums)
        einsums[self.index : self.index + 1] = [*sums, finish]
        return rewritten(self.cascade, tuple(einsums), tensors)

    def _type(self, split: list[tuple[Term, tuple[tuple[Expr, int], ...]]]) -> DType:
        return self.einsum.value.dtype

    def _guard(
        self,
        names: Names,
        sums: list[Einsum],
        tensors: dict[str, Tensor],
        origin: Origin,
        values: list[Expr],
        where: tuple[Expr, ...],
    ) -> Expr | None:
        """The condition under which the sum has a point; None where it always has one."""
        found = emptiness(self.structure, self.index, values, where)
        if found.sizes is not None:
            result: Expr | None = None
            for extent in found.sizes:
                if (constant_value(extent, self.structure.lets) or 0) > 0:
                    continue
                condition = op("gt", extent, Const(value=0, dtype=extent.dtype))
                result = condition if result is None else op("and", result, condition)
            return result
        if found.test is not None:
            return found.test
        assert found.flag is not None
        conditions = (*where, *found.conditions)
        name = names.tensor(f"HAS{self.einsum.target}")
        made = einsum(
            target=name,
            coords=tuple(
                c
                for c in self.einsum.coords
                if isinstance(c, Rank) and any(c.name in ranks_of(e) for e in (found.flag, *conditions))
            ),
            value=found.flag,
            extents={r.name: r.extent for r in self.einsum.ranks},
            origin=origin,
            reduction="or",
            where=conditions,
        )
        sums.append(made)
        shape = tuple(made.extent(r) for r in made.output_ranks)
        # A rank that only conditions mention takes its extent from the shape.
        direct = {i.name for read in made.reads() for i in read.indices if isinstance(i, Rank)}
        tensors[name] = local(name, BOOL, shape, origin, declared=not direct.issuperset(made.output_ranks))
        # A condition without reduced ranks makes the flag absent, not false.
        return Default(value=Read(tensor=name, indices=made.coords, dtype=BOOL), default=FALSE, dtype=BOOL)


def _sum(terms: list[tuple[int, Expr]], dtype: DType) -> Expr | None:
    """The sum of signed terms, a positive one first; None where there is none."""
    ordered = sorted(terms, key=lambda t: -t[0])
    if not ordered or ordered[0][0] < 0:
        return None
    total: Expr | None = None
    for sign, value in ordered:
        total = _plus(total, sign, typed(value, dtype))
    return total


def _plus(total: Expr | None, sign: int, value: Expr) -> Expr:
    if total is None:
        return value if sign > 0 else Op(op="neg", args=(value,), dtype=value.dtype)
    return Op(op="add" if sign > 0 else "sub", args=(total, value), dtype=value.dtype)
