"""Matrix products whose sums are a tile in registers, and whose left operand may be one (FlashAttention-2, Dao 2023, section
3.1, arXiv 2307.08691).

Operands from memory are staged to their whole depth, each in a place of its own. Of a product in a loop the operands of the
next turn are on their way as soon as those of this one are used up, while what comes between the products is computed; what
the loop does not vary is staged once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx.stmt import ForKind

from ...ir.expr import Expr, Op, Read, ranks_of, reads_of
from ...ir.fragments import left_in_registers, panel_sides
from ...ir.microkernels import BY_NAME, MicroKernel
from ...ir.tile import SUM, Compute, MatrixProduct
from ..context import Variables
from ..microkernels.statements import Statements, index
from . import mma
from .fragments import FragmentEmitter, Registers
from .operand_loads import Lane, Staged, load_left, load_right, round_four
from .operands import RAW, SHORT_BATCH, Operand, Side
from .staging import Slot, address, aligned, beyond, commit, copy, gather, i32, wait
from .statements import DeviceStatements


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentProduct:
    """One such product, whose operands are staged from byte ``start`` of ``scratch`` on.

    ``ahead`` is the number of groups of copies of which its own is the oldest when it begins: those of a loop's products, which
    are staged a turn ahead; None where it stages its operands itself.
    """

    registers: Registers
    compute: Compute
    scratch: tirx.Buffer
    start: int
    ahead: int | None = None

    @property
    def product(self) -> MatrixProduct:
        assert self.compute.product is not None
        return self.compute.product

    @property
    def kernel(self) -> MicroKernel:
        return BY_NAME[self.product.kernel]

    @property
    def size(self) -> int:
        """Bytes of an operand's element."""
        return mma.element_bytes(self.kernel)

    @property
    def paired(self) -> bool:
        """Whether the left operand, from registers, has k in another order than the instruction's."""
        return self.size == 4 and left_in_registers(self.compute, self.registers.held.tiles) is not None

    # -- operands --------------------------------------------------------------------------------------------------------

    def varied_by(self, variables: Collection[str]) -> set[str]:
        """The operands (``left``, ``right``) that a loop over ``variables`` varies, which writes nothing that is staged."""
        found = set()
        for name, expr, rank in self._sides():
            extents = (self.compute.extent(rank), self.compute.extent(self.product.inner))
            if any(set(ranks_of(e)) & set(variables) for e in (expr, *extents)):
                found.add(name)
        return found

    def reads(self) -> set[str]:
        """The tensors that are staged."""
        return {r.tensor for _, expr, _ in self._sides() for r in reads_of(expr)}

    def _sides(self) -> list[tuple[str, Expr, str]]:
        product = self.product
        right = ("right", product.right, product.columns or "")
        if left_in_registers(self.compute, self.registers.held.tiles) is not None:
            return [right]
        return [("left", product.left, product.rows or ""), right]

    def _operands(self, s: Statements, variables: Variables) -> dict[str, tuple[Operand, int]]:
        """Each with the byte at which its panel begins."""
        context, found, start = self.registers.context, {}, self.start
        sides = panel_sides(self.compute, self.registers.held, context.lets)
        at = context.evaluator(s, variables)
        for name, expr, rank in self._sides():
            most = s.bind("most", at.value(self.compute.extent(rank)))
            side = Side(expr=expr, rank=rank, top=index(0), height=sides[name], most=most)
            operand = Operand.of(context, side, self.product.inner, sides["depth"], self.size, paired=self.paired)
            found[name] = (operand, start)
            start += operand.panel.bytes
        return found

    def stage(self, s: DeviceStatements, names: Collection[str], variables: Variables) -> None:
        """Begins to bring these operands to shared memory, as a group of copies."""
        team, base = self.registers.team, address(s, self.scratch)
        depth = s.bind("deep", self.registers.context.evaluator(s, variables).value(self.compute.extent(self.product.inner)))
        raw = tirx.decl_buffer((index(1 << 20),), RAW[self.size], name="staged", data=self.scratch.data)
        s.add(tirx.DeclBuffer(raw, data=self.scratch.data))
        for name, (operand, start) in self._operands(s, variables).items():
            if name not in names:
                continue
            source, corner = operand.source(s, variables, depth), operand.corner(index(0))
            if source is None:
                first = i32(start // self.size)
                operand.elements(s, team, raw, first, variables, index(0), depth, batch=SHORT_BATCH)
                continue
            slot = Slot(address=beyond(base, i32(start)), raw=raw, start=i32(start))
            whole = s.share(aligned(source))
            with s.when(tirx.NE(whole, i32(0))):
                copy(s, team, operand.panel, slot.address, source, *corner)
            with s.when(tirx.EQ(whole, i32(0))):
                gather(s, team, operand.panel, slot, source, *corner)

    # -- the product -------------------------------------------------------------------------------------------------------

    def emit(self, s: DeviceStatements, variables: Variables) -> None:
        """Adds the product to ``s``."""
        emitter = FragmentEmitter.of(self.registers, self.compute, variables)
        target = self.registers.views[self.compute.target].flat
        direct = str(target.dtype) == "float32" and not self._multiplied
        added = _added(self.product.epilogue, self.registers.held.tiles) if direct else None
        sums = self._sums(s, emitter, added)
        if self.ahead is None:
            s.barrier()
            self.stage(s, {"left", "right"}, variables)
            commit(s)
        wait(s, 0 if self.ahead is None else self.ahead - 1)
        s.barrier()
        self._multiply(s, self._operands(s, variables), sums)
        if sums is not target or self._multiplied or (added is None and self.product.epilogue is not None):
            self._finish(s, emitter, sums)

    @property
    def _multiplied(self) -> bool:
        """Whether another product multiplies the sums: beyond the edges they must be 0, where an infinity times 0 has made
        NaN."""
        return self.compute.target in self.registers.held.multiplied

    def _sums(self, s: DeviceStatements, emitter: FragmentEmitter, added: Expr | None) -> tirx.Buffer:
        """Where products are added up, with what they are added to."""
        memory = self.registers.views[self.compute.target].flat
        if added is not None:
            ranks = tuple(r for r in self.compute.ranks if r.name != self.product.inner)
            plain = replace(self.compute, product=None, value=added, reduction=None, reduced=(), ranks=ranks)
            replace(emitter, compute=plain).emit_everywhere(s)
            return memory
        epilogue = self.product.epilogue
        own = epilogue is not None and any(r.tensor == self.compute.target for r in reads_of(epilogue))
        if own or str(memory.dtype) != "float32":
            memory = s.allocate("sums", (int(memory.shape[0]),), "float32", scope="local")
        with s.loop("i", int(memory.shape[0]), kind=ForKind.UNROLLED) as i:
            s.store(memory, i, tirx.const(0, "float32"))
        return memory

    def _multiply(self, s: DeviceStatements, operands: Mapping[str, tuple[Operand, int]], sums: tirx.Buffer) -> None:
        held, base = self.registers.held, address(s, self.scratch)
        columns = held.tiles[self.compute.target]
        assert columns is not None
        staged = {
            name: Staged(
                panel=operand.panel, along=operand.along, address=s.share(beyond(base, i32(start))), paired=self.paired
            )
            for name, (operand, start) in operands.items()
        }
        lane, across = Lane.of(s, self.registers.team), columns // mma.COLUMNS
        first = s.share(tirx.Cast("int32", self.registers.first))
        lefts = s.allocate("a", (held.fragments * 4,), "uint32", scope="local")
        rights = s.allocate("b", (4,), "uint32", scope="local")
        unrolled = partial(s.loop, kind=ForKind.UNROLLED)
        steps = panel_sides(self.compute, held, self.registers.context.lets)["steps"]
        with unrolled("k", steps) as k:
            step = tirx.Cast("int32", k)
            with unrolled("i", held.fragments) as i:
                if "left" in staged:
                    load_left(s, lefts, i * 4, staged["left"], first + tirx.Cast("int32", i) * mma.ROWS, step, lane)
                else:
                    self._packed(s, lefts, i, k)
            with unrolled("j", across // 2) as j:
                load_right(s, rights, 0, staged["right"], tirx.Cast("int32", j) * (2 * mma.COLUMNS), step, lane)
                with unrolled("i", held.fragments) as i, unrolled("side", 2) as side:
                    at = (i * across + j * 2 + side) * 4
                    mma.add(s, self.kernel.left, sums, at, lefts, i * 4, rights, side * 2)

    def _packed(self, s: Statements, lefts: tirx.Buffer, i: tirx.Expr, k: tirx.Expr) -> None:
        """Fragments of sums as one of a left operand: of 16 bits two side by side, pairs of neighbours in a register; of 32
        bits one, whose columns 2 t and 2 t + 1 the instruction takes for t and t + 4."""
        name = left_in_registers(self.compute, self.registers.held.tiles)
        assert name is not None
        words, columns = self.registers.words(s, name), self.registers.held.tiles[name]
        assert columns is not None
        if self.paired:
            for r, place in enumerate((0, 2, 1, 3)):
                at = (i * (columns // mma.COLUMNS) + k) * 4 + place
                s.store(lefts, i * 4 + r, tirx.BufferLoad(words, [at]))
            round_four(s, lefts, i * 4)
            return
        first = (i * (columns // mma.COLUMNS) + k * 2) * 2
        with s.loop("r", 4, kind=ForKind.UNROLLED) as r:
            s.store(lefts, i * 4 + r, tirx.BufferLoad(words, [first + r]))

    def _finish(self, s: DeviceStatements, emitter: FragmentEmitter, sums: tirx.Buffer) -> None:
        """Stores what becomes of the finished sums."""
        epilogue = self.product.epilogue
        tested = epilogue is not None and not _is_held(epilogue, self.registers.held.tiles)
        target = self.compute.target
        columns = self.registers.held.tiles[target]
        assert columns is not None
        with self.registers.lines(s) as (line, row), self.registers.along(s, line, columns) as (point, column):
            inside = emitter.inside(s, row, column) if tested or self._multiplied else True
            if tested and self._multiplied:
                with s.when(tirx.Not(inside) if sums is self.registers.views[target].flat else True):
                    self.registers.clear(s, target, point)
            with s.when(inside if tested else True):
                at = emitter.at(point, s.bind("row", row), s.bind("column", column))
                at = replace(at, mask=inside if self._multiplied and not tested and inside is not True else None)
                at._finish(s, at.variables, tirx.BufferLoad(sums, [point.element]))


def _added(epilogue: Expr | None, tiles: Collection[str]) -> Expr | None:
    """What the sum is added to, where that is of tiles in registers: products are added up right there."""
    match epilogue:
        case Op(op="add", args=(Read(tensor=name), other)) if name == SUM:
            pass
        case Op(op="add", args=(other, Read(tensor=name))) if name == SUM:
            pass
        case _:
            return None
    return other if _is_held(other, tiles) and all(r.tensor != SUM for r in reads_of(other)) else None


def _is_held(expr: Expr, tiles: Collection[str]) -> bool:
    return all(r.tensor in tiles or r.tensor == SUM for r in reads_of(expr))


__all__ = ["FragmentProduct"]
