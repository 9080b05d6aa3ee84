"""The chunks of any scan: local scans from the identity, a recurrence over the chunks, and corrected readers.

With T steps in chunks of C and ``t = t1*C + t0``:

    L[t1, t0+1] = a[t] ⊗ L[t1, t0] ⊕ b[t]      P[t1, t0+1] = a[t] ⊗ P[t1, t0]
    S[t1+1] = P[t1, C] ⊗ S[t1] ⊕ L[t1, C]      S at t1*C + t0 is P[t1, t0] ⊗ S[t1] ⊕ L[t1, t0]

(Blelloch, CMU-CS-90-190, section 1.4.) Several states that mix have matrices for a and P, and ⊗ is their product. Products of a
chunk are taken step by step, so that a strong decay underflows to the 0 that it means. Beyond the last step L and P stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from ...ir.expr import Const, Expr, Rank, Read, Select, integer, op, rank, ranks_of, substitute, transform
from .chunks import Chunks, Cut
from .linear import Semiring
from .readout import Access
from .recurrence import Recurrence, State

STEPS = 256
"""Steps of a chunk that is scanned: enough that the recurrence over the chunks is short beside them."""


def add_scan(chunks: Chunks, found: Recurrence, reads: list[list[Access]]) -> int:
    """Adds the chunked form of any scan to ``chunks``; ``reads`` holds those of each state. Gives the steps of a chunk."""
    cut = chunks.cut(found, STEPS)
    form = _ScanForm(chunks, found, cut)
    form.build()
    for state, accessed in zip(found.states, reads, strict=True):
        for access in accessed:
            if access.variable is not None:
                form.correct(state, access)
    return cut.steps


class _ScanForm:
    def __init__(self, chunks: Chunks, found: Recurrence, cut: Cut) -> None:
        assert found.ring is not None
        self.chunks = chunks
        self.found = found
        self.cut = cut
        self.ring: Semiring = found.ring
        self.place = found.states[0]
        self.update = chunks.cascade.einsums[self.place.update]
        self.dtype = chunks.cascade.by_name[self.place.tensor].value
        self.extents = chunks.extents(cut, self.update)
        self.ranks = [c for d, c in enumerate(self.update.coords) if d != self.place.dim]
        self.local: dict[str, Read] = {}
        self.starts: dict[str, Read] = {}
        self.past: dict[tuple[str, str], Read | None] = {}

    def build(self) -> None:
        """Everything but the readers."""
        self.chunks.place = max(state.update for state in self.found.states)
        self._products()
        self._locals()
        for state in self.found.states:
            self.starts[state.tensor] = self.chunks.between(self.found, self.cut, state, self._own_extents(state), "carry")
        for state in self.found.states:
            value = self._seen(state, {self.cut.step.name: self.cut.size, **self._from_first(state)})
            self.chunks.advance(self.starts[state.tensor], state.dim, value, self._own_extents(state))
        self.chunks.drop(*(i for state in self.found.states for i in (state.start, state.update)))

    def _own_extents(self, state: State) -> dict[str, Expr]:
        return self.chunks.extents(self.cut, self.chunks.cascade.einsums[state.update])

    # -- rank variables ----------------------------------------------------------------------------------------------

    def _pairs(self, state: State) -> list[tuple[str, str]]:
        """The rank variables of a state's update beside those of the first state's."""
        own = self.chunks.cascade.einsums[state.update]
        steps = [ranks_of(e.coords[self.place.dim])[0] for e in (own, self.update)]
        both = [
            (a.name, b.name)
            for a, b in zip(own.coords, self.update.coords, strict=True)
            if isinstance(a, Rank) and isinstance(b, Rank)
        ]
        return [(steps[0], steps[1]), *both]

    def _to_first(self, expr: Expr, state: State, step: Rank) -> Expr:
        """An expression of a state's update in the first one's rank variables, at a step of a chunk."""
        moved = substitute(expr, ranks={a: rank(b) for a, b in self._pairs(state)})
        variable = ranks_of(self.update.coords[self.place.dim])[0]
        return substitute(moved, ranks={variable: self.cut.at(step)})

    def _from_first(self, state: State) -> dict[str, Expr]:
        return {b: rank(a) for a, b in self._pairs(state)}

    # -- local scans -------------------------------------------------------------------------------------------------

    def _iterative(self, wish: str, ranks: Sequence[Expr], start: Expr, rule: str) -> Read:
        steps = (self.cut.chunk, self.cut.step)
        coords = (*steps, *ranks) if self.steps_first else (*ranks, *steps)
        return self.chunks.iterative(wish, coords, self._dim(len(ranks)), start, self.extents, rule, self.update)

    @property
    def steps_first(self) -> bool:
        """Whether neighbouring channels are neighbours in memory, as they are in the state: neighbouring threads have them."""
        return self.chunks.on_gpu and self.place.dim == 0

    def _dim(self, others: int) -> int:
        """The dimension that counts the steps of a chunk, of a tensor with so many others beside those of the cut."""
        return 1 if self.steps_first else others + 1

    def _step(self, state: Read, value: Expr) -> None:
        """One step of a local scan; those beyond the last one change nothing."""
        if not self.cut.exact:
            value = Select(condition=self.cut.bound(self.cut.step), then=value, otherwise=state, dtype=state.dtype)
        self.chunks.advance(state, self._dim(len(state.indices) - 2), value, self.extents)

    def _times(self, factor: Expr | None, value: Expr) -> Expr:
        return value if factor is None else op(self.ring.times, factor, value)

    def _carried(self, past: Expr | None, start: Expr) -> Expr:
        """``past ⊗ start``. Factors above 1 may overflow together where each step finds a 0 and leaves it one."""
        product = self._times(past, start)
        if past is None or self.ring.times != "mul" or not self.dtype.is_float:
            return product
        one, zero = (Const(value=n, dtype=start.dtype) for n in (1.0, 0.0))
        bounded = op("mul", op("min", op("abs", past), one), start)  # what is no number stays so
        return Select(condition=op("eq", start, zero), then=bounded, otherwise=product, dtype=product.dtype)

    def _sum(self, terms: list[Expr]) -> Expr:
        return reduce(lambda a, b: op(self.ring.add, a, b), terms)

    def _coefficient(self, state: State, name: str) -> Expr | None:
        factor = state.coefficients[name]
        return None if factor is None else self._to_first(factor, state, self.cut.step)

    def _products(self) -> None:
        """P, one tensor for each pair of states that a step connects, directly or through others."""
        states = {s.tensor: s for s in self.found.states}
        if len(states) == 1 and self.place.coefficients.get(self.place.tensor, self.ring.one(self.dtype)) is None:
            self.past[self.place.tensor, self.place.tensor] = None
            return
        factors = [self._coefficient(s, n) for s in states.values() for n in s.coefficients]
        used = {name for f in factors if f is not None for name in ranks_of(f)}
        ranks = [r for r in self.ranks if isinstance(r, Rank) and r.name in used]
        for row in states:
            for column in states:
                start = self.ring.one(self.dtype) if row == column else self.ring.zero(self.dtype)
                self.past[row, column] = self._iterative("P", ranks, start, "past")
        for row, state in states.items():
            for column in states:
                terms = []
                for name in state.coefficients:
                    before = self.past[name, column]
                    assert before is not None
                    terms.append(self._times(self._coefficient(state, name), before))
                own = self.past[row, column]
                assert own is not None
                self._step(own, self._sum(terms) if terms else self.ring.zero(self.dtype))

    def _locals(self) -> None:
        """L, from the identity of ⊕ at the start of every chunk."""
        for state in self.found.states:
            zero = self.ring.zero(self.dtype)
            self.local[state.tensor] = self._iterative(f"L{state.tensor}", self.ranks, zero, "local")
        for state in self.found.states:
            terms = [self._times(self._coefficient(state, n), self.local[n]) for n in state.coefficients]
            if state.input is not None:
                terms.append(self._to_first(state.input, state, self.cut.step))
            self._step(self.local[state.tensor], self._sum(terms))

    # -- what is seen ------------------------------------------------------------------------------------------------

    def _seen(self, state: State, places: dict[str, Expr]) -> Expr:
        """The state at a step of a chunk; ``places`` replaces the first state's rank variables and those of the cut."""
        terms: list[Expr] = []
        for (row, column), past in self.past.items():
            if row == state.tensor:
                source = next(s for s in self.found.states if s.tensor == column)
                start = substitute(self.starts[column], ranks={a: rank(b) for a, b in self._pairs(source)})
                terms.append(self._carried(past, start))
        terms.append(self.local[state.tensor])
        return substitute(self._sum(terms), ranks=places)

    def correct(self, state: State, access: Access) -> None:
        """Lets a reader see the state as the chunks give it."""
        assert access.variable is not None
        u = rank(access.variable)
        step: Expr = op("mod", u, self.cut.size)
        places = {
            self.cut.chunk.name: op("floordiv", u, self.cut.size),
            self.cut.step.name: op("add", step, integer(1)) if access.offset else step,
        }
        others = [i for d, i in enumerate(access.read.indices) if d != state.dim]
        names = [c.name for c in self.ranks if isinstance(c, Rank)]
        seen = self._seen(state, {**places, **dict(zip(names, others, strict=True))})

        def rule(node: Expr) -> Expr | None:
            return seen if node == access.read else None

        reader = self.chunks.replaced.get(access.einsum) or self.chunks.cascade.einsums[access.einsum]
        self.chunks.replaced[access.einsum] = replace(
            reader,
            value=transform(reader.value, rule),
            point_filter=tuple(transform(c, rule) for c in reader.point_filter),
            output_filter=tuple(transform(c, rule) for c in reader.output_filter),
        )
