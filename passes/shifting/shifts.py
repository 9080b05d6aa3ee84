"""Maxima that do no more than shift exponentials: G = max u, S = Σ exp(u - G) · w, read so that any other shift would do.

Over the reals Σ exp(u - (G + δ)) · w = exp(-δ) · Σ exp(u - G) · w. Where every reader gives the same for (G + δ, exp(-δ) · S)
as for (G, S), whatever δ is, the pair may hold any shift at all, not only the maximum (condition C5 of design page 3): the
maximum is there for the range of the exponentials alone. The forms of ``unified.py`` and ``pairs.py`` choose other shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import sympy

from ...ir.cascade import Cascade, Einsum, Role
from ...ir.expr import Expr, Op, Rank, Read, rank, reads_of, substitute, transform
from ...ir.operators import FUNCTIONS, REDUCTIONS
from ...ir.tile import Decision
from ...ir.types import DType
from ..analysis.ranks import RankClass
from ..analysis.structure import Structure
from ..construct import is_small
from ..online.ratio import Refusal
from ..online.symbolic import Term, is_constant_in, named_term
from ..rewriting import Rewriting


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedSum:
    """A sum of exponentials. ``value`` is its value with the pointwise Einsums between put in, ``exponential`` the factor of
    it that reads the maximum."""

    index: int
    value: Expr
    exponential: Op

    @property
    def argument(self) -> Expr:
        """u of ``exp(u - G)``."""
        difference = self.exponential.args[0]
        assert isinstance(difference, Op)
        return difference.args[0]

    def with_exponential(self, other: Expr) -> Expr:
        """The value with another expression in the place of the exponential."""
        return transform(self.value, lambda node: other if node == self.exponential else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A maximum (Einsum ``maximum``) and the sums over the same ranks that it shifts. The first is Σ exp(u - G) itself.

    ``function`` names the exponential. ``classes`` are the ranks of the maximum's dimensions, ``reduced`` those that all the
    sums reduce.
    """

    structure: Structure = field(repr=False)
    maximum: int
    function: str
    sums: tuple[ShiftedSum, ...]
    classes: tuple[RankClass, ...]
    reduced: tuple[RankClass, ...]

    @property
    def dtype(self) -> DType:
        return self.sums[0].exponential.dtype

    @property
    def target(self) -> str:
        return self.structure.cascade.einsums[self.maximum].target

    def at(self, index: int) -> tuple[Expr, ...]:
        """The variables that Einsum ``index`` has for the dimensions of the maximum."""
        return tuple(rank(c.variables[index]) for c in self.classes)


def shifts(structure: Structure) -> tuple[list[Shift], list[Refusal]]:
    """The maxima of a cascade that only shift exponentials, and why others that are subtracted do more."""
    found: list[Shift] = []
    refused: list[Refusal] = []
    for i in structure.straight:
        einsum = structure.cascade.einsums[i]
        if einsum.reduction is None or REDUCTIONS[einsum.reduction].combine != "max" or REDUCTIONS[einsum.reduction].coordinate:
            continue
        made = _Search(structure, i).run()
        if isinstance(made, Refusal):
            refused.append(made)
        elif made is not None:
            found.append(made)
    return found, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A cascade in which a shift is another one, and what is said of it."""

    cascade: Cascade
    chosen: str
    because: str


def with_other_shifts(cascade: Cascade, form: Callable[[Shift], Form | str], *, made_by: str, otherwise: str) -> Rewriting:
    """``cascade`` with one maximum after the other, of those that only shift, in the form that ``form`` gives for it, or
    with the reason why there is none.

    Each refusal is a decision for ``otherwise``. What a form adds for rows to be done as written (Einsums made by
    ``made_by:as-written``) stays as it is.
    """
    decisions: list[Decision] = []
    done: set[str] = set()

    def decide(target: str, chosen: str, because: str) -> None:
        done.add(target)
        decisions.append(Decision(made_by=made_by, subject=target, chosen=chosen, because=because))

    while True:
        found, refused = shifts(Structure(cascade))
        for refusal in refused:
            if refusal.target not in done:
                decide(refusal.target, otherwise, refusal.reason)
        shift = next((s for s in found if s.target not in done), None)
        if shift is None:
            return Rewriting(cascade=cascade, decisions=tuple(decisions))
        match form(shift):
            case str(reason):
                decide(shift.target, otherwise, reason)
            case Form(cascade=cascade, chosen=chosen, because=because):
                decide(shift.target, chosen, because)
                done |= {e.target for e in cascade.einsums if e.origin.made_by == f"{made_by}:as-written"}


class _Search:
    """What depends on one maximum, and how."""

    def __init__(self, structure: Structure, maximum: int) -> None:
        self.structure, self.cascade, self.maximum = structure, structure.cascade, maximum
        self.einsum = self.cascade.einsums[maximum]
        self.sums: list[ShiftedSum] = []
        self.dependent: set[str] = {self.einsum.target}  # the maximum, its sums, and what is computed from them point by point
        self.states: set[str] = {self.einsum.target}

    def run(self) -> Shift | Refusal | None:
        """The shift, why it is none, or None where no exponential of the maximum is summed at all."""
        readers: list[int] = []
        for i in self._in_order():
            einsum = self.cascade.einsums[i]
            if not any(r.tensor in self.dependent for r in einsum.reads()):
                continue
            summed = self._summed(i)
            if summed is not None:
                self.sums.append(summed)
                self.states.add(einsum.target)
                self.dependent.add(einsum.target)
            elif self._passes_on(i):
                self.dependent.add(einsum.target)
            else:
                readers.append(i)
        plain = [s for s in self.sums if s.value == s.exponential]
        if not plain:
            return None
        problem = self._problem(plain[0], readers)
        if problem is not None:
            return Refusal(target=self.einsum.target, condition="C5", reason=problem)
        first = plain[0]
        outputs = [self._class(self.maximum, c) for c in self.einsum.coords]
        reduced = tuple(self.structure.class_of(self.maximum, v) for v in self.einsum.reduced)
        return Shift(
            structure=self.structure,
            maximum=self.maximum,
            function=first.exponential.op,
            sums=(first, *(s for s in self.sums if s is not first)),
            classes=tuple(outputs),
            reduced=reduced,
        )

    def _in_order(self) -> Iterator[int]:
        straight = set(self.structure.straight)
        yield from self.structure.straight
        yield from (i for i in range(len(self.cascade.einsums)) if i not in straight)

    def _class(self, index: int, coord: Expr) -> RankClass:
        assert isinstance(coord, Rank)
        return self.structure.class_of(index, coord.name)

    def _classes(self, index: int) -> set[str]:
        return {self._class(index, c).name for c in self.cascade.einsums[index].coords}

    def _summed(self, i: int) -> ShiftedSum | None:
        """Einsum ``i`` as a sum of exponentials that the maximum shifts."""
        einsum = self.cascade.einsums[i]
        if einsum.reduction is None or REDUCTIONS[einsum.reduction].combine != "add" or not self.structure.is_plain(i):
            return None
        if not self.structure.is_plain(self.maximum) or not self._over_the_same(i):
            return None
        value = self.inlined(einsum.value)
        touching = [(f, e) for f, e in _factors(value, 1) if any(r.tensor in self.dependent for r in reads_of(f))]
        if (
            len(touching) != 1
            or touching[0][1] != 1
            or any(r.tensor in self.dependent for c in _filters(einsum) for r in reads_of(c))
        ):
            return None
        match touching[0][0]:
            case Op(op=name, args=(Op(op="sub", args=(u, Read(tensor=tensor, indices=indices))),)) as exponential if (
                FUNCTIONS[name].exponential and tensor == self.einsum.target
            ):
                mine = [self._named(c, self.maximum) for c in self.einsum.coords]
                here = [self._named(c, i) for c in indices]
                if mine != here or any(r.tensor in self.dependent for r in reads_of(u)):
                    return None
                if self._named(u, i) != self._named(self.einsum.value, self.maximum):
                    return None
                return ShiftedSum(index=i, value=value, exponential=exponential)
            case _:
                return None

    def _over_the_same(self, i: int) -> bool:
        einsum = self.cascade.einsums[i]
        mine = {self.structure.class_of(self.maximum, v).name for v in self.einsum.reduced}
        return mine == {self.structure.class_of(i, v).name for v in einsum.reduced} and not einsum.output_filter

    def _named(self, expr: Expr, index: int) -> Expr:
        """``expr`` with the ranks' own names for the variables of Einsum ``index``, to be compared."""
        names = {r.name: rank(self.structure.class_of(index, r.name).name) for r in self.cascade.einsums[index].ranks}
        return substitute(expr, ranks=names)

    def _passes_on(self, i: int) -> bool:
        """Whether an Einsum only stands for its value where it is read."""
        einsum, tensor = self.cascade.einsums[i], self.cascade.by_name[self.cascade.einsums[i].target]
        rounded = tensor.annotated and tensor.value != einsum.value.dtype
        return tensor.role is Role.LOCAL and self.structure.is_pointwise(i) and not _filters(einsum) and not rounded

    def inlined(self, value: Expr) -> Expr:
        """A value with the pointwise Einsums that depend on the maximum in place of the reads of what they write."""

        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and node.tensor in self.dependent and node.tensor not in self.states:
                inner = self.structure.inlined(node)
                return None if inner is None else self.inlined(inner)
            return None

        return transform(value, rule)

    def _problem(self, plain: ShiftedSum, readers: list[int]) -> str | None:
        """Why the maximum must be the maximum."""
        if is_small(plain.exponential.dtype) or is_small(self.cascade.by_name[self.einsum.target].value):
            return "the exponentials have a type smaller than f32"
        if self.einsum.output_filter:
            return "some of the maxima are absent as a whole"
        outputs = self._classes(self.maximum)
        if self._classes(plain.index) != outputs or any(not outputs <= self._classes(s.index) for s in self.sums):
            return "its sums have other dimensions than it has"
        if any(s.exponential.op != plain.exponential.op for s in self.sums):
            return "its exponentials have different bases"
        for name in sorted(self.states):
            if self.cascade.by_name[name].role is not Role.LOCAL:
                return f"`{name}` is a result itself"
            if is_small(self.cascade.by_name[name].value):
                return f"`{name}` has a type smaller than f32"
        for i in readers:
            einsum = self.cascade.einsums[i]
            if any(r.tensor in self.dependent for e in (*_filters(einsum), *einsum.coords) for r in reads_of(e)):
                return f"a condition of `{einsum.target}` depends on it"
            if not self._is_invariant(einsum, plain.exponential.op):
                return f"`{einsum.target}` changes with the shift"
        return None

    def _is_invariant(self, einsum: Einsum, function: str) -> bool:
        """Whether a reader's value is the same for all shifts, at random points."""
        value = self.inlined(einsum.value)
        moves: dict[tuple[Expr, ...], sympy.Symbol] = {}

        def symbol(read: Read) -> Term:
            plain = sympy.Symbol(f"v{len(names)}", real=True)
            held = names.setdefault(read, plain)
            if read.tensor not in self.states:
                return held
            writer = self.structure.writer(read.tensor)
            assert writer is not None
            coords = self.cascade.einsums[writer].coords
            place = {self._class(writer, c).name: index for c, index in zip(coords, read.indices, strict=True)}
            key = tuple(place[self._class(self.maximum, c).name] for c in self.einsum.coords)
            delta = moves.setdefault(key, sympy.Symbol(f"m{len(moves)}", real=True))
            if read.tensor == self.einsum.target:
                return held + delta
            return held / (sympy.exp(delta) if function == "exp" else sympy.Integer(2) ** delta)

        names: dict[Read, sympy.Symbol] = {}
        if any(r.tensor in self.dependent - self.states for r in reads_of(value)):
            return False
        term = named_term(value, symbol)
        return is_constant_in(term, list(moves.values()))


def _factors(value: Expr, exponent: int) -> Iterator[tuple[Expr, int]]:
    """The factors of a product with their exponents, +1 or -1."""
    match value:
        case Op(op="mul", args=(a, b)):
            yield from _factors(a, exponent)
            yield from _factors(b, exponent)
        case Op(op="div", args=(a, b)):
            yield from _factors(a, exponent)
            yield from _factors(b, -exponent)
        case _:
            yield value, exponent


def _filters(einsum: Einsum) -> tuple[Expr, ...]:
    return (*einsum.point_filter, *einsum.output_filter)
