"""What a pass from cascade to cascade gives back."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.cascade import Cascade
from ..ir.tile import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """A cascade that computes the same, and what was decided on the way, refusals included."""

    cascade: Cascade
    decisions: tuple[Decision, ...] = ()
