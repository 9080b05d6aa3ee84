"""The passes in order: from the cascade as written to the tile program that code generation spells out."""

from __future__ import annotations

from ..ir.cascade import Cascade
from ..ir.tile import TileProgram
from .assemble import assemble


def lower(cascade: Cascade) -> TileProgram:
    """The tile program of a cascade. Raises EinfallError for what no target can run yet."""
    return assemble(cascade)
