"""Short programs for the tests of the semantic analysis, and what they lower to, in words."""

from __future__ import annotations

from einfall.frontend import load
from einfall.ir.cascade import Cascade, Einsum
from einfall.ir.diagnostics import Diagnostic, EinfallError
from einfall.ir.expr import Cast, Const, Expr, Op, Rank, Read, Size, children
from einfall.ir.printer import expr_to_source
from einfall.ir.verifier import verify


def program(signature: str, *statements: str, items: str = "") -> str:
    """The text of a file with one kernel `k`; ``items`` stand before it."""
    body = "".join(f"    {statement}\n" for statement in statements)
    return f"{items}\nkernel k({signature}) {{\n{body}}}\n"


def lower(signature: str, *statements: str, items: str = "") -> Cascade:
    """The verified cascade of a program that is right."""
    cascade = load(program(signature, *statements, items=items))["k"]
    verify(cascade)
    return cascade


def only(cascade: Cascade, tensor: str) -> Einsum:
    """The one Einsum that writes a tensor, initialisers aside."""
    (einsum,) = (e for e in cascade.writers(tensor) if not e.initialiser)
    return einsum


def shape(cascade: Cascade, tensor: str) -> list[str]:
    return [expr_to_source(extent) for extent in cascade.by_name[tensor].shape]


def steps(cascade: Cascade, tensor: str) -> list[str | None]:
    return [s if s is None else expr_to_source(s) for s in cascade.by_name[tensor].steps]


def extents(einsum: Einsum) -> dict[str, str]:
    return {rank.name: expr_to_source(rank.extent) for rank in einsum.ranks}


def texts(exprs: tuple[Expr, ...]) -> list[str]:
    return [expr_to_source(e) for e in exprs]


def dtype(cascade: Cascade, tensor: str) -> str:
    return str(cascade.by_name[tensor].dtype)


def spelt(expr: Expr) -> str:
    """An expression with every type and conversion: operators as `name.type(…)`, conversions as `type(…)`."""
    inner = ", ".join(spelt(child) for child in children(expr))
    match expr:
        case Const(value=value):
            return f"{value}.{expr.dtype}"
        case Rank(name=name) | Size(name=name):
            return name
        case Read(tensor=tensor):
            return f"{tensor}[{inner}]"
        case Op(op=op):
            return f"{op}.{expr.dtype}({inner})"
        case Cast():
            return f"{expr.dtype}({inner})"
        case _:
            return f"{type(expr).__name__}.{expr.dtype}({inner})"


def errors(signature: str, *statements: str, items: str = "") -> list[Diagnostic]:
    """What is reported about a program; nothing for a right one."""
    try:
        load(program(signature, *statements, items=items))
    except EinfallError as error:
        return list(error.diagnostics)
    return []


def codes(signature: str, *statements: str, items: str = "") -> list[str]:
    return [each.code for each in errors(signature, *statements, items=items)]


def refused(signature: str, *statements: str, items: str = "") -> Diagnostic:
    """The one mistake of a program that has one."""
    (diagnostic,) = errors(signature, *statements, items=items)
    return diagnostic
