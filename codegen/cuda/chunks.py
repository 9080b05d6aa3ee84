"""Neighbouring elements that one thread loads or stores together: 16 bytes at a time where their address allows it.

A chunk is ``width`` points of one rank. What is read at addresses that move by one element from point to point goes through
the thread's registers in one access; so does what is stored there. An address that is no multiple of the access (a caller's
array may begin anywhere, rows may be of odd length) is read element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call

from ...ir.expr import Cast, Const, Expr, Op, Read, Select, children, ranks_of, reads_of
from ...ir.index import affine_in
from ...ir.tile import Compute
from ...ir.types import I32
from ..expressions import Evaluator
from ..microkernels.statements import Statements, constant, index
from ..views import View, decode

ACCESS = 16
"""Bytes of the widest access to memory (PTX ISA, ld.v4)."""

WIDEST = 8
"""Points of a chunk: more would only take registers, but for bytes whose products are added up four at a time."""

SIGNS = {"i8": "s", "u8": "u"}
"""The types of such bytes, and how ``dp4a`` calls them."""

_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long", 16: "uint4"}
"""Types of so many bytes."""

_LOAD = """
__device__ __forceinline__ void einfall_load_WIDTHxSIZE(void* to, const void* from) {
  if ((reinterpret_cast<unsigned long long>(from) & MASK) == 0) {
#pragma unroll
    for (int i = 0; i < TIMES; ++i) {
      const VECTOR v = reinterpret_cast<const VECTOR*>(from)[i];
      __builtin_memcpy(reinterpret_cast<char*>(to) + i * sizeof(v), &v, sizeof(v));
    }
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) reinterpret_cast<ELEMENT*>(to)[i] = reinterpret_cast<const ELEMENT*>(from)[i];
  }
}
"""

_STORE = """
__device__ __forceinline__ void einfall_store_WIDTHxSIZE(void* to, const void* from) {
  if ((reinterpret_cast<unsigned long long>(to) & MASK) == 0) {
#pragma unroll
    for (int i = 0; i < TIMES; ++i) {
      VECTOR v;
      __builtin_memcpy(&v, reinterpret_cast<const char*>(from) + i * sizeof(v), sizeof(v));
      reinterpret_cast<VECTOR*>(to)[i] = v;
    }
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) reinterpret_cast<ELEMENT*>(to)[i] = reinterpret_cast<const ELEMENT*>(from)[i];
  }
}
"""

_PLACE = """
__device__ __forceinline__ long long einfall_place_WIDTHxSIZE(const void* p) {
  return static_cast<long long>(reinterpret_cast<unsigned long long>(p) / SIZE % WIDTH);
}
"""


_DOT = """
__device__ __forceinline__ int einfall_dot4_LEFT_RIGHT(const void* a, const void* b, int sum) {
  int x, y;
  __builtin_memcpy(&x, a, 4);
  __builtin_memcpy(&y, b, 4);
  asm("dp4a.LEFT32.RIGHT32 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(y));
  return sum;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """How a Compute goes through ``rank`` in chunks of ``width`` points: ``reads`` come by chunks."""

    rank: str
    width: int
    reads: tuple[Read, ...]

    def load(self, s: Statements, at: Evaluator, known: Mapping[Read, tirx.Buffer] | None = None) -> dict[Read, tirx.Buffer]:
        """Loads what the chunk reads whose first point is that of ``at``, all of which lies inside the tensors, but what is
        ``known``."""
        loaded: dict[Read, tirx.Buffer] = dict(known or {})
        for read in self.reads:
            if read in loaded:
                continue
            loaded[read] = s.allocate("chunk", (self.width,), str(at.views[read.tensor].flat.dtype), scope="local")
            self.fetch(s, at, {read: loaded[read]})
        return loaded

    def fetch(self, s: Statements, at: Evaluator, to: Mapping[Read, tirx.Buffer]) -> None:
        """Loads chunks from the point of ``at`` on, all of which lie inside the tensors, to registers."""
        for read, raw in to.items():
            self._move(s, "load", raw, index(0), at.views[read.tensor].flat, at.offset(read.tensor, read.indices))

    def store(self, s: Statements, at: Evaluator, name: str, indices: tuple[Expr, ...], held: tirx.Buffer) -> None:
        """Stores a chunk that is ``held`` in registers, from the point of ``at`` on."""
        self._move(s, "store", at.views[name].flat, at.offset(name, indices), held, index(0))

    def given(self, at: Evaluator, loaded: Mapping[Read, tirx.Buffer], place: tirx.Expr) -> Evaluator:
        """``at``, the point number ``place`` of a chunk, with what was loaded for it."""
        for read, raw in loaded.items():
            at.knows(read, at.bind(decode(tirx.BufferLoad(raw, [place]), at.views[read.tensor].dtype, 1)))
        return at

    def dots(self, s: Statements, total: tirx.Buffer, first: tirx.Buffer, second: tirx.Buffer, signs: tuple[str, str]) -> None:
        """Adds to ``total`` the products of two chunks of bytes, four at a time: ``dp4a`` of signed (``s``) or unsigned (``u``)
        ones (PTX ISA, section dp4a), modulo 2³² as sums of 32 bits are."""
        left, right = signs
        source = _DOT.replace("LEFT", left).replace("RIGHT", right)
        for place in range(0, self.width, 4):
            words = [tirx.address_of(tirx.BufferLoad(b, [index(place)])) for b in (first, second)]
            sum_ = tirx.BufferLoad(total, [index(0)])
            made = cuda_func_call(f"einfall_dot4_{left}_{right}", *words, sum_, source_code=source, return_type="int32")
            s.store(total, 0, made)

    def count(self, s: Statements, extent: tirx.Expr) -> tirx.Expr:
        """The chunks of a row of so many points, wherever they begin (:meth:`shift`)."""
        width = self.width
        even = tirx.EQ(tirx.truncmod(extent, index(width)), index(0))
        if (known := constant(extent)) is not None:
            return index(known // width if known % width == 0 else (known + 2 * width - 2) // width)
        more = tirx.Select(even, index(0), index(2 * width - 2))
        return s.bind("chunks", tirx.truncdiv(extent + more, index(width)))

    def shift(self, s: Statements, view: View, first: tirx.Expr, extent: tirx.Expr, *, always: bool = False) -> tirx.Expr:
        """How many points before the element ``first`` of a tensor the chunks begin, so that they are aligned in it.

        Rows of whole chunks begin with one: their number is then the same in every row. ``always``: but where their number is
        free they are aligned all the same.
        """
        size = tvm_ffi.dtype(str(view.flat.dtype)).itemsize
        known = constant(extent)
        if known is not None and known % self.width == 0:
            return index(0)
        address = tirx.address_of(tirx.BufferLoad(view.flat, [first]))
        source = _PLACE.replace("WIDTH", str(self.width)).replace("SIZE", str(size))
        place = cuda_func_call(f"einfall_place_{self.width}x{size}", address, source_code=source, return_type="int64")
        if known is not None or always:
            return s.bind("shift", place)
        ragged = tirx.NE(tirx.truncmod(extent, index(self.width)), index(0))
        return s.bind("shift", tirx.Select(ragged, place, index(0)))

    def _move(
        self, s: Statements, verb: str, to: tirx.Buffer, to_at: tirx.Expr, source: tirx.Buffer, source_at: tirx.Expr
    ) -> None:
        size = tvm_ffi.dtype(str(to.dtype)).itemsize
        access = min(ACCESS, self.width * size)
        text = (_LOAD if verb == "load" else _STORE).replace("MASK", str(access - 1))
        text = text.replace("TIMES", str(self.width * size // access)).replace("VECTOR", _WORDS[access])
        text = text.replace("WIDTH", str(self.width)).replace("ELEMENT", _WORDS[size]).replace("SIZE", str(size))
        places = [tirx.address_of(tirx.BufferLoad(b, [at])) for b, at in ((to, to_at), (source, source_at))]
        s.evaluate(cuda_func_call(f"einfall_{verb}_{self.width}x{size}", *places, source_code=text))


def chunks_along(compute: Compute, rank: str, views: Mapping[str, View], *, stores: bool) -> Chunks | None:
    """The chunks in which ``compute`` goes through ``rank``; None where no neighbours lie side by side."""
    outside = [compute.filter, compute.condition, compute.within]
    if any(e is not None and rank in ranks_of(e) for e in outside):
        return None
    found = dict.fromkeys(r for e in (compute.value, *(a.value for a in compute.along)) for r in always_read(e))
    own = {a.target for a in compute.along}
    reads = tuple(r for r in found if r.tensor in views and r.tensor not in own and _moves(r.indices, rank, views[r.tensor]))
    touched = [views[r.tensor] for r in reads]
    if stores:
        # A tile that has no memory yet is one number for each row: nothing lies side by side in it.
        if compute.target not in views or not _moves(compute.indices, rank, views[compute.target]):
            return None
        touched.append(views[compute.target])
    if not touched:
        return None
    least = min(tvm_ffi.dtype(str(view.flat.dtype)).itemsize for view in touched)
    # The first is the one whose rows the chunks are aligned in.
    reads = tuple(sorted(reads, key=lambda r: -len({name for i in r.indices for name in ranks_of(i)})))
    pair = None if stores else factors_of_bytes(compute)
    widest = ACCESS if pair is not None and set(pair) <= set(reads) else WIDEST
    return Chunks(rank=rank, width=min(widest, ACCESS // least), reads=reads)


def factors_of_bytes(compute: Compute) -> tuple[Read, Read] | None:
    """The elements of one byte whose products a Compute adds up in 32 bits; None where it does something else."""
    if compute.reduction != "+" or compute.accumulator != I32 or compute.along:
        return None
    match compute.value:
        case Op(op="mul", args=(Cast(value=Read() as left), Cast(value=Read() as right)), dtype=dtype) if dtype == I32:
            return (left, right) if left.dtype.name in SIGNS and right.dtype.name in SIGNS else None
        case _:
            return None


def always_read(expr: Expr) -> list[Read]:
    """The reads of an expression that are done whatever else holds."""
    match expr:
        case Read():
            return [expr]
        case Select(condition=condition):
            return always_read(condition)
        case _:
            return [r for child in children(expr) for r in always_read(child)]


def moves_along(indices: tuple[Expr, ...], rank: str) -> bool | None:
    """Whether neighbours along ``rank`` are neighbours in memory; False where ``rank`` does not occur, None for other steps."""
    if all(rank not in ranks_of(i) for i in indices):
        return False
    *outer, last = indices
    if any(rank in ranks_of(i) for i in outer) or any(rank in ranks_of(r) for r in reads_of(last)):
        return None
    form = affine_in(last, (rank,))
    factor = None if form is None or rank not in form.ranks else form.coefficient(rank)
    return True if isinstance(factor, Const) and factor.value == 1 else None


def _moves(indices: tuple[Expr, ...], rank: str, view: View) -> bool:
    return bool(indices) and constant(view.strides[-1]) == 1 and moves_along(indices, rank) is True
