"""Constant factors of a product's sums, moved to where they cost nothing: to its left operand, or to those who read the sums.

Identities: (c·a)·b = c·(a·b); max(c·x) = c·max(x) for c > 0. Used by ``blocking.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from ...ir.expr import Cast, Const, Expr, Op, Read, op, reads_of, transform
from ...ir.microkernels import FMA
from ...ir.tile import SUM, Compute, Loop, map_computes, walk
from ...ir.types import DType

_LEAST_FACTOR, _GREATEST_FACTOR = 2.0**-20, 2.0**20
"""Constant factors that go to the left operand: they bring no element near the ends of its type's range."""


def factor_of(epilogue: Expr | None, dtype: DType) -> tuple[str, Const, Expr] | None:
    """The constant by which an epilogue first multiplies or divides the sum, and the epilogue without it; of operands narrower
    than f32 only powers of two, which do not round."""
    if epilogue is None:
        return None
    found: list[tuple[str, Const]] = []

    def rule(node: Expr) -> Expr | None:
        match node:
            case Op(op="mul" | "div" as kind, args=(a, factor)) if is_sum(a) and not found and (value := _number(factor)):
                exact = dtype.bits >= 32 or math.frexp(value)[0] == 0.5
                if _LEAST_FACTOR <= abs(value) <= _GREATEST_FACTOR and exact:
                    found.append((kind, Const(value=value, dtype=dtype)))
                    return a
                return None
            case _:
                return None

    sums = sum(is_sum(r) for r in reads_of(epilogue))
    rest = transform(epilogue, rule)
    return (*found[0], rest) if found and sums == 1 else None


def scaled_by_readers(loop: Loop, own: set[str]) -> Loop:
    """``loop``, whose products on matrix tiles leave a constant factor to those who read their sums: the sums are stored from
    the tiles. An extreme of them is scaled when it is read, a difference is one multiply-add: c·x - m.
    """
    scales: dict[str, Const] = {}
    computes = [n for n in walk(loop.body) if isinstance(n, Compute)]
    writers = Counter(name for compute in computes for name in compute.targets)

    def takes(compute: Compute) -> bool:
        return compute.target in own and writers[compute.target] == 1 and compute.accumulator.is_float

    def scaled(value: Expr) -> Expr:
        def rule(node: Expr) -> Expr | None:
            match node:
                case Op(op="sub", args=(Op(op="mul", args=(Read(tensor=name), Const())) as taken, other)) if name in scales:
                    return op("add", taken, op("neg", other))
                case Read(tensor=name) if name in scales:
                    return op("mul", node, scales[name])
                case _:
                    return None

        return transform(value, rule)

    def read_by(compute: Compute) -> Compute:
        product = compute.product
        if product is not None:
            epilogue = None if product.epilogue is None else scaled(product.epilogue)
            product = replace(product, left=scaled(product.left), right=scaled(product.right), epilogue=epilogue)
        value, is_read = compute.value, isinstance(compute.value, Read) and compute.value.tensor in scales
        if is_read and compute.reduction in ("max", "min") and takes(compute) and not compute.along:
            assert isinstance(value, Read)
            scales[compute.target] = scales[value.tensor]
        else:
            value = scaled(value)
        return replace(
            compute,
            value=value,
            filter=None if compute.filter is None else scaled(compute.filter),
            condition=None if compute.condition is None else scaled(compute.condition),
            within=None if compute.within is None else scaled(compute.within),
            product=product,
            along=tuple(read_by(inner) for inner in compute.along),
        )

    def rebuilt(compute: Compute) -> Compute:
        made = read_by(compute)
        product = made.product
        if product is None or product.kernel == FMA or not takes(made):
            return made
        found = factor_of(product.epilogue, made.accumulator)
        if found is None or not is_sum(found[2]) or found[1].value <= 0:
            return made
        kind, factor, _ = found
        number = float(factor.value) if kind == "mul" else 1.0 / float(factor.value)
        scales[made.target] = Const(value=float(np.float32(number)), dtype=made.accumulator)
        return replace(made, product=replace(product, epilogue=None))

    return replace(loop, body=map_computes(loop.body, rebuilt))


def _number(factor: Expr) -> float | None:
    """The number that a factor is: a literal, or the square root of one."""
    match factor:
        case Const(value=float(value)):
            return value
        case Op(op="sqrt", args=(Cast(value=Const(value=int(value))) | Const(value=int(value)),)) if value >= 0:
            return math.sqrt(value)
        case _:
            return None


def is_sum(node: Expr) -> bool:
    return isinstance(node, Read) and node.tensor == SUM
