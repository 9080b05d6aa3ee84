"""Tensor maps: what the copy engine of sm_90 (TMA) must know of a matrix in global memory. The host makes them at each call.

A map tells where a tensor begins, its extents and strides, and the box that one copy moves: 128 bytes of as many lines as a
panel has (:mod:`.staging`), in the order of its chunks, the swizzle of 128 bytes. What of a box lies beyond the tensor is 0.
``cuTensorMapEncodeTiled`` (CUDA Driver API, section Tensor Map Object Management) wants a beginning and strides at multiples
of 16 bytes, strides below 2⁴⁰ bytes, and extents that are not 0; TVM's runtime calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import tirx
from tvm.ir import PointerType
from tvm.tirx.type import TensorMapType

from ...ir.expr import reads_of
from ...ir.index import affine_in
from ..context import Variables
from ..microkernels.statements import Statements, index
from .operands import Operand
from .staging import CHUNK, SLAB, stride_along

ENCODE = "runtime.cuTensorMapEncodeTiled"

MOST = 5
"""Dimensions of a tensor map."""

_FARTHEST = 1 << 40
"""Bytes below which strides are."""

_LONGEST = 1 << 30
"""Above which extents are not asked for: coordinates are 32 bits, and a box may begin a tile beyond the last element."""

_TF32 = 11
"""The driver's number of the type whose elements are rounded to tf32 when they are copied."""

_INTERLEAVE, _SWIZZLE, _PROMOTION, _FILL = 0, 3, 2, 0
"""None, 128 bytes, lines of 128 bytes into the second-level cache, zeros: the driver's numbers."""


def moving(operand: Operand, batch: Sequence[str]) -> tuple[str, ...] | None:
    """The ranks of ``batch`` along which an operand moves; None where it is no tensor that one map describes."""
    read = operand.read
    if read is None or any(True for each in read.indices for _ in reads_of(each)):
        return None
    ranks = (operand.side.rank, operand.inner, *batch)
    forms = [affine_in(each, ranks) for each in read.indices]
    found = tuple(r for r in batch if any(form is not None and r in form.ranks for form in forms))
    return None if None in forms or len(found) + 2 > MOST else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """An operand as a tensor of ``extents``, the innermost first, at ``strides`` (elements; of all dimensions but that) from
    element ``origin`` of ``flat`` on. Its first two dimensions are those of the matrix, the others the ``ranks`` of the
    batch. ``handle`` is the map."""

    operand: Operand
    flat: tirx.Buffer
    origin: tirx.Expr
    extents: tuple[tirx.Expr, ...]
    strides: tuple[tirx.Expr, ...]
    ranks: tuple[str, ...]
    handle: tirx.Var

    @staticmethod
    def of(
        s: Statements, operand: Operand, depth: tirx.Expr, ranks: Sequence[str], extents: Mapping[str, tirx.Expr],
        variables: Variables,
    ) -> Mapped:  # fmt: skip
        """An operand of a product of so many steps of depth, which moves along ``ranks`` (:func:`moving`); on the host."""
        start = {**variables, **{r: index(0) for r in extents}}
        source, read = operand.source(s, start, depth), operand.read
        assert source is not None and read is not None
        at = operand.context.evaluator(s, {**start, operand.side.rank: index(0), operand.inner: index(0)})
        own = (operand.side.rank, operand.inner, *ranks)
        return Mapped(
            operand=operand,
            flat=source.flat,
            origin=source.origin,
            extents=(source.width, source.lines, *(extents[r] for r in ranks)),
            strides=(source.stride, *(stride_along(s, at, operand.context, read, r, own) for r in ranks)),
            ranks=tuple(ranks),
            handle=tirx.Var(f"{read.tensor}_map", PointerType(TensorMapType())),
        )

    @property
    def _address(self) -> tirx.Expr:
        return tirx.address_of(tirx.BufferLoad(self.flat, [self.origin]))

    @property
    def _size(self) -> int:
        return self.operand.panel.size

    @property
    def _bytes(self) -> list[tirx.Expr]:
        """The strides of all dimensions but the innermost; of one element, where no stride is ever used, the least there is."""
        return [
            tirx.Select(tirx.EQ(extent, index(1)), index(CHUNK), stride * self._size)
            for extent, stride in zip(self.extents[1:], self.strides, strict=True)
        ]

    @property
    def unfit(self) -> tirx.Expr:
        """0 where the driver takes it: an int64. Nobody says whether it takes a stride of 0, so that is not asked of it."""
        # TVM's pass for storage of bf16 fails on pointers that are reinterpreted as numbers.
        beyond = tirx.call_llvm_pure_intrin("handle", "llvm.ptrmask", self._address, index(CHUNK - 1))
        found = tirx.Cast("int64", tirx.Not(tirx.isnullptr(beyond)))
        for stride in self._bytes:
            found = found | (stride & index(-_FARTHEST | (CHUNK - 1))) | tirx.Cast("int64", tirx.EQ(stride, index(0)))
        for extent in self.extents:
            found = found | ((extent - 1) & index(-_LONGEST))
        return found

    def encode(self, s: Statements) -> None:
        """Makes the map, on the host's stack."""
        s.add(tirx.Bind(self.handle, tirx.tvm_stack_alloca("tensormap", 1)))
        box = (SLAB // self._size, self.operand.panel.lines, *(1 for _ in self.ranks))
        how = [_INTERLEAVE, _SWIZZLE, _PROMOTION, _FILL, *([_TF32] if self._size == 4 else [])]
        numbers = (*self.extents, *self._bytes, *box, *(1 for _ in self.extents), *how)
        kind = str(self.flat.dtype)
        assert tvm_ffi.dtype(kind).itemsize == self._size
        s.evaluate(tirx.call_packed(ENCODE, self.handle, kind, len(self.extents), self._address, *numbers))

    @property
    def boxes(self) -> int:
        """Copies that bring a panel."""
        return self.operand.panel.width * self._size // SLAB


Pair = tuple[Mapped, Mapped]
"""Both operands of a product."""
