"""Products on tiles inside a loop: the right operand packed before it, the left one read where it lies.

A chunk of A is 16 rows of 64 bytes at any distance: rows of one of our own tiles, which are whole chunks long, are loaded as
they are, and so are sums stored to a C that has room for whole blocks. What lies beyond the last row is multiplied too, and
read by nobody; beyond the end of k it is set to zero, as B is there, because it might be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ...ir.microkernels import PANEL
from .dot import Block
from .operand import Epilogue, Formula, Operand
from .panels import PanelProduct, Panels
from .statements import Statements, both, ceil_div, constant, index, minimum
from .tiles import Tiles
from .vector import splat
from .words import CHUNK, LINES, Lines, emit_pack_panel, first_elements, load_bits, noted, smallest_of


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """C[m, n] = epilogue(A[m, k] · B[k, n]), B packed.

    `left` is A, where its chunks can be loaded as they lie, or where a panel of it is packed to. `sums` is C's memory, where
    whole blocks may be stored to it.
    """

    kernel: PanelProduct
    lines: Lines
    left: Operand | tirx.Buffer
    b: PackedPanels
    c: Operand
    n: tirx.Expr
    k: tirx.Expr
    epilogue: Epilogue | None
    sums: tirx.Buffer

    @staticmethod
    def of(
        s: Statements, *, kernel: PanelProduct, a: Operand | Formula, b: PackedPanels, c: Operand, raw: str, n: tirx.Expr,
        k: tirx.Expr, deepest: int, epilogue: Epilogue | None,
    ) -> _Inside:  # fmt: skip
        """`deepest` bounds k."""
        lines = Lines(source=a, raw=raw)
        left: Operand | tirx.Buffer | None = _in_place(a, lines)
        if left is None:
            left = s.allocate("packed_left", (max(1, -(-deepest // lines.step)) * 2 * CHUNK,), "uint32")
        direct = epilogue is None and _takes_blocks(c)
        sums = c.buffer if direct else s.allocate("sums", (PANEL * PANEL,), kernel.dtype)
        return _Inside(kernel=kernel, lines=lines, left=left, b=b, c=c, n=n, k=k, epilogue=epilogue, sums=sums)

    @property
    def direct(self) -> bool:
        """Whether sums go to C at once."""
        return self.sums is self.c.buffer

    def look(self, s: Statements, row: tirx.Expr, rows: tirx.Expr, flag: tirx.Buffer) -> tirx.Expr:
        """Makes a panel of A ready; gives the condition that it or B holds subnormal numbers. `flag` tells it of A."""
        if isinstance(self.left, Operand):
            _clear_beyond(s, self.left, row, self.k, self.lines.step)
            _note_subnormal(s, self.left, row, rows, self.k, self.lines, flag)
        else:
            emit_pack_panel(
                s, lines=self.lines, target=self.left, at=index(0), first=row, inside=rows, start=index(0), depth=self.k,
                transposed=False, subnormal=flag, flag=index(0),
            )  # fmt: skip
        return tirx.BufferLoad(flag, [index(0)]) | tirx.BufferLoad(self.b.flag, [index(0)])

    def block(self, s: Statements, row: tirx.Expr, rows: tirx.Expr, jr: tirx.Expr) -> Block:
        """The panel of A that is ready times panel `jr` of B."""
        col = s.bind("col", jr * PANEL)
        here = isinstance(self.left, Operand)
        panels = Panels(
            a=self.left.buffer if here else self.left,
            a_at=s.bind("a_at", self.left.at(row, 0)) if here else index(0),
            a_pitch=constant(self.left.row_stride) if here else None,
            b=self.b.buffer,
            b_at=s.bind("b_at", jr * self.b.pitch),
            sums=self.sums,
            sums_at=s.bind("sums_at", self.c.at(row, col)) if self.direct else index(0),
            sums_pitch=(constant(self.c.row_stride) or PANEL) if self.direct else PANEL,
            chunks=s.bind("chunks", ceil_div(self.k, self.lines.step)),
            more=False,
        )
        return Block(
            kernel=self.kernel, panels=panels, c=self.c, accumulate=False, epilogue=self.epilogue, row=row, col=col,
            rows=rows, cols=s.bind("cols", self.n - col),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """C[m, n] = epilogue(A[m, k] · B[k, n]) for at most 32 rows, in `count` pieces of four products of tiles each, to be done
    one after the other between other work: matrix tiles and vectors are computed side by side.

    `most` bounds n and k. All pieces are done between `configure` and `release` of the kernel, and no other product meanwhile.
    Subnormal numbers need another way: where :meth:`look` finds some, :meth:`emit_all` is called instead.
    """

    kernel: Tiles
    inside: _Inside
    m: tirx.Expr
    most: tuple[int, int]

    @staticmethod
    def of(
        s: Statements, *, kernel: PanelProduct, a: Operand | Formula, b: PackedPanels, c: Operand, raw: str, m: tirx.Expr,
        n: tirx.Expr, k: tirx.Expr, most: tuple[int, int], epilogue: Epilogue | None,
    ) -> Pieces | None:  # fmt: skip
        """None where A must be packed."""
        if not isinstance(kernel, Tiles) or _in_place(a, Lines(source=a, raw=raw)) is None:
            return None
        inside = _Inside.of(s, kernel=kernel, a=a, b=b, c=c, raw=raw, n=n, k=k, deepest=most[1], epilogue=epilogue)
        return Pieces(kernel=kernel, inside=inside, m=m, most=most)

    @property
    def _step(self) -> int:
        return self.inside.lines.step

    @property
    def _steps(self) -> int:
        return max(1, -(-self.most[1] // self._step))

    @property
    def count(self) -> int:
        """Sums that do not go to C at once are stored by the piece after their last."""
        return -(-self.most[0] // PANEL) * self._steps + (0 if self.inside.direct else 1)

    def look(self, s: Statements, special: tirx.Buffer) -> None:
        """Makes A ready; element 0 of `special` becomes 1 where an operand has subnormal numbers, else 0."""
        s.store(special, 0, self.inside.look(s, index(0), minimum(self.m, PANEL), special))

    def emit(self, s: Statements, piece: tirx.Expr) -> None:
        """One piece."""
        jr = s.bind("col_panel", tirx.truncdiv(piece, index(self._steps)))
        step = s.bind("step", tirx.truncmod(piece, index(self._steps)))
        if not self.inside.direct:
            with s.when(both(step == 0, both(jr > 0, (jr - 1) * PANEL < self.inside.n))):
                self._block(s, s.bind("before", jr - 1)).store(s)
        with s.when(jr * PANEL < self.inside.n):
            panels = self._block(s, jr).panels
            with s.when(step == 0):
                self.kernel.clear(s)
            with s.when(step * self._step < self.inside.k):
                self.kernel.multiply(s, panels, step)
            with s.when(step == self._steps - 1):
                self.kernel.keep(s, panels)

    def emit_all(self, s: Statements) -> None:
        """All of it by multiply-adds, which take subnormal numbers for what they are."""
        with s.loop("col_panel", ceil_div(self.inside.n, PANEL)) as jr:
            block = self._block(s, jr)
            block.multiply_add(s)
            if not self.inside.direct:
                block.store(s)

    def _block(self, s: Statements, jr: tirx.Expr) -> Block:
        return self.inside.block(s, index(0), self.m, jr)


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
    flag = s.allocate("left_flag", (1,), "int32")
    product = _Inside.of(s, kernel=kernel, a=a, b=b, c=c, raw=raw, n=n, k=k, deepest=deepest, epilogue=epilogue)
    kernel.configure(s)
    with s.loop("row_panel", ceil_div(m, PANEL)) as ir:
        row = s.bind("row", ir * PANEL)
        rows = s.bind("rows", minimum(m - row, PANEL))
        special = product.look(s, row, rows, flag) > tirx.IntImm("int32", 0)
        with s.loop("col_panel", ceil_div(n, PANEL)) as jr:
            block = product.block(s, row, rows, jr)
            block.emit(s, special, whole=True)
            if not product.direct:
                block.store(s)
    kernel.release(s)


def _in_place(a: Operand | Formula, lines: Lines) -> Operand | None:
    """A where its chunks can be loaded as they lie, None where it must be packed."""
    if isinstance(a, Formula) or not a.rows_contiguous or a.slack < PANEL:
        return None
    pitch = constant(a.row_stride)
    return a if pitch is not None and pitch % lines.step == 0 else None


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
