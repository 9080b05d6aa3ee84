"""Two packed panels whose product is added to a block of sums, and what multiplies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm import tirx

from .statements import Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """A panel of A from word `a_at` on, one of B from `b_at` on, both of `chunks` steps, and the 32 × 32 sums of their product
    from element `sums_at` on; see :mod:`.words`. `more` tells that sums are there already."""

    a: tirx.Buffer
    a_at: tirx.Expr
    b: tirx.Buffer
    b_at: tirx.Expr
    sums: tirx.Buffer
    sums_at: tirx.Expr
    chunks: tirx.Expr
    more: bool | tirx.Expr


class PanelProduct(Protocol):
    """An instruction family that multiplies panels, such as :class:`.tiles.Tiles`.

    `dtype` is the type of the sums, `flip` what is xored onto every word of A. `mirrored` gives the kernel of the transposed
    product, whose operands change places. A thread calls `emit` between `configure` and `release`.
    """

    @property
    def dtype(self) -> str: ...
    @property
    def flip(self) -> int: ...
    def mirrored(self) -> PanelProduct: ...
    def configure(self, s: Statements) -> None: ...
    def release(self, s: Statements) -> None: ...
    def emit(self, s: Statements, panels: Panels, *, down: int, across: int) -> None:
        """sums (+)= A-panel · B-panel: `down` × `across` squares of 16 (1 or 2 each) of the block."""
