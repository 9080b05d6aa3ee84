"""Constants packed ahead of their use: the function that packs one, and how a kernel comes to the packed form.

A kernel takes each packed form as one more argument, bytes that a function of the same library has filled. A caller that has
not bound the constant passes a single byte: the kernel then packs it itself, before anything else and in memory of its own, so
that the rest of its code is the same in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Call, GlobalVar, PointerType, PrimType, StringImm
from tvm.tirx.stmt import ForKind

from ..ir.machine import Machine
from ..ir.microkernels import PANEL
from ..ir.plans import plan_gemm
from ..ir.tile import Prepacked
from ..ir.types import DType
from .argument import FAR, Argument
from .element import argument, computed
from .microkernels.operand import Operand
from .microkernels.packing import PackedMatrix, emit_pack_columns
from .microkernels.panels import PackedWords
from .microkernels.statements import Statements, both, ceil_div, constant, index, maximum, minimum, negation, round_up
from .microkernels.words import CHUNK, LINES, Lines, emit_pack_panel, reinterpreted
from .views import View

_TOGETHER = 8
"""Panels of multiply-adds that one task packs: rows of a matrix are read half a page at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Packs one constant for one machine. ``dtype`` is the type of its elements, ``symbol`` names the filler."""

    form: Prepacked
    machine: Machine
    dtype: DType
    symbol: GlobalVar

    @property
    def held(self) -> str:
        """The type in which packed elements are read."""
        return "uint32" if self.form.layout.words else computed(self.dtype)

    def filler(self) -> tirx.PrimFunc:
        """What the exported function and the kernel call.

        It takes the addresses of the constant and of the packed form, the stride along its rows, k (of a window in words the
        channels) and n; of a stack also the matrix's first element and panel, and the columns of all.
        """
        s = Statements()
        source, target = (tirx.Var(name, PointerType(PrimType("uint8"), "global")) for name in ("source", "target"))
        names = ("stride", "k", "n", "first", "panel", "total")
        stride, k, n, first, panel, total = (tirx.Var(name, "int64") for name in names)
        held = argument(self.dtype)
        elements = tirx.decl_buffer((index(FAR),), held, name="elements", data_alignment=max(1, self.dtype.bits // 8))
        s.add(tirx.DeclBuffer(elements, data=source))
        matrix = Operand(buffer=elements, offset=first, row_stride=stride, col_stride=1)
        steps = round_up(k, self.form.layout.steps) * self.form.taps if self._chunked else k
        packed = self.view(s, _declared(s, "packed", self.held, target), steps, total)
        if isinstance(packed, PackedWords):
            packed = packed.part(panel, index(0))
        self._emit(s, matrix.transposed() if self.form.transposed else matrix, packed, k=k, n=n)
        s.add(tirx.Return(tirx.IntImm("int32", 0)))
        arguments = [source, target, stride, k, n, first, panel, total]
        function = tirx.PrimFunc(arguments, s.finish(), ret_type=PrimType("int32"))
        return function.with_attr({"tirx.noalias": True, "s_tir": True})

    def function(self, name: str) -> tirx.PrimFunc:
        """The exported function: of the constant and of the bytes to be filled."""
        s = Statements()
        source = Argument.declare(s, self.form.parameter, self.dtype, len(self.form.lead) + 1 + self.form.joined)
        target = _bytes("target")
        needed = self.elements(*self.sizes(source.extents)) * (self.form.layout.held // 8)
        wrong = [StringImm("a packed constant needs memory of another size")]
        s.add(tirx.AssertStmt(tirx.EQ(target.shape[0], needed), StringImm("ValueError"), wrong))
        self.call(s, source, target.data)
        function = tirx.PrimFunc([source.declared, target], s.finish())
        return function.with_attr({"global_symbol": name, "tirx.noalias": True, "s_tir": True})

    def sizes(self, extents: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        """k, and the columns of the constant, or those of all matrices of a stack."""
        *lead, first, second = self._joined(extents)
        k, n = (second, first) if self.form.transposed else (first, second)
        return k, _product([*lead, round_up(n, self.form.layout.columns)]) if lead else n

    def call(self, s: Statements, source: Argument | View, target: tirx.Expr) -> None:
        """Calls the filler, for each matrix of a stack."""
        at = PointerType(PrimType("uint8"), "global")
        memory = [tirx.call_intrin(at, "tirx.reinterpret", address) for address in (source.flat.data, target)]
        joined = self.form.joined
        extents = self._joined(source.extents)
        *lead, n = extents[:-1] if self.form.transposed else (*extents[:-2], extents[-1])
        k, total = self.sizes(source.extents)
        first = matrix = index(0)
        with s.when(self._gapless(source)), s.loop("matrix", _product(lead)) as number:
            rest = matrix = number
            for extent, stride in reversed([*zip(lead, source.strides, strict=False)]):
                first = first + tirx.truncmod(rest, extent) * stride
                rest = s.bind("rest", tirx.truncdiv(rest, extent))
            panel = matrix * ceil_div(n, self.form.layout.columns)
            deep = source.extents[-joined] if self._chunked else k
            arguments = [*memory, source.strides[-1 - joined], deep, n, first, panel, total]
            s.evaluate(Call(self.symbol, arguments, ret_ty=PrimType("int32")))

    def _joined(self, extents: Sequence[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """The extents of the constant as matrices."""
        first = len(extents) - self.form.joined
        if self._chunked:
            return (*extents[:first], round_up(extents[first], self.form.layout.steps) * self.form.taps)
        return (*extents[:first], _product(extents[first:]))

    @property
    def _chunked(self) -> bool:
        """Whether the constant is a window's weights in words: a chunk of channels, tap by tap, then the next."""
        return self.form.layout.words and self.form.joined > 1

    def _gapless(self, source: Argument | View) -> tirx.Expr | bool:
        """Whether the dimensions that are joined lie in one block: otherwise nobody reads the packed form."""
        found: tirx.Expr | bool = True
        wanted: tirx.Expr = index(1)
        for extent, stride in list(zip(source.extents, source.strides, strict=True))[: -1 - self.form.joined : -1]:
            known = constant(stride), constant(wanted)
            found = found if known[0] is not None and known[0] == known[1] else both(found, stride == wanted)
            wanted = wanted * extent
        return found

    def elements(self, k: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        """Elements of the packed form."""
        return ceil_div(n, self.form.layout.columns) * (self._panel(k) + self.form.layout.noted)

    def view(
        self, s: Statements, buffer: tirx.Buffer, k: tirx.Expr, n: tirx.Expr, ahead: tirx.Expr | bool = False
    ) -> PackedMatrix | PackedWords:
        """What products read of a buffer that holds the packed form, from before the call where ``ahead`` holds."""
        layout = self.form.layout
        if not layout.words:
            return PackedMatrix(buffer=buffer, height=s.bind("height", self._height(k)), single=False)
        pitch = s.bind("pitch", self._panel(k))
        notes = _declared(s, f"{buffer.name}_notes", "int32", buffer.data) if layout.notes else None
        noted = s.bind("noted", ceil_div(n, layout.columns) * pitch)
        return PackedWords(words=buffer, start=index(0), pitch=pitch, notes=notes, noted=noted, ahead=ahead)

    def _emit(self, s: Statements, b: Operand, target: PackedMatrix | PackedWords, *, k: tirx.Expr, n: tirx.Expr) -> None:
        """Fills the packed form in a parallel loop."""
        match target:
            case PackedMatrix():
                self._emit_columns(s, b, target, k, n)
            case PackedWords():
                self._emit_words(s, b, target, k, n)

    def _emit_columns(self, s: Statements, b: Operand, target: PackedMatrix, k: tirx.Expr, n: tirx.Expr) -> None:
        plan = plan_gemm(self.machine, self.held)
        assert plan.nr == self.form.layout.columns and plan.lanes == self.form.layout.steps
        width = _TOGETHER * plan.nr
        with s.loop("group", ceil_div(n, width), kind=ForKind.PARALLEL) as group:
            col = s.bind("col", group * width)
            emit_pack_columns(
                s, b=b, target=target.buffer, base=s.bind("base", col * target.height), start=index(0), depth=k, col=col,
                cols=s.bind("cols", minimum(n - col, width)), plan=plan, dtype=self.held, height=target.height,
            )  # fmt: skip

    def _emit_words(self, s: Statements, b: Operand, target: PackedWords, k: tirx.Expr, n: tirx.Expr) -> None:
        lines = Lines(source=b.transposed(), raw=f"uint{self.dtype.bits}")
        assert lines.step == self.form.layout.steps and self.form.layout.columns == PANEL
        if self._chunked:
            self._emit_chunks(s, b.transposed(), target, k, n)
            return
        with s.loop("panel", ceil_div(n, PANEL), kind=ForKind.PARALLEL) as panel:
            emit_pack_panel(
                s, lines=lines, target=target.words, at=s.bind("at", target.start + panel * target.pitch),
                first=s.bind("first", panel * PANEL), inside=s.bind("inside", minimum(n - panel * PANEL, PANEL)),
                start=index(0), depth=k, transposed=True, subnormal=target.notes,
                flag=s.bind("flag", target.noted + panel),
            )  # fmt: skip

    def _emit_chunks(self, s: Statements, rows: Operand, target: PackedWords, k: tirx.Expr, n: tirx.Expr) -> None:
        """The same of a window's weights, of k channels, byte by byte: a channel's steps follow one another in memory."""
        taps, step = self.form.taps, self.form.layout.steps
        group = step // LINES
        raw = _declared(s, "packed_bytes", "uint8", target.words.data)
        with (
            s.loop("panel", ceil_div(n, PANEL), kind=ForKind.PARALLEL) as panel,
            s.loop("chunk", ceil_div(k, step)) as chunk,
            s.loop("line", PANEL) as line,
        ):
            row = s.bind("row", panel * PANEL + line)
            square = tirx.truncdiv(line, index(LINES)) * CHUNK + tirx.truncmod(line, index(LINES))
            begin = s.bind("begin", target.start + panel * target.pitch + chunk * (taps * 2 * CHUNK) + square)
            inside = s.bind("inside", tirx.Select(row < n, minimum(k - chunk * step, step), index(0)))
            source = s.bind("source", rows.at(row, chunk * (step * taps)))
            with s.loop("channel", step) as channel:
                word = begin + tirx.truncdiv(channel, index(group)) * LINES
                held = s.bind("held", word * group + tirx.truncmod(channel, index(group)))
                for there in (True, False):
                    with s.when(channel < inside if there else channel >= inside), s.loop("tap", taps) as tap:
                        value = tirx.BufferLoad(rows.buffer, [source + channel * taps + tap])
                        byte = reinterpreted(value, "uint8", 1) if there else tirx.IntImm("uint8", 0)
                        s.store(raw, held + tap * (2 * CHUNK * group), byte)

    def _height(self, k: tirx.Expr) -> tirx.Expr:
        """Steps of k that a panel has room for."""
        return round_up(maximum(k, 1), self.form.layout.steps)

    def _panel(self, k: tirx.Expr) -> tirx.Expr:
        """Elements of a panel, as they are held."""
        return self._height(k) * self.form.layout.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A packed form inside a kernel: its argument, and what products read."""

    declared: tirx.Buffer
    packed: PackedMatrix | PackedWords

    @staticmethod
    def declare(s: Statements, packer: Packer, source: View, needed: tirx.Expr | bool) -> Form:
        """Declares the argument, and packs the constant where it was not bound and is ``needed``."""
        form, held = packer.form, packer.held
        declared = _bytes(form.name.replace(".", "_"))
        k, n = packer.sizes(source.extents)
        ahead = s.bind("ahead", declared.shape[0] > 1)
        missing = s.bind("missing", both(negation(ahead), needed))
        own = s.reserve(f"{declared.name}_own", tirx.Select(missing, packer.elements(k, n), index(1)), held)
        with s.when(missing):
            packer.call(s, source, own.data)
        pointer = PointerType(PrimType(held), "global")
        chosen = tirx.Var(f"{declared.name}_at", pointer)
        given = tirx.call_intrin(pointer, "tirx.reinterpret", declared.data)
        s.add(tirx.Bind(chosen, tirx.call_intrin(pointer, "prim.if_then_else", missing, own.data, given)))
        return Form(declared=declared, packed=packer.view(s, _declared(s, f"{declared.name}_read", held, chosen), k, n, ahead))


def part_of(s: Statements, packed: PackedWords, constant: View, indices: Sequence[tirx.Expr], columns: int) -> PackedWords:
    """What a product reads of a packed constant whose part begins at ``indices``: of one matrix of a stack, from a panel on.

    ``columns`` is the dimension of the columns among the last two, -1 or -2.
    """
    panel = index(0)
    for at, extent in zip(indices[:-2], constant.extents, strict=False):
        panel = panel * extent + at
    panel = panel * ceil_div(constant.extents[columns], PANEL) + tirx.truncdiv(indices[columns], index(PANEL))
    return packed.part(s.bind("panel", panel), index(0))


def _product(extents: Sequence[tirx.Expr]) -> tirx.Expr:
    total: tirx.Expr = index(1)
    for extent in extents:
        total = total * extent
    return total


def _bytes(name: str) -> tirx.Buffer:
    return tirx.decl_buffer([tirx.Var(f"{name}_bytes", "int64")], "uint8", name=name, data_alignment=64)


def _declared(s: Statements, name: str, dtype: str, memory: tirx.Expr) -> tirx.Buffer:
    """Memory that begins on a cache line, as elements of a type."""
    buffer = tirx.decl_buffer((index(FAR),), dtype, name=name, data_alignment=64)
    s.add(tirx.DeclBuffer(buffer, data=memory))
    return buffer
