"""A cascade as an `.ecs` program, and expressions as source text.

The text parses and lowers back to an equal cascade. Parentheses are printed only where precedence asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .cascade import Cascade, Check, Einsum, Role, Tensor
from .expr import Bitcast, Cast, Const, Default, Expr, Op, Rank, Read, Select, Size, ranks_of
from .formats import FORMATS
from .implicit import Surface, einsum_surface, index_surface, surface
from .operators import FUNCTIONS, REDUCTIONS
from .types import F32, F64, I32, QuantType, StorageType, accumulator

_IF, _OR, _AND, _NOT, _COMPARE = 0, 1, 2, 3, 4
_SUM, _PRODUCT, _MINUS, _POWER, _DEFAULT, _ATOM = 9, 10, 11, 12, 13, 14

# operator: its own level, and the least levels of its left and right operand
_INFIX: dict[str, tuple[int, int, int]] = {
    "or": (_OR, _OR, _AND),
    "and": (_AND, _AND, _NOT),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), (_COMPARE, 5, 5)),
    "bitor": (5, 5, 6),
    "bitxor": (6, 6, 7),
    "bitand": (7, 7, 8),
    "shl": (8, 8, _SUM),
    "shr": (8, 8, _SUM),
    "add": (_SUM, _SUM, _PRODUCT),
    "sub": (_SUM, _SUM, _PRODUCT),
    **dict.fromkeys(("mul", "div", "floordiv", "mod"), (_PRODUCT, _PRODUCT, _MINUS)),
    "pow": (_POWER, _DEFAULT, _MINUS),
}


def expr_to_source(expr: Expr) -> str:
    """An expression in the notation of the language, without the conversions that it makes by itself."""
    return verbatim(surface(expr).expr)


def index_to_source(expr: Expr) -> str:
    """An index or coordinate of an Einsum."""
    return _index(index_surface(expr))


_AFFINE = re.compile(r"[\w' +*-]+")
_SHIFTED = re.compile(r"([A-Za-z_]\w*'*) ([+-]) (\d+)")


def _index(expr: Expr) -> str:
    """Simple indices are written tight: ``RM[m1+1, p]``, ``I[2*p + r - 1]``."""
    text = verbatim(expr)
    if _AFFINE.fullmatch(text) is None:
        return text
    return _SHIFTED.sub(r"\1\2\3", text) if _SHIFTED.fullmatch(text) else text.replace(" * ", "*")


def verbatim(expr: Expr) -> str:
    """An expression with all of its conversions, well typed or not."""
    return _print(expr)[0]


def _print(expr: Expr) -> tuple[str, int]:
    """The text of an expression and the level of its outermost operator."""
    match expr:
        case Const():
            return _literal(expr)
        case Rank(name=name) | Size(name=name):
            return name, _ATOM
        case Read(tensor=tensor, indices=()):
            return tensor, _ATOM
        case Read(tensor=tensor, indices=indices):
            return f"{tensor}[{', '.join(_index(i) for i in indices)}]", _ATOM
        case Op(op="not", args=(a,)):
            return f"not {_at(a, _NOT)}", _NOT
        case Op(op="neg", args=(a,)):
            return f"-{_at(a, _MINUS)}", _MINUS
        case Op(op=name, args=(a, b)) if name in _INFIX:
            level, left, right = _INFIX[name]
            symbol = FUNCTIONS[name].symbol
            return f"{_at(a, left)} {symbol} {_at(b, right)}", level
        case Op(op=name, args=args):
            return f"{name}({', '.join(verbatim(a) for a in args)})", _ATOM
        case Select(condition=condition, then=then, otherwise=otherwise):
            parts = (verbatim(condition), verbatim(then), verbatim(otherwise))
            return f"if {parts[0]} then {parts[1]} else {parts[2]}", _IF
        case Default(value=value, default=default):
            fallback, level = _print(default)
            is_signed_atom = level == _ATOM or (isinstance(default, Const) and level == _MINUS)
            text = fallback if is_signed_atom else f"({fallback})"
            return f"{_at(value, _DEFAULT)} ?? {text}", _DEFAULT
        case Cast(value=value):
            return f"cast({expr.dtype}, {verbatim(value)})", _ATOM
        case Bitcast(value=value):
            return f"bitcast({expr.dtype}, {verbatim(value)})", _ATOM
        case _:
            raise TypeError(f"no expression: {expr!r}")


def _at(expr: Expr, level: int) -> str:
    text, own = _print(expr)
    return text if own >= level else f"({text})"


def _literal(const: Const) -> tuple[str, int]:
    match const.value:
        case bool(value):
            return ("true" if value else "false"), _ATOM
        case int(value):
            return str(value), _ATOM if value >= 0 else _MINUS
        case float(value) if value != value:
            return "(inf - inf)", _ATOM
        case value:
            text = "inf" if abs(value) == float("inf") else repr(abs(value))
            negative = repr(value).startswith("-")
            return (f"-{text}", _MINUS) if negative else (text, _ATOM)


_WIDTH = 100
_INDENT = "    "
_LONG_TARGET = 32
_CLAUSE_LIMIT = 72


def to_source(cascade: Cascade) -> str:
    """The cascade as an `.ecs` program in canonical format, which parses and lowers to an equal cascade."""
    types = list(_types(cascade))
    blocks = [*types, *([""] if types else [])]
    if cascade.tolerance is not None:
        blocks.append(f"@tolerance({cascade.tolerance!r})")
    statements = [f"let {let.name} = {expr_to_source(let.value)}" for let in cascade.lets]
    statements += [f"require {require.text}" for require in cascade.requires]
    statements += [_declaration(t) for t in cascade.locals if t.declared]
    body = [*statements, *([""] if statements else []), *_aligned([_parts(cascade, e) for e in cascade.einsums])]
    lines = [*blocks, _head(cascade), *(f"{_INDENT}{line}".rstrip() for line in body), "}"]
    if cascade.checks:
        lines += ["", *(_check(cascade.name, check) for check in cascade.checks)]
    return "".join(f"{line}\n" for line in lines)


def _head(cascade: Cascade) -> str:
    parameters = [f"{'const ' if t.role is Role.CONST else ''}{_declaration(t)}" for t in cascade.parameters]
    results = f") -> ({', '.join(_declaration(t) for t in cascade.results)}) {{"
    flat = f"kernel {cascade.name}({', '.join(parameters)}{results}"
    if len(flat) <= _WIDTH or not parameters:
        return flat
    lines = "".join(f"{_INDENT}{parameter},\n" for parameter in parameters)
    return f"kernel {cascade.name}(\n{lines}{results}"


def _declaration(tensor: Tensor) -> str:
    dims = ", ".join(_index(index_surface(extent)) for extent in tensor.shape)
    return f"{tensor.name}: {_type(tensor.dtype)}" + (f"[{dims}]" if tensor.shape else "")


def _type(dtype: StorageType) -> str:
    return _quantised(dtype) if isinstance(dtype, QuantType) and dtype.name is None else str(dtype)


def _quantised(dtype: QuantType) -> str:
    options = [dtype.element.name]
    if dtype.group:
        along = f"{dtype.dimension}:" if dtype.dimension is not None else ""
        options.append(f"group = {along}{dtype.group}")
    if dtype.scale is not None:
        options.append(f"scale = {dtype.scale}")
    if dtype.zero is not None:
        options.append(f"zero = {dtype.zero}")
    return f"quant({', '.join(options)})"


def _types(cascade: Cascade) -> Iterator[str]:
    """The definitions of the quantised types that the program names itself."""
    named = {t.dtype.name: t.dtype for t in cascade.tensors if isinstance(t.dtype, QuantType) and t.dtype.name}
    for name, dtype in named.items():
        if FORMATS.get(name) != dtype:
            yield f"type {name} = {_quantised(dtype)}"


def _check(kernel: str, check: Check) -> str:
    values = (f"{name} = {verbatim(Const(value=value, dtype=F64))}" for name, value in check.values)
    return f"check {kernel}({', '.join(values)})"


def _parts(cascade: Cascade, einsum: Einsum) -> tuple[str, str, str]:
    """The left side, the right side and the clauses of an Einsum."""
    tensor = cascade.by_name[einsum.target]
    indices = f"[{', '.join(index_to_source(c) for c in einsum.coords)}]" if einsum.coords else ""
    target = f"{einsum.target}{indices}"
    if tensor.role is Role.LOCAL and tensor.annotated and not tensor.declared:
        writers = cascade.writers(einsum.target)
        if einsum is next((w for w in writers if not w.initialiser), writers[0]):
            target = f"{einsum.target}: {_type(tensor.dtype)}{indices}"
    value = _value(tensor, einsum, several=len(cascade.writers(einsum.target)) > 1)
    clauses = []
    if einsum.reduction is not None and not _is_implied(einsum, value.expr):
        clauses.append(f":: {einsum.reduction}({', '.join(einsum.reduced)})")
    conditions = [*einsum.output_filter, *einsum.point_filter]
    if conditions:
        clauses.append("where " + " and ".join(_at(surface(c).expr, _NOT) for c in conditions))
    return target, verbatim(value.expr), "  ".join(clauses)


def _value(tensor: Tensor, einsum: Einsum, *, several: bool) -> Surface:
    """The value as it is written so that an unannotated tensor gets its type again."""
    plain = einsum_surface(einsum.value, einsum.reduction, tensor.value)
    if tensor.annotated or (_inferred_type(plain, einsum, several) in (None, tensor.dtype)):
        return plain
    typed = einsum_surface(einsum.value, einsum.reduction, tensor.value, whole_casts=True)
    return typed if _inferred_type(typed, einsum, several) == tensor.dtype else plain


def _inferred_type(value: Surface, einsum: Einsum, several: bool) -> StorageType | None:
    """The type that an Einsum gives an unannotated tensor; None where other writers decide."""
    match einsum.reduction:
        case str(name) if REDUCTIONS[name].coordinate:
            return I32
        case _ if value.weak:
            return None if several else F32 if value.dtype.is_float else I32
        case "+" | "*" if not value.dtype.is_float:
            return accumulator(value.dtype)
        case _:
            return value.dtype


def _is_implied(einsum: Einsum, written: Expr) -> bool:
    """Whether leaving the reduction out means the same: a sum, each of whose terms uses every reduced rank."""
    if einsum.reduction != "+" or einsum.scatter:
        return False
    terms = list(_terms(written))
    return len(terms) == 1 or all(set(einsum.reduced) <= set(ranks_of(term)) for term in terms)


def _terms(expr: Expr) -> Iterator[Expr]:
    match expr:
        case Op(op="add" | "sub" | "neg", args=args):
            for part in args:
                yield from _terms(part)
        case _:
            yield expr


def _aligned(einsums: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Lines with their `=` and their clauses in columns, as the formatter has them."""
    equals = max((len(target) for target, _, _ in einsums if len(target) <= _LONG_TARGET), default=0)
    heads = [f"{target:<{equals}} = {value}" for target, value, _ in einsums]
    clauses = [clause for _, _, clause in einsums]
    gap = len(_INDENT)
    column = max(map(len, heads), default=0)
    if column + 2 * gap > _CLAUSE_LIMIT:
        column = max((len(head) for head, clause in zip(heads, clauses, strict=True) if clause), default=0)
        if column + 2 * gap + max(map(len, clauses), default=0) > _WIDTH:
            column = 0
    for head, clause in zip(heads, clauses, strict=True):
        yield f"{head:<{column}}{_INDENT}{clause}" if clause else head
