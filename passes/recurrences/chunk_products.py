"""The chunks of a linear recurrence as matrix products.

With T steps in chunks of C, ``t = t1*C + i``, and within a chunk W[i, j] = Π a[l] over j < l <= i, P[i] = Π a[l] over l <= i:

    A[t1, i, j]   = (Σ_e q[i, e] * k[j, e]) * W[i, j]    where j <= i     (W inside the sum where the decay has rows e)
    O[t1, i, f]   = Σ_j A[i, j] * v[j, f]  +  P[i] * Σ_e q[i, e] * S[t1, e, f]
    S[t1+1, e, f] = P[C-1] * S[t1, e, f]  +  Σ_j W[C-1, j] * k[j, e] * v[j, f]

(Yang et al., arXiv 2312.06635, equations 3 to 5; Dao and Gu, arXiv 2405.21060, section 6.) A reader of the generation before
the update has j < i, W[i-1, j] and P[i-1] instead.

Ratios of decays are products of the decays between two steps, never quotients of cumulative products nor differences of their
logarithms: strong decay underflows to the 0 that it means, and a decay may be 0 or negative. Steps beyond T are absent, and so
leave every product and sum as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...ir.cascade import Einsum, Origin, Role
from ...ir.expr import Const, Expr, Op, Rank, Read, Select, integer, op, rank, ranks_of, substitute
from ...ir.types import DType
from ..construct import einsum, local, result_type, typed
from .chunks import Chunks, Cut, coordinates, with_rank
from .readout import Products, Query, renamed
from .recurrence import MADE_BY, Recurrence

STEPS = 64
"""Steps of a chunk whose decay is one number: as deep as the products of a head."""

TOLERATED = 1e-2
"""Error, in the Frobenius norm, that operands rounded to bf16 stay well below: each is off by 2⁻⁹ at most."""

STEPS_BY_ROW = 16
"""Steps of a chunk where every row of the state has its own decay: its products of decays grow with the square."""


def add_products(chunks: Chunks, found: Recurrence, form: Products) -> int:
    """Adds the chunked form of a state of outer products to ``chunks``; gives the steps of a chunk."""
    cut = chunks.cut(found, STEPS_BY_ROW if form.decays_by_row else STEPS)
    _ProductForm(chunks, found, form, cut).build()
    return cut.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What the steps of a chunk give and see: key and value at step i, W[i, j] and P[i], and the state before the chunk."""

    key: Read
    value: Read | None
    weights: _Weights | None
    before: Read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """Products of decays: those between a step and the generation after another one, those from the start of the chunk on."""

    between: Callable[[Expr, Rank], Expr]  # (i, j): Π a[l] over j < l < i
    before: Callable[[Expr], Expr]  # i: Π a[l] over l < i


class _ProductForm:
    def __init__(self, chunks: Chunks, found: Recurrence, form: Products, cut: Cut) -> None:
        self.chunks = chunks
        self.found = found
        self.form = form
        self.cut = cut
        self.update = chunks.cascade.einsums[form.state.update]
        self.dtype = chunks.cascade.by_name[form.state.tensor].value
        self.one = Const(value=1.0, dtype=self.dtype)
        self.extents = chunks.extents(cut, self.update)
        self.narrowed = self._narrowed()

    def build(self) -> None:
        parts = self._state()
        for query in self.form.queries:
            self.chunks.place = query.einsum
            self._answer(query, parts)
        self.chunks.drop(self.form.state.start, self.form.state.update)

    def _state(self) -> _Parts:
        """The state at the starts of the chunks."""
        form, cut, chunks = self.form, self.cut, self.chunks
        i, j, s = cut.step, cut.other, cut.chunk
        chunks.place = form.state.update
        key = self._piece("K", form.key or self.one)
        value = None if form.value is None else self._piece("V", form.value)
        weights = None if form.decay is None else self._weights(form.decay)
        given: Expr = with_rank(key, i, j)
        if weights is not None:
            product = _times(given, weights.between(cut.size, j))
            # A thread block computes an operand of a product where it stages it.
            names = coordinates(form.batch, s, j, then=form.rows)
            given = self._operand(product) if chunks.on_gpu else self._add("D", names, product, "keys")
        added = given if value is None else op("mul", given, with_rank(value, i, j))
        total = self._add("U", coordinates(form.batch, s, then=(*form.rows, *form.columns)), added, "update")
        before = chunks.between(self.found, cut, form.state, self.extents, "state")
        faded: Expr = before if weights is None else op("mul", weights.before(cut.size), before)
        chunks.advance(before, form.state.dim, op("add", faded, total), self.extents)
        return _Parts(key=key, value=value, weights=weights, before=before)

    def _piece(self, wish: str, expr: Expr, source: Einsum | None = None) -> Read:
        ranks = dict.fromkeys(r for r in ranks_of(expr) if r != self.found.variable)
        return self.chunks.piece(
            wish,
            expr,
            self.found,
            self.cut,
            self.extents,
            coordinates([r for r in ranks if r in self.form.batch]),
            coordinates([r for r in ranks if r not in self.form.batch]),
            self.update if source is None else source,
        )

    def _add(
        self,
        wish: str,
        coords: tuple[Expr, ...],
        value: Expr,
        rule: str,
        *,
        reduction: str | None = None,
        where: tuple[Expr, ...] = (),
    ) -> Read:
        return self.chunks.add(wish, coords, value, self.extents, rule, reduction=reduction, where=where, source=self.update)

    def _weights(self, decay: Expr) -> _Weights:
        cut = self.cut
        rows = tuple(n for n in self.form.rows if n in ranks_of(decay))
        batch = [n for n in self.form.batch if n in ranks_of(decay)]
        where = () if cut.exact else (cut.bound(cut.step),)
        value = self.chunks.in_chunk(decay, self.found, cut, cut.step)
        coords = coordinates(batch, cut.chunk, cut.step, then=rows)
        step = self._add("A", coords, value, "decay", where=where)
        if self.chunks.on_gpu:
            return self._running(step, batch, rows)
        here = with_rank(step, cut.step, cut.between)
        until = op("le", cut.between, cut.step)
        pairs = coordinates(batch, cut.chunk, cut.step, cut.other, then=rows)
        weight = self._add("W", pairs, here, "weights", reduction="*", where=(op("lt", cut.other, cut.between), until))
        past = self._add("P", coords, here, "past", reduction="*", where=(until,))

        def so_far(i: Expr) -> Expr:
            earlier = with_rank(past, cut.step, _less(i))
            if i != cut.step:
                return earlier
            first = op("eq", i, integer(0))
            return Select(condition=first, then=Const(value=1.0, dtype=past.dtype), otherwise=earlier, dtype=past.dtype)

        return _Weights(
            between=lambda i, j: with_rank(with_rank(weight, cut.other, j), cut.step, _less(i)),
            before=so_far,
        )

    def _running(self, decay: Read, batch: list[str], rows: tuple[str, ...]) -> _Weights:
        """The products one step after the other, side by side for all steps that they begin at: each takes one multiplication,
        and a thread goes through those of a chunk by itself."""
        cut, chunks = self.cut, self.chunks
        first = rank(chunks.names.rank(cut.other.name))
        extents = {**self.extents, first.name: integer(cut.steps + 1)}
        coords = coordinates(batch, cut.chunk, cut.step, first, then=rows)
        dim = len(batch) + 1
        held = chunks.iterative("W", coords, dim, typed(self.one, chunks.wide(decay.dtype)), extents, "weights", self.update)
        begun = op("le", first, cut.step)
        if not cut.exact:
            begun = op("and", begun, cut.bound(cut.step))
        value = Select(condition=begun, then=_times(decay, held), otherwise=held, dtype=held.dtype)
        chunks.advance(held, dim, value, extents)

        def at(generation: Expr, start: Expr) -> Expr:
            return substitute(held, ranks={cut.step.name: generation, first.name: start})

        return _Weights(between=lambda i, j: at(i, op("add", j, integer(1))), before=lambda i: at(i, integer(0)))

    def _answer(self, query: Query, parts: _Parts) -> None:
        """What a reader sees: the steps of its chunk up to its own, and the state before the chunk."""
        form, cut, source = self.form, self.cut, self.chunks.cascade.einsums[query.einsum]
        i, j, s = cut.step, cut.other, cut.chunk
        asked = self.one if query.query is None else renamed(query.query, query, self.found.variable)
        q = self._piece("Q", asked, source)
        scores = self._scores(query, q, parts)
        coords = coordinates(form.batch, s, i, then=form.columns)
        inner = scores if parts.value is None else op("mul", scores, with_rank(parts.value, i, j))
        within = self._add("I", coords, inner, "within", where=self._steps(i))
        past = None if parts.weights is None else parts.weights.before(op("add", i, integer(1)) if query.offset else i)
        if past is not None and form.decays_by_row:
            q = self._add("QP", coordinates(form.batch, s, i, then=form.rows), self._operand(_times(q, past)), "queries")
        outer: Expr = self._add("B", coords, op("mul", q, self._operand(parts.before)), "before", where=self._steps(i))
        if past is not None and not form.decays_by_row:
            outer = op("mul", past, outer)
        self._read_back(query, self._add("O", coords, op("add", within, outer), "answer"), source)

    def _scores(self, query: Query, q: Read, parts: _Parts) -> Read:
        """What step j gives to the reader at step i, for every j that it sees."""
        i, j = self.cut.step, self.cut.other
        seen = (op("le", j, i) if query.offset else op("lt", j, i),)
        coords = coordinates(self.form.batch, self.cut.chunk, i, j)
        pairs: Expr = op("mul", q, with_rank(parts.key, i, j))
        weight = None
        if parts.weights is not None:
            weight = parts.weights.between(op("add", i, integer(1)) if query.offset else i, j)
        if weight is not None and self.form.decays_by_row:
            pairs, weight = _times(pairs, weight), None
        if self.chunks.on_gpu:
            # A thread block multiplies whole tiles: what a reader does not see is 0 in them.
            whole = self._add("QK", coords, pairs, "scores", where=self._steps(i, j))
            weighted = self._operand(whole if weight is None else _times(whole, weight))
            return self._add("QW", coords, weighted, "weighted", where=seen)
        scores = self._add("QK", coords, pairs, "scores", where=seen)
        return scores if weight is None else self._add("QW", coords, _times(scores, weight), "weighted")

    def _narrowed(self) -> DType | None:
        """The type of the values, if operands of products may be rounded to it: tensor cores multiply numbers of one type.

        It must hold what f32 holds (f16 overflows at scores of 65520), and the rounding be permitted: the state is of that type
        anyway, or all results are as short, or the kernel tolerates it.
        """
        value = self.form.value
        if value is None or not self.chunks.on_gpu or value.dtype.name != "bf16":
            return None
        cascade = self.chunks.cascade
        short = all(t.value.is_float and t.value.bits <= value.dtype.bits for t in cascade.tensors if t.role is Role.RESULT)
        allowed = self.dtype == value.dtype or short or (cascade.tolerance or 0.0) >= TOLERATED
        return value.dtype if allowed else None

    def _operand(self, expr: Expr) -> Expr:
        """An operand of a product, rounded where it may be."""
        narrow = self.narrowed is not None and self.narrowed.bits < expr.dtype.bits
        return typed(expr, self.narrowed) if self.narrowed is not None and narrow else expr

    def _steps(self, *steps: Rank) -> tuple[Expr, ...]:
        """That these are steps of the recurrence: a thread block then has no points beyond the last one."""
        return () if self.cut.exact or not self.chunks.on_gpu else tuple(map(self.cut.bound, steps))

    def _read_back(self, query: Query, answer: Read, source: Einsum) -> None:
        """The reader itself, from the answers of the chunks."""
        u = rank(query.variable)
        back: dict[str, Expr] = {own: rank(name) for name, own in query.names.items()}
        back |= {self.cut.chunk.name: op("floordiv", u, self.cut.size), self.cut.step.name: op("mod", u, self.cut.size)}
        value: Expr = substitute(answer, ranks=back)
        for kind, factor in query.scale:
            value = Op(op=kind, args=(value, typed(factor, value.dtype)), dtype=value.dtype)
        extents = {r.name: r.extent for r in source.ranks}
        if query.rest is not None:
            value = op("add", value, typed(self._rest(query.rest, source, extents), value.dtype))
        self.chunks.replaced[query.einsum] = einsum(
            target=source.target, coords=source.coords, value=value, extents=extents, origin=source.origin
        )

    def _rest(self, value: Expr, source: Einsum, extents: Mapping[str, Expr]) -> Read:
        """The part of a reader's sum that does not read the state."""
        origin = Origin(span=source.origin.span, made_by=f"{MADE_BY}:rest")
        name = self.chunks.names.tensor("R")
        rest = einsum(target=name, coords=source.coords, value=value, extents=extents, origin=origin, reduction="+")
        dtype = result_type(rest.reduction, rest.value.dtype)
        shape = tuple(extents[c.name] for c in source.coords if isinstance(c, Rank))
        self.chunks.tensors[name] = local(name, dtype, shape, origin, declared=True)
        self.chunks.made.setdefault(self.chunks.place, []).append(rest)
        return Read(tensor=name, indices=source.coords, dtype=dtype)


def _times(a: Expr, b: Expr) -> Expr:
    """Their product, in the wider type of the two."""
    dtype = a.dtype if a.dtype.bits >= b.dtype.bits else b.dtype
    return op("mul", typed(a, dtype), typed(b, dtype))


def _less(step: Expr) -> Expr:
    """``step - 1``."""
    match step:
        case Op(op="add", args=(before, Const(value=1))):
            return before
        case _:
            return op("sub", step, integer(1))
