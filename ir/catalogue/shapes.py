"""Codes E03: shapes and extents."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0301",
        title="extents differ",
        explanation=(
            "A rank variable has one extent: all the dimensions that it indexes directly in an Einsum must be "
            "provably equal, for all sizes. `require A == B` states that two sizes are equal, and is checked at "
            "the call."
        ),
        wrong=("kernel matmul(X: f32[M, K], W: f32[N, K]) -> (Y: f32[M, N]) {\n    Y[m, n] = X[m, k] * W[k, n]\n}\n"),
        fixed=("kernel matmul(X: f32[M, K], W: f32[N, K]) -> (Y: f32[M, N]) {\n    Y[m, n] = X[m, k] * W[n, k]\n}\n"),
    ),
    ErrorKind(
        code="E0302",
        title="wrong number of indices",
        explanation="A tensor is read and written with one index for each of its dimensions.",
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m, 0]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0303",
        title="rank variable without extent",
        explanation=(
            "A rank variable ranges over a dimension that it indexes directly. Shifted, scaled and data-dependent "
            "indices, and conditions, give it no extent."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m + r] * 0.5\n}\n",
        fixed="kernel scale(X: f32[M], W: f32[R]) -> (Y: f32[M]) {\n    Y[m] = X[m + r] * W[r]\n}\n",
    ),
    ErrorKind(
        code="E0304",
        title="shape cannot be inferred",
        explanation=(
            "The shape of an intermediate follows from the rank variables on the left of its Einsum. Where a "
            "coordinate is computed, or nothing else bounds the variable, a local declaration gives the shape."
        ),
        wrong=("kernel scatter(X: f32[E], dst: i32[E]) -> (Y: f32[V]) {\n    S[dst[e]] = X[e]  :: +(e)\n    Y[v] = S[v]\n}\n"),
        fixed=(
            "kernel scatter(X: f32[E], dst: i32[E]) -> (Y: f32[V]) {\n"
            "    S: f32[V]\n"
            "    S[dst[e]] = X[e]  :: +(e)\n"
            "    Y[v] = S[v]\n"
            "}\n"
        ),
    ),
    ErrorKind(
        code="E0305",
        title="malformed dimension",
        explanation=(
            "A dimension is an integer expression over sizes and constants, such as `N`, `2*N + 1` or `ceildiv(M, 64)`."
        ),
        wrong="kernel copy(X: f32[M / 2]) -> (Y: f32[M / 2]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M // 2]) -> (Y: f32[M // 2]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0307",
        title="index never inside",
        explanation=(
            "A constant index that lies outside the shape for all sizes reads nothing but absent points. Most "
            "often a size (upper case) stands where a rank variable (lower case) is meant."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[M]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0308",
        title="too many dimensions",
        explanation="A tensor has at most 64 dimensions.",
        wrong=(
            "kernel deep(X: f32[\n"
            "    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, \n"
            "    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, \n"
            "    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, \n"
            "    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, \n"
            "    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, \n"
            "]) -> (Y: f32[1]) {\n"
            "    Y[i] = 1\n"
            "}\n"
        ),
        fixed="kernel deep(X: f32[2, 2]) -> (Y: f32[1]) {\n    Y[i] = X[0, 0]\n}\n",
    ),
    ErrorKind(
        code="E0309",
        title="index is no integer",
        explanation=("Indices and coordinates are integers. Real division `/` gives a real number; `//` gives a whole one."),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m / 2]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m // 2]\n}\n",
    ),
)
