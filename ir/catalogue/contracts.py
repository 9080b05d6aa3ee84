"""Codes E07: checks, requires, tolerances and sizes."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0701",
        title="precondition violated",
        explanation=(
            "`require` states a condition on the sizes, which is checked as soon as they are known, at the latest at the call."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    require 65 % 64 == 0\n    Y[m] = X[m]\n}\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    require M % 64 == 0\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0702",
        title="malformed check",
        explanation=(
            "A `check` names a kernel of the file and gives each of its sizes a value; scalar parameters may be given too."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n\ncheck scale(N = 3)\n",
        fixed="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n\ncheck scale(M = 3)\n",
    ),
    ErrorKind(
        code="E0703",
        title="check that breaks a precondition",
        explanation="The sizes of a `check` satisfy the `require` statements of the kernel.",
        wrong=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    require M % 2 == 0\n    Y[m] = X[m]\n}\n\ncheck scale(M = 3)\n"),
        fixed=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    require M % 2 == 0\n    Y[m] = X[m]\n}\n\ncheck scale(M = 4)\n"),
    ),
    ErrorKind(
        code="E0704",
        title="precondition on more than sizes",
        explanation=(
            "A `require` is a condition on sizes and constants; it is checked before anything runs, when elements "
            "of tensors are not known."
        ),
        wrong=("kernel scale(X: f32[M], s: f32) -> (Y: f32[M]) {\n    require s > 0\n    Y[m] = X[m] * s\n}\n"),
        fixed=("kernel scale(X: f32[M], s: f32) -> (Y: f32[M]) {\n    require M > 0\n    Y[m] = X[m] * s\n}\n"),
    ),
    ErrorKind(
        code="E0705",
        title="malformed tolerance",
        explanation=("`@tolerance(x)` permits a relative error of x in the Frobenius norm; x is positive and finite."),
        wrong="@tolerance(0)\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="@tolerance(1e-2)\nkernel scale(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
)
