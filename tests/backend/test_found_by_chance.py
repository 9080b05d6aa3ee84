"""Programs that random tests found to be compiled wrongly."""

from __future__ import annotations

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.compiler.samples import sample_arguments

PROGRAMS = {
    "a sum of its own beside a tile": """
kernel k(X: f32[M, K, M], Y: f32[N, M, M], Z: f32[K], W: f32[N]) -> (E: f32[K, N]) {
    P[k, n] = X[m, k, m'] * Y[n, m', m] * Z[k]
    E[k, n] = max(P[k, n] + W[n], 0)
}
""",
    "a number times a vector under a condition": """
kernel k(X: f16[K], x: f16) -> (P: f32) {
    P = x * X[k]  where (k <= 2 - 2 and k > 2 // 2)
}
""",
    "points that only one branch of a choice has": """
kernel k(X: f64[M, K], Z: f64[M, K, M]) -> (Y: f64[M, K, M]) {
    S: f64[M, K, M]
    G: f64[M, K]
    S[m, k, m'] = (if m == 0 then X[m, k] else X[m, m + 3]) * Z[m, k, m']
    G[m, k] = S[m, k, m'] * S[m, k, m'] :: +(m')
    N[m, k, m'] = abs(S[m, k, m']) * rsqrt(G[m, k] + 0.125)
    D[m, k] = N[m, k, m']
    Y[m, k, m'] = N[m, k, m'] / D[m, k]
}
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_computes_what_the_interpreter_does(name: str) -> None:
    cascade = read_program(PROGRAMS[name]).select(None)
    kernel = ef.compile(PROGRAMS[name], cache=False)
    for sizes in ({"M": 16, "N": 5, "K": 2}, {"M": 3, "N": 1, "K": 7}, {"M": 0, "N": 2, "K": 1}):
        known = {size: sizes[size] for size in cascade.sizes}
        arguments = sample_arguments(cascade, known, 0, scalars={"x": 0.5} if cascade.by_name.get("x") else {})
        found = kernel(**arguments)
        comparison = compare(cascade, arguments, [np.asarray(found)], sizes={})
        assert comparison.passed, comparison
