"""The two-pass softmax: exponentials as pairs of mantissa and exponent, summed without knowing their maximum.

exp(u) = p · 2^n with n = round(u / ln 2) and p = exp(u - n ln 2) near 1 (Dukhan and Ablavatski, *The Two-Pass Softmax
Algorithm*, arXiv 2001.04438, section 4). A running pair (s, n) takes in (p, k) as s' = s · 2^(n - n') + p · 2^(k - n') with
n' = max(n, k): no power of two exceeds 1, so nothing overflows, and a scaling is exact. Each of a few lanes carries a pair of
its own, so that no reduction is needed before the end:

    RN[0] = least    RN[r1+1, r0] = max(RN[r1, r0], n[r1, r0])
    RS[0] = 0        RS[r1+1, r0] = RS[r1, r0] · 2^(RN[r1, r0] - RN[r1+1, r0]) + p[r1, r0] · 2^(n[r1, r0] - RN[r1+1, r0])

u - n ln 2 is taken in two steps, the first exact, for |u| < 2^14. Smaller u count as -2^14, which is as good as -inf beside a
maximum above -7600; rows whose maximum is beyond ±7600 (also NaN, infinities and rows without any number) are done as the
program has them (``fallback.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ...ir.cascade import Cascade, Einsum, Role, Tensor
from ...ir.expr import Const, Default, Expr, Rank, Read, Select, integer, op, real, substitute, transform
from ..construct import both, einsum, local
from ..names import Names
from ..online.partition import Partition, extents_with, partition
from ..rewriting import Rewriting
from .fallback import At, Builder, Replacement, with_fallback
from .shifts import Form, Shift, ShiftedSum, with_other_shifts

MADE_BY = "pairs"

LANES = 64
"""Pairs that a row carries: a few vectors, so that one addition need not wait for the other."""

LEAST = -16384.0
"""Smaller exponents of e count as this one."""

LARGEST = 11000.0
"""Exponents of two of a row's maximum up to which, either way, the form holds."""

_LN2 = {
    32: (0.693359375, -2.1219444005469057e-4),
    64: (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}
"""ln 2 as a sum, by bits of the type; the product of the first with an exponent of up to 15 bits is exact."""


def paired(cascade: Cascade) -> Rewriting:
    """``cascade`` with the sums of exponentials that a maximum shifts kept as pairs; refusals are among the decisions."""
    return with_other_shifts(cascade, _form, made_by=MADE_BY, otherwise="the maximum comes first")


def _form(shift: Shift) -> Form | str:
    problem = _problem(shift)
    if problem is not None:
        return problem
    because = "what reads it and its sums is the same for every shift, and the largest exponent of two is one"
    chosen = "exponentials as pairs (mantissa, exponent), in one pass"
    return Form(cascade=_Pairs(shift).build(), chosen=chosen, because=because)


def _problem(shift: Shift) -> str | None:
    """Why a shift is not written as pairs."""
    cascade = shift.structure.cascade
    if len(shift.reduced) != 1:
        return "pairs are carried along one rank only"
    if any(len(cascade.einsums[s.index].coords) != len(shift.classes) for s in shift.sums):
        return "each lane would carry a whole row of its weighted sums"
    rank = shift.reduced[0]
    if rank.is_tile or any(i in rank.outer for i in (shift.maximum, *(s.index for s in shift.sums))):
        return "the rank is partitioned already"
    return None


class _Pairs:
    """The construction for one shift. All Einsums have the variables of the maximum's."""

    def __init__(self, shift: Shift) -> None:
        self.shift, self.structure = shift, shift.structure
        self.cascade = shift.structure.cascade
        self.names = Names(self.cascade)
        self.builder = Builder(shift, self.names, MADE_BY)
        self.top = self.cascade.einsums[shift.maximum]
        self.dtype = shift.dtype
        self.natural = shift.function == "exp"
        self.coords: dict[str, tuple[Rank, ...]] = {}
        self.outputs = tuple(c for c in self.top.coords if isinstance(c, Rank))
        origin = self.builder.origin(shift.maximum, "lanes")
        self.cut: Partition = partition(self.structure, shift.reduced, shift.maximum, LANES, self.names, origin)

    def build(self) -> Cascade:
        """The cascade in its new form."""
        data = self._tile("BU", self._clamped())
        here = self._at(data)
        exponent = self._at(self._tile("BN", op("round", self._scaled(here))))
        mantissa = self._at(self._tile("BP", self._remainder(here, exponent)))
        least = self._real(float(round(LEAST / math.log(2.0)) if self.natural else LEAST))
        running = self._state(f"RN{self.shift.target}", least, lambda old: op("max", old, exponent))
        before, after = self._generations(running)
        moved = self._at(self._step_tensor("CN", op("exp2", op("sub", before, after))))
        pair = op("mul", mantissa, op("exp2", op("sub", exponent, after)))
        states = [self._sum(each, pair, moved) for each in self.shift.sums]
        largest = self._over_lanes(f"N{self.shift.target}", self._final(running), "max")
        scale = op("exp2", op("sub", self._final(running), self.builder.place(largest, self.shift.maximum)))
        sums = [
            self._over_lanes(f"P{self.cascade.einsums[each.index].target}", op("mul", self._final(state), scale), "+")
            for each, state in zip(self.shift.sums, states, strict=True)
        ]

        def fits(at: At) -> Expr:
            found = at(largest)
            return both(op("ge", found, self._real(-LARGEST)), op("le", found, self._real(LARGEST)))

        def scaled(at: At, shifted: Expr) -> Expr:
            # n · ln 2 was rounded: the sums belong to what it was rounded to.
            high, low = _LN2[self.dtype.bits]
            rest = op("sub", op("mul", at(largest), self._real(high)), shifted)
            return op("exp", op("add", rest, op("mul", at(largest), self._real(low))))

        made = Replacement(
            lets=self.cut.lets,
            sums=tuple(sums),
            fits=fits,
            shift=lambda at: op("mul", at(largest), self._real(math.log(2.0))) if self.natural else at(largest),
            scale=scaled if self.natural else None,
        )
        return with_fallback(self.builder, made)

    # -- values ------------------------------------------------------------------------------------------------------

    def _real(self, value: float) -> Const:
        return real(value, self.dtype)

    def _scaled(self, value: Expr) -> Expr:
        return op("mul", value, self._real(1.0 / math.log(2.0))) if self.natural else value

    def _remainder(self, value: Expr, exponent: Expr) -> Expr:
        if not self.natural:
            return op("exp2", op("sub", value, exponent))
        high, low = (op("mul", exponent, self._real(part)) for part in _LN2[self.dtype.bits])
        return op("exp", op("sub", op("sub", value, high), low))

    def _clamped(self) -> Expr:
        """u, and LEAST for what is less or absent."""
        value = self._in_step(self.shift.sums[0].argument, self.shift.sums[0].index)
        nothing = self._real(-math.inf)
        for condition in self.top.point_filter:
            chosen = self._in_step(condition, self.shift.maximum)
            value = Select(condition=chosen, then=value, otherwise=nothing, dtype=self.dtype)
        return op("max", Default(value=value, default=nothing, dtype=self.dtype), self._real(LEAST))

    def _in_step(self, expr: Expr, index: int) -> Expr:
        """An expression of Einsum ``index`` at a lane of a step, in the variables of the maximum."""
        places: Mapping[str, Expr] = dict(zip((c.variables[index] for c in self.shift.classes), self.outputs, strict=True))
        return substitute(expr, ranks={**places, **self.cut.replacement(index)})

    def _sum(self, each: ShiftedSum, pair: Expr, moved: Expr) -> str:
        """The running sum of one member, a pair's mantissa for each lane."""
        value, exponential = (self._in_step(e, each.index) for e in (each.value, each.exponential))
        term = transform(value, lambda node: pair if node == exponential else None)
        if term != pair:
            term = Default(value=term, default=self._real(0.0), dtype=self.dtype)
        name = f"R{self.cascade.einsums[each.index].target}"
        return self._state(name, self._real(0.0), lambda old: op("add", op("mul", old, moved), term))

    # -- tensors -----------------------------------------------------------------------------------------------------

    @property
    def _extents(self) -> dict[str, Expr]:
        return extents_with(self.cut, {r.name: r.extent for r in self.top.ranks})

    def _made(self, target: str, coords: tuple[Expr, ...], value: Expr, *, initialiser: bool = False) -> Einsum:
        return einsum(
            target=target,
            coords=coords,
            value=value,
            extents=self._extents,
            origin=self.builder.origin(self.shift.maximum, "lanes"),
            initialiser=initialiser,
        )

    def _tile(self, wish: str, value: Expr) -> str:
        """A tensor over the rank in steps and lanes."""
        return self._tensor(wish, (*self.outputs, self.cut.step, self.cut.inner), value)

    def _step_tensor(self, wish: str, value: Expr) -> str:
        """A tensor with a value for each lane after each step."""
        return self._tensor(wish, (self.cut.step, *self.outputs, self.cut.inner), value)

    def _tensor(self, wish: str, coords: tuple[Rank, ...], value: Expr) -> str:
        name = self.names.tensor(wish)
        shape = tuple(self._extents[c.name] for c in coords)
        made = self._made(name, coords, value)
        self.builder.einsums.append(made)
        self.builder.tensors[name] = local(name, value.dtype, shape, made.origin, declared=True)
        self.coords[name] = coords
        return name

    def _at(self, name: str) -> Read:
        """A tile's element at the Einsum's own point."""
        return Read(tensor=name, indices=self.coords[name], dtype=self.builder.tensors[name].value)

    def _state(self, wish: str, start: Expr, advance: Callable[[Read], Expr]) -> str:
        """A tensor that is carried from step to step for every lane, and how a step changes it."""
        name = self.names.tensor(wish)
        point = (*self.outputs, self.cut.inner)
        extents = self._extents
        origin = self.builder.origin(self.shift.maximum, "state")
        self.builder.tensors[name] = Tensor(
            name=name,
            dtype=self.dtype,
            shape=(op("add", self.cut.steps, integer(1)), *(extents[c.name] for c in point)),
            role=Role.LOCAL,
            steps=(self.cut.steps, *(None for _ in point)),
            annotated=True,
            declared=True,
            origin=origin,
        )
        before, _ = self._generations(name)
        following = op("add", self.cut.step, integer(1))
        self.builder.einsums += (
            self._made(name, (integer(0), *point), start, initialiser=True),
            self._made(name, (following, *point), advance(before)),
        )
        return name

    def _generations(self, name: str) -> tuple[Read, Read]:
        """A state before and after the step."""
        point = (*self.outputs, self.cut.inner)
        steps = (self.cut.step, op("add", self.cut.step, integer(1)))
        before, after = (Read(tensor=name, indices=(step, *point), dtype=self.dtype) for step in steps)
        return before, after

    def _final(self, name: str) -> Read:
        return Read(tensor=name, indices=(self.cut.steps, *self.outputs, self.cut.inner), dtype=self.dtype)

    def _over_lanes(self, wish: str, value: Expr, reduction: str) -> str:
        """A reduction of what the lanes end with."""
        return self.builder.add(
            einsum(
                target=self.names.tensor(wish),
                coords=self.outputs,
                value=value,
                extents=self._extents,
                origin=self.builder.origin(self.shift.maximum, "lanes"),
                reduction=reduction,
            )
        )
