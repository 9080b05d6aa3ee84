"""Dot products of bytes in vector registers (AVX-512 VNNI): `vpdpbusd` adds four products of an unsigned and a signed byte to
each 32-bit lane.

Operands of the same sign are brought to that form by flipping the sign bits of A, which moves its bytes by 128; the sums then
start at what that makes them too large or too small, 128 times the sums of B's columns. Source: Intel 64 and IA-32
Architectures Software Developer's Manual, volume 2, VPDPBUSD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from ...ir.microkernels import PANEL
from .panels import Panels
from .statements import Statements, index
from .vector import load_aligned, splat
from .words import CHUNK, LINES, reinterpreted

_ROWS = 8
"""Rows that are summed side by side: 16 sums, 2 vectors of B and a word of A fit the registers and hide the latency."""

_UNROLL = 4
"""Words of k in one turn of the innermost loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteDots:
    """Multiplies panels of bytes; ``signed`` tells of A and B whether their bytes are."""

    signed: tuple[bool, bool]

    @property
    def dtype(self) -> str:
        """The type of the sums."""
        return "int32"

    @property
    def flip(self) -> int:
        """What is xored onto every word of A."""
        return 0x80808080 if self.signed[0] == self.signed[1] else 0

    @property
    def correction(self) -> int:
        """What the sum of a column of B counts in each of the column's results, where A is flipped."""
        return -128 if self.signed[0] else 128

    def mirrored(self) -> ByteDots:
        """The kernel of the transposed product, whose operands change places."""
        return replace(self, signed=(self.signed[1], self.signed[0]))

    def configure(self, s: Statements) -> None:
        """Nothing is to be set up."""

    def release(self, s: Statements) -> None:
        """Nothing is to be given back."""

    def emit(self, s: Statements, panels: Panels, *, down: int, across: int) -> None:
        """sums (+)= A-panel · B-panel: `down` × `across` squares of 16 (1 or 2 each) of the block."""
        start = self._columns(s, panels, across) if self.flip else None
        with s.loop("part", down * LINES // _ROWS) as part:
            line = s.bind("line", part * _ROWS)
            strip = replace(
                panels, a_at=s.bind("row", panels.a_at + line * LINES), sums_at=s.bind("at", panels.sums_at + line * PANEL)
            )
            self._rows(s, strip, across, start)

    def _columns(self, s: Statements, panels: Panels, across: int) -> list[tirx.Buffer]:
        """Vectors of what the sums of every row start at: the sums of B's columns times ∓128."""
        totals = [s.allocate(f"column_{v}", (LINES,), "int32", scope="local") for v in range(across)]
        for total in totals:
            s.store(total, _lanes(0), _zero())
        ones = reinterpreted(splat(tirx.IntImm("uint32", 0x01010101), LINES), "int8", 4 * LINES)
        with s.loop("step", panels.chunks) as step, s.loop("word", LINES) as word:
            for v, total in enumerate(totals):
                at = panels.b_at + step * (2 * CHUNK) + v * CHUNK + word * LINES
                vector = _bytes(load_aligned(panels.b, at, LINES))
                s.store(total, _lanes(0), self.add(_held(total), ones, vector))
        scale = splat(tirx.IntImm("uint32", self.correction % 2**32), LINES)
        for total in totals:
            # Of unsigned numbers, so that the product wraps.
            wide = reinterpreted(_held(total), "uint32", LINES) * scale
            s.store(total, _lanes(0), reinterpreted(wide, "int32", LINES))
        return totals

    def _rows(self, s: Statements, panels: Panels, across: int, start: list[tirx.Buffer] | None) -> None:
        """The sums of a few rows, the first of the panel of A."""
        totals = [[s.allocate(f"sum_{i}_{v}", (LINES,), "int32", scope="local") for v in range(across)] for i in range(_ROWS)]
        for i, vectors in enumerate(totals):
            for v, total in enumerate(vectors):
                s.store(total, _lanes(0), _zero() if start is None else _held(start[v]))
                with s.when(panels.more):
                    so_far = load_aligned(panels.sums, panels.sums_at + i * PANEL + v * LINES, LINES)
                    s.store(total, _lanes(0), _wrapping(_held(total), so_far))
        with s.loop("step", panels.chunks) as step:
            left = s.bind("left", panels.left(step, 0))
            right = s.bind("right", panels.b_at + step * (2 * CHUNK))
            with s.loop("turn", LINES // _UNROLL) as turn:
                for u in range(_UNROLL):
                    word = turn * _UNROLL + u
                    vectors_of_b = [load_aligned(panels.b, right + v * CHUNK + word * LINES, LINES) for v in range(across)]
                    columns = [s.share(_bytes(vector)) for vector in vectors_of_b]
                    for i, vectors in enumerate(totals):
                        four = tirx.BufferLoad(panels.a, [left + i * LINES + word])
                        factor = s.share(_bytes(splat(four, LINES)))
                        for total, column in zip(vectors, columns, strict=True):
                            s.store(total, _lanes(0), self.add(_held(total), factor, column))
        for i, vectors in enumerate(totals):
            for v, total in enumerate(vectors):
                s.store(panels.sums, tirx.Ramp(panels.sums_at + i * PANEL + v * LINES, index(1), LINES), _held(total))

    def add(self, total: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        """`total` plus the products of four bytes, the unsigned operand first."""
        left_is_unsigned = self.signed[0] == bool(self.flip)
        pair = (left, right) if left_is_unsigned else (right, left)
        return tirx.call_llvm_pure_intrin(f"int32x{LINES}", "llvm.x86.avx512.vpdpbusd.512", total, *pair)


def _wrapping(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
    """x + y modulo 2³²."""
    total = reinterpreted(x, "uint32", LINES) + reinterpreted(y, "uint32", LINES)
    return reinterpreted(total, "int32", LINES)


def _bytes(words: tirx.Expr) -> tirx.Expr:
    return reinterpreted(words, "int8", 4 * LINES)


def _zero() -> tirx.Expr:
    return splat(tirx.IntImm("int32", 0), LINES)


def _lanes(start: int) -> tirx.Expr:
    return tirx.Ramp(index(start), index(1), LINES)


def _held(buffer: tirx.Buffer) -> tirx.Expr:
    return tirx.BufferLoad(buffer, [_lanes(0)])
