"""Recognises matrix products among the sums: ``Σ_k left(m, k) · right(k, n)``, times factors without k.

Identity: Σ_k s · a_k = s · Σ_k a_k, so that factors that no reduced rank indexes are applied to the finished sum (design
page 3, deferral). Requires: explicit reads. Guarantees: the product's operands are values of reads with affine indices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir.cascade import Cascade, Einsum, Role, Tensor
from ...ir.expr import Cast, Const, Expr, Op, Read, op, ranks_of, reads_of
from ...ir.index import affine, affine_in
from ...ir.microkernels import FEW_ROWS, FMA, choose
from ...ir.target import Target
from ...ir.tile import Buffer, MatrixProduct
from ...ir.types import F32, I32, DType
from .methods import lane_step

BYTES = ("i8", "u8")
"""The integer types whose products have micro-kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The two factors of a product under a sum."""

    left: Expr
    right: Expr
    scale: tuple[tuple[str, Expr], ...]


def factors(value: Expr, accumulator: DType) -> list[tuple[str, Expr]]:
    """``value`` as a product: ("mul" | "div", factor), widening casts peeled off."""
    match value:
        case Op(op="mul", args=(a, b)) if value.dtype.is_float:
            return [*factors(a, accumulator), *factors(b, accumulator)]
        case Op(op="div", args=(a, b)) if value.dtype.is_float:
            return [*factors(a, accumulator), ("div", b)]
        case Cast(value=inner) if inner.dtype.is_float and value.dtype.is_float and inner.dtype.bits <= value.dtype.bits:
            return factors(inner, accumulator)
        case Op(op="mul", args=(a, b)) if value.dtype == accumulator == I32:  # modulo 2³² integers multiply in any order
            return [*factors(a, accumulator), *factors(b, accumulator)]
        case Cast(value=inner) if value.dtype == accumulator == I32 and inner.dtype.name in BYTES:
            return [("mul", inner)]
        case _:
            return [("mul", value)]


def split(value: Expr, reduced: tuple[str, ...], outputs: tuple[str, ...], accumulator: DType) -> Roles | None:
    """The factors of a sum over ``reduced`` in two groups that meet in a reduced rank, each with its own output ranks."""
    inside: list[Expr] = []
    scale: list[tuple[str, Expr]] = []
    for kind, factor in factors(value, accumulator):
        if set(ranks_of(factor)) & set(reduced):
            inside.append(factor if kind == "mul" else op("div", _one(factor), factor))
        else:
            scale.append((kind, factor))
    if len(inside) < 2:
        return None
    ranks = [set(ranks_of(f)) for f in inside]
    # The first factor starts the left group; each other joins the group with which it shares more of its own ranks.
    left, right = [0], [max(range(1, len(inside)), key=lambda i: len(ranks[i] - ranks[0]))]
    for i in range(1, len(inside)):
        if i not in right:
            with_left = len(ranks[i] & set().union(*(ranks[j] for j in left)) & set(outputs))
            with_right = len(ranks[i] & set().union(*(ranks[j] for j in right)) & set(outputs))
            (left if with_left >= with_right else right).append(i)
    return Roles(left=_product([inside[i] for i in left]), right=_product([inside[i] for i in right]), scale=tuple(scale))


def _one(like: Expr) -> Const:
    return Const(value=1.0, dtype=like.dtype)


def _product(parts: list[Expr]) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        result = Op(op="mul", args=(result, part), dtype=result.dtype if result.dtype.bits >= part.dtype.bits else part.dtype)
    return result


def is_plain(expr: Expr, ranks: Collection[str | None]) -> bool:
    """Whether ``expr`` is a read of a float tensor at indices that are affine in the ranks of a product."""
    if not isinstance(expr, Read) or expr.dtype.name not in ("f64", "f32", "f16", "bf16"):
        return False
    return is_packable(expr, ranks)


def is_packable(expr: Expr, ranks: Collection[str | None]) -> bool:
    """Whether ``expr`` is a float or a byte that can be computed where its product packs it: from reads at indices that are
    affine in the ranks of the product, and anything but data in the others (``K[h // 4, m, e]``)."""
    own = {r for r in ranks if r is not None}
    indices = [i for r in reads_of(expr) for i in r.indices]
    return (expr.dtype.is_float or expr.dtype.name in BYTES) and not any(
        reads_of(i) or (own & set(ranks_of(i)) and affine_in(i, own) is None) for i in indices
    )


def assign(
    roles: Roles,
    target: tuple[Expr, ...],
    outputs: tuple[str, ...],
    reduced: tuple[str, ...],
    extents: Mapping[str, Expr],
) -> MatrixProduct | None:
    """Gives every rank its role in the matrix product; None where there is none worth a micro-kernel."""
    left, right = set(ranks_of(roles.left)), set(ranks_of(roles.right))
    inner = [r for r in reduced if r in left and r in right]
    if not inner or not (set(reduced) <= left | right):
        return None
    rows = [r for r in outputs if r in left and r not in right]
    columns = [r for r in outputs if r in right and r not in left]
    if not rows and not columns:
        return None
    last = [r for r in outputs if lane_step(target, r) == 1]
    a, b, row_ranks, column_ranks = roles.left, roles.right, rows, columns
    if last and last[0] in rows:
        a, b, row_ranks, column_ranks = b, a, columns, rows
    for rank in (*row_ranks, *column_ranks):
        if any(rank in ranks_of(i) and affine(i) is None for i in target):
            return None
    column = next((r for r in column_ranks if r in last), column_ranks[-1] if column_ranks else None)
    row = _longest(row_ranks, extents) if row_ranks else None
    depth = max(inner, key=lambda r: sum(lane_step(_indices(e), r) == 1 for e in (a, b)))
    return MatrixProduct(rows=row, columns=column, inner=depth, left=a, right=b, scale=roles.scale)


def _longest(names: Sequence[str], extents: Mapping[str, Expr]) -> str:
    """The last rank, unless it is known to be so short that rows of another fill a register tile better."""

    def length(name: str) -> float:
        extent = extents[name]
        return float(extent.value) if isinstance(extent, Const) else float("inf")

    last = names[-1]
    return last if length(last) >= FEW_ROWS else max(reversed(names), key=length)


def _indices(expr: Expr) -> tuple[Expr, ...]:
    return expr.indices if isinstance(expr, Read) else ()


def product_of(einsum: Einsum) -> MatrixProduct | None:
    """The matrix product that an Einsum is, its operands perhaps still to be computed; None where it is none."""
    if einsum.reduction != "+" or einsum.scatter:
        return None
    extents = {r.name: r.extent for r in einsum.ranks}
    return recognise(einsum.value, einsum.coords, einsum.output_ranks, einsum.reduced, einsum.accumulator, extents)


def recognise(
    value: Expr,
    target: tuple[Expr, ...],
    outputs: tuple[str, ...],
    reduced: tuple[str, ...],
    accumulator: DType,
    extents: Mapping[str, Expr],
) -> MatrixProduct | None:
    """The matrix product that a sum of ``value`` over ``reduced`` is: of floats, or of bytes that are added up in i32."""
    if not (accumulator.is_float or accumulator == I32):
        return None
    roles = split(value, reduced, outputs, accumulator)
    product = None if roles is None else assign(roles, target, outputs, reduced, extents)
    if product is None or accumulator.is_float:
        return product
    bytes_only = all(isinstance(e, Read | Cast) and e.dtype.name in BYTES for e in (product.left, product.right))
    return product if bytes_only else None


def kernel_of(product: MatrixProduct, accumulator: DType, target: Target, tolerance: float | None) -> str:
    """The micro-kernel that multiplies a product's operands as they are; :data:`FMA` where there is no better one.

    Only elements that are exactly of the kernel's types will do: read as such, or converted. A product of factors, or what a
    function gives, is wider than its type says.
    """
    operands = (product.left, product.right)
    if not all(isinstance(e, Read | Cast) for e in operands):
        return FMA
    kernel = choose(target, product.left.dtype, product.right.dtype, accumulator, tolerance)
    return FMA if kernel is None else kernel.name


def held_as(cascade: Cascade, tensor: Tensor, target: Target) -> DType:
    """The type in which a tensor is stored.

    An unannotated 16-bit intermediate states a minimum precision only: f32 saves its rounding, unless a product of a matrix
    by a matrix has a better micro-kernel for its own type.
    """
    own = tensor.value
    unstated = tensor.role is Role.LOCAL and not tensor.annotated and own.is_float and own.bits < 32
    narrow = own if unstated else tensor.minimum
    if narrow is None:
        return own
    for einsum in cascade.readers(tensor.name):
        product = product_of(einsum)
        if product is None or None in (product.rows, product.columns):
            continue
        sides = [
            replace(e, dtype=narrow) if isinstance(e, Read) and e.tensor == tensor.name else e
            for e in (product.left, product.right)
        ]
        mine = any(isinstance(e, Read) and e.tensor == tensor.name for e in sides)
        product = replace(product, left=sides[0], right=sides[1])
        if mine and kernel_of(product, einsum.accumulator, target, cascade.tolerance) != FMA:
            return narrow
    return F32 if unstated else own


def kernel_as_held(cascade: Cascade, einsum: Einsum, target: Target) -> str | None:
    """The micro-kernel of an Einsum that is a matrix product, its operands as they will be stored; None for other Einsums."""
    product = product_of(einsum)
    if product is None:
        return None
    left, right = (
        replace(e, dtype=held_as(cascade, cascade.by_name[e.tensor], target)) if isinstance(e, Read) else e
        for e in (product.left, product.right)
    )
    return kernel_of(replace(product, left=left, right=right), einsum.accumulator, target, cascade.tolerance)


def on_tensor_cores(cascade: Cascade, einsum: Einsum, target: Target) -> bool:
    """Whether an Einsum is a matrix product on the tensor cores of a GPU."""
    kernel = kernel_as_held(cascade, einsum, target) if target.gpu is not None else None
    return kernel is not None and kernel != FMA


def as_held(operand: Expr, buffers: Mapping[str, Buffer]) -> Expr:
    """An operand of a product with the type in which its tensor is stored, where it is read as it lies."""
    if isinstance(operand, Read) and operand.tensor in buffers and operand.dtype.is_float:
        return replace(operand, dtype=buffers[operand.tensor].dtype)
    return operand
