"""Which exponentials are bounded by 1 because a maximum is subtracted from their argument.

``exp(x - max x)`` never overflows, also when the maximum is that of a prefix which contains x; ``exp(x - μ)`` may, on a
prefix where the whole does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...ir.expr import Cast, Const, Expr, Op, Rank, Read, children, ranks_of, substitute
from ...ir.operators import FUNCTIONS
from .signs import non_negative
from .structure import Structure

_EXPONENTIALS = frozenset(name for name, f in FUNCTIONS.items() if f.exponential)
_DEPTH = 12


def may_overflow(structure: Structure, factors: Iterable[Expr], concerns: Callable[[Expr], bool] | None = None) -> bool:
    """Whether some factors hold an exponential whose argument is not provably at most 0.

    ``concerns`` selects the arguments that matter.
    """
    arguments = [argument for f in factors for argument in _arguments(structure, f, _DEPTH)]
    return any(not _is_bounded(structure, a) for a in arguments if concerns is None or concerns(a))


def _arguments(structure: Structure, expr: Expr, depth: int) -> Iterable[Expr]:
    match expr:
        case Op(op=name, args=(argument,)) if name in _EXPONENTIALS:
            yield argument
        case Read() if depth > 0 and (value := structure.inlined(expr)) is not None:
            yield from _arguments(structure, value, depth - 1)
        case Read():
            return
        case _:
            for child in children(expr):
                yield from _arguments(structure, child, depth)


def _is_bounded(structure: Structure, argument: Expr) -> bool:
    """Whether an expression is at most 0: a value minus its maximum, a minimum minus its value, perhaps scaled."""
    cascade = structure.cascade
    match argument:
        case Op(op="sub", args=(a, b)):
            return _is_bound(structure, "max", b, a, _DEPTH) or _is_bound(structure, "min", a, b, _DEPTH)
        case Op(op="mul", args=(a, b)):
            return any(_is_bounded(structure, s) and non_negative(t, cascade) for s, t in ((a, b), (b, a)))
        case Op(op="div", args=(a, b)):
            return _is_bounded(structure, a) and non_negative(b, cascade)
        case Op(op="neg", args=(a,)):
            return non_negative(a, cascade)
        case Cast(value=value):
            return _is_bounded(structure, value)
        case Const(value=value):
            return value <= 0
        case Read():
            inner = structure.inlined(argument)
            return inner is not None and _is_bounded(structure, inner)
        case _:
            return False


def _is_bound(structure: Structure, extreme: str, bound: Expr, value: Expr, depth: int) -> bool:
    """Whether ``bound`` is at least (for "min": at most) ``value``, as an extreme over points that include this one."""
    if depth == 0:
        return False
    match bound:
        case Cast(value=inner):
            return _is_bound(structure, extreme, inner, value, depth - 1)
        case Op(op=name, args=args) if name == extreme:
            return any(_is_bound(structure, extreme, a, value, depth - 1) for a in args)
        case Read(tensor=tensor, indices=indices):
            i = structure.writer(tensor)
            if i is None or not structure.is_plain(i):
                return False
            einsum = structure.cascade.einsums[i]
            names = [c.name for c in einsum.coords if isinstance(c, Rank)]
            point = dict(zip(names, indices, strict=True))
            if einsum.reduction == extreme and not einsum.point_filter:
                return _matches(structure, einsum.value, point, value)
            inlined = structure.inlined(bound)
            return inlined is not None and _is_bound(structure, extreme, inlined, value, depth - 1)
        case _:
            return False


def _matches(structure: Structure, pattern: Expr, point: dict[str, Expr], value: Expr) -> bool:
    """Whether ``value`` is an instance of ``pattern`` at some coordinate of the ranks that ``point`` leaves open."""
    bindings: dict[str, Expr] = {}
    pending = [(substitute(pattern, ranks=point), value)]
    free = {n for n in ranks_of(pattern) if n not in point}
    while pending:
        left, right = pending.pop()
        if left == right:
            continue
        match left, right:
            case Rank(name=name), _ if name in free:
                if bindings.setdefault(name, right) != right:
                    return False
            case Cast(value=inner), _ if not isinstance(right, Cast):
                pending.append((inner, right))
            case _, Cast(value=inner) if not isinstance(left, Cast):
                pending.append((left, inner))
            case Read(tensor=a), Read(tensor=b) if a == b:
                pending.extend(zip(left.indices, right.indices, strict=True))
            case Op(op=a, args=first), Op(op=b, args=second) if a == b:
                pending.extend(zip(first, second, strict=True))
            case Read(), _ if (inlined := structure.inlined(left)) is not None:
                pending.append((inlined, right))
            case _, Read() if (inlined := structure.inlined(right)) is not None:
                pending.append((left, inlined))
            case _:
                return False
    return True
