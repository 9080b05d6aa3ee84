"""Codes E04: types."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0401",
        title="operator on the wrong type",
        explanation=("Bit operators, shifts and `ceildiv` work on integers, arithmetic and ordering on numbers."),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] & 255\n}\n",
        fixed=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = bitcast(f32, bitcast(i32, X[m]) & 255)\n}\n"),
    ),
    ErrorKind(
        code="E0402",
        title="no condition",
        explanation=(
            "`where`, `if`, `and`, `or` and `not` ask for conditions, the results of comparisons or elements of a "
            "`bool` tensor. Numbers are compared explicitly."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where X[m]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where X[m] != 0\n}\n",
    ),
    ErrorKind(
        code="E0403",
        title="literal does not fit",
        explanation=("An integer literal takes the type of the other operand, and must be one of its values."),
        wrong="kernel add(X: i8[M]) -> (Y: i32[M]) {\n    Y[m] = X[m] + 300\n}\n",
        fixed="kernel add(X: i8[M]) -> (Y: i32[M]) {\n    Y[m] = cast(i32, X[m]) + 300\n}\n",
    ),
    ErrorKind(
        code="E0404",
        title="conversion that loses values",
        explanation=(
            "A value is converted to the type of the tensor that it is stored in. Integers become floats and "
            "floats become smaller floats without further ado; a conversion to an integer type that may not hold "
            "the value is written `cast(type, x)`."
        ),
        wrong="kernel whole(X: f32[M]) -> (Y: i32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel whole(X: f32[M]) -> (Y: i32[M]) {\n    Y[m] = cast(i32, X[m])\n}\n",
    ),
    ErrorKind(
        code="E0405",
        title="bit cast between widths",
        explanation="`bitcast(type, x)` reads the bits of x as a value of another type of the same width.",
        wrong="kernel bits(X: f32[M]) -> (Y: i64[M]) {\n    Y[m] = bitcast(i64, X[m])\n}\n",
        fixed="kernel bits(X: f32[M]) -> (Y: i32[M]) {\n    Y[m] = bitcast(i32, X[m])\n}\n",
    ),
    ErrorKind(
        code="E0406",
        title="malformed quantised type",
        explanation=(
            "A quantised type reads `quant(element, group = K:128, scale = f16, zero = u4)`, where K is a "
            "dimension of the tensor."
        ),
        wrong=(
            "kernel matmul(X: f32[M, K], W: quant(u4, group = C:32, scale = f16)[N, K]) -> (Y: f32[M, N]) {\n"
            "    Y[m, n] = X[m, k] * W[n, k]\n"
            "}\n"
        ),
        fixed=(
            "kernel matmul(X: f32[M, K], W: quant(u4, group = K:32, scale = f16)[N, K]) -> (Y: f32[M, N]) {\n"
            "    Y[m, n] = X[m, k] * W[n, k]\n"
            "}\n"
        ),
    ),
    ErrorKind(
        code="E0407",
        title="integer power",
        explanation=(
            "`x ** n` of integers is repeated multiplication and needs a constant n that is not negative. Powers "
            "of reals have any exponent."
        ),
        wrong="kernel powers(X: i32[M]) -> (Y: i32[M]) {\n    Y[m] = 2 ** X[m]\n}\n",
        fixed="kernel powers(X: i32[M]) -> (Y: i32[M]) {\n    Y[m] = 1 << X[m]\n}\n",
    ),
    ErrorKind(
        code="E0408",
        title="storage format instead of element type",
        explanation=(
            "A quantised format says how a tensor is stored; its values are f32. `cast` and the parts of "
            "`quant(...)` take element types."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = cast(q8_0, X[m])\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = cast(bf16, X[m])\n}\n",
    ),
)
