"""The passes in order: from the cascade as written to the tile program that code generation spells out."""

from __future__ import annotations

from ..ir.cascade import Cascade
from ..ir.target import Target
from .select import Form, select


def lower(cascade: Cascade, *, target: Target | None = None, online: bool = True) -> Form:
    """The tile program of a cascade for ``target``, and how it was derived. ``online=False`` keeps the passes as written.

    Without a target it is the x86-64 baseline's. Raises EinfallError for what no target can run yet.
    """
    return select(cascade, Target.parse("cpu") if target is None else target, online=online)
