"""Which form of a cascade is compiled: as written, with its reductions in one pass, or both behind a test on the sizes.

The one-pass form recomputes a little for every tile and reads its input once. It pays where what the passes share is not an
input but is computed, and larger than the inputs (the scores of attention), and where a row does not stay in a
core's cache between its passes (the softmax of a long row). A short row is cheaper as written: its passes all hit the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.cascade import Cascade
from ..ir.expr import Const, Expr, integer, op
from ..ir.index import simplify
from ..ir.target import Target
from ..ir.tile import Compute, Decision, Loop, Method, Node, Scope, TileProgram, When, walk
from .assemble import assemble
from .derive import Derivation, derive

ROW_IN_CACHE = 1 << 16
"""Elements of a row that a core keeps between passes: a quarter of a megabyte of f32, an eighth of today's L2 caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The chosen tile program, and the derivation that was weighed."""

    program: TileProgram
    derivation: Derivation


def select(cascade: Cascade, target: Target, *, online: bool = True) -> Form:
    """The form that is expected to run fastest on ``target``; ``online=False`` keeps the passes as written."""
    derivation = derive(cascade)
    fewer = [r for r, passes in derivation.passes.items() if passes.after < passes.before]
    if not online or not fewer:
        return Form(program=assemble(cascade, target), derivation=derivation)
    derived = assemble(derivation.cascade, target, prefix="online_")
    loops = [n for n in walk(derived.body) if isinstance(n, Loop) and not n.parallel]
    ranks = ", ".join(fewer)
    if not loops:
        # Deferral alone saved the pass: no work was added.
        return Form(program=_noting(derived, ranks, "as derived", "a pass less and no work more"), derivation=derivation)
    products = [n for n in walk(derived.body) if isinstance(n, Compute) and n.method is Method.CONTRACTION]
    if any(_makes_the_tile(loop) for loop in loops):
        because = "what the passes share is computed, and larger than the inputs: it never leaves the cache"
        return Form(program=_noting(derived, ranks, "one pass", because), derivation=derivation)
    plain = assemble(cascade, target)
    if products:
        because = "the passes share an input, and the matrix product is faster over its whole depth"
        return Form(program=_noting(plain, ranks, "as written", because), derivation=derivation)
    return Form(program=_by_size(plain, derived, cascade, fewer), derivation=derivation)


def _makes_the_tile(loop: Loop) -> bool:
    """Whether a loop over tiles computes its tile by a matrix product and reduces it by another."""
    computes = [n for n in walk(loop.body) if isinstance(n, Compute)]
    made = {c.target for c in computes if c.method is Method.CONTRACTION and c.product and c.product.inner in c.reduced}
    return sum(1 for c in computes if c.method is Method.CONTRACTION and c.target in made) >= 2


def _by_size(plain: TileProgram, derived: TileProgram, cascade: Cascade, fewer: list[str]) -> TileProgram:
    """Both forms behind a test of the row's length, or the one that known lengths call for."""
    length = _row(cascade, fewer)
    limit = integer(ROW_IN_CACHE)
    ranks = ", ".join(fewer)
    if isinstance(length, Const):
        if int(length.value) <= ROW_IN_CACHE:
            return _noting(plain, ranks, "as written", f"a row of {length.value} stays in the cache between its passes")
        return _noting(derived, ranks, "one pass", f"a row of {length.value} does not stay in the cache between passes")
    workspaces = [b for p in (plain, derived) for b in p.buffers if b.scope is Scope.WORKSPACE]
    if workspaces:
        return _noting(plain, ranks, "as written", "the forms need different workspaces, and the row's length is not known")
    short = op("le", length, limit)
    body: tuple[Node, ...] = (When(condition=short, body=plain.body), When(condition=op("not", short), body=derived.body))
    both = replace(
        derived,
        body=body,
        derived=(*plain.derived, *derived.derived),
        decisions=(*plain.decisions, *derived.decisions),
    )
    because = f"rows of up to {ROW_IN_CACHE} elements stay in the cache between passes; longer ones are read once"
    return _noting(both, ranks, "both forms, chosen at the call", because)


def _row(cascade: Cascade, fewer: list[str]) -> Expr:
    """The elements of one row: the product of the extents of the ranks whose passes fell."""
    found: dict[str, Expr] = {}
    for einsum in cascade.einsums:
        for r in einsum.ranks:
            if r.name in fewer:
                found.setdefault(r.name, r.extent)
    total: Expr = integer(1)
    for extent in found.values():
        total = op("mul", total, extent)
    return simplify(total)


def _noting(program: TileProgram, ranks: str, chosen: str, because: str) -> TileProgram:
    decision = Decision(made_by="select", subject=f"the passes over {ranks}", chosen=chosen, because=because)
    return replace(program, decisions=(decision, *program.decisions))
