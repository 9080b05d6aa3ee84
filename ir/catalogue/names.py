"""Codes E02: names and definitions."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0201",
        title="undefined name",
        explanation=(
            "Every name in an expression is a tensor, a size, a scalar parameter, a constant of a `let`, or a "
            "rank variable. Sizes are known from the types of parameters, results and declared tensors; rank "
            "variables index something."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] * alpha\n}\n",
        fixed="kernel scale(X: f32[M], alpha: f32) -> (Y: f32[M]) {\n    Y[m] = X[m] * alpha\n}\n",
    ),
    ErrorKind(
        code="E0202",
        title="name defined twice",
        explanation=(
            "Tensors, sizes, scalars and constants share one namespace, kernels, functions and types have one "
            "each. A constant of the file is visible in every kernel and cannot be defined anew there."
        ),
        wrong="kernel copy(X: f32[M], X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M], Z: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] + Z[m]\n}\n",
    ),
    ErrorKind(
        code="E0203",
        title="tensor written twice",
        explanation=(
            "One Einsum defines a tensor. Only an iterative tensor has initialisers besides, Einsums with a "
            "constant coordinate in its iterative dimension, such as `S[0, k] = 0` beside `S[t+1, k] = S[t, k] + "
            "X[t, k]`."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n    Y[m] = 2 * X[m]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Z[m] = X[m]\n    Y[m] = 2 * Z[m]\n}\n",
    ),
    ErrorKind(
        code="E0204",
        title="tensor never written",
        explanation=("Every result and every declared intermediate is written by an Einsum; parameters are not."),
        wrong="kernel copy(X: f32[M]) -> (Y: f32[M], Z: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M], Z: f32[M]) {\n    Y[m] = X[m]\n    Z[m] = -X[m]\n}\n",
    ),
    ErrorKind(
        code="E0205",
        title="parameter written",
        explanation=(
            "Parameters belong to the caller and are read only. What an Einsum writes is a result or an intermediate."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    X[m] = 2 * X[m]\n    Y[m] = X[m]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Z[m] = 2 * X[m]\n    Y[m] = Z[m]\n}\n",
    ),
    ErrorKind(
        code="E0206",
        title="definition by itself",
        explanation=(
            "Functions and constants are expanded where they are used, so that none may be defined by itself, "
            "directly or through others. A recurrence over a rank is an iterative Einsum."
        ),
        wrong=("let A = B + 1\nlet B = A\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] * A\n}\n"),
        fixed=("let A = B + 1\nlet B = 2\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] * A\n}\n"),
    ),
    ErrorKind(
        code="E0207",
        title="wrong number of arguments",
        explanation=("A function takes as many arguments as its definition names; `min` and `max` take two or more."),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = clamp(X[m], 1)\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = clamp(X[m], 0, 1)\n}\n",
    ),
    ErrorKind(
        code="E0208",
        title="unknown function",
        explanation=(
            "Built-in functions are `exp exp2 log log2 sqrt rsqrt tanh sigmoid erf abs sign floor ceil round min "
            "max clamp ceildiv`, `cast` and `bitcast`; others are defined by `def`."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = silu(X[m])\n}\n",
        fixed=("def silu(x) = x * sigmoid(x)\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = silu(X[m])\n}\n"),
    ),
    ErrorKind(
        code="E0209",
        title="unknown type",
        explanation=(
            "Element types are `f64 f32 f16 bf16`, the smaller floats, `i64` to `i2`, `u64` to `u2`, `i1`, `t2` "
            "and `bool`; quantised formats have names such as `q4_0`, and `type` items name others."
        ),
        wrong="kernel copy(X: float32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0210",
        title="name of another kind",
        explanation=(
            "A tensor with dimensions is read with one index for each, in square brackets; sizes, scalars and "
            "constants have none; functions are called with round brackets."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 2 * X\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 2 * X[m]\n}\n",
    ),
    ErrorKind(
        code="E0211",
        title="rank variable named like a scalar",
        explanation=(
            "Rank variables have a namespace of their own, but where one Einsum uses a name both as an index and "
            "as the number that a scalar parameter gives, it is not clear which is meant."
        ),
        wrong="kernel scale(X: f32[M], s: f32) -> (Y: f32[M]) {\n    Y[s] = X[s] * s\n}\n",
        fixed="kernel scale(X: f32[M], s: f32) -> (Y: f32[M]) {\n    Y[m] = X[m] * s\n}\n",
    ),
    ErrorKind(
        code="E0212",
        title="built-in name redefined",
        explanation="The names of built-in functions and types mean the same in every program.",
        wrong="def exp(x) = 1 + x\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = exp(X[m])\n}\n",
        fixed=("def near_exp(x) = 1 + x\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = near_exp(X[m])\n}\n"),
    ),
    ErrorKind(
        code="E0213",
        title="tensor in a function or constant",
        explanation=(
            "A `def` is a function of scalars and a `let` is a constant: neither reads tensors. Pass the element "
            "as an argument."
        ),
        wrong=(
            "def shifted(x) = x + B[0]\n\nkernel scale(X: f32[M], B: f32[1]) -> (Y: f32[M]) {\n    Y[m] = shifted(X[m])\n}\n"
        ),
        fixed=(
            "def shifted(x, b) = x + b\n"
            "\n"
            "kernel scale(X: f32[M], B: f32[1]) -> (Y: f32[M]) {\n"
            "    Y[m] = shifted(X[m], B[0])\n"
            "}\n"
        ),
    ),
    ErrorKind(
        code="E0214",
        title="expression too large",
        explanation=(
            "Functions are expanded where they are called, and functions of functions may grow without bounds: an "
            "expression has at most 5,000 nodes and 250 levels after that."
        ),
        wrong=(
            "def f0(x) = x * x + x\n"
            "def f1(x) = f0(f0(x)) * f0(x)\n"
            "def f2(x) = f1(f1(x)) * f1(x)\n"
            "def f3(x) = f2(f2(x))\n"
            "\n"
            "kernel scale(X: f32[M]) -> (Y: f32[M]) {\n"
            "    Y[m] = f3(X[m])\n"
            "}\n"
        ),
        fixed=(
            "def f0(x) = x * x + x\n\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Z[m] = f0(X[m])\n    Y[m] = f0(Z[m])\n}\n"
        ),
    ),
)
