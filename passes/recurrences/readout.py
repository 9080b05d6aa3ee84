"""How the states of a recurrence are read, and whether a chunk of it is a product of matrices.

The chunked form of linear attention (Yang et al., arXiv 2312.06635, section 4; Sun et al., arXiv 2307.08621, section 2.3) asks
for a state that is a sum of outer products ``b[t, e, f] = k[t, e] * v[t, f]``, decays by factors that do not depend on f, and
is read through a contraction ``O[t, f] = Σ_e q[t, e] * S[t, e, f]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.cascade import Cascade, Einsum
from ...ir.expr import Const, Expr, Op, Rank, Read, op, rank, ranks_of, substitute
from ...ir.index import equal
from ..tiling import contraction
from .linear import ARITHMETIC, Linear, NotLinearError, linear
from .recurrence import Recurrence, State, shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A read of a state outside its loop: in Einsum ``einsum``, at generation ``variable + behind`` (None: the last one)."""

    einsum: int
    read: Read
    variable: str | None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A reader that contracts the state: ``Σ_e query * S[t + offset] * scale ⊕ rest``.

    Expressions are in the reader's rank variables; ``names`` gives the state's variable for each of those that index it.
    """

    einsum: int
    offset: int
    variable: str
    query: Expr | None
    scale: tuple[tuple[str, Expr], ...]
    rest: Expr | None
    names: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """A state whose chunks are products: ``input = key * value`` (None: 1), read by ``queries``.

    ``batch``, ``rows`` (e) and ``columns`` (f) are rank variables of the update, ``decay`` its coefficient (None: 1).
    """

    state: State
    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    decay: Expr | None
    key: Expr | None
    value: Expr | None
    queries: tuple[Query, ...]

    @property
    def decays_by_row(self) -> bool:
        return self.decay is not None and not set(self.rows).isdisjoint(ranks_of(self.decay))


def accesses(cascade: Cascade, found: Recurrence, state: State) -> list[Access] | str:
    """The reads of a state outside its loop, or why one of them is of no form that chunks can give."""
    lets = {let.name: let.value for let in cascade.lets}
    result: list[Access] = []
    updates = {s.update for s in found.states}
    inside = [i for i in found.members if i not in updates]
    made = {cascade.einsums[i].target for i in inside}
    seen = any(r.tensor in made for i, e in enumerate(cascade.einsums) if i not in found.members for r in e.reads())
    for i, einsum in enumerate(cascade.einsums):
        if i in updates or (i in inside and not seen):
            continue
        for read in dict.fromkeys(r for r in einsum.reads() if r.tensor == state.tensor):
            at = read.indices[state.dim]
            if equal(at, found.extent, lets):
                result.append(Access(einsum=i, read=read, variable=None))
                continue
            moved = shift(at)
            if moved is None or moved[1] not in (0, 1) or not equal(einsum.extent(moved[0]), found.extent, lets):
                return f"`{einsum.target}` reads `{state.tensor}` at another generation than the current, the next and the last"
            result.append(Access(einsum=i, read=read, variable=moved[0], offset=moved[1]))
    return result


def products(cascade: Cascade, found: Recurrence, reads: list[Access]) -> Products | str:
    """The products that a chunk of a recurrence of one state is, or why it is none."""
    ring = found.ring
    assert ring is not None
    if len(found.states) != 1 or (ring.add, ring.times) != ("add", "mul"):
        return "only one state of sums and products has chunks that are matrix products"
    (state,) = found.states
    update = cascade.einsums[state.update]
    step = found.variable
    queries: list[Query] = []
    for access in reads:
        if access.variable is None:
            continue
        query = _query(cascade, state, access)
        if isinstance(query, str):
            return query
        queries.append(query)
    if not queries:
        return "no contraction reads its generations"
    names = [c.name for d, c in enumerate(update.coords) if d != state.dim and isinstance(c, Rank)]
    rows = _rows(cascade, queries[0])
    if any(_rows(cascade, q) != rows for q in queries):
        return "its readers contract different ranks of it"
    if state.input is None:
        return "nothing is added to it"
    decay = state.coefficients.get(state.tensor)
    if state.tensor not in state.coefficients:
        return "it does not depend on its last generation"
    columns = [n for n in names if n not in rows]
    factors = contraction.factors(state.input, update.value.dtype)
    fixed = [set(ranks_of(decay))] if decay is not None else []
    fixed += [_own(q.query, q) for q in queries if q.query is not None]
    fixed += [set(ranks_of(f)) for _, f in factors if set(ranks_of(f)) & set(rows)]
    columns = [n for n in columns if not any(n in each for each in fixed)]
    split: dict[bool, list[tuple[str, Expr]]] = {True: [], False: []}
    for kind, factor in factors:
        split[not set(columns).isdisjoint(ranks_of(factor))].append((kind, factor))
    key = joined(split[False])
    for query in queries:
        mentioned = {*_own(query.query, query)} if query.query is not None else set()
        if not rows <= mentioned | ({*ranks_of(key)} if key is not None else set()):
            return "neither its input nor its readers vary along a contracted rank"
    return Products(
        state=state,
        batch=tuple(n for n in names if n not in rows and n not in columns and n != step),
        rows=tuple(n for n in names if n in rows),
        columns=tuple(columns),
        decay=decay,
        key=key,
        value=joined(split[True]),
        queries=tuple(queries),
    )


def _query(cascade: Cascade, state: State, access: Access) -> Query | str:
    einsum = cascade.einsums[access.einsum]
    name = f"`{einsum.target}`"
    if einsum.reduction != "+" or einsum.scatter or einsum.point_filter or einsum.output_filter:
        return f"{name} reads it otherwise than by a sum over all points"
    others = [i for d, i in enumerate(access.read.indices) if d != state.dim]
    variables = [i.name for i in others if isinstance(i, Rank)]
    if len(variables) != len(others) or len(set(variables)) != len(variables) or access.variable in variables:
        return f"{name} does not read it element by element"
    if not set(einsum.reduced) <= set(variables) or not all(isinstance(c, Rank) for c in einsum.coords):
        return f"{name} reduces more than the ranks of the state"
    if {*einsum.output_ranks} != ({*variables} - {*einsum.reduced}) | {access.variable}:
        return f"{name} has further ranks"
    update = cascade.einsums[state.update]
    own = [c.name for d, c in enumerate(update.coords) if d != state.dim and isinstance(c, Rank)]
    try:
        form = linear(einsum.value, {state.tensor}, ARITHMETIC)
    except NotLinearError as problem:
        return f"{name} is not linear in it: {problem}"
    if [*form.coefficients] != [access.read]:
        return f"{name} reads several of its points"
    if form.rest is not None and not {*einsum.reduced} <= {*ranks_of(form.rest)}:
        return f"{name} adds terms that do not vary along {', '.join(einsum.reduced)}"
    return _weighed(einsum, access, form, dict(zip(variables, own, strict=True)))


def _weighed(einsum: Einsum, access: Access, form: Linear, names: dict[str, str]) -> Query:
    factor = form.coefficients[access.read]
    inside: list[tuple[str, Expr]] = []
    scale: list[tuple[str, Expr]] = []
    for kind, each in contraction.factors(factor, einsum.accumulator) if factor is not None else ():
        if isinstance(each, Const) and each.value == 1:
            continue
        (inside if set(ranks_of(each)) & set(einsum.reduced) else scale).append((kind, each))
    assert access.variable is not None
    return Query(
        einsum=access.einsum,
        offset=access.offset,
        variable=access.variable,
        query=joined(inside),
        scale=tuple(scale),
        rest=form.rest,
        names=names,
    )


def _rows(cascade: Cascade, query: Query) -> set[str]:
    return {query.names[r] for r in cascade.einsums[query.einsum].reduced}


def _own(expr: Expr, query: Query) -> set[str]:
    """The state's rank variables that an expression of a reader mentions."""
    return {query.names[r] for r in ranks_of(expr) if r in query.names}


def joined(parts: list[tuple[str, Expr]]) -> Expr | None:
    """The product of factors ("mul" | "div", factor); None for the empty one."""
    result: Expr | None = None
    for kind, factor in sorted(parts, key=lambda part: part[0] == "div"):
        if result is None:
            result = factor if kind == "mul" else op("div", ARITHMETIC.one(factor.dtype), factor)
        else:
            result = Op(op=kind, args=(result, factor), dtype=result.dtype)
    return result


def renamed(expr: Expr, query: Query, step: str) -> Expr:
    """An expression of a reader in the rank variables of the update."""
    ranks = {**query.names, query.variable: step}
    return substitute(expr, ranks={a: rank(b) for a, b in ranks.items()})
