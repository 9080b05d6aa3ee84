"""Loops of the host whose steps each thread can take by itself: a recurrence of which no point needs another one's state.

One launch in the place of one for each step: a thread has a point of the Computes' common ranks and goes through all steps of
the loop with it. What a step leaves for the next one stays in a register: no step waits for memory to give back what the one
before has written, and what does not depend on the state is loaded for several steps at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Rank, Read, integer, op, rank, ranks_of
from ...ir.tile import Compute, Loop
from ..context import Context, Variables
from ..element import computed, stored
from ..expressions import Evaluator
from ..microkernels.statements import Statements, index
from .compute import DeviceComputeEmitter
from .statements import DeviceStatements

THREADS = 64
"""Threads of a block: their points are few, and all multiprocessors are to have some."""

TOGETHER = 8
"""Steps whose loads are under way at a time: each takes some hundred cycles, a step itself a few."""


def points_of_steps(loop: Loop) -> tuple[str, ...] | None:
    """The ranks whose points go through ``loop`` each by itself; None where its steps need more than one thread.

    Every element that the loop writes belongs to one point: the target's dimensions name all ranks, and whoever reads what the
    loop writes reads it at the ranks themselves.
    """
    computes = [node for node in loop.body if isinstance(node, Compute)]
    if loop.parallel or loop.buffers or len(computes) < len(loop.body) or not computes:
        return None
    ranks, own = computes[0].ranks, {loop.variable, *(r.name for r in loop.inner)}
    if not ranks or any(own & set(ranks_of(r.extent)) or set(ranks_of(r.extent)) & {q.name for q in ranks} for r in ranks):
        return None
    names = {r.name for r in ranks}
    if any(c.ranks != ranks or c.reduction is not None or c.product is not None or c.scatter or c.along for c in computes):
        return None
    places: dict[str, dict[int, Expr]] = {}
    for compute in computes:
        found = _places(compute.indices, names)
        if found is None or len(found) < len(names) or places.setdefault(compute.target, found) != found:
            return None
    for compute in computes:
        for read in compute.reads():
            if read.tensor in places and _places(read.indices, names) != places[read.tensor]:
                return None
    return tuple(r.name for r in ranks)


def _places(indices: tuple[Expr, ...], names: set[str]) -> dict[int, Expr] | None:
    """The dimensions that ranks index, each by itself; None where they are used in any other way."""
    found: dict[int, Expr] = {}
    for d, each in enumerate(indices):
        if isinstance(each, Rank) and each.name in names and each not in found.values():
            found[d] = each
        elif names & set(ranks_of(each)):
            return None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The generation of a tensor that a step reads, and the one that it writes: where they are in memory, and registers."""

    before: Read
    after: Read
    old: tirx.Buffer
    new: tirx.Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepEmitter(DeviceComputeEmitter):
    """Emits one Compute of a step, whose result stays in a register besides."""

    kept: tirx.Buffer | None

    def _store_within(self, s: Statements, at: Evaluator, value: tirx.Expr, within: tirx.Expr | None) -> None:
        if self.kept is not None:
            s.store(self.kept, 0, value)
            value = tirx.BufferLoad(self.kept, [index(0)])
        DeviceComputeEmitter._store_within(self, s, at, value, within)


def take_steps(
    loop: Loop,
    emitters: Sequence[DeviceComputeEmitter],
    s: DeviceStatements,
    variables: Variables,
    total: tirx.Expr,
    placed: Callable[[tirx.Expr], Variables],
) -> None:
    """All ``total`` steps of a loop at the point of ``variables``; ``placed`` gives the variables in one of its turns."""
    context = emitters[0].context
    held = {} if loop.reverse or loop.inner else _states(s, loop, [e.compute for e in emitters], context)
    known = {read: buffer for each in held.values() for read, buffer in ((each.before, each.old), (each.after, each.new))}
    shared = replace(context, held=lambda _: ((read, tirx.BufferLoad(buffer, [index(0)])) for read, buffer in known.items()))
    at = context.evaluator(s, {**variables, loop.variable: index(0)})
    for each in held.values():
        s.store(
            each.old,
            0,
            tirx.BufferLoad(context.views[each.before.tensor].flat, [at.offset(each.before.tensor, each.before.indices)]),
        )

    def step(number: tirx.Expr) -> None:
        inside = {**variables, **placed(number)}
        for e in emitters:
            kept = held[e.compute.target].new if e.compute.target in held else None
            made = _StepEmitter(context=shared, compute=e.compute, variables=inside, serial=True, team=e.team, kept=kept)
            made.at_point(s, inside)
        for each in held.values():
            s.store(each.old, 0, tirx.BufferLoad(each.new, [index(0)]))

    whole = s.bind("whole", tirx.truncdiv(total, index(TOGETHER)))
    with s.loop("turn", whole) as turn, s.loop("c", TOGETHER, kind=ForKind.UNROLLED) as c:
        step(s.bind(loop.variable, turn * TOGETHER + c))
    with s.loop("rest", total - whole * TOGETHER) as rest:
        step(s.bind(loop.variable, whole * TOGETHER + rest))


def _states(s: DeviceStatements, loop: Loop, computes: Sequence[Compute], context: Context) -> dict[str, _Held]:
    """The tensors of which a step reads what the one before has written, each written in one place and as it is computed."""
    found: dict[str, _Held] = {}
    for compute in computes:
        dtype = context.views[compute.target].dtype
        following = op("add", rank(loop.variable), integer(1))
        once = sum(c.target == compute.target for c in computes) == 1 and compute.within is None
        if following not in compute.indices or not once or stored(dtype) != computed(dtype):
            continue
        now = tuple(rank(loop.variable) if e == following else e for e in compute.indices)
        before, after = (Read(tensor=compute.target, indices=each, dtype=dtype) for each in (now, compute.indices))
        if any(before in c.reads() for c in computes):
            old, new = (s.allocate(name, (1,), stored(dtype), scope="local") for name in ("old", "new"))
            found[compute.target] = _Held(before=before, after=after, old=old, new=new)
    return found
