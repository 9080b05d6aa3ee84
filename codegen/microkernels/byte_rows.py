"""Products of bytes with very few rows: B is read once, as it lies, at the speed of memory; nothing is packed.

B is contiguous along k: a few of its columns at a time, each a stream, with 64 bytes of k in a vector (AVX-512 VNNI).
Operands of one sign are brought to an unsigned and a signed byte as in :mod:`.vnni`; the sums of the columns, by which the
result is then set right, are made on the way, where memory is what takes the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.stmt import ForKind

from .fma import emit_store_vector
from .operand import Epilogue, Formula, Operand, Site
from .statements import Statements, ceil_div, constant, index, maximum, minimum, round_up
from .vector import load_aligned, splat
from .vnni import ByteDots
from .words import LINES, first_elements, load_bits, reinterpreted

MOST_ROWS = 8
"""Rows up to which the vector unit keeps up with memory."""

_STREAMS = 8
"""Columns that are read side by side."""

_BYTES = 4 * LINES


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
) -> tirx.Expr | bool:
    """Emits the product for at most :data:`MOST_ROWS` rows, where it can come to that; gives the condition that it does not."""
    if isinstance(a, Formula) or isinstance(b, Formula) or not (a.rows_contiguous and b.columns_contiguous):
        return True
    rows = constant(m)
    if rows is not None and rows > MOST_ROWS:
        return True
    product = _ByteRows(kernel=kernel, a=a, b=b, c=c, m=m, n=n, k=k, accumulate=accumulate, epilogue=epilogue)
    with s.when(True if rows is not None else m <= MOST_ROWS):
        if not parallel or threads == 1:
            product.emit(s, index(0), n)
        else:
            cols = s.bind("cols", maximum(round_up(ceil_div(n, threads), LINES), LINES))
            with s.loop("task", threads, kind=ForKind.PARALLEL) as task:
                first = s.bind("first", task * cols)
                product.emit(s, first, s.bind("width", maximum(minimum(cols, n - first), 0)))
    return False if rows is not None else m > MOST_ROWS


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
        sums = s.allocate("sums", (MOST_ROWS * LINES,), "int32", scope="local")
        with s.loop("group", ceil_div(width, LINES)) as group:
            col = s.bind("col", first + group * LINES)
            count = s.bind("count", minimum(width - group * LINES, LINES))
            with s.loop("part", ceil_div(count, _STREAMS)) as part, s.loop("i", self.m) as i:
                columns = [s.bind("at", col + minimum(part * _STREAMS + j, count - 1)) for j in range(_STREAMS)]
                for j, total in enumerate(self._dots(s, i, columns)):
                    s.store(sums, i * LINES + part * _STREAMS + j, total)
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

    def _dots(self, s: Statements, i: tirx.Expr, columns: list[tirx.Expr]) -> list[tirx.Expr]:
        """Row i of A times each of the columns."""
        lanes = tirx.Ramp(index(0), index(1), LINES)
        totals = [s.allocate("total", (LINES,), "int32", scope="local") for _ in columns]
        bases = [s.allocate("base", (LINES,), "int32", scope="local") for _ in columns] if self.kernel.flip else []
        for buffer in (*totals, *bases):
            s.store(buffer, lanes, splat(tirx.IntImm("int32", 0), LINES))
        flip, ones = (splat(tirx.IntImm("uint8", x), _BYTES) for x in (self.kernel.flip & 0xFF, 1))

        def step(p: tirx.Expr, mask: tirx.Expr) -> None:
            row = load_bits(self.a, i, p, mask, "uint8", _BYTES)
            row = s.share(row ^ flip if self.kernel.flip else row)
            for j, column in enumerate(columns):
                vector = s.share(load_bits(self.b, p, column, mask, "uint8", _BYTES))
                for buffer, factor in ((totals[j], row), *((bases[j], ones) for _ in bases[:1])):
                    held = tirx.BufferLoad(buffer, [lanes])
                    pair = (reinterpreted(x, "int8", _BYTES) for x in (factor, vector))
                    s.store(buffer, lanes, self.kernel.add(held, *pair))

        whole = s.bind("whole", tirx.truncdiv(self.k, index(_BYTES)))
        with s.loop("p", whole) as turn:
            step(turn * _BYTES, first_elements(index(_BYTES), _BYTES, 8))
        with s.when(self.k > whole * _BYTES):
            step(s.bind("rest", whole * _BYTES), first_elements(self.k - whole * _BYTES, _BYTES, 8))
        found = [_sum(s, buffer) for buffer in totals]
        for j, buffer in enumerate(bases):
            moved = _sum(s, buffer) * index(self.kernel.correction)
            found[j] = found[j] + moved
        return [tirx.Cast("int32", value) for value in found]


def _sum(s: Statements, buffer: tirx.Buffer) -> tirx.Expr:
    """The sum of the lanes, modulo 2³², in 64 bits."""
    held = tirx.BufferLoad(buffer, [tirx.Ramp(index(0), index(1), LINES)])
    return s.bind("sum", tirx.Cast("int64", tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", held)))
