"""Codes E06: iterative ranks and dependences."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0601",
        title="dependence that no order satisfies",
        explanation=(
            "Einsums that depend on one another run as a loop over an iterative rank, in which every Einsum reads "
            "generations that are written before its own. A value that depends on itself, at once or by way of a "
            "later generation, cannot be computed."
        ),
        wrong=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    A[m] = X[m] + B[m]\n    B[m] = 2 * A[m]\n    Y[m] = B[m]\n}\n"),
        fixed=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    A[m] = X[m] + 1\n    B[m] = 2 * A[m]\n    Y[m] = B[m]\n}\n"),
    ),
    ErrorKind(
        code="E0611",
        title="first generation not given",
        explanation=(
            "The first step of an iterative Einsum reads the generation before it, which an initialiser gives, "
            "`S[0] = 0`, or a default, `S[t] ?? 0`."
        ),
        wrong="kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    S[m+1] = S[m] + X[m]\n    Y[m] = S[m+1]\n}\n",
        fixed=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    S[0] = 0\n    S[m+1] = S[m] + X[m]\n    Y[m] = S[m+1]\n}\n"),
    ),
    ErrorKind(
        code="E0612",
        title="initialiser of a later generation",
        explanation=(
            "Initialisers give the generations that the steps of an iterative tensor do not write: with `S[t+1] = "
            "…` that is generation 0."
        ),
        wrong=(
            "kernel scale(X: f32[M]) -> (Y: f32[M]) {\n"
            "    S[0] = 0\n"
            "    S[2] = 1\n"
            "    S[m+1] = S[m] + X[m]\n"
            "    Y[m] = S[m+1]\n"
            "}\n"
        ),
        fixed=("kernel scale(X: f32[M]) -> (Y: f32[M]) {\n    S[0] = 0\n    S[m+1] = S[m] + X[m]\n    Y[m] = S[m+1]\n}\n"),
    ),
)
