"""Packing for dot-product instructions: operands as 32-bit words, each of which holds neighbours along k.

A *word* is the elements of `group` successive steps of k (two of bf16, four of int8), the lowest step in the lowest bits. A
*chunk* is 16 words of k for 16 lines of an operand (rows of A, columns of B): 1 KB. Chunks of A have a line in each of their
rows, chunks of B have a word of k in each: what Intel's tile and dot-product instructions multiply (Intel 64 and IA-32
Architectures Software Developer's Manual, volume 2, TDPBF16PS, TDPBSSD, VPDPBUSD). A panel is two lines of chunks: for every
16 words of k the chunk of its first 16 lines, then that of the next 16. What lies beyond the end of k is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ...ir.microkernels import WORDS
from .operand import Formula, Operand, Site, strided_lanes
from .statements import Statements, ceil_div, constant, index, minimum
from .vector import first_lanes, lane_type, shuffle, splat, zeros

LINES = WORDS
"""Lines of a chunk, and words of one of its rows."""
CHUNK = LINES * LINES

_SMALLEST_NORMAL = 0x0080  # of bfloat16
_MAGNITUDE = 0x7FFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """An operand as lines along k: element (line, p). `raw` is the unsigned type of an element's bits, `flip` is what is
    xored onto every word."""

    source: Operand | Formula
    raw: str
    flip: int = 0

    @property
    def bits(self) -> int:
        return int(self.raw.removeprefix("uint"))

    @property
    def group(self) -> int:
        """Elements of a word."""
        return 32 // self.bits

    @property
    def step(self) -> int:
        """Elements along k of a chunk."""
        return LINES * self.group


def emit_pack_panel(
    s: Statements,
    *,
    lines: Lines,
    target: tirx.Buffer,
    at: tirx.Expr,
    first: tirx.Expr,
    inside: tirx.Expr,
    start: tirx.Expr,
    depth: tirx.Expr,
    transposed: bool,
    subnormal: tirx.Buffer | None = None,
    flag: tirx.Expr | None = None,
) -> None:
    """Packs `inside` lines (at most a panel) from `first` on and `depth` elements of each from `start` on.

    `target` is of uint32, `at` the word where the panel begins. `transposed`: a word of k in each row of a chunk (B). Lines
    from `inside` on repeat the last one, or are zero. With `subnormal`, of bf16 elements, element `flag` tells afterwards
    (by 1) that one of them is a subnormal number.
    """
    least = None
    if subnormal is not None:
        least = s.allocate("least", (1,), "uint16x32", scope="local")
        s.store(least, 0, splat(tirx.IntImm("uint16", 0xFFFF), 2 * LINES))
    whole = s.bind("whole", tirx.truncdiv(depth, index(lines.step)))
    chunks = s.bind("chunks", ceil_div(inside, LINES))

    def emit(chunk: tirx.Expr, left: tirx.Expr | None) -> None:
        with s.loop("half", chunks) as half:
            block = _Chunk(
                lines=lines,
                line=s.bind("line", first + half * LINES),
                count=s.bind("count", inside - half * LINES),
                start=s.bind("from", start + chunk * lines.step),
                left=left,
            )
            place = s.bind("place", at + chunk * (2 * CHUNK) + half * CHUNK)
            for i, value in enumerate(block.emit(s, transposed=transposed)):
                if least is not None:
                    noted(s, least, reinterpreted(value, "uint16", 2 * LINES))
                s.store(target, tirx.Ramp(place + i * LINES, index(1), LINES), value)

    with s.loop("chunk", whole) as chunk:
        emit(chunk, None)
    rest = s.bind("rest", depth - whole * lines.step)
    with s.when(rest > 0):
        emit(whole, rest)
    if subnormal is not None and flag is not None and least is not None:
        s.store(subnormal, flag, smallest_of(least))


def smallest_of(least: tirx.Buffer) -> tirx.Expr:
    """1 where one of the elements that were :func:`noted` is a subnormal number, else 0."""
    lowest = tirx.call_llvm_pure_intrin("uint16", "llvm.vector.reduce.umin", tirx.BufferLoad(least, [index(0)]))
    found = lowest < tirx.IntImm("uint16", _SMALLEST_NORMAL - 1)
    return tirx.Select(found, tirx.IntImm("int32", 1), tirx.IntImm("int32", 0))


def noted(s: Statements, least: tirx.Buffer, pattern: tirx.Expr) -> None:
    """Keeps the least magnitude but zero of bf16 elements: less one, zero is the greatest of unsigned numbers."""
    magnitude = pattern & splat(tirx.IntImm("uint16", _MAGNITUDE), 2 * LINES)
    below = magnitude - splat(tirx.IntImm("uint16", 1), 2 * LINES)
    s.store(least, 0, tirx.Min(tirx.BufferLoad(least, [index(0)]), below))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """16 lines from `line` on, of which `count` exist, and 16 words from element `start` on, of which `left` elements exist
    (None: all)."""

    lines: Lines
    line: tirx.Expr
    count: tirx.Expr
    start: tirx.Expr
    left: tirx.Expr | None

    def emit(self, s: Statements, *, transposed: bool) -> list[tirx.Expr]:
        """The rows of the chunk, vectors of 16 words that have been computed."""
        flip = splat(tirx.IntImm("uint32", self.lines.flip), LINES) if self.lines.flip else None
        along = self.lines.source.rows_contiguous
        if along:
            rows = [self._words_of_line(s, i) for i in range(LINES)]
        else:
            rows = [self._word_of_lines(s, i) for i in range(LINES)]
        if flip is not None:
            rows = [row ^ flip for row in rows]
        rows = [s.share(row) for row in rows]
        return turned(s, rows) if along == transposed else rows

    def _words_of_line(self, s: Statements, i: int) -> tirx.Expr:
        """All words of one line: a plain load."""
        lines, elements = self.lines, self.lines.step
        line = s.bind("line", self.line + minimum(index(i), self.count - 1))
        if isinstance(lines.source, Operand):
            mask = first_lanes(elements, elements) if self.left is None else first_elements(self.left, elements, lines.bits)
            return reinterpreted(load_bits(lines.source, line, self.start, mask, lines.raw, elements), "uint32", LINES)
        parts = []
        for part in range(lines.group):
            offset = part * LINES
            left = LINES if self.left is None else self.left - offset
            site = Site(row=line, col=s.bind("col", self.start + offset), lanes=LINES, count=left)
            value = lines.source.compute(s, site)
            if self.left is not None:
                value = tirx.Select(first_lanes(left, LINES), value, zeros(lines.raw, LINES))
            parts.append(s.share(value))
        while len(parts) > 1:
            parts = [_joined(a, b, lines.bits) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return reinterpreted(parts[0], "uint32", LINES)

    def _word_of_lines(self, s: Statements, i: int) -> tirx.Expr:
        """One word of each line: the elements of its steps, one above the other."""
        lines, word = self.lines, None
        for part in range(lines.group):
            step = i * lines.group + part
            count = s.bind("here", self.count if self.left is None else tirx.Select(self.left > step, self.count, index(0)))
            row = s.bind("step", self.start + step)
            if isinstance(lines.source, Operand):
                value = self._across(s, lines.source, row, count)
            else:
                value = lines.source.compute(s, Site(row=self.line, col=row, lanes=LINES, count=count, along_row=False))
                value = tirx.Select(first_lanes(count, LINES), value, zeros(lines.raw, LINES))
            value = tirx.Cast(lane_type("uint32", LINES), value)
            if part:
                value = value << splat(tirx.IntImm("uint32", part * lines.bits), LINES)
            word = value if word is None else word | value
        assert word is not None
        return word

    def _across(self, s: Statements, source: Operand, step: tirx.Expr, count: tirx.Expr) -> tirx.Expr:
        mask = first_lanes(count, LINES)
        if source.columns_contiguous:
            return load_bits(source, self.line, step, mask, self.lines.raw, LINES)
        held = s.allocate("lines", (1,), lane_type(self.lines.raw, LINES), scope="local")
        s.store(held, 0, zeros(self.lines.raw, LINES))
        with s.when(count > 0):
            at = strided_lanes(source.at(self.line, step), source.row_stride, count, LINES)
            value = tirx.BufferLoad(source.buffer, [at])
            s.store(held, 0, tirx.Select(mask, reinterpreted(value, self.lines.raw, LINES), zeros(self.lines.raw, LINES)))
        return tirx.BufferLoad(held, [index(0)])


def turned(s: Statements, rows: list[tirx.Expr]) -> list[tirx.Expr]:
    """A square of registers transposed: in each of log₂(lines) rounds the first half of the rows is interleaved with the
    second."""
    half = len(rows) // 2
    low = [lane // 2 + (lane % 2) * len(rows) for lane in range(len(rows))]
    high = [lane + half for lane in low]
    for _ in range(len(rows).bit_length() - 1):
        rows = [s.share(shuffle([rows[i], rows[i + half]], order)) for i in range(half) for order in (low, high)]
    return rows


def first_elements(count: tirx.Expr, lanes: int, bits: int) -> tirx.Expr:
    """The mask of the lanes below `count`, which is not negative, compared in the width of an element: one instruction."""
    if (known := constant(count)) is not None and known >= lanes:
        return first_lanes(lanes, lanes)
    dtype = f"int{bits}"
    limit = tirx.Cast(dtype, minimum(count, lanes))
    return tirx.Ramp(tirx.IntImm(dtype, 0), tirx.IntImm(dtype, 1), lanes) < splat(limit, lanes)


def load_bits(source: Operand, row: tirx.Expr, col: tirx.Expr, mask: tirx.Expr, raw: str, lanes: int) -> tirx.Expr:
    """The bits of `lanes` neighbours in memory from (row, col) on; those outside the mask are zero and not touched."""
    address = tirx.address_of(tirx.BufferLoad(source.buffer, [source.at(row, col)]))
    return tirx.call_llvm_pure_intrin(lane_type(raw, lanes), "llvm.masked.load", address, mask, zeros(raw, lanes))


def reinterpreted(value: tirx.Expr, dtype: str, lanes: int) -> tirx.Expr:
    """The same bits as a vector of another type."""
    wanted = lane_type(dtype, lanes)
    return value if str(value.ty.dtype) == wanted else tirx.call_intrin(wanted, "tirx.reinterpret", value)


def _joined(a: tirx.Expr, b: tirx.Expr, bits: int) -> tirx.Expr:
    lanes = int(str(a.ty.dtype).split("x")[1])
    return shuffle([a, b], range(2 * lanes))
