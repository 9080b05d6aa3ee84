"""Whether the recurrences of a kernel run one step after the other or in chunks: the cost model compares the two programs.

A chunked form does more work to have more of it at once, as products of matrices. On two cores the steps one after the other,
whose update and readout share one walk over a state in L1, won everywhere it was measured (gated linear attention, retention
and Mamba-2 with 16 heads of 64 × 64, and a prefix sum over one row: by 2.5 to 5 times); the model saw 0.8 to 1.8.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from ...ir.cascade import Cascade
from ...ir.expr import Expr, Rank, integer, op, sizes_of
from ...ir.index import expand_lets
from ...ir.printer import expr_to_source
from ...ir.sizes import evaluate
from ...ir.target import Target
from ...ir.tile import Decision, TileProgram
from ..construct import Targets, redirect_einsum
from ..cost import estimate
from ..either import either
from ..names import Names
from ..select import OTHER_SIZE, Form, select
from .chunk import CHUNKS, PRODUCTS, chunked
from .recurrence import SEQUENTIAL, Recurrence, recurrences

WORTH_CHUNKS = 0.4
"""Share of the sequential program's modelled time below which the chunked one is taken: the model flatters small products."""

LEAST_STEPS, MOST_CHANNELS = 1024, 1 << 14
"""Steps from which on, and channels up to which a GPU takes a scan in chunks: a step of a thread takes some hundred cycles, and
with fewer threads than this most of the memory's bandwidth is idle meanwhile; chunks move the bytes about three times."""

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
    if target.gpu is not None:
        if any(PRODUCTS in d.chosen for d in other.decisions):
            # One thread block for each head would leave most of a GPU idle, and go through the steps one by one.
            return _deciding(replace(form, program=parallel.program), other.decisions)
        beside = select(_apart(other.cascade, cascade), target).program
        return _on_gpu(form, beside, cascade, found, other.decisions)
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


def _on_gpu(
    form: Form, parallel: TileProgram, cascade: Cascade, found: tuple[Recurrence, ...], decisions: tuple[Decision, ...]
) -> Form:
    """The scan in chunks where few channels have many steps, one step after the other elsewhere: decided at the call where the
    sizes are free."""
    lets = {let.name: let.value for let in cascade.lets}
    few: list[Expr] = []
    for each in (r for r in found if r.refusal is None):
        state = each.states[0]
        update = cascade.einsums[state.update]
        sides = [update.extent(c.name) for d, c in enumerate(update.coords) if d != state.dim and isinstance(c, Rank)]
        channels = functools.reduce(lambda a, b: op("mul", a, b), sides) if sides else integer(1)
        few += [op("ge", each.extent, integer(LEAST_STEPS)), op("lt", channels, integer(MOST_CHANNELS))]
    known = [evaluate(c, {}) if not sizes_of(expand_lets(c, lets)) else None for c in few]
    conditions = [c for c, value in zip(few, known, strict=True) if value is None]
    because = f"a scan in chunks is for fewer than {MOST_CHANNELS} channels of {LEAST_STEPS} and more steps"
    if any(value is not None and not value for value in known) or not few:
        return _deciding(form, tuple(_sequential(r.decision(), because) for r in found))
    if not conditions:
        return _deciding(replace(form, program=parallel), decisions)
    both = either(functools.reduce(lambda a, b: op("and", a, b), conditions), parallel, form.program)
    if both is None:
        because = "the forms would need one buffer in two places"
        return _deciding(form, tuple(_sequential(r.decision(), because) for r in found))
    chosen = tuple(
        replace(d, chosen=f"{d.chosen}, if {' and '.join(map(expr_to_source, conditions))}")
        if d.chosen.startswith(CHUNKS)
        else d
        for d in decisions
    )
    return _deciding(replace(form, program=both), chosen)


def _apart(cascade: Cascade, beside: Cascade) -> Cascade:
    """``cascade`` with names of its own for all its tensors but arguments and results: its program shares no buffer."""
    names = Names(cascade, beside)
    new = {t.name: names.tensor(t.name) for t in cascade.locals}
    targets: Targets = {t.name: (new[t.name], (), t.value) for t in cascade.locals}
    einsums = (redirect_einsum(e, targets) for e in cascade.einsums)
    return replace(
        cascade,
        einsums=tuple(replace(e, target=new.get(e.target, e.target)) for e in einsums),
        tensors=tuple(replace(t, name=new.get(t.name, t.name)) for t in cascade.tensors),
    )


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
