"""Scatters of many points into few elements: each block combines its points in shared memory, then its results into the target.

All threads of a GPU that add to the same few words of its second-level cache wait for one another; those of a block that add to
words of its shared memory do so only where they meet there. Integers only: they come out the same in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.operators import REDUCTIONS
from ...ir.tile import Compute
from ..arithmetic import literal
from ..element import stored
from ..microkernels.statements import ceil_div, constant, identifier, index, maximum, minimum
from ..views import View
from .compute import DeviceComputeEmitter
from .scattering import Scattering, function_of, is_atomic
from .statements import DeviceStatements

MOST = 4096
"""Elements of a target up to which it is combined in shared memory: 16 KB, of which a multiprocessor has room for several."""

POINTS, WAVES = 16, 8
"""Points of a thread that are worth clearing and handing over what its block has, and blocks for each multiprocessor."""


def bins_of(compute: Compute, target: View) -> tuple[int, ...] | None:
    """The extents of a target that blocks combine in shared memory; None for others."""
    if not is_atomic(compute, target) or stored(target.dtype) not in ("int32", "uint32") or compute.reduction == "*":
        return None
    found = tuple(e for extent in target.extents if (e := constant(extent)) is not None)
    return found if len(found) == len(target.extents) and 0 < math.prod(found) <= MOST else None


def blocks_of(points: tirx.Expr, threads: int, multiprocessors: int) -> tirx.Expr:
    """The blocks that share so many points."""
    return maximum(minimum(ceil_div(points, index(threads * POINTS)), index(multiprocessors * WAVES)), index(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A scatter into ``bins``, by ``blocks`` blocks."""

    emitter: DeviceComputeEmitter
    bins: tuple[int, ...]
    blocks: tirx.Expr

    def emit(self, s: DeviceStatements) -> None:
        """Adds all that a block does to ``s``."""
        compute, target, team = self.emitter.compute, self.emitter.target, self.emitter.team
        held, total = stored(target.dtype), math.prod(self.bins)
        identity = literal(REDUCTIONS[compute.reduction or "+"].identity(target.dtype), held)
        room = s.allocate(identifier(f"{compute.target}_bins"), (total,), held, scope="shared")
        strides = tuple(index(math.prod(self.bins[d + 1 :])) for d in range(len(self.bins)))
        mine = View(flat=room, strides=strides, extents=tuple(map(index, self.bins)), dtype=target.dtype)
        with team.each(s, index(total), index(team.threads), team.thread) as at:
            s.store(room, at, identity)
        s.barrier()
        self._points(s, mine)
        s.barrier()
        with team.each(s, index(total), index(team.threads), team.thread) as at:
            value = s.share(tirx.BufferLoad(room, [at]))
            with s.when(tirx.NE(value, identity)):
                names = [f"i{d}" for d in range(len(self.bins))]
                places = s.coordinates(at, names, list(mine.extents))
                there = target.offset([places[name] for name in names])
                name, text = function_of(compute.reduction or "+", target.dtype)
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
