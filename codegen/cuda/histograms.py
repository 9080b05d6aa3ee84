"""Scatters of many points into few elements: each block combines its points in shared memory, then its results into the target.

All threads of a GPU that add to the same few words of its second-level cache wait for one another; those of a block that add to
words of its shared memory do so only where they meet there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.operators import REDUCTIONS
from ..arithmetic import literal
from ..element import stored
from ..microkernels.statements import both, ceil_div, constant, identifier, index, maximum, minimum
from ..views import View
from .block import total_of
from .compute import DeviceComputeEmitter
from .scattering import Scattering, function_of
from .statements import DeviceStatements

MOST = 16 * 1024
"""Bytes of a target up to which it is combined in shared memory: a multiprocessor has room for several such targets."""

POINTS, WAVES = 16, 8
"""Points of a thread that are worth clearing and handing over what its block has, and blocks for each multiprocessor."""


def most_of(target: View) -> int:
    """Elements of a target up to which it is combined in shared memory; none of truth values, which nobody waits for."""
    return 0 if target.dtype.is_bool else MOST * 8 // target.dtype.bits


def suits(target: View, points: tirx.Expr) -> tirx.Expr | bool:
    """Whether so many points of a scatter are combined in shared memory first, which the sizes of a call decide."""
    most, total = most_of(target), total_of(target.extents)
    if (known := constant(total)) is not None:
        return 0 < known <= most
    return both(total <= most, total <= points) if most else False


def blocks_of(points: tirx.Expr, threads: int, multiprocessors: int) -> tirx.Expr:
    """The blocks that share so many points."""
    return maximum(minimum(ceil_div(points, index(threads * POINTS)), index(multiprocessors * WAVES)), index(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A scatter whose target is small, by ``blocks`` blocks."""

    emitter: DeviceComputeEmitter
    blocks: tirx.Expr

    def emit(self, s: DeviceStatements) -> None:
        """Adds all that a block does to ``s``."""
        compute, target, team = self.emitter.compute, self.emitter.target, self.emitter.team
        held, reduction = stored(target.dtype), compute.reduction or "+"
        identity = literal(REDUCTIONS[reduction].identity(target.dtype), held)
        total, strides = s.bind("bins", total_of(target.extents)), []
        for d in range(len(target.extents)):
            strides.append(s.bind("stride", total_of(target.extents[d + 1 :])))
        known = constant(total)
        room = s.allocate(
            identifier(f"{compute.target}_bins"), (most_of(target) if known is None else known,), held, scope="shared"
        )
        mine = View(flat=room, strides=tuple(strides), extents=target.extents, dtype=target.dtype)
        with team.each(s, total, index(team.threads), team.thread) as at:
            s.store(room, at, identity)
        s.barrier()
        self._points(s, mine)
        s.barrier()
        with team.each(s, total, index(team.threads), team.thread) as at:
            value = s.share(tirx.BufferLoad(room, [at]))
            with s.when(tirx.NE(value, identity)):
                names = [f"i{d}" for d in range(len(target.extents))]
                places = s.coordinates(at, names, list(target.extents))
                there = target.offset([places[name] for name in names])
                name, text = function_of(reduction, target.dtype)
                address = tirx.address_of(tirx.BufferLoad(target.flat, [there]))
                s.evaluate(cuda_func_call(name, address, value, source_code=text))

    def _points(self, s: DeviceStatements, mine: View) -> None:
        """The points of this block's threads, combined in shared memory."""
        emitter = self.emitter
        context = replace(emitter.context, views={**emitter.context.views, emitter.compute.target: mine})
        inner = replace(emitter, context=context)
        shared, own = inner._dealt(inner._scattered_ranks)
        total, extents = inner._total(s, shared)
        together = s.bind("together", self.blocks * emitter.team.threads)
        with s.loop("turn", ceil_div(total, together)) as turn:
            at = s.bind("at", turn * together + emitter.team.block * emitter.team.threads + emitter.team.thread)
            with s.when(at < total):
                placed = {**emitter.variables, **s.coordinates(at, shared, extents)}
                inner._loops(s, own, placed, (), Scattering(emitter=inner).point)
