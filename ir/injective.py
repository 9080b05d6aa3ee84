"""Whether coordinates name each point once: what tells a plain target from a scatter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .expr import Expr, Op, Rank, integer, op, walk
from .index import Affine, affine, at_most, constant_value


def is_injective(coords: Iterable[Expr], extents: Mapping[str, Expr], lets: Mapping[str, Expr] | None = None) -> bool:
    """Whether different values of the rank variables in ``coords`` provably give different coordinates.

    Recognises affine forms that can be solved one after the other (``i + j, i``), mixed-radix forms
    (``M0*m1 + m0`` with m0 < M0) and the pair ``m // c, m % c``.
    """
    coords = list(coords)
    wanted = {node.name for coord in coords for node in walk(coord) if isinstance(node, Rank)}
    known: set[str] = set()
    quotients = {c.args for c in coords if isinstance(c, Op) and c.op == "floordiv"}
    for coord in coords:
        match coord:
            case Op(op="mod", args=(Rank(name=name), _) as args) if args in quotients:
                known.add(name)
    forms = [form for form in map(affine, coords) if form is not None]
    while wanted - known:
        found = {n for form in forms for n in _determined(form, known, extents, lets)} - known
        if not found:
            return False
        known |= found
    return True


def _determined(form: Affine, known: set[str], extents: Mapping[str, Expr], lets: Mapping[str, Expr] | None) -> set[str]:
    """The rank variables that the value of ``form`` determines once those of ``known`` are."""
    open_terms = [(name, factor) for name, factor in form.terms if name not in known]
    if len(open_terms) == 1:
        return {open_terms[0][0]}
    # Mixed radix: each weight is at least the previous one times its extent.
    done: set[str] = set()
    weight: Expr | None = None
    while len(done) < len(open_terms):
        for name, factor in open_terms:
            first = weight is None and constant_value(factor, lets) in (1, -1)
            if name not in done and (first or (weight is not None and at_most(weight, factor, lets))):
                done.add(name)
                weight = op("mul", integer(1) if first else factor, extents[name])
                break
        else:
            return set()
    return done
