"""The closure: a running result that is corrected by a few others when the value it depends on moves.

Where the ratio F(x, d')/F(x, d) depends on x, write every shift as t = x - d, so that t becomes t + δ with δ = d - d', and
expand F at d': each term must be a coefficient without x times a φ(t) without d. Each φ is another running result;
expanding these in turn must end. The state is then a vector and its correction a matrix (design page 3). This gives the
updates of Welford and of Chan, Golub and LeVeque (1979) for variances and co-moments, and those of entropies.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from ...ir.cascade import Einsum
from .ratio import Refusal, primed
from .symbolic import Term, Vocabulary

_MOST_STATES = 6
_LARGEST_EXPANSION = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A difference of data and bases that moves by ``delta``, a term over bases before and after a tile."""

    name: sympy.Symbol
    delta: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """F is corrected to ``rows[None]``, the further state ``states[i]`` to ``rows[i]``: sums of coefficients times states.

    A row maps a state (None is F itself) to its coefficient, a term over shifts, bases and constants. ``shifted`` are the
    bases that the data is shifted by.
    """

    states: tuple[Term, ...]
    rows: dict[int | None, dict[int | None, Term]]
    shifts: tuple[Shift, ...]
    before: tuple[sympy.Symbol, ...]
    after: tuple[sympy.Symbol, ...]
    shifted: tuple[sympy.Symbol, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that is to be computed."""
        coefficients = (c for row in self.rows.values() for c in row.values())
        return (*self.states, *coefficients, *(s.delta for s in self.shifts))


def close(einsum: Einsum, term: Term, vocabulary: Vocabulary) -> Closure | Refusal:
    """The closure of F = ``term`` under a sum, or why no finite basis closes it."""
    return _Closer(einsum, term, vocabulary).run()


class _Closer:
    """One attempt."""

    def __init__(self, einsum: Einsum, term: Term, vocabulary: Vocabulary) -> None:
        self.einsum, self.term, self.vocabulary = einsum, term, vocabulary
        self.bases = tuple(vocabulary.of_kind(term, "d"))
        self.move = {d: primed(d) for d in self.bases}
        self.data = set(vocabulary.of_kind(term, "x"))
        self.definition: dict[sympy.Symbol, Term] = {}
        self.delta: dict[sympy.Symbol, sympy.Symbol] = {}
        self.distance: dict[sympy.Symbol, Term] = {}

    def run(self) -> Closure | Refusal:
        lead = self._with_shifts(self.term)
        if not self.definition:
            return self._refuse("the data is not shifted by the result, so that no basis can close it")
        own = self._expand(lead)
        moved = self._expand(self._moved(lead))
        if own is None or moved is None:
            return self._refuse("no finite basis closes it")
        # The term of F itself: F' - A F has one state less than F' where the leading terms cancel.
        options = [self._eliminated(own, moved, phi) for phi in own if phi in moved]
        rest, coefficient = min(options or [(moved, sympy.Integer(0))], key=lambda option: len(option[0]))
        states: list[Term] = []
        rows: dict[int | None, dict[int | None, Term]] = {None: {None: coefficient}}
        self._add_row(rows, None, rest, states)
        done = 0
        while done < len(states):
            if len(states) > _MOST_STATES:
                return self._refuse(f"more than {_MOST_STATES} further states would be needed")
            expanded = self._expand(self._moved(states[done]))
            if expanded is None:
                return self._refuse("no finite basis closes it")
            rows[done] = {}
            self._add_row(rows, done, expanded, states)
            done += 1
        shifted = {s for t in self.definition.values() for s in t.free_symbols if s in self.bases}
        return Closure(
            states=tuple(s.xreplace(self.definition) for s in states),
            rows=rows,
            shifts=tuple(Shift(name=self.delta[t], delta=self.distance[t]) for t in self.definition),
            before=self.bases,
            after=tuple(self.move[d] for d in self.bases),
            shifted=tuple(d for d in self.bases if d in shifted),
        )

    def _with_shifts(self, term: Term) -> Term:
        """``term`` with a symbol t for every sum of pure data and pure bases."""
        if term.free_symbols.isdisjoint(self.bases) or not term.args:
            return term
        if isinstance(term, sympy.Add):
            of_base = [a for a in term.args if not a.free_symbols.isdisjoint(self.bases)]
            mixed = any(not a.free_symbols.isdisjoint(self.data) for a in of_base)
            varies = any(not a.free_symbols.isdisjoint(self.data) for a in term.args)
            if varies and not mixed:
                return self._shift(term, sympy.Add(*of_base))
        return term.func(*(self._with_shifts(a) for a in term.args))

    def _shift(self, whole: Term, base: Term) -> Term:
        for known, definition in self.definition.items():
            if definition == whole:
                return known
            if definition == -whole:
                return -known
        number = len(self.definition)
        t = sympy.Symbol(f"t{number}", real=True)
        self.definition[t] = whole
        distance = base.subs(self.move, simultaneous=True) - base
        for other, known in self.distance.items():
            if sympy.expand(known - distance) == 0:
                self.delta[t] = self.delta[other]
                break
        else:
            self.delta[t] = sympy.Symbol(f"δ{number}", real=True)
        self.distance[t] = distance
        return t

    def _moved(self, term: Term) -> Term:
        replaced = {t: t + self.delta[t] for t in self.definition}
        return term.subs({**replaced, **self.move}, simultaneous=True)

    def _expand(self, term: Term) -> dict[Term, Term] | None:
        """φ → coefficient, or None where a term is no product of the two."""
        varying = set(self.definition) | self.data
        result: dict[Term, Term] = {}
        expanded = sympy.expand(term, power_base=False, func=False, complex=False)
        parts = sympy.Add.make_args(expanded)
        if len(parts) > _LARGEST_EXPANSION:
            return None
        for part in parts:
            coefficient, phi = part.as_independent(*varying, as_Add=False)
            constants = {s for s in phi.free_symbols if s not in varying}
            if constants:
                return None
            result[phi] = result.get(phi, sympy.Integer(0)) + coefficient
        return {phi: c for phi, c in result.items() if sympy.expand(c) != 0}

    def _eliminated(self, own: dict[Term, Term], moved: dict[Term, Term], phi: Term) -> tuple[dict[Term, Term], Term]:
        factor = sympy.powsimp(moved[phi] / own[phi], combine="exp")
        rest: dict[Term, Term] = {}
        for other in {**moved, **own}:
            value = sympy.expand(moved.get(other, 0) - factor * own.get(other, 0), power_exp=True)
            if value != 0:
                rest[other] = value
        return rest, factor

    def _add_row(
        self, rows: dict[int | None, dict[int | None, Term]], row: int | None, terms: dict[Term, Term], states: list[Term]
    ) -> None:
        for phi in sorted(terms, key=lambda p: (-sympy.count_ops(p), str(p))):
            if phi not in states:
                states.append(phi)
            rows[row][states.index(phi)] = sympy.powsimp(sympy.factor_terms(terms[phi]), combine="exp")

    def _refuse(self, reason: str) -> Refusal:
        return Refusal(target=self.einsum.target, condition="C2", reason=reason)
