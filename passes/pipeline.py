"""The passes in order: from the cascade as written to the tile program that code generation spells out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.cascade import Cascade
from ..ir.target import Target
from ..ir.tile import TileProgram
from .online.derive import Derivation
from .recurrences.chunk_choice import in_chunks
from .rewriting import Rewriting
from .select import select
from .simplification.heads import in_groups
from .simplification.normalize import normalize
from .simplification.simplify import simplify
from .tiling.fetching import fetching
from .tiling.plans import planned
from .tiling.prepack import prepacked
from .tiling.streaming import streaming
from .tiling.unswitch import unswitched


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The chosen tile program, the cascade that the passes started from, simplified, and the derivation that was weighed."""

    program: TileProgram
    prepared: Rewriting
    derivation: Derivation


def prepare(cascade: Cascade, *, online: bool = True) -> Rewriting:
    """What every later pass starts from: simplified and, unless the passes are to stay as written, normalized."""
    simple = simplify(cascade)
    if not online:
        return simple
    normal = normalize(simple.cascade)
    return Rewriting(cascade=normal.cascade, decisions=(*simple.decisions, *normal.decisions))


def lower(cascade: Cascade, *, target: Target | None = None, online: bool = True) -> Lowered:
    """The tile program of a cascade for ``target``, and how it was derived. ``online=False`` keeps the passes as written.

    Without a target it is the x86-64 baseline's. Raises EinfallError for what no target can run yet.
    """
    prepared = prepare(cascade, online=online)
    target = Target.parse("cpu") if target is None else target
    if not online:
        form = select(prepared.cascade, target, online=False)
        return Lowered(program=_finished(form.program, target), prepared=prepared, derivation=form.derivation)
    grouped = in_groups(prepared.cascade)
    form = in_chunks(select(grouped.cascade, target, online=True), grouped.cascade, target)
    prepared = replace(prepared, decisions=(*prepared.decisions, *grouped.decisions))
    return Lowered(program=_finished(form.program, target), prepared=prepared, derivation=form.derivation)


def _finished(program: TileProgram, target: Target) -> TileProgram:
    """What is decided for the chosen form only."""
    if target.gpu is not None:
        return unswitched(program)
    return planned(prepacked(fetching(streaming(program, target), target), target), target)
