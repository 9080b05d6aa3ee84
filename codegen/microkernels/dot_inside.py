"""Products on tiles inside a loop: the right operand packed before it, the left one read where it lies.

A chunk of A is 16 rows of 64 bytes at any distance: rows of one of our own tiles, which are whole chunks long, are loaded as
they are, and so are sums stored to a C that has room for whole blocks. What lies beyond the last row is multiplied too, and
read by nobody; beyond the end of k it is set to zero, as B is there, because it might be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from .dot import Block
from .operand import Epilogue, Formula, Operand
from .panels import PanelProduct, Panels
from .statements import Statements, ceil_div, constant, index, minimum
from .vector import splat
from .words import CHUNK, LINES, PANEL, Lines, emit_pack_panel, first_elements, load_bits, noted, smallest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPanels:
    """All of B as panels, `pitch` words from one to the next; element 0 of `flag` tells (by 1) of subnormal numbers."""

    buffer: tirx.Buffer
    pitch: int
    flag: tirx.Buffer


def pack_panels(
    s: Statements, *, b: Operand | Formula, raw: str, n: tirx.Expr, k: tirx.Expr, most: tuple[int, int]
) -> PackedPanels:
    """All of B[k, n] packed, for products that share it; `most` bounds n and k."""
    lines = Lines(source=b.transposed(), raw=raw)
    panels, steps = -(-most[0] // PANEL), max(1, -(-most[1] // lines.step))
    pitch = steps * 2 * CHUNK
    buffer = s.allocate("packed_right", (panels * pitch,), "uint32")
    flags = s.allocate("right_flags", (panels + 1,), "int32")
    flag = s.allocate("right_flag", (1,), "int32")
    s.store(flag, 0, tirx.IntImm("int32", 0))
    with s.loop("panel", ceil_div(n, PANEL)) as panel:
        first = s.bind("first", panel * PANEL)
        emit_pack_panel(
            s, lines=lines, target=buffer, at=s.bind("at", panel * pitch), first=first,
            inside=s.bind("inside", minimum(n - first, PANEL)), start=index(0), depth=k, transposed=True,
            subnormal=flags, flag=panel,
        )  # fmt: skip
        s.store(flag, 0, tirx.BufferLoad(flag, [index(0)]) | tirx.BufferLoad(flags, [panel]))
    return PackedPanels(buffer=buffer, pitch=pitch, flag=flag)


def emit_dot_inside(
    s: Statements,
    *,
    kernel: PanelProduct,
    a: Operand | Formula,
    b: PackedPanels,
    c: Operand,
    raw: str,
    m: tirx.Expr,
    n: tirx.Expr,
    k: tirx.Expr,
    deepest: int,
    epilogue: Epilogue | None,
) -> None:
    """C[m, n] = epilogue(A[m, k] · B[k, n]) for bf16 operands whose sums are f32; `deepest` bounds k."""
    lines = Lines(source=a, raw=raw)
    place = _in_place(a, lines)
    flag = s.allocate("left_flag", (1,), "int32")
    packed = s.allocate("packed_left", (max(1, -(-deepest // lines.step)) * 2 * CHUNK,), "uint32") if place is None else None
    direct = epilogue is None and _takes_blocks(c)
    sums = c.buffer if direct else s.allocate("sums", (PANEL * PANEL,), kernel.dtype)
    chunks = s.bind("chunks", ceil_div(k, lines.step))
    kernel.configure(s)
    with s.loop("row_panel", ceil_div(m, PANEL)) as ir:
        row = s.bind("row", ir * PANEL)
        rows = s.bind("rows", minimum(m - row, PANEL))
        if place is None or not isinstance(a, Operand):
            assert packed is not None
            emit_pack_panel(
                s, lines=lines, target=packed, at=index(0), first=row, inside=rows, start=index(0), depth=k, transposed=False,
                subnormal=flag, flag=index(0),
            )  # fmt: skip
        else:
            _clear_beyond(s, a, row, k, lines.step)
            _note_subnormal(s, a, row, rows, k, lines, flag)
        special = (tirx.BufferLoad(flag, [index(0)]) | tirx.BufferLoad(b.flag, [index(0)])) > tirx.IntImm("int32", 0)
        left = packed if packed is not None else place
        assert left is not None
        with s.loop("col_panel", ceil_div(n, PANEL)) as jr:
            col = s.bind("col", jr * PANEL)
            panels = Panels(
                a=left,
                a_at=index(0) if packed is not None or not isinstance(a, Operand) else s.bind("a_at", a.at(row, 0)),
                a_pitch=None if packed is not None or not isinstance(a, Operand) else constant(a.row_stride),
                b=b.buffer,
                b_at=s.bind("b_at", jr * b.pitch),
                sums=sums,
                sums_at=s.bind("sums_at", c.at(row, col)) if direct else index(0),
                sums_pitch=(constant(c.row_stride) or PANEL) if direct else PANEL,
                chunks=chunks,
                more=False,
            )
            block = Block(
                kernel=kernel, panels=panels, c=c, accumulate=False, epilogue=epilogue, row=row, col=col, rows=rows,
                cols=s.bind("cols", n - col),
            )  # fmt: skip
            block.emit(s, special, whole=True)
            if not direct:
                block.store(s)
    kernel.release(s)


def _in_place(a: Operand | Formula, lines: Lines) -> tirx.Buffer | None:
    """The memory of A where its chunks can be loaded from it, None where A must be packed."""
    if isinstance(a, Formula) or not a.rows_contiguous or a.slack < PANEL:
        return None
    pitch = constant(a.row_stride)
    return a.buffer if pitch is not None and pitch % lines.step == 0 else None


def _takes_blocks(c: Operand) -> bool:
    """Whether whole blocks of sums may be stored to C."""
    pitch = constant(c.row_stride)
    return c.rows_contiguous and c.encode is None and c.slack >= PANEL and pitch is not None and pitch % PANEL == 0


def _clear_beyond(s: Statements, a: Operand, row: tirx.Expr, k: tirx.Expr, step: int) -> None:
    """Zeros from the end of k to that of its last chunk."""
    known = constant(k)
    if known is not None and known % step == 0:
        return
    start = s.bind("start", tirx.truncdiv(k, index(step)) * step)
    with s.when(k > start), s.loop("i", PANEL) as i, s.loop("p", start + step - k) as p:
        s.store(a.buffer, a.at(row + i, k + p), _zero(a))


def _zero(a: Operand) -> tirx.Expr:
    return tirx.FloatImm("bfloat16", 0.0) if a.dtype == "bfloat16" else tirx.IntImm(a.dtype, 0)


def _note_subnormal(
    s: Statements, a: Operand, row: tirx.Expr, rows: tirx.Expr, k: tirx.Expr, lines: Lines, flag: tirx.Buffer
) -> None:
    """Whether there are subnormal numbers among rows of A, 32 elements at a time."""
    least = s.allocate("least", (1,), "uint16x32", scope="local")
    s.store(least, 0, splat(tirx.IntImm("uint16", 0xFFFF), 2 * LINES))
    everything = first_elements(index(lines.step), lines.step, lines.bits)
    with s.loop("i", rows) as i, s.loop("chunk", ceil_div(k, lines.step)) as chunk:
        noted(s, least, load_bits(a, row + i, s.bind("from", chunk * lines.step), everything, lines.raw, lines.step))
    s.store(flag, 0, smallest_of(least))
