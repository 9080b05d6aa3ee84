"""Products of bytes with very few rows: B is read once, as it lies, at the speed of memory; nothing is packed.

B is contiguous along k: a few of its columns at a time, each a stream, with 64 bytes of k in a vector (AVX-512 VNNI).
Operands of one sign are brought to an unsigned and a signed byte as in :mod:`.vnni`; the sums of the columns, by which the
result is then set right, are made on the way, where memory is what takes the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm import tirx

from ...ir.microkernels import FEW_BYTE_ROWS, Lies
from .fma import emit_store_vector
from .operand import Epilogue, Formula, Operand, Site
from .statements import Statements, both, ceil_div, constant, index, minimum, negation
from .tasks import emit_strips
from .vector import load_aligned, splat
from .vnni import ByteDots
from .words import LINES, first_elements, load_bits, reinterpreted

_SQUARE = 4
"""Rows and columns that are multiplied together where there are several rows: 16 sums, and each vector is used four times."""

_STREAMS = 8
"""Columns that are read side by side for a single row."""

_BYTES = 4 * LINES


def lie(a: Operand | Formula, b: Operand | Formula) -> Lies:
    """How two operands lie in memory: along k, as this form takes them, where both do."""
    along = isinstance(a, Operand) and isinstance(b, Operand) and a.rows_contiguous and b.columns_contiguous
    return Lies.ALONG if along else Lies.OTHERWISE


def emit_byte_rows(
    s: Statements,
    *,
    kernel: ByteDots,
    a: Operand | Formula,
    b: Operand | Formula,
    c: Operand,
    m: tirx.Expr,
    n: tirx.Expr,
    k: tirx.Expr,
    accumulate: bool,
    threads: int,
    epilogue: Epilogue | None,
    parallel: bool,
    unless: tirx.Expr | bool = False,
) -> tirx.Expr | bool:
    """Emits the product for at most :data:`FEW_BYTE_ROWS` rows, where it can come to that, and never where `unless` holds.

    Gives the condition that it does not come to it.
    """
    if lie(a, b) is not Lies.ALONG:
        return True
    assert isinstance(a, Operand) and isinstance(b, Operand)
    rows = constant(m)
    if rows is not None and rows > FEW_BYTE_ROWS:
        return True
    product = _ByteRows(kernel=kernel, a=a, b=b, c=c, m=m, n=n, k=k, accumulate=accumulate, epilogue=epilogue)
    few = s.bind("few", both(True if rows is not None else m <= FEW_BYTE_ROWS, negation(unless)))
    with s.when(few):
        emit_strips(s, partial(product.emit, s), n=n, threads=threads if parallel else 1, lanes=LINES)
    return negation(few)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByteRows:
    kernel: ByteDots
    a: Operand
    b: Operand
    c: Operand
    m: tirx.Expr
    n: tirx.Expr
    k: tirx.Expr
    accumulate: bool
    epilogue: Epilogue | None

    def emit(self, s: Statements, first: tirx.Expr, width: tirx.Expr) -> None:
        """The `width` columns of C from `first` on."""
        one = self.m <= 1 if constant(self.m) is None else (constant(self.m) or 0) <= 1
        for rows, streams, chosen in ((1, _STREAMS, one), (_SQUARE, _SQUARE, negation(one))):
            with s.when(chosen):
                self._groups(s, first, width, rows, streams)

    def _groups(self, s: Statements, first: tirx.Expr, width: tirx.Expr, rows: int, streams: int) -> None:
        sums = s.allocate("sums", (FEW_BYTE_ROWS * LINES,), "int32", scope="local")
        with s.loop("group", ceil_div(width, LINES)) as group:
            col = s.bind("col", first + group * LINES)
            count = s.bind("count", minimum(width - group * LINES, LINES))
            with s.loop("part", ceil_div(count, streams)) as part, s.loop("rows", ceil_div(self.m, rows)) as block:
                columns = [s.bind("at", col + minimum(part * streams + j, count - 1)) for j in range(streams)]
                lines = [s.bind("row", minimum(block * rows + i, self.m - 1)) for i in range(rows)]
                for i, totals in enumerate(self._dots(s, lines, columns)):
                    for j, total in enumerate(totals):
                        s.store(sums, (block * rows + i) * LINES + part * streams + j, total)
            with s.loop("i", self.m) as i:
                site = Site(row=i, col=col, lanes=LINES, count=count)
                emit_store_vector(
                    s,
                    load_aligned(sums, i * LINES, LINES),
                    c=self.c,
                    site=site,
                    dtype="int32",
                    add=self.accumulate,
                    last=True,
                    epilogue=self.epilogue,
                )

    def _dots(self, s: Statements, rows: list[tirx.Expr], columns: list[tirx.Expr]) -> list[list[tirx.Expr]]:
        """Each of the rows of A times each of the columns of B."""
        lanes = tirx.Ramp(index(0), index(1), LINES)
        totals = [[s.allocate("total", (LINES,), "int32", scope="local") for _ in columns] for _ in rows]
        bases = [s.allocate("base", (LINES,), "int32", scope="local") for _ in columns] if self.kernel.flip else []
        for buffer in (*(total for each in totals for total in each), *bases):
            s.store(buffer, lanes, splat(tirx.IntImm("int32", 0), LINES))
        flip, ones = (splat(tirx.IntImm("uint8", x), _BYTES) for x in (self.kernel.flip & 0xFF, 1))

        def add(buffer: tirx.Buffer, factor: tirx.Expr, vector: tirx.Expr) -> None:
            pair = (reinterpreted(x, "int8", _BYTES) for x in (factor, vector))
            s.store(buffer, lanes, self.kernel.add(tirx.BufferLoad(buffer, [lanes]), *pair))

        def step(p: tirx.Expr, mask: tirx.Expr) -> None:
            factors = [load_bits(self.a, row, p, mask, "uint8", _BYTES) for row in rows]
            factors = [s.share(factor ^ flip if self.kernel.flip else factor) for factor in factors]
            for j, column in enumerate(columns):
                vector = s.share(load_bits(self.b, p, column, mask, "uint8", _BYTES))
                for each, factor in zip(totals, factors, strict=True):
                    add(each[j], factor, vector)
                if bases:
                    add(bases[j], ones, vector)

        whole = s.bind("whole", tirx.truncdiv(self.k, index(_BYTES)))
        with s.loop("p", whole) as turn:
            step(turn * _BYTES, first_elements(index(_BYTES), _BYTES, 8))
        with s.when(self.k > whole * _BYTES):
            step(s.bind("rest", whole * _BYTES), first_elements(self.k - whole * _BYTES, _BYTES, 8))
        moved = [s.bind("moved", _sum(s, buffer) * index(self.kernel.correction)) for buffer in bases]
        found = []
        for each in totals:
            sums = [_sum(s, buffer) for buffer in each]
            if moved:
                sums = [x + y for x, y in zip(sums, moved, strict=True)]
            found.append([tirx.Cast("int32", x) for x in sums])
        return found


def _sum(s: Statements, buffer: tirx.Buffer) -> tirx.Expr:
    """The sum of the lanes, modulo 2³², in 64 bits."""
    held = tirx.BufferLoad(buffer, [tirx.Ramp(index(0), index(1), LINES)])
    return s.bind("sum", tirx.Cast("int64", tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", held)))
