"""Stores past the caches (`vmovntps` and its kin): LLVM's `nontemporal` mark, which TVM cannot set.

Each function of :func:`library` is one such store; TVM links the text into the kernel's module and inlines the calls. The
processor combines what is written to a line and reads nothing before, but it orders these stores with no others: whoever
hands the data to another thread executes :func:`fence` first.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.ir import StringImm

from ..ir.tile import Compute
from .element import stored
from .expressions import Evaluator
from .microkernels.statements import INDEX, Statements, index
from .views import View, encode

LINE = 64
"""Bytes of a cache line, to which the vectors are aligned."""

_FEWEST = 8
"""Vectors of the shortest row that is streamed."""

_LLVM = {"float32": "float", "float64": "double", **{f"{s}int{b}": f"i{b}" for s in ("", "u") for b in (8, 16, 32, 64)}}
_DISTANCE = "einfall.distance"


def library() -> str:
    """LLVM text of the functions that :func:`store` and :func:`to_line` call."""
    types = {(name, n // _bytes(dtype, 1), n) for dtype, name in _LLVM.items() for n in (LINE // 2, LINE)}
    stores = (
        f"define void @{_name(llvm, lanes)}(ptr %p, <{lanes} x {llvm}> %v) {{\n"
        f"  store <{lanes} x {llvm}> %v, ptr %p, align {size}, !nontemporal !0\n  ret void\n}}"
        for llvm, lanes, size in sorted(types)
    )
    distance = (
        f"define i64 @{_DISTANCE}(ptr %p) {{\n  %a = ptrtoint ptr %p to i64\n  %n = sub i64 0, %a\n"
        f"  %d = and i64 %n, {LINE - 1}\n  ret i64 %d\n}}"
    )
    return "\n".join([*stores, distance, "!0 = !{i32 1}"])


def linked(body: tirx.Stmt) -> tirx.Stmt:
    """A function's body with the library at hand."""
    return tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(library()), body)


def store(view: View, at: tirx.Expr, value: tirx.Expr, lanes: int) -> tirx.Stmt:
    """Writes a whole vector to consecutive elements from ``at``, whose address is a multiple of the vector's bytes."""
    address = tirx.address_of(tirx.BufferLoad(view.flat, [at]))
    name = _name(_LLVM[stored(view.dtype)], lanes)
    return tirx.Evaluate(tirx.call_extern("void", name, address, encode(value, view.dtype, lanes)))


def to_line(s: Statements, at: Evaluator, compute: Compute, extent: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr | None]:
    """The elements of a row before the first place for an aligned vector, 0 where the row is not streamed; whether it is.

    ``at`` is the first vector of the row. Rows of a few vectors, and elements that lie across lines, keep common stores.
    """
    view, lanes = at.views[compute.target], at.lanes
    held = stored(view.dtype)
    if lanes is None or held not in _LLVM or _bytes(held, lanes.count) not in (LINE // 2, LINE):
        return index(0), None
    if at.lane_step(compute.target, compute.indices) != 1:
        return index(0), None
    first = tirx.BufferLoad(view.flat, [at.first_lane().offset(compute.target, compute.indices)])
    to_border = tirx.call_extern(INDEX, _DISTANCE, tirx.address_of(first))
    # A shorter vector need not begin a line, and one masked vector is all that comes before.
    distance = s.bind("distance", tirx.truncmod(to_border, index(_bytes(held, lanes.count))))
    size = index(_bytes(held, 1))
    chosen = tirx.And(extent >= index(_FEWEST * lanes.count), tirx.EQ(tirx.truncmod(distance, size), index(0)))
    wanted = at.condition(compute.streams)
    streams = s.bind("streams", tirx.Select(chosen if wanted is None else tirx.And(wanted, chosen), index(1), index(0)))
    return s.bind("head", streams * tirx.truncdiv(distance, size)), streams > 0


def fence() -> tirx.Expr:
    """A call that makes the stores before it visible before any that follow."""
    return tirx.call_llvm_intrin("void", "llvm.x86.sse.sfence")


def _name(llvm: str, lanes: int) -> str:
    return f"einfall.stream.{llvm}x{lanes}"


def _bytes(dtype: str, lanes: int) -> int:
    return int(tvm_ffi.dtype(dtype).bits) * lanes // 8
