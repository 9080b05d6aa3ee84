"""How running results are corrected within a step: by one factor, or by a combination of states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy

from ...ir.cascade import Cascade, Einsum, Origin
from ...ir.expr import (
    Cast,
    Const,
    Expr,
    Op,
    Rank,
    Read,
    Select,
    op,
    ranks_of,
    reads_of,
)
from ...ir.operators import REDUCTIONS
from ...ir.types import BOOL, DType
from ..analysis.structure import varies
from ..construct import einsum, typed, widened
from .chain import Chain, Member
from .closure import Closure
from .partition import Parts, extents_with
from .ratio import Ratio, primed
from .step import MADE_BY, Step
from .symbolic import Term, to_expr


class Corrections(Step):
    """The corrections of a chain. Equal factors are computed once, and states that are known already are not carried twice."""

    def __init__(self, chain: Chain, tile: int, parts: Parts | None = None, beside: Cascade | None = None) -> None:
        super().__init__(chain, tile, parts, beside)
        self.factors: dict[Expr, tuple[str, tuple[Expr, ...]]] = {}
        self.further: dict[tuple[object, ...], tuple[str, tuple[Expr, ...]]] = {}

    def _bases(self, correction: Ratio | Closure, dtype: DType) -> tuple[dict[sympy.Symbol, Expr], dict[sympy.Symbol, Expr]]:
        """What the bases before and after a step mean."""
        before = {s: typed(widened(self._before(self.part.meaning(s))), dtype) for s in correction.before}
        after = {primed(s): typed(widened(self._after(self.part.meaning(s))), dtype) for s in correction.before}
        return before, after

    def _constants(self) -> dict[sympy.Symbol, Expr]:
        return {s: e for s, e in self.chain.vocabulary.meaning.items() if s.name[0] == "c"}

    def _rescaled(self, written: Einsum, correction: Ratio, previous: Read, origin: Origin) -> Expr:
        """The running result times (or plus) ρ; equal factors are computed once."""
        dtype = previous.dtype
        before, after = self._bases(correction, dtype)
        for symbol in correction.poles:
            before[symbol] = self._safe(self.part.meaning(symbol), before[symbol])
            after[primed(symbol)] = self._safe(self.part.meaning(symbol), after[primed(symbol)])
        value = to_expr(correction.term, {**before, **after, **self._constants()}, dtype)
        neutral = Const(value=1.0 if correction.operator == "mul" else 0.0, dtype=dtype)
        settled = self._settled(written, correction, before, after)
        if settled is not None:
            value = Select(condition=settled, then=neutral, otherwise=value, dtype=dtype)
        factor = self._shared(value, written, self._named_after(correction), origin)
        return Op(op=correction.operator, args=(previous, factor), dtype=dtype)

    def _settled(
        self,
        written: Einsum,
        correction: Ratio,
        before: Mapping[sympy.Symbol, Expr],
        after: Mapping[sympy.Symbol, Expr],
    ) -> Expr | None:
        """The condition under which there is nothing to correct, where a base may be infinite: none of them has moved.

        For a running extreme, itself infinite at first, it is that nothing was seen: (-inf) * 0 and (-inf) + inf are NaN.
        """
        assert written.reduction is not None
        starts_finite = abs(REDUCTIONS[written.reduction].identity(written.value.dtype)) != float("inf")
        shifts = {s: self.part.meaning(s) for s in correction.before if s not in correction.poles}
        infinite = {s: self._infinite_identity(meaning) for s, meaning in shifts.items()}
        unseen = [found for meaning in shifts.values() if (found := self._unseen(meaning)) is not None]
        if all(identity is None for identity in infinite.values()) and not unseen:
            return None
        condition: Expr | None = None
        for symbol in correction.before:
            identity = infinite.get(symbol)
            if starts_finite:
                each, join = op("eq", before[symbol], after[primed(symbol)]), "and"
            elif identity is not None:
                each, join = op("eq", before[symbol], Const(value=identity, dtype=before[symbol].dtype)), "or"
            else:
                continue
            condition = each if condition is None else op(join, condition, each)
        for empty in unseen:
            condition = empty if condition is None else op("or", condition, empty)
        return condition

    def _named_after(self, correction: Ratio | Closure) -> str:
        for symbol in correction.before:
            for read in reads_of(self.part.meaning(symbol)):
                return read.tensor
        return ""

    def _shared(self, value: Expr, written: Einsum, base: str, origin: Origin, prefix: str = "C") -> Read:
        """A tensor over the steps that holds ``value``; one for all equal values."""
        used = set(ranks_of(value))
        coords = (*self.now, *(c for c in written.coords if isinstance(c, Rank) and c.name in used))
        if value not in self.factors:
            made = einsum(
                target=self.names.tensor(f"{prefix}{base}"),
                coords=coords,
                value=value,
                extents=extents_with(self.cut, {r.name: r.extent for r in written.ranks}),
                origin=replace(origin, made_by=f"{MADE_BY}:correction"),
            )
            self._add(made, value.dtype)
            self.factors[value] = (made.target, made.coords)
        name, indices = self.factors[value]
        return Read(tensor=name, indices=indices, dtype=value.dtype)

    def _recentred(self, member: Member, written: Einsum, correction: Closure, previous: Read, origin: Origin) -> Expr:
        """The running result at the new base: a combination of itself and of further states."""
        dtype = previous.dtype
        before, after = self._bases(correction, dtype)
        meaning = {**before, **after, **self._constants()}
        for shift in correction.shifts:
            if shift.name not in meaning:
                meaning[shift.name] = self._shift(shift.delta, written, correction, meaning, dtype, origin)
        values: dict[int | None, Expr] = {None: previous}
        carried: dict[int, tuple[Read, Read]] = {}
        for number, state in enumerate(correction.states):
            known = self._known_state(state, member, dtype)
            if known is None:
                carried[number] = self._further_state(number, state, member, written, dtype, origin)
                known = carried[number][0]
            values[number] = known
        for number, (state, here) in carried.items():
            corrected = self._combination(correction.rows[number], values, meaning, dtype)
            outputs = tuple(c for c in state.indices[len(self.now) :] if isinstance(c, Rank))
            self._advance(state.tensor, written, outputs, op("add", corrected, here), origin)
        return self._combination(correction.rows[None], values, meaning, dtype)

    def _shift(
        self,
        delta: Term,
        written: Einsum,
        correction: Closure,
        meaning: Mapping[sympy.Symbol, Expr],
        dtype: DType,
        origin: Origin,
    ) -> Expr:
        """δ, by how much shifted data moves; 0 before anything finite was seen."""
        value = to_expr(delta, meaning, dtype)
        unset: Expr | None = None
        for symbol in correction.before:
            identity = self._infinite_identity(self.part.meaning(symbol))
            if symbol not in delta.free_symbols:
                continue
            empty = self._unseen(self.part.meaning(symbol))
            if identity is not None:
                empty = op("eq", meaning[symbol], Const(value=identity, dtype=dtype))
            if empty is not None:
                unset = empty if unset is None else op("or", unset, empty)
        if unset is not None:
            zero = Const(value=0.0, dtype=dtype)
            value = Select(condition=unset, then=zero, otherwise=value, dtype=dtype)
        return self._shared(value, written, self._named_after(correction), origin, prefix="D")

    def _combination(
        self,
        row: Mapping[int | None, Term],
        values: Mapping[int | None, Expr],
        meaning: Mapping[sympy.Symbol, Expr],
        dtype: DType,
    ) -> Expr:
        total: Expr | None = None
        for state, coefficient in row.items():
            if coefficient == 0:
                continue
            value = values[state]
            if coefficient != 1:
                value = op("mul", value, to_expr(coefficient, meaning, dtype))
            total = value if total is None else op("add", total, value)
        return Const(value=0.0, dtype=dtype) if total is None else total

    # -- further states of a closure ---------------------------------------------------------------------------------

    def _known_state(self, state: Term, member: Member, dtype: DType) -> Expr | None:
        """The running value of a state before the step where something carries it already.

        What was seen so far needs no state where no point is absent; a multiple of another member's F is that member's.
        """
        i = member.index
        written = self.cascade.einsums[i]
        if state.is_number and not self._masked(written):
            count: Expr = self._seen(dtype)
            for name in self._missing(written, ()):
                count = op("mul", count, Cast(value=written.extent(name), dtype=dtype))
            return op("mul", count, Const(value=float(state), dtype=dtype)) if state != 1 else count
        key = (state, written.reduced, self.structure.conditions(written))
        if key in self.further:
            return self._held(*self.further[key])
        for other in self.chain.members:
            theirs = self.cascade.einsums[other.index]
            if other.term is None or theirs.target not in self.running or theirs.reduction != written.reduction:
                continue
            if (theirs.reduced, self.structure.conditions(theirs)) != key[1:]:
                continue
            share = sympy.cancel(sympy.powsimp(state / other.term, combine="exp"))
            if any(s.name[0] != "c" for s in share.free_symbols):
                continue
            outputs = tuple(c for c in theirs.coords if isinstance(c, Rank))
            value = typed(self._held(self.running[theirs.target], outputs), dtype)
            return value if share == 1 else op("mul", value, to_expr(share, self._constants(), dtype))
        return None

    def _further_state(
        self, number: int, state: Term, member: Member, written: Einsum, dtype: DType, origin: Origin
    ) -> tuple[Read, Read]:
        """A state of its own: its running value before the step, and the sum of one tile."""
        i = member.index
        value = to_expr(state, self.chain.vocabulary.meaning, written.value.dtype)
        tiled = self.chain.ranks[-1].variables[i]
        flags = self._masked(written)
        if not varies(value, (tiled,)):
            flags = (*flags, *(r for r in reads_of(written.value) if varies(r, (tiled,)) and not self._is_result(r)))[:1]
        where = tuple(op("or", op("eq", r, r), Const(value=True, dtype=BOOL)) for r in flags)
        conditions = (*written.point_filter, *where)
        part = replace(written, point_filter=conditions)
        used = {n for e in (value, *conditions) for n in ranks_of(e)}
        outputs = tuple(c for c in written.coords if isinstance(c, Rank) and c.name in used)
        for name in self._missing(written, used):
            value = op("mul", value, Cast(value=written.extent(name), dtype=value.dtype))
        for each in (value, *where):
            if varies(each, (tiled,)):
                self._ensure_tile((each,), i)
        suffix = f"{written.target}{number + 1}"
        here = self._local(f"L{suffix}", part, value, i, outputs, origin)
        name = self._start(f"R{suffix}", part, outputs, here.dtype, origin)
        self.further[state, written.reduced, self.structure.conditions(written)] = (name, outputs)
        return self._held(name, outputs), here

    def _is_result(self, read: Read) -> bool:
        return read.tensor in self.states or read.tensor in self.base_of

    def _masked(self, written: Einsum) -> tuple[Read, ...]:
        """The reads of a value that may be absent, so that a state without them must still be counted by them."""
        extents = {r.name: r.extent for r in written.ranks}
        reads = (r for r in dict.fromkeys(reads_of(written.value)) if not self._is_result(r))
        return tuple(r for r in reads if not self.structure.always_present(r, extents))

    def _missing(self, written: Einsum, used: Iterable[str]) -> tuple[str, ...]:
        """The reduced ranks beside the chain's that a state does not mention: it is summed over them all the same."""
        own = {each.variables.get(self.structure.cascade.einsums.index(written)) for each in self.chain.ranks}
        return tuple(n for n in written.reduced if n not in own and n not in set(used))
