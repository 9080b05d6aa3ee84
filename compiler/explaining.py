"""What `kernel.explain()` and `einfall explain` show of a kernel, from what the passes made of it. Needs no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..ir.expr import Expr, integer, op
from ..ir.index import constant_value, expand_lets, simplify
from ..ir.printer import expr_to_source
from ..ir.tile import Compute, Loop, Node, TileProgram, When, walk
from ..runtime.explanation import Choice, Explanation, Group, Live, Passes

if TYPE_CHECKING:
    from ..ir.cascade import Cascade
    from ..ir.tile import Decision
    from ..passes.pipeline import Lowered


def explain(cascade: Cascade, text: str, form: Lowered, *, online: bool = True) -> Explanation:
    """The explanation of a cascade that the passes lowered to ``form``; ``text`` is the cascade as a program.

    ``online`` tells whether forms with fewer passes were allowed: otherwise nothing is said about them.
    """
    from .accounting import flops, packed_bytes, tile_bytes, traffic, workspace

    program, derivation, prepared = form.program, form.derivation, form.prepared
    is_derived = program.cascade is not prepared.cascade
    fell = any(each.after < each.before for each in derivation.passes.values())
    derived = [_choice(d, taken=is_derived or not fell) for d in derivation.decisions] if online else []
    before = tuple(_live(cascade))
    lets = {let.name: let.value for let in cascade.lets}
    return Explanation(
        kernel=cascade.name,
        einsums=_einsums(text),
        groups=tuple(_groups(program)),
        decisions=(*map(_choice, prepared.decisions), *derived, *map(_choice, program.decisions)),
        flops=_known(flops(cascade), lets),
        traffic=_known(traffic(cascade), lets),
        workspace=workspace(program),
        tiles=tile_bytes(program),
        packed=packed_bytes(program),
        passes=_passes(cascade, form, online=online),
        live_before=before,
        live_after=before if program.cascade is cascade else tuple(_live(program.cascade)),
    )


def _passes(cascade: Cascade, form: Lowered, *, online: bool) -> dict[str, Passes]:
    """Passes along the ranks of the cascade as written; 0 after the passes where nothing runs over a rank any more."""
    from ..passes.analysis.passcount import count

    known = form.derivation.passes
    before = {n: p.before for n, p in known.items()} if form.prepared.cascade is cascade else count(cascade)
    after = {name: each.after if online else each.before for name, each in known.items()}
    return {name: Passes(before=n, after=after.get(name, 0)) for name, n in before.items()}


def _choice(decision: Decision, *, taken: bool = True) -> Choice:
    return Choice(
        made_by=decision.made_by,
        subject=decision.subject,
        chosen=decision.chosen,
        because=decision.because,
        taken=taken,
    )


def _live(cascade: Cascade) -> Iterator[Live]:
    from ..passes.analysis.passcount import analyse

    lets = {let.name: let.value for let in cascade.lets}
    for each in analyse(cascade).ranks:
        for live in each.live:
            yield Live(
                rank=each.rank.name,
                tensor=live.tensor,
                levels=live.levels,
                elements=simplify(expand_lets(live.elements, lets)),
                in_tile=each.rank.is_tile,
            )


def _groups(program: TileProgram) -> Iterator[Group]:
    """One group for every outermost loop or Einsum, with the conditions around it."""
    for node, condition in _outermost(program.body, None):
        computes = [n for n in walk((node,)) if isinstance(n, Compute)]
        held = {b.name for n in walk((node,)) if isinstance(n, Loop) for b in n.buffers}
        # Names with a dot are the compiler's own: masks, next generations, wide sums.
        tensors = tuple(dict.fromkeys(c.target for c in computes if "." not in c.target))
        if tensors:
            yield Group(
                tensors=tensors,
                in_tiles=tuple(t for t in tensors if t in held),
                over=_parallel(node),
                condition=None if condition is None else expr_to_source(condition),
            )


def _outermost(nodes: tuple[Node, ...], condition: Expr | None) -> Iterator[tuple[Node, Expr | None]]:
    for node in nodes:
        if isinstance(node, When):
            inside = node.condition if condition is None else op("and", condition, node.condition)
            yield from _outermost(node.body, inside)
        else:
            yield node, condition


def _parallel(node: Node) -> tuple[str, ...]:
    """The rank variables that are spread over the threads."""
    match node:
        case Loop(parallel=True):
            return tuple(name.partition(".")[0] for name in (node.variable, *(r.name for r in node.inner)))
        case Loop(body=body):
            return tuple(dict.fromkeys(v for inner in body for v in _parallel(inner)))
        case Compute(parallel=parallel):
            return parallel
        case _:
            return ()


def _known(expr: Expr, lets: Mapping[str, Expr]) -> Expr:
    """The expression, as a number where the sizes that it mentions are known."""
    value = constant_value(expr, lets)
    return expr if value is None else integer(value)


def _einsums(text: str) -> tuple[str, ...]:
    """The lines between the braces of a printed program."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.rstrip().endswith("{")), -1)
    last = next((i for i, line in enumerate(lines) if line.strip() == "}"), len(lines))
    return tuple(line.strip() for line in lines[first + 1 : last] if line.strip())
