"""Random well-formed cascades as `.ecs` text, with arguments for them.

A program is grown statement by statement. Each expression is made for a wanted element type and a set of rank
variables; parameters appear when a read needs one of their shape. Nearly everything that comes out is accepted by the
front end; what is not, tests pass over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

SIZES = ("M", "N", "K")
STORAGE = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f8_e4m3": ml_dtypes.float8_e4m3fn, "f8_e5m2": ml_dtypes.float8_e5m2,
    "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8, "i4": np.int8,
    "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8, "u4": np.uint8,
    "bool": np.bool_,
}  # fmt: skip
FLOATS = ("f32", "f32", "f32", "f32", "f64", "f16", "bf16", "f8_e4m3", "f8_e5m2")
INTEGERS = ("i32", "i32", "i8", "u8", "i64", "i16", "u16", "u32", "u64", "i4", "u4")
_WIDTH = {"f8_e4m3": 8, "f8_e5m2": 8, "bf16": 16} | {n: int(n[1:]) for n in STORAGE if n[1:].isdigit()}
_BITS_OF = {"f32": ("i32", "u32"), "f64": ("i64", "u64"), "f16": ("i16", "u16"), "bf16": ("i16", "u16")}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of the program. ``dims`` are size names; ``steps`` marks the iterative dimensions (extent + 1)."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    steps: tuple[bool, ...] = ()
    indexes: str | None = None  # the size whose coordinates the values are

    def shape(self) -> str:
        """The dimensions as the program states them."""
        steps = self.steps or (False,) * len(self.dims)
        return ", ".join(f"{d} + 1" if s else d for d, s in zip(self.dims, steps, strict=True))

    def typed(self) -> str:
        return f"{self.name}: {self.dtype}[{self.shape()}]" if self.dims else f"{self.name}: {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, its parameters, and its free sizes."""

    text: str
    parameters: tuple[Tensor, ...]
    sizes: tuple[str, ...]

    def arguments(self, sizes: dict[str, int], seed: int, *, special: float = 0.0) -> dict[str, object]:
        """Arrays and numbers for the parameters. ``special``: the share of NaN and infinities among the floats."""
        random = np.random.default_rng(seed)
        return {p.name: _values(p, sizes, random, special) for p in self.parameters}

    def __repr__(self) -> str:
        return f"<<<\n{self.text}>>>"


def _values(tensor: Tensor, sizes: dict[str, int], random: np.random.Generator, special: float) -> object:
    shape = tuple(sizes[d] for d in tensor.dims)
    kind = STORAGE[tensor.dtype]
    if tensor.indexes is not None:
        # One coordinate in eight points outside the shape.
        top = sizes[tensor.indexes]
        return random.integers(-1 if tensor.dtype[0] == "i" else 0, top + max(1, top // 8), shape).astype(kind)
    if tensor.dtype == "bool":
        return bool(random.random() < 0.5) if not shape else random.random(shape) < 0.5
    if tensor.dtype in FLOATS:
        if not shape:
            return float(random.integers(-8, 9)) / 4
        # Multiples of 1/8, so that comparisons and roundings rarely depend on the order of summation.
        values = random.integers(-16, 17, shape) / 8 if random.random() < 0.5 else random.standard_normal(shape)
        chosen = random.random(shape) < special
        odd = random.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], shape)
        return np.where(chosen, odd, values).astype(kind)
    low, high = (-8, 7) if tensor.dtype[0] == "i" else (0, 15)
    if not shape:
        return int(random.integers(max(low, -8), high + 1))
    if _WIDTH[tensor.dtype] > 4 and random.random() < 0.3:
        info = np.iinfo(kind)
        edges = np.array([info.min, info.max, 0, 1, info.max - 1], dtype=kind)
        return np.where(random.random(shape) < 0.3, random.choice(edges, shape), random.integers(low, high, shape)).astype(kind)
    return random.integers(low, high + 1, shape).astype(kind)


Ranks = dict[str, str]
"""Rank variables and their extents (size names)."""


@dataclass
class Builder:
    """The program so far. Every choice is a hypothesis draw, so that failures shrink."""

    random: Random
    tensors: list[Tensor] = field(default_factory=list)  # written by the program
    parameters: list[Tensor] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    undeclared: set[str] = field(default_factory=set)  # their shape must be stated
    bound: set[str] = field(default_factory=set)  # variables that a read of the current expression indexes directly
    unfinished: set[str] = field(default_factory=set)  # iterative tensors that are being written
    count: int = 0

    # -- choices -----------------------------------------------------------------------------------------------------

    def pick(self, options):
        return self.random.choice(tuple(options))

    def chance(self, percent: int) -> bool:
        return self.random.randint(0, 99) < percent

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def shuffled(self, items):
        order = list(items)
        self.random.shuffle(order)
        return order

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # -- tensors -----------------------------------------------------------------------------------------------------

    def parameter(self, dtype: str, dims: tuple[str, ...], indexes: str | None = None) -> Tensor:
        """A parameter of that type and shape; one that exists already, most of the time."""
        same = [p for p in self.parameters if (p.dtype, p.dims, p.indexes) == (dtype, dims, indexes)]
        if same and (len(self.parameters) > 5 or self.chance(60)):
            return self.pick(same)
        made = Tensor(name=self.fresh("x" if not dims else "X"), dtype=dtype, dims=dims, indexes=indexes)
        self.parameters.append(made)
        return made

    def ranks(self, least: int, most: int, taken: Ranks | None = None) -> Ranks:
        """New rank variables over random sizes."""
        found: Ranks = {}
        for _ in range(self.number(least, most)):
            size = self.pick(SIZES)
            name = size.lower()
            while name in found or name in (taken or {}):
                name += "'"
            found[name] = size
        return found

    # -- reads -------------------------------------------------------------------------------------------------------

    def read(self, dtype: str, ranks: Ranks, *, must: tuple[str, ...] = ()) -> str:
        """A read of that type. With ``must``, of a parameter that those variables index directly."""
        if must or self.chance(45):
            own = tuple(must) or tuple(r for r in ranks if self.chance(60))
            tensor = self.parameter(dtype, tuple(ranks[r] for r in own))
            self.bound |= set(own)
            return _access(tensor.name, own)
        written = [t for t in self.tensors if t.name not in self.unfinished]
        known = [t for t in (*written, *self.parameters) if t.dtype == dtype and t.indexes is None]
        if not known:
            # A rounding more or less would decide what a computed float becomes as an integer.
            other = [t for t in written if t.dtype not in FLOATS or dtype in FLOATS]
            if other and self.chance(70):
                tensor = self.pick(other)
                return f"cast({dtype}, {self.at(tensor, ranks)})"
            return self.read(dtype, ranks, must=tuple(ranks)) if ranks else self.literal(dtype)
        return self.at(self.pick(known), ranks)

    def at(self, tensor: Tensor, ranks: Ranks) -> str:
        """A read of ``tensor`` with indices of any kind."""
        steps = tensor.steps or (False,) * len(tensor.dims)
        return _access(tensor.name, [self.index(d, ranks, iterative=s) for d, s in zip(tensor.dims, steps, strict=True)])

    def index(self, size: str, ranks: Ranks, *, iterative: bool = False) -> str:
        fitting = [r for r, s in ranks.items() if s == size]
        if iterative:
            if fitting and self.chance(70):
                r = self.pick(fitting)
                self.bound.add(r)
                return r if self.chance(50) else f"{r}+1"
            return size if self.chance(70) else "0"
        if fitting and self.chance(75):
            r = self.pick(fitting)
            self.bound.add(r)
            return r
        if not ranks or self.chance(10):
            return self.pick(["0", "1", f"{size} - 1"])
        r = self.pick(ranks)
        match self.number(0, 8):
            case 0:
                return f"{r} + {self.number(1, 3)}"
            case 1:
                return f"{r} - {self.number(1, 3)}"
            case 2:
                return f"{size} - 1 - {r}"
            case 3:
                return f"{self.number(2, 3)}*{r}" + self.pick(["", " + 1", " - 1"])
            case 4:
                return f"{r} // {self.number(2, 3)}"
            case 5:
                return f"{r} % {self.number(2, 4)}"
            case 6:
                return f"{r} + {self.pick(ranks)} - 1"
            case _:
                where = tuple(q for q in ranks if q == r or self.chance(30))
                self.bound |= set(where)
                return _access(
                    self.parameter(self.pick(["i32", "i32", "i64", "u8"]), tuple(ranks[q] for q in where), size).name, where
                )

    # -- expressions -------------------------------------------------------------------------------------------------

    def literal(self, dtype: str) -> str:
        if dtype == "bool":
            return self.pick(["true", "false"])
        if dtype in FLOATS:
            return self.pick(["0", "1", "2", "0.5", "1.5", "0.25", "3"])
        return str(self.number(0, 7))

    def expression(self, dtype: str, ranks: Ranks, depth: int) -> str:
        """An expression of exactly that type."""
        if dtype == "bool":
            return self.condition(ranks, depth)
        if depth <= 0 or self.chance(15):
            return self.leaf(dtype, ranks)
        if self.chance(12):
            condition = self.condition(ranks, depth - 1)
            then, otherwise = (self.expression(dtype, ranks, depth - 1) for _ in range(2))
            return f"(if {condition} then {then} else {otherwise})"
        if self.chance(10):
            return f"({self.expression(dtype, ranks, depth - 1)} ?? {self.expression(dtype, ranks, depth - 1)})"
        return self.real(dtype, ranks, depth) if dtype in FLOATS else self.whole(dtype, ranks, depth)

    def leaf(self, dtype: str, ranks: Ranks) -> str:
        kind = self.number(0, 19)
        if kind == 0:
            return f"cast({dtype}, {self.literal(dtype)})"
        if kind == 1 and ranks:
            return f"cast({dtype}, {self.pick(ranks)})"
        if kind == 2:
            known = [d for p in self.parameters for d in p.dims]
            return f"cast({dtype}, {self.pick(known)})" if known else self.literal(dtype)
        if kind == 3:
            return self.parameter(dtype, ()).name if dtype in ("f32", "i32", "f64", "i64") else self.read(dtype, ranks)
        if kind in (4, 5, 6):
            other = self.pick(FLOATS + INTEGERS + ("bool",))
            if other == dtype:
                return self.read(dtype, ranks)
            exact = tuple(ranks) if other in FLOATS and dtype not in FLOATS else ()
            return f"cast({dtype}, {self.read(other, ranks, must=exact)})"
        if kind == 7 and dtype in ("i32", "u32", "i16", "u16", "i64"):
            return f"bitcast({dtype}, {self.read({'3': 'f32', '1': 'f16', '6': 'f64'}[dtype[1]], ranks, must=tuple(ranks))})"
        return self.read(dtype, ranks)

    def real(self, dtype: str, ranks: Ranks, depth: int) -> str:
        def inner() -> str:
            return self.expression(dtype, ranks, depth - 1)

        match self.number(0, 21):
            case 0 | 1 | 2:
                return f"({inner()} + {inner()})"
            case 3 | 4:
                return f"({inner()} - {inner()})"
            case 5 | 6 | 7:
                return f"({inner()} * {inner()})"
            case 8:
                return f"({inner()} / (abs({inner()}) + 0.5))"
            case 9:
                return f"{self.pick(['min', 'max'])}({inner()}, {inner()})"
            case 10:
                return f"exp(min({inner()}, 2))"
            case 11 | 12:
                return f"{self.pick(['tanh', 'sigmoid', 'erf', 'abs'])}({inner()})"
            case 13:
                return f"{self.pick(['sqrt', 'log', 'rsqrt', 'log2'])}(abs({inner()}) + 0.5)"
            case 14:
                return f"({inner()} * {self.pick([*ranks, '2', '0.5'])})"
            case 15:
                return f"(-{inner()})"
            case 16:
                return f"({inner()}) ** {self.number(2, 3)}"
            case 17:
                return f"clamp({inner()}, -1, {self.pick(['1', '2.5'])})"
            case 18:
                return f"({inner()} / {inner()})"
            case 19:
                return f"{self.pick(['floor', 'ceil', 'round', 'sign'])}({inner()})"
            case 20 if dtype in _BITS_OF:
                bits = self.pick(_BITS_OF[dtype])
                return f"bitcast({dtype}, bitcast({bits}, {inner()}))"
            case _:
                return f"({inner()} + {self.literal(dtype)})"

    def whole(self, dtype: str, ranks: Ranks, depth: int) -> str:
        def inner() -> str:
            return self.expression(dtype, ranks, depth - 1)

        match self.number(0, 13):
            case 0 | 1:
                return f"({inner()} + {inner()})"
            case 2:
                return f"({inner()} - {inner()})"
            case 3 | 4:
                return f"({inner()} * {inner()})"
            case 5:
                return f"({inner()} {self.pick(['//', '%'])} {inner()})"
            case 6:
                return f"({inner()} {self.pick(['//', '%'])} {self.number(1, 7)})"
            case 7:
                return f"({inner()} {self.pick(['|', '&', '^'])} {inner()})"
            case 8:
                return f"({inner()} {self.pick(['<<', '>>'])} {self.pick([inner(), '1', '3'])})"
            case 9:
                return f"{self.pick(['min', 'max'])}({inner()}, {inner()})"
            case 10:
                return f"{self.pick(['abs', 'sign'])}({inner()})"
            case 11:
                return f"clamp({inner()}, 1, 5)"
            case 12:
                return f"(-{inner()})" if self.chance(50) else f"({inner()}) ** {self.number(2, 4)}"
            case _:
                other = self.pick(["f32", "f32", "f16", "i64", "i8", "bool"])
                return f"cast({dtype}, {self.expression(other, ranks, depth - 1)})"

    def condition(self, ranks: Ranks, depth: int) -> str:
        kind = self.number(0, 11)
        if depth > 0 and kind < 3:
            joined = self.pick(["and", "or"])
            return f"({self.condition(ranks, depth - 1)} {joined} {self.condition(ranks, depth - 1)})"
        if depth > 0 and kind == 3:
            return f"(not {self.condition(ranks, depth - 1)})"
        if kind < 8 and ranks:
            a = self.pick(ranks)
            b = self.pick([*ranks, "0", "2", "5", *SIZES])
            shift = self.pick(["", " + 1", " - 2", " // 2"])
            return f"{a} {self.pick(['<', '<=', '>', '>=', '==', '!='])} {b}{shift}"
        if kind == 8:
            dtype = self.pick(["i32", "i8", "u16"])
            return f"{self.read(dtype, ranks)} {self.pick(['<', '==', '>='])} {self.number(0, 3)}"
        if kind == 9:
            x = self.parameter("f32", tuple(ranks.values()))
            self.bound |= set(ranks)
            return f"{_access(x.name, list(ranks))} {self.pick(['<', '>'])} {self.literal('f32')}"
        return self.read("bool", ranks)

    # -- statements --------------------------------------------------------------------------------------------------

    def write(self, tensor: Tensor, coordinates: list[str] | tuple[str, ...], value: str, clause: str = "") -> None:
        """Adds an Einsum; a shape that it does not bound is stated."""
        self.lines.append(f"{_access(tensor.name, coordinates)} = {value}{clause}")
        if tensor not in self.tensors:
            self.tensors.append(tensor)
            if any(c not in self.bound for c in coordinates) or self.chance(20):
                self.undeclared.add(tensor.name)

    def where(self, ranks: Ranks, percent: int = 35) -> str:
        if not ranks or not self.chance(percent):
            return ""
        parts = [self.condition(ranks, 1) for _ in range(self.number(1, 2))]
        return "  where " + " and ".join(parts)

    def element(self) -> str:
        return self.pick(FLOATS) if self.chance(65) else self.pick(INTEGERS) if self.chance(80) else "bool"

    def map(self) -> None:
        """One Einsum without a reduction."""
        self.bound = set()
        ranks, dtype = self.ranks(0, 3), self.element()
        value = self.expression(dtype, ranks, self.number(1, 3))
        order = self.shuffled(list(ranks))
        made = Tensor(name=self.fresh("T"), dtype=dtype, dims=tuple(ranks[r] for r in order))
        coordinates = list(order)
        if order and self.chance(8):
            place = self.number(0, len(order) - 1)
            r = order[place]
            coordinates[place] = self.pick([f"{r} + 1", f"{ranks[r]} - 1 - {r}", f"{r} - 1"])
            self.need(order, ranks)
            if not set(order) <= self.bound:
                value = self.with_binder(value, dtype, ranks, tuple(order))
        self.write(made, coordinates, value, self.where(ranks))

    def need(self, names, ranks: Ranks) -> tuple[str, ...]:
        return tuple(r for r in names if r not in self.bound)

    def with_binder(self, value: str, dtype: str, ranks: Ranks, names: tuple[str, ...]) -> str:
        """``value`` combined with a read that ``names`` index directly."""
        binder = self.read(dtype, ranks, must=names)
        if dtype == "bool":
            return f"({value}) {self.pick(['and', 'or'])} {binder}"
        return f"({value}) {self.pick(['*', '*', '+', '-'])} {binder}"

    def reduce(self) -> None:
        """A reduction of a random expression."""
        self.bound = set()
        dtype = self.element()
        outer = self.ranks(0, 2)
        inner = self.ranks(1, 2, outer)
        ranks = outer | inner
        value = self.expression(dtype, ranks, self.number(0, 2))
        missing = self.need(inner, ranks)
        if missing:
            value = self.with_binder(value, dtype, ranks, missing)
        if dtype == "bool":
            operator, result = self.pick(["and", "or"]), "bool"
        elif self.chance(15) and len(inner) == 1:
            operator, result = self.pick(["argmax", "argmin"]), "i32"
        else:
            # Products of computed factors amplify roundings beyond any tolerance.
            operator = self.pick(["+", "+", "+", "max", "max", "min", "*"] if value.count("(") < 2 else ["+", "max", "min"])
            result = dtype if operator in ("max", "min") else _accumulated(dtype)
        order = self.shuffled(list(outer))
        made = Tensor(name=self.fresh("R"), dtype=result, dims=tuple(outer[r] for r in order))
        listed = ", ".join(self.shuffled(list(inner)))
        self.write(made, order, value, f"  :: {operator}({listed})" + self.where(ranks))

    def product(self) -> None:
        """A contraction of two reads, perhaps with a mask, a batch rank, a scale and an epilogue."""
        self.bound = set()
        dtype = self.pick(["f32", "f32", "f32", "bf16", "f16", "f64", "i8", "i32", "u8"])
        batch, rows, columns, inner = self.ranks(0, 1), {}, {}, {}
        rows = self.ranks(0, 1, batch)
        columns = self.ranks(0, 1, batch | rows)
        inner = self.ranks(1, 2, batch | rows | columns)
        ranks = batch | rows | columns | inner
        left = self.operand(dtype, batch | rows | inner, ranks)
        right = self.operand(dtype, batch | columns | inner, ranks)
        value = f"{left} * {right}"
        if dtype[0] in "fb" and self.chance(30):
            outer = batch | rows | columns
            # Over a depth of 0 nothing is divided; elsewhere infinite terms may meet before the division or after it.
            depth = "K" if "K" in inner.values() else "K + 1"
            value += self.pick(
                [f" / sqrt({depth})", " * 0.5", f" * {self.read(dtype, outer, must=tuple(outer)[:1])}" if outer else ""]
            )
        missing = self.need(inner, ranks)
        if missing:
            value += f" * {self.read(dtype, ranks, must=missing)}"
        outer = list(batch | rows | columns)
        order = self.shuffled(outer) if self.chance(30) else outer
        made = Tensor(name=self.fresh("P"), dtype=_accumulated(dtype), dims=tuple(ranks[r] for r in order))
        self.write(made, order, value, self.where(ranks, 45))
        if self.chance(30) and made.dtype == "f32" and order:
            self.bound = set(order)
            after = Tensor(name=self.fresh("E"), dtype="f32", dims=made.dims)
            add = self.read("f32", dict(ranks), must=(order[-1],))
            self.write(
                after, order, self.pick(["max({}, 0)", "tanh({})", "{} * 2"]).format(f"{_access(made.name, order)} + {add}")
            )

    def operand(self, dtype: str, own: Ranks, ranks: Ranks) -> str:
        known = [t for t in self.tensors if t.dtype == dtype and sorted(t.dims) == sorted(own.values()) and not any(t.steps)]
        if known and self.chance(50):
            return self.at(self.pick(known), own)
        if self.chance(15):
            return self.read(dtype, own)
        order = self.shuffled(list(own))
        return self.read(dtype, ranks, must=tuple(order))

    def softmax(self) -> None:
        """A normalisation over one rank, in several Einsums that share the others, and perhaps a product after it."""
        self.bound = set()
        outer = self.ranks(1, 2)
        inner = self.ranks(1, 1, outer)
        ranks = outer | inner
        (k,) = inner
        rows, all_ = ", ".join(outer), ", ".join(ranks)
        dims, own = tuple(ranks.values()), tuple(outer.values())
        dtype = self.pick(["f32", "f32", "f32", "f64", "f16", "bf16"])
        score = self.expression(dtype, ranks, self.number(0, 1))
        if self.need(ranks, ranks):
            score = f"({score}) * {self.read(dtype, ranks, must=tuple(ranks))}"
        s, g, n, d, y = (self.fresh(c) for c in "SGNDY")
        self.write(Tensor(name=s, dtype=dtype, dims=dims), list(ranks), score, self.where(ranks, 50))
        if self.chance(70):
            self.write(Tensor(name=g, dtype=dtype, dims=own), list(outer), f"{s}[{all_}]", f" :: max({k})")
            self.write(Tensor(name=n, dtype=dtype, dims=dims), list(ranks), f"exp({s}[{all_}] - {g}[{rows}])")
        else:
            self.write(
                Tensor(name=g, dtype=_accumulated(dtype), dims=own), list(outer), f"{s}[{all_}] * {s}[{all_}]", f" :: +({k})"
            )
            wide = _accumulated(dtype)
            self.write(Tensor(name=n, dtype=wide, dims=dims), list(ranks), f"abs({s}[{all_}]) * rsqrt({g}[{rows}] + 0.125)")
            dtype = wide
        wide = _accumulated(dtype)
        self.write(Tensor(name=d, dtype=wide, dims=own), list(outer), f"{n}[{all_}]", self.pick(["", f" :: +({k})"]))
        kind = self.number(0, 2)
        if kind == 0:
            self.write(Tensor(name=y, dtype=wide, dims=dims), list(ranks), f"{n}[{all_}] / {d}[{rows}]")
            return
        column = self.ranks(1, 1, ranks)
        everything = ranks | column
        value = self.read(dtype, everything, must=(*list(outer)[:-1], k, *column))
        (f,) = column
        order = [*outer, f]
        if kind == 1:
            a = self.fresh("A")
            self.write(Tensor(name=a, dtype=wide, dims=dims), list(ranks), f"{n}[{all_}] / {d}[{rows}]")
            self.write(Tensor(name=y, dtype=wide, dims=tuple(everything[r] for r in order)), order, f"{a}[{all_}] * {value}")
            return
        c = self.fresh("C")
        self.write(Tensor(name=c, dtype=wide, dims=tuple(everything[r] for r in order)), order, f"{n}[{all_}] * {value}")
        self.write(
            Tensor(name=y, dtype=wide, dims=tuple(everything[r] for r in order)),
            order,
            f"{c}[{', '.join(order)}] / {d}[{rows}]",
        )

    def scatter(self) -> None:
        """Values added, maximised, … at coordinates that an array gives."""
        self.bound = set()
        along = self.ranks(1, 1)
        kept = self.ranks(0, 1, along)
        further = self.ranks(0, 1, along | kept) if self.chance(30) else {}
        ranks = along | kept | further
        (e,) = along
        size = self.pick(SIZES)
        place = self.parameter(self.pick(["i32", "i32", "i64", "u8"]), (along[e],), size)
        self.bound.add(e)
        dtype = self.element()
        value = self.expression(dtype, ranks, self.number(0, 2))
        missing = self.need([*kept, *further], ranks)
        if missing:
            value = self.with_binder(value, dtype, ranks, missing)
        operator = self.pick(["and", "or"]) if dtype == "bool" else self.pick(["+", "+", "max", "min", "*"])
        result = dtype if operator not in ("+", "*") else _accumulated(dtype)
        made = Tensor(name=self.fresh("S"), dtype=result, dims=(size, *kept.values()))
        reduced = ", ".join([e, *further])
        self.write(made, [f"{place.name}[{e}]", *kept], value, f"  :: {operator}({reduced})" + self.where(ranks, 25))
        self.undeclared.add(made.name)

    def recurrence(self) -> None:
        """One or two states over one iterative rank, forward or backward."""
        self.bound = set()
        ((t, size),) = self.ranks(1, 1).items()
        kept = self.ranks(0, 2, {t: size})
        dtype = self.pick(["f32", "f32", "f32", "f64", "i32", "f16", "bool"])
        backward = self.chance(25)
        before, after, first = (f"{t}+1", t, size) if backward else (t, f"{t}+1", "0")
        states = [
            Tensor(name=self.fresh("H"), dtype=dtype, dims=(size, *kept.values()), steps=(True,) + (False,) * len(kept))
            for _ in range(self.number(1, 2))
        ]
        self.unfinished = {state.name for state in states}
        for state in states:
            self.bound = set()
            start = self.literal(dtype) if self.chance(60) or dtype != "f32" else self.read("f32", kept)
            self.write(state, [first, *kept], start)
        for position, state in enumerate(states):
            self.bound = set()
            old = _access(state.name, [before, *kept])
            other = states[position - 1] if len(states) > 1 else None
            drive = self.expression(dtype, {t: size} | kept, self.number(0, 1))
            missing = self.need([t], {t: size})
            if missing:
                drive = self.with_binder(drive, dtype, {t: size} | kept, (t, *kept))
            if dtype == "bool":
                value = f"({old}) {self.pick(['and', 'or'])} ({drive})"
            elif other is not None:
                there = _access(other.name, [self.pick([before, after] if position else [before]), *kept])
                value = self.pick(
                    ["max({}, {} * 0.5 + {})", "({} + {}) * 0.5 + {}", "{} - min({}, {})"]
                    if dtype[0] == "f"
                    else ["max({}, {} + {})", "{} - {} + {}"]
                ).format(old, there, f"({drive})")
            else:
                value = self.pick(
                    ["{} + {}", "max({}, {})", "({} - {})", "tanh({}) + {}" if dtype[0] == "f" else "{} * 2 + {}"]
                ).format(old, f"({drive})")
            if self.chance(15) and kept:
                # The neighbour's state of the step before.
                last = list(kept)[-1]
                index = [before, *list(kept)[:-1], f"{last} - 1"]
                default = self.literal(dtype)
                value = f"({value}) {'or' if dtype == 'bool' else '+'} ({_access(state.name, index)} ?? {default})"
            self.write(state, [after, *kept], value, self.where(kept, 10))
            self.undeclared.add(state.name)
        self.unfinished = set()
        if self.chance(60):
            state = self.pick(states)
            self.bound = {t, *kept}
            made = Tensor(name=self.fresh("L"), dtype=dtype, dims=(size, *kept.values()))
            self.write(made, [t, *kept], _access(state.name, [self.pick([after, before]), *kept]))
        else:
            state = self.pick(states)
            self.bound = {*kept}
            made = Tensor(name=self.fresh("L"), dtype=dtype, dims=tuple(kept.values()))
            self.write(made, list(kept), _access(state.name, [size if not backward else "0", *kept]))

    def grid(self) -> None:
        """A recurrence over two ranks, as in dynamic programming."""
        self.bound = set()
        one = self.ranks(1, 1)
        two = self.ranks(1, 1, one)
        ((i, A),), ((j, B),) = one.items(), two.items()
        kept = self.ranks(0, 1, one | two)
        dtype = self.pick(["f32", "i32", "f32", "f64"])
        rest = "".join(f", {r}" for r in kept)
        d = Tensor(name=self.fresh("D"), dtype=dtype, dims=(A, B, *kept.values()), steps=(True, True, *[False] * len(kept)))
        self.unfinished = {d.name}
        self.write(d, [i, "0", *kept], self.pick(["0", i, f"{i} * 2"]))
        self.write(d, ["0", j, *kept], self.pick(["0", j, "1"]))
        self.bound = set()
        cost = self.expression(dtype, one | two | kept, self.number(0, 1))
        missing = self.need([i, j], one | two)
        if missing:
            cost = self.with_binder(cost, dtype, one | two | kept, (i, j, *kept))
        corner, up, left = f"{d.name}[{i}, {j}{rest}]", f"{d.name}[{i}, {j}+1{rest}]", f"{d.name}[{i}+1, {j}{rest}]"
        value = self.pick(
            [
                f"({cost}) + min({corner}, min({up}, {left}))",
                f"max({corner} + ({cost}), max({up} - 1, {left} - 2))",
                f"if {self.condition(one | two | kept, 0)} then {corner} + ({cost}) else max({up}, {left})",
                f"max(0, max({corner} + ({cost}), max({up}, {left}) - 1))",
            ]
        )
        self.write(d, [f"{i}+1", f"{j}+1", *kept], value)
        self.undeclared.add(d.name)
        self.unfinished = set()
        if self.chance(50):
            self.bound = {*kept}
            made = Tensor(name=self.fresh("L"), dtype=dtype, dims=tuple(kept.values()))
            self.write(made, list(kept), f"{d.name}[{A}, {B}{rest}]")

    # -- the whole ---------------------------------------------------------------------------------------------------

    def finish(self) -> Program:
        """Chooses the results and prints the program."""
        used = "\n".join(line.split(" = ", 1)[1] for line in self.lines)
        ends = [t for t in self.tensors if f"{t.name}[" not in used and not used.endswith(t.name)]
        chosen = {t.name for t in ends} or {self.tensors[-1].name}
        chosen |= {t.name for t in self.tensors if self.chance(10)}
        results = [t for t in self.tensors if t.name in chosen]
        body = [t.typed() for t in self.tensors if t.name in self.undeclared and t.name not in chosen]
        parameters = self.shuffled(self.parameters)
        text = "kernel k({}) -> ({}) {{\n{}}}\n".format(
            ", ".join(p.typed() for p in parameters),
            ", ".join(r.typed() for r in results),
            "".join(f"    {line}\n" for line in [*body, *self.lines]),
        )
        return Program(text=text, parameters=tuple(parameters), sizes=SIZES)


def _access(name: str, indices) -> str:
    return f"{name}[{', '.join(indices)}]" if indices else name


def _accumulated(dtype: str) -> str:
    """The type of a sum of values of ``dtype``."""
    if dtype in FLOATS:
        return dtype if dtype in ("f32", "f64") else "f32"
    return dtype if dtype in ("i64", "u64") else "i32" if dtype != "u32" else "u32"


KINDS = ("map", "reduce", "product", "softmax", "scatter", "recurrence", "grid")


def grow(random: Random, kinds: tuple[str, ...] = KINDS, most: int = 2) -> Program:
    """A program of one to ``most`` groups of statements."""
    builder = Builder(random)
    for _ in range(random.randint(1, most)):
        getattr(builder, random.choice(kinds))()
    return builder.finish()


def programs(kinds: tuple[str, ...] = KINDS, most: int = 2) -> st.SearchStrategy[Program]:
    """The same with hypothesis making each choice, so that failures shrink."""
    return st.builds(grow, st.randoms(use_true_random=False), st.just(kinds), st.just(most))


EXTENTS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 19, 31, 33)
ASSIGNMENTS = st.fixed_dictionaries({name: st.sampled_from(EXTENTS) for name in SIZES})
