"""Online derivation: a chain of reductions computed in one pass over tiles, each running result corrected as it goes.

Requires a chain (chain.py): associative reductions over the same ranks, each with the correction that the ratio test or the
closure proved. Emits, with r → (r1, r0):

    D[0]     = identity                     L[r1] = ⊕ over r0 of F(x[r1, r0], D[r1+1])
    C[r1]    = ρ(D[r1], D[r1+1])            D[r1+1] = (C[r1] ⊗ D[r1]) ⊕ L[r1]

Readers of a result use D[R1]. Pointwise Einsums and contractions that only feed the chain become tiles of their own, as in
FuseMax's one-pass cascade; those with other readers stay, and the chain reads them tile by tile.

On a prefix on which all data is -inf the running maximum is -inf: data is shifted by 0 there, and a correction whose
base did not move is the neutral element, so that (-inf) - (-inf) never arises (condition C6). A sum that the data is shifted
by (a mean) is scaled to what was seen so far; its last value is the true one (C5).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce

import sympy

from ...ir.cascade import Cascade, Einsum, Origin, Role
from ...ir.expr import (
    Cast,
    Const,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    children,
    integer,
    op,
    with_children,
)
from ...ir.operators import REDUCTIONS
from ...ir.types import F32, DType
from ..construct import both, einsum, is_small, redirect_einsum, rewritten, typed, widened
from .chain import Chain, Member
from .closure import Closure
from .corrections import Corrections
from .partition import Partition, Parts, extents_with
from .ratio import Ratio, primed
from .step import MADE_BY
from .symbolic import to_expr


def online_form(chain: Chain, tile: int) -> tuple[Cascade, Partition]:
    """The cascade with ``chain`` computed in one pass over tiles of ``tile`` positions."""
    return Online(chain, tile).build()


class Online(Corrections):
    """The construction of one online form."""

    def __init__(self, chain: Chain, tile: int, parts: Parts | None = None, beside: Cascade | None = None) -> None:
        super().__init__(chain, tile, parts, beside)
        self.local_of: dict[str, Read] = {}
        self.extreme_of: dict[str, str] = {}

    def build(self) -> tuple[Cascade, Partition]:
        for i in self.part.order:
            if i in self.members:
                self._reduction(self.members[i])
            elif i in self.part.needed_bases:
                self._base(i)
            else:
                self._tile(i)
        return self._finished(), self.cut

    def _reduction(self, member: Member) -> None:
        i, written = member.index, self.cascade.einsums[member.index]
        assert written.reduction is not None
        origin = replace(written.origin, made_by=f"{MADE_BY}:{_rule(member)}")
        outputs = tuple(c for c in written.coords if isinstance(c, Rank))
        self._ensure_tile((written.value, *written.point_filter), i)
        here = self._local(f"L{written.target}", written, written.value, i, outputs, origin)
        self.local_of[written.target] = here
        if REDUCTIONS[written.reduction].coordinate:
            self._coordinate(written, i, here, outputs, origin)
            return
        name = self._start(f"R{written.target}", written, outputs, here.dtype, origin)
        self.running[written.target] = name
        corrected = self._corrected(member, self._held(name, outputs), origin)
        combine = REDUCTIONS[written.reduction].combine
        self._advance(name, written, outputs, Op(op=combine, args=(corrected, here), dtype=here.dtype), origin)
        if written.target in self.scaled:
            self._mean(written, name, outputs, here.dtype, origin)

    def _corrected(self, member: Member, previous: Read, origin: Origin) -> Expr:
        """The running value ``previous`` of a member at the results that it depends on, as they are now."""
        written = self.cascade.einsums[member.index]
        match member.correction:
            case None:
                return previous
            case Ratio() as ratio:
                return self._rescaled(written, ratio, previous, origin)
            case Closure() as closure:
                return self._recentred(member, written, closure, previous, origin)

    def _coordinate(self, written: Einsum, i: int, here: Read, outputs: tuple[Rank, ...], origin: Origin) -> None:
        """The coordinate of an extreme, carried beside the extreme: a tile's replaces it only where its value is better.

        The first coordinate wins ties, and the first NaN wins over everything, as in the reduction as a whole.
        """
        assert written.reduction is not None
        extreme = replace(written, reduction=REDUCTIONS[written.reduction].combine)
        best, held = self._extreme(extreme, i, outputs, origin)
        self.extreme_of[written.target] = held.tensor
        name = self._start(f"R{written.target}", written, outputs, here.dtype, origin)
        self.running[written.target] = name
        previous = self._held(name, outputs)
        better = op("gt" if extreme.reduction == "max" else "lt", best, held)
        if best.dtype.is_float:
            better = op("or", better, both(op("ne", best, best), op("eq", held, held)))
        none = Const(value=0, dtype=here.dtype)
        replaced = both(op("ge", here, none), op("or", op("lt", previous, none), better))
        start = Cast(value=op("mul", self.cut.place, self.cut.tile), dtype=here.dtype)
        value = Select(condition=replaced, then=op("add", start, here), otherwise=previous, dtype=here.dtype)
        self._advance(name, written, outputs, value, origin)

    def _extreme(self, extreme: Einsum, i: int, outputs: tuple[Rank, ...], origin: Origin) -> tuple[Read, Read]:
        """The extreme of one tile and the running one before the step: of a member of the chain, or a state of its own."""
        for target, here in self.local_of.items():
            other = self.cascade.einsums[self.states[target]]
            if (other.reduction, other.value, other.point_filter) != (extreme.reduction, extreme.value, extreme.point_filter):
                continue
            state = self.running[target]
            return here, Read(tensor=state, indices=here.indices, dtype=self.tensors[state].value)
        here = self._local(f"L{extreme.target}'", extreme, extreme.value, i, outputs, origin)
        name = self._start(f"R{extreme.target}'", extreme, outputs, here.dtype, origin)
        held = self._held(name, outputs)
        assert extreme.reduction is not None
        self._advance(name, extreme, outputs, op(extreme.reduction, held, here), origin)
        return here, held

    def _mean(self, written: Einsum, name: str, outputs: tuple[Rank, ...], dtype: DType, origin: Origin) -> None:
        """The running sum scaled to what was seen so far."""
        total = Read(tensor=name, indices=(*self.following, *outputs), dtype=dtype)
        seen = self.cut.seen(dtype, after=True)
        if self.parts:
            # The last parts may hold nothing: their sums are 0, whatever they are divided by.
            assert isinstance(seen, Cast)
            seen = Cast(value=op("max", seen.value, integer(1)), dtype=dtype)
        scale = op("div", self.cut.total(dtype), seen)
        made = einsum(
            target=self.names.tensor(f"M{written.target}"),
            coords=(*self.now, *outputs),
            value=op("mul", total, scale),
            extents=extents_with(self.cut, {r.name: r.extent for r in written.ranks}),
            origin=replace(origin, made_by=f"{MADE_BY}:mean"),
        )
        self._add(made, dtype)
        self.mean_of[written.target] = made.target

    def _finished(self) -> Cascade:
        """The cascade with the chain in the place of its first member; readers see the last generation."""
        held = {target: self._last(target) for target in self.running}
        finals = {
            t: at
            for t, at in held.items()
            if self._holds(at[2], self.cascade.by_name[t].value) and not _poles(self.members[self.states[t]])
        }
        first = min(self.members)
        result: list[Einsum] = []
        for i, written in enumerate(self.cascade.einsums):
            if i == first:
                result += self.einsums
            if i not in self.members:
                result.append(redirect_einsum(written, finals))
                continue
            if written.target not in finals or self.cascade.by_name[written.target].role is Role.RESULT:
                result.append(self._final(self.members[i], written))
        return rewritten(self.cascade, tuple(result), self.tensors, self.cut.lets)

    def _last(self, target: str) -> tuple[str, tuple[Expr, ...], DType]:
        """The tensor that holds a finished result, its leading indices, its type."""
        name = self.running[target]
        return name, (self.cut.steps,), self.tensors[name].value

    @staticmethod
    def _holds(state: DType, written: DType) -> bool:
        """Whether readers may see the state itself: it has the type that they expect, or a wider float."""
        return state == written or (is_small(written) and state == F32)

    def _final(self, member: Member, written: Einsum) -> Einsum:
        """A result of the chain that keeps its own tensor."""
        name, leading, dtype = self._last(written.target)
        value = Read(tensor=name, indices=(*leading, *written.coords), dtype=dtype)
        return einsum(
            target=written.target,
            coords=written.coords,
            value=self._divided(member, value),
            extents={r.name: r.extent for r in written.ranks},
            origin=replace(written.origin, made_by=f"{MADE_BY}:final"),
        )

    def _divided(self, member: Member, value: Read) -> Expr:
        """A finished result, divided by those of its divisors that are infinite in the end: until now it was divided by 1 for
        them (see ``_safe``)."""
        poles = _poles(member)
        if not poles:
            return value
        assert isinstance(member.correction, Ratio)
        ends = {s: typed(widened(self._at_end(self.part.meaning(s))), value.dtype) for s in poles}
        settled = {primed(s): s for s in member.correction.before if s not in poles}
        meaning: dict[sympy.Symbol, Expr] = {s: self._safe(self.part.meaning(s), end) for s, end in ends.items()}
        meaning |= {primed(s): end for s, end in ends.items()}
        factor = to_expr(sympy.simplify(member.correction.term.subs(settled)), {**meaning, **self._constants()}, value.dtype)
        infinity = Const(value=float("inf"), dtype=value.dtype)
        is_infinite = reduce(partial(op, "or"), (op("eq", op("abs", end), infinity) for end in ends.values()))
        corrected = Op(op=member.correction.operator, args=(value, factor), dtype=value.dtype)
        return Select(condition=is_infinite, then=corrected, otherwise=value, dtype=value.dtype)

    def _at_end(self, expr: Expr) -> Expr:
        """An expression over results, with their finished values."""
        match expr:
            case Read(tensor=tensor, indices=indices) if tensor in self.running:
                name, leading, dtype = self._last(tensor)
                return Read(tensor=name, indices=(*leading, *indices), dtype=dtype)
            case Read(tensor=tensor) if tensor in self.base_of:
                inner = self.structure.inlined(expr)
                assert inner is not None
                return self._at_end(inner)
            case _:
                return with_children(expr, tuple(self._at_end(c) for c in children(expr)))


def _poles(member: Member) -> tuple[sympy.Symbol, ...]:
    """The divisors by which the running value of a member is corrected."""
    return member.correction.poles if isinstance(member.correction, Ratio) else ()


def _rule(member: Member) -> str:
    match member.correction:
        case Ratio():
            return "ratio"
        case Closure():
            return "closure"
        case _:
            return "state"
