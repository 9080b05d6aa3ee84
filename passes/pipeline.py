"""The passes in order: from the cascade as written to the tile program that code generation spells out."""

from __future__ import annotations

from ..ir.cascade import Cascade
from .select import Form, select


def lower(cascade: Cascade, *, online: bool = True) -> Form:
    """The tile program of a cascade, and how it was derived. ``online=False`` keeps the passes as written.

    Raises EinfallError for what no target can run yet.
    """
    return select(cascade, online=online)
