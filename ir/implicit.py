"""Which conversions of an expression the language makes by itself, so that source text need not write them.

The mirror image of the type rules of the front end (section 5 of the language): literals, sizes and rank variables
are *weak* and adapt to the other operand, two types meet in the one that :func:`~.types.promote` gives, and floats
of 16 bits and less are computed in f32 once they meet something that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import TypeGuard

from .expr import Bitcast, Cast, Const, Default, Expr, Op, Rank, Read, Select, Size, transform, with_children
from .operators import FUNCTIONS, REDUCTIONS
from .types import BOOL, F32, F64, I32, INDEX, DType, accumulator, holds, promote

_REAL = F64
_NUMBERS_ONLY = frozenset({"lt", "le", "gt", "ge", "neg", "abs", "sign", "floor", "ceil", "round"})
"""Operators that the language does not apply to truth values, whereas it counts them in sums and products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """An expression without its implicit conversions (a tree to print, not to evaluate) and how its text is read.

    ``dtype`` is its type in the language (of weak ones: i64 or f64, for whole and real numbers), ``computed`` the type
    in which its value is computed.
    """

    expr: Expr
    dtype: DType
    computed: DType
    weak: bool = False

    @property
    def is_literal(self) -> bool:
        return self.weak and isinstance(self.expr, Const)


def surface(expr: Expr) -> Surface:
    """The expression as it is written where nothing around it converts it."""
    return _Writer(whole_casts=False).surface(expr)


def einsum_surface(value: Expr, reduction: str | None, target: DType, *, whole_casts: bool = False) -> Surface:
    """The value of an Einsum that writes values of type ``target``, as it is written.

    Integer sums and products are formed in the accumulator's type, from the operands on, without a cast. A weak
    value takes the target's type. ``whole_casts`` writes the casts of sizes, rank variables and literals:
    ``X[i] * E`` has the type of X, but ``X[i] * cast(f32, E)`` is f32 at least.
    """
    writer = _Writer(whole_casts=whole_casts)
    if reduction in ("+", "*") and value.dtype.is_integer:
        narrow = writer.narrowed(value, value.dtype)
        match value:
            case Cast(value=Const() as const):
                narrow = typed_constant(const)
        if narrow is not None and not narrow.weak and accumulator(narrow.dtype) == value.dtype:
            return narrow
    coordinate = reduction is not None and REDUCTIONS[reduction].coordinate
    match value:
        case Cast(value=inner) if not isinstance(inner, Const):
            written = writer.surface(inner)
        case _:
            written = writer.surface(value)
    if written.weak and not whole_casts and value.dtype == _settled(written, None if coordinate else target):
        return written
    return typed_constant(value) if isinstance(value, Const) else writer.surface(value)


def _settled(weak: Surface, target: DType | None) -> DType:
    """The type that a weak value takes where ``target`` is stored (None: where it is compared)."""
    if target is None or target.is_bool or (target.is_integer and weak.dtype == _REAL):
        return F32 if weak.dtype == _REAL else I32
    return F32 if target.is_float and target.bits < 32 else target


def typed_constant(const: Const) -> Surface:
    """A constant that does not adapt: ``cast(i8, 7)``."""
    if const.dtype.is_bool:
        return Surface(expr=const, dtype=BOOL, computed=BOOL)
    return Surface(expr=Cast(value=const, dtype=const.dtype), dtype=const.dtype, computed=const.dtype)


def index_surface(expr: Expr) -> Expr:
    """An index, coordinate or extent as it is written: conversions to i64 are implicit there."""
    return _Writer(whole_casts=False).index(expr)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """Operands as they are written, and the type in which they meet."""

    surfaces: tuple[Surface, ...]
    dtype: DType
    weak: bool

    def result(self, expr: Expr, computed: DType) -> Surface:
        return Surface(expr=expr, dtype=self.dtype, computed=computed, weak=self.weak)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Takes the implicit conversions out of expressions."""

    whole_casts: bool

    def surface(self, expr: Expr) -> Surface:
        match expr:
            case Const() if expr.dtype.is_bool:
                return Surface(expr=expr, dtype=BOOL, computed=BOOL)
            case Const() | Size() | Rank():
                dtype = _REAL if expr.dtype.is_float else INDEX
                return Surface(expr=expr, dtype=dtype, computed=expr.dtype, weak=True)
            case Read(indices=indices):
                bare = replace(expr, indices=tuple(self.index(i) for i in indices))
                return Surface(expr=bare, dtype=expr.dtype, computed=expr.dtype)
            case Cast():
                return self.explicit(expr)
            case Bitcast(value=value):
                written = replace(expr, value=self.bits(value))
                return Surface(expr=written, dtype=expr.dtype, computed=expr.dtype)
            case Op(op="pow", args=(base, Const(dtype=exponent) as count)) if exponent == INDEX:
                # A power has no other operand to take its type from: a bare literal would be read as i64.
                match base:
                    case Const(dtype=own) if own.is_integer and own != INDEX:
                        inner = typed_constant(base)
                    case _:
                        inner = self.surface(base)
                return replace(inner, expr=replace(expr, args=(inner.expr, count)))
            case Op():
                return self.operator(expr)
            case Select(condition=condition, then=then, otherwise=otherwise):
                common = self.common((then, otherwise), arithmetic=False, real=False)
                parts = (self.surface(condition).expr, *(s.expr for s in common.surfaces))
                return common.result(with_children(expr, parts), expr.dtype)
            case Default(value=value, default=default):
                common = self.common((value, default), arithmetic=False, real=False)
                return common.result(with_children(expr, tuple(s.expr for s in common.surfaces)), expr.dtype)
            case _:
                raise TypeError(f"no expression: {expr!r}")

    def index(self, expr: Expr) -> Expr:
        match expr:
            case Cast(value=value) if expr.dtype == INDEX and value.dtype.is_integer:
                return self.surface(value).expr
            case _:
                return self.surface(expr).expr

    def explicit(self, expr: Cast) -> Surface:
        """A cast that is written."""
        match expr.value:
            case Const(dtype=dtype) as const if not (dtype == F32 and expr.dtype.is_float and expr.dtype.bits < 32):
                inner = typed_constant(const).expr
            case _:
                inner = self.surface(expr.value).expr
        written = replace(expr, value=inner)
        return Surface(expr=written, dtype=expr.dtype, computed=expr.dtype)

    def bits(self, value: Expr) -> Expr:
        """The operand of a bitcast: its value is brought to its type in the language first."""
        match value:
            case Cast(value=inner) if (s := self.surface(inner)).dtype == value.dtype and not s.weak:
                return s.expr
            case _:
                return self.surface(value).expr

    def operator(self, expr: Op) -> Surface:
        info = FUNCTIONS[expr.op]
        if expr.op in ("and", "or", "not"):
            operands = tuple(self.surface(a).expr for a in expr.args)
            return Surface(expr=replace(expr, args=operands), dtype=BOOL, computed=BOOL)
        common = self.common(
            expr.args,
            arithmetic=not info.gives_bool,
            real=info.real_valued,
            truth=expr.op not in _NUMBERS_ONLY,
        )
        written = replace(expr, args=tuple(s.expr for s in common.surfaces))
        if info.gives_bool:
            return Surface(expr=written, dtype=BOOL, computed=BOOL)
        return common.result(written, expr.dtype)

    def common(self, args: Sequence[Expr], *, arithmetic: bool, real: bool, truth: bool = True) -> _Common:
        """The operands, with as few casts as let them meet in the type that they have.

        ``truth`` tells that truth values may stand there.
        """
        best: _Common | None = None
        for surfaces in self.spellings(args, truth=truth):
            best, computed = _meet(surfaces, arithmetic=arithmetic, real=real)
            if computed == args[0].dtype:
                break
        assert best is not None
        return best

    def spellings(self, args: Sequence[Expr], *, truth: bool) -> Iterator[tuple[Surface, ...]]:
        """Ways to write operands, those with the fewest casts first."""
        options: list[list[tuple[int, Surface]]] = []
        for arg in args:
            match arg:
                case Cast(value=Const() as const) if not const.dtype.is_bool:
                    # A literal would have become a constant of the other type: this one has a type of its own.
                    options.append([(0, typed_constant(const)), (1, self.explicit(arg))])
                case Cast(value=Cast() as value) if _collapses(value):
                    options.append([(1, self.explicit(arg))])
                case Cast(value=value):
                    written = self.surface(value)
                    choices = [(1, self.explicit(arg))]
                    if value.dtype.is_bool and not truth:
                        choices = [(0, self.explicit(arg))]
                    elif not written.weak:
                        choices.append((0, written))
                    elif written.dtype == _REAL and not isinstance(value, Const):
                        # Real constants alone would be of the type that the cast gives: these have one of their own.
                        choices = [(0, _pinned(written, value.dtype))]
                    elif not self.whole_casts:
                        choices.append((0, replace(written, computed=arg.dtype)))
                    options.append(choices)
                case Const() if not arg.dtype.is_bool:
                    options.append([(0, self.surface(arg)), (1, typed_constant(arg))])
                case _:
                    options.append([(0, self.surface(arg))])
        for combination in sorted(product(*options), key=lambda c: sum(casts for casts, _ in c)):
            yield tuple(written for _, written in combination)

    def narrowed(self, expr: Expr, wide: DType) -> Surface | None:
        """An integer expression whose operands were widened to ``wide``, without these conversions."""
        match expr:
            case Op(op="add" | "sub" | "mul" | "neg", args=args) if expr.dtype == wide:
                return self._narrowed(expr, args, wide, arithmetic=True)
            case Select(condition=condition, then=then, otherwise=otherwise) if expr.dtype == wide:
                bare = replace(expr, condition=self.surface(condition).expr)
                return self._narrowed(bare, (then, otherwise), wide, arithmetic=False)
            case Default(value=value, default=default) if expr.dtype == wide:
                return self._narrowed(expr, (value, default), wide, arithmetic=False)
            case Cast(value=Op(op="add" | "sub" | "mul" | "neg") | Select() | Default()):
                return self.explicit(expr)  # without the cast its operands would be converted, not its value
            case Cast(value=value) if (value.dtype.is_integer or value.dtype.is_bool) and not _collapses(value):
                return self.surface(value)
            case _:
                return self.surface(expr)

    def _narrowed(self, expr: Expr, args: tuple[Expr, ...], wide: DType, *, arithmetic: bool) -> Surface | None:
        surfaces = [self.narrowed(a, wide) for a in args]
        found = tuple(s for s in surfaces if s is not None)
        if len(found) < len(surfaces):
            return None
        common, computed = _meet(found, arithmetic=arithmetic, real=False)
        # A literal was a constant of the common type before it was widened; others have a type of their own.
        found = tuple(
            typed_constant(arg.value) if isinstance(arg, Cast) and _differs(arg.value, computed) else written
            for arg, written in zip(args, found, strict=True)
        )
        common, computed = _meet(found, arithmetic=arithmetic, real=False)
        if common.dtype.is_float or (computed != wide and any(s.weak and not s.is_literal for s in found)):
            return None
        parts = [s.expr for s in found]
        if isinstance(expr, Select):
            parts.insert(0, expr.condition)
        return common.result(with_children(expr, tuple(parts)), computed)


def _pinned(written: Surface, dtype: DType) -> Surface:
    """An expression over real constants, of a type that does not adapt."""

    def typed(node: Expr) -> Expr | None:
        return typed_constant(node).expr if isinstance(node, Const) and node.dtype.is_float else None

    return Surface(expr=transform(written.expr, typed), dtype=dtype, computed=dtype)


def _collapses(value: Expr) -> bool:
    """Whether a conversion that the language makes of this value leaves the cast out that the value is."""
    return isinstance(value, Cast) and not isinstance(value.value, Const) and holds(value.dtype, value.value.dtype)


def _differs(value: Expr, dtype: DType) -> TypeGuard[Const]:
    return isinstance(value, Const) and value.dtype != dtype


def _meet(surfaces: tuple[Surface, ...], *, arithmetic: bool, real: bool) -> tuple[_Common, DType]:
    """Operands in their common type, and the type in which the front end computes it."""
    if all(s.weak for s in surfaces):
        is_real = real or any(s.dtype == _REAL for s in surfaces)
        # A real weak value is computed in what it meets later: any float will do here.
        computed = next((s.computed for s in surfaces if s.computed.is_float), F32) if is_real else INDEX
        return _Common(surfaces=surfaces, dtype=_REAL if is_real else INDEX, weak=True), computed
    dtype = reduce(promote, (s.dtype for s in surfaces if not s.weak))
    if dtype.is_bool and (arithmetic or any(s.weak for s in surfaces)):
        dtype = I32
    if not dtype.is_float and (real or any(s.weak and s.dtype == _REAL for s in surfaces)):
        dtype = F32
    computed = dtype
    if dtype.is_float and dtype.bits < 32 and any(_is_wide(s) for s in surfaces):
        computed = F32
    return _Common(surfaces=surfaces, dtype=dtype, weak=False), computed


def _is_wide(operand: Surface) -> bool:
    """Whether a small float that meets this operand is computed in f32."""
    if operand.weak:
        return not operand.is_literal
    return operand.computed.is_float and operand.computed.bits >= 32
