"""Prefetches of what a loop will read a while later (``Compute.ahead``)."""

from __future__ import annotations

from tvm import tirx

from ..ir.tile import Ahead, Compute
from .expressions import Evaluator
from .microkernels.ahead import later
from .microkernels.statements import Statements, as_index, constant
from .microkernels.vector import prefetch
from .views import View


def ask(s: Statements, at: Evaluator, compute: Compute) -> None:
    """Asks for the line that is as far ahead of the vector ``at`` as `ahead` says."""
    if at.lanes is None or at.lanes.mask is not None:
        return
    for ahead in compute.ahead:
        if at.lane_step(ahead.read.tensor, ahead.read.indices) == 1:
            _ask(s, at, ahead)


def _ask(s: Statements, at: Evaluator, ahead: Ahead) -> None:
    view = at.views[ahead.read.tensor]
    here = s.bind("here", at.first_lane().offset(ahead.read.tensor, ahead.read.indices))
    there = later(s, here, view.dtype.bits, as_index(at.value(ahead.distance)))
    wanted = _dense(view)
    large = at.condition(ahead.when)
    if large is not None:
        wanted = large if wanted is None else tirx.And(wanted, large)
    s.evaluate(prefetch(view.flat, there if wanted is None else tirx.Select(wanted, there, here), level=2))


def _dense(view: View) -> tirx.Expr | None:
    """Whether rows lie one after the other: what is asked for between them would be in vain."""
    found: tirx.Expr | None = None
    for outer, inner, extent in zip(view.strides, view.strides[1:], view.extents[1:], strict=False):
        if constant(outer) is not None and constant(inner) is not None and constant(extent) is not None:
            continue
        here = tirx.EQ(outer, inner * extent)
        found = here if found is None else tirx.And(found, here)
    return found
