"""Two packed panels whose product is added to a block of sums, and what multiplies them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from tvm import tirx

from ...ir.microkernels import PANEL
from .statements import Statements, index
from .words import CHUNK, LINES, reinterpreted


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """A panel of A from word `a_at` on, one of B from `b_at` on, both of `chunks` steps, and the 32 × 32 sums of their product
    from element `sums_at` on; see :mod:`.words`. `more` tells that sums are there already.

    With `a_pitch` A lies in rows that are so many elements of bf16 apart, `a_at` is an element; rows of sums are `sums_pitch`
    elements apart. `near` tells that B waits in the nearest caches and need not be asked for. With `moves` the lines of A are
    parts of a longer row of lines, of 16 words each: step s begins `moves[s]` words behind `a_at`.
    """

    a: tirx.Buffer
    a_at: tirx.Expr
    b: tirx.Buffer
    b_at: tirx.Expr
    sums: tirx.Buffer
    sums_at: tirx.Expr
    chunks: tirx.Expr
    more: bool | tirx.Expr
    a_pitch: int | None = None
    sums_pitch: int = PANEL
    near: bool = False
    moves: tirx.Buffer | None = None

    def left(self, step: tirx.Expr, square: int) -> tirx.Expr:
        """Where a chunk of A begins: that of 16 rows."""
        if self.moves is not None:
            return self.a_at + tirx.BufferLoad(self.moves, [step]) + square * CHUNK
        if self.a_pitch is None:
            return self.a_at + step * (2 * CHUNK) + square * CHUNK
        return self.a_at + step * (2 * LINES) + square * LINES * self.a_pitch

    @property
    def left_bytes(self) -> int:
        """The distance of two rows of a chunk of A."""
        return 4 * LINES if self.a_pitch is None else 2 * self.a_pitch

    def pair(self, row: tirx.Expr, step: tirx.Expr, word: tirx.Expr) -> tirx.Expr:
        """The word of two bf16 elements of a row of A."""
        if self.a_pitch is None:
            line = tirx.truncdiv(row, index(LINES)) * CHUNK + tirx.truncmod(row, index(LINES)) * LINES
            return tirx.BufferLoad(self.a, [self.a_at + step * (2 * CHUNK) + line + word])
        at = self.a_at + row * self.a_pitch + step * (2 * LINES) + word * 2
        low, high = (tirx.Cast("uint32", reinterpreted(tirx.BufferLoad(self.a, [at + part]), "uint16", 1)) for part in range(2))
        return low | (high << tirx.IntImm("uint32", 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWords:
    """Panels of B one after the other from word `start` on, each `pitch` words behind the one before. `notes` tells of bf16
    elements, from `noted` on, which panels hold subnormal numbers (by 1). `ahead` is the condition that they were there before
    the call."""

    words: tirx.Buffer
    start: tirx.Expr
    pitch: tirx.Expr
    notes: tirx.Buffer | None
    noted: tirx.Expr
    ahead: tirx.Expr | bool = False

    def part(self, panel: tirx.Expr, word: tirx.Expr) -> PackedWords:
        """The panels from number `panel` on, from a word of each on."""
        return replace(self, start=self.start + panel * self.pitch + word, noted=self.noted + panel)


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
