"""Whether the recurrences of a kernel run one step after the other or in chunks: the cost model compares the two programs.

A chunked form does more work to have more of it at once, as products of matrices. On two cores the steps one after the other,
whose update and readout share one walk over a state in L1, won everywhere it was measured (gated linear attention, retention
and Mamba-2 with 16 heads of 64 × 64, and a prefix sum over one row: by 2.5 to 5 times); the model saw 0.8 to 1.8.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.cascade import Cascade
from ...ir.expr import sizes_of
from ...ir.index import expand_lets
from ...ir.target import Target
from ...ir.tile import Decision
from ..cost import estimate
from ..select import OTHER_SIZE, Form, select
from .chunk import PRODUCTS, chunked
from .recurrence import SEQUENTIAL, Recurrence, recurrences

WORTH_CHUNKS = 0.4
"""Share of the sequential program's modelled time below which the chunked one is taken: the model flatters small products."""

STEPS = (512, 2048, 8192)
"""Steps of a recurrence at which the two are compared where their number is free: chunks have to win at each."""


def in_chunks(form: Form, cascade: Cascade, target: Target) -> Form:
    """``form``, the program of ``cascade``, or the program of its chunked form; with a decision for every recurrence."""
    found = recurrences(cascade)
    other = chunked(cascade, on_gpu=target.gpu is not None)
    if other is None:
        return form
    if other.cascade == cascade:
        return _deciding(form, other.decisions)
    parallel = select(other.cascade, target)
    if target.gpu is not None and any(PRODUCTS in d.chosen for d in other.decisions):
        # One thread block for each head would leave most of a GPU idle, and go through the steps one by one.
        return _deciding(replace(form, program=parallel.program), other.decisions)
    ratios = [
        estimate(parallel.program, target, sizes).seconds / estimate(form.program, target, sizes).seconds
        for sizes in _samples(cascade, found)
    ]
    if max(ratios) < WORTH_CHUNKS:
        return _deciding(replace(form, program=parallel.program), other.decisions)
    stay = tuple(d for d in other.decisions if d.chosen == SEQUENTIAL)
    settled = {d.subject for d in stay}
    because = f"{target}'s cost model gives its chunks {min(ratios):.2g} times this time, and asks for {WORTH_CHUNKS:g}"
    compared = (_sequential(r.decision(), because) for r in found)
    return _deciding(form, (*stay, *(d for d in compared if d.subject not in settled)))


def _samples(cascade: Cascade, found: tuple[Recurrence, ...]) -> list[dict[str, int]]:
    """Sizes to compare at, those of the steps varied."""
    lets = {let.name: let.value for let in cascade.lets}
    steps = {s for each in found for s in sizes_of(expand_lets(each.extent, lets)) if s in cascade.sizes}
    others = dict.fromkeys(cascade.sizes, OTHER_SIZE)
    return [{**others, **dict.fromkeys(steps, count)} for count in (STEPS if steps else STEPS[:1])]


def _sequential(scan: Decision, because: str) -> Decision:
    return replace(scan, chosen=SEQUENTIAL, because=f"{scan.because}; {because}")


def _deciding(form: Form, decisions: tuple[Decision, ...]) -> Form:
    return replace(form, program=replace(form.program, decisions=(*decisions, *form.program.decisions)))
