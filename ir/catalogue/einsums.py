"""Codes E05: reductions, absence and the meaning of one Einsum."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0501",
        title="sum adds a term several times",
        explanation=(
            "Rank variables on the right that are not on the left are summed. A term of that sum that does not "
            "use all of them would be added once for each of their values, which is hardly ever meant. `:: +(k)` "
            "states that it is."
        ),
        wrong=(
            "kernel linear(X: f32[M, K], W: f32[K, N], B: f32[N]) -> (Y: f32[M, N]) {\n"
            "    Y[m, n] = X[m, k] * W[k, n] + B[n]\n"
            "}\n"
        ),
        fixed=(
            "kernel linear(X: f32[M, K], W: f32[K, N], B: f32[N]) -> (Y: f32[M, N]) {\n"
            "    XW[m, n] = X[m, k] * W[k, n]\n"
            "    Y[m, n] = XW[m, n] + B[n]\n"
            "}\n"
        ),
    ),
    ErrorKind(
        code="E0502",
        title="list of reduced ranks",
        explanation=(
            "An explicit reduction lists every rank variable that is on the right and not on the left, and "
            "nothing else, so that the reader sees what is reduced."
        ),
        wrong="kernel top(X: f32[M, K, L]) -> (Y: f32[M]) {\n    Y[m] = X[m, k, l]  :: max(k)\n}\n",
        fixed="kernel top(X: f32[M, K, L]) -> (Y: f32[M]) {\n    Y[m] = X[m, k, l]  :: max(k, l)\n}\n",
    ),
    ErrorKind(
        code="E0503",
        title="unknown reduction",
        explanation="The reductions are `+ * max min and or argmax argmin`.",
        wrong="kernel mean(X: f32[M, K]) -> (Y: f32[M]) {\n    Y[m] = X[m, k]  :: mean(k)\n}\n",
        fixed="kernel mean(X: f32[M, K]) -> (Y: f32[M]) {\n    Y[m] = X[m, k] / K  :: +(k)\n}\n",
    ),
    ErrorKind(
        code="E0504",
        title="scatter without reduction",
        explanation=(
            "Where a coordinate on the left depends on data, or several points share one, the program says how "
            "values that meet are combined. The variables inside such coordinates count as reduced."
        ),
        wrong="kernel scatter(X: f32[E], dst: i32[E]) -> (Y: f32[V]) {\n    Y[dst[e]] = X[e]\n}\n",
        fixed="kernel scatter(X: f32[E], dst: i32[E]) -> (Y: f32[V]) {\n    Y[dst[e]] = X[e]  :: +(e)\n}\n",
    ),
    ErrorKind(
        code="E0505",
        title="reduction of nothing",
        explanation="A reduction needs a rank variable that is on the right and not on the left.",
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  :: max()\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0506",
        title="coordinate along several ranks",
        explanation="`argmax` and `argmin` give one coordinate, and so reduce one rank.",
        wrong="kernel top(X: f32[M, K, L]) -> (Y: i32[M]) {\n    Y[m] = X[m, k, l]  :: argmax(k, l)\n}\n",
        fixed=(
            "kernel top(X: f32[M, K, L]) -> (Y: i32[M]) {\n"
            "    R[m, k] = X[m, k, l]  :: max(l)\n"
            "    Y[m] = R[m, k]  :: argmax(k)\n"
            "}\n"
        ),
    ),
    ErrorKind(
        code="E0507",
        title="logical reduction of numbers",
        explanation="`and` and `or` reduce conditions.",
        wrong="kernel any(X: f32[M, K]) -> (Y: bool[M]) {\n    Y[m] = X[m, k]  :: or(k)\n}\n",
        fixed="kernel any(X: f32[M, K]) -> (Y: bool[M]) {\n    Y[m] = X[m, k] != 0  :: or(k)\n}\n",
    ),
)
