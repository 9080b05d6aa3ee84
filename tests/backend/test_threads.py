"""The number of threads changes nothing in the results, and one kernel may be called from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from .kernels import kernel, normal, results

PROGRAMS = {
    "softmax": """
kernel k(X: f32[M, N]) -> (Y: f32[M, N], total: f32) {
    top[m]  = X[m, n]                     :: max(n)
    e[m, n] = exp(X[m, n] - top[m])
    s[m]    = e[m, n]
    Y[m, n] = e[m, n] / s[m]
    total   = Y[m, n] * X[m, n]           :: +(m, n)
}
""",
    "product": """
kernel k(X: f32[M, N]) -> (Y: f32[M, M], Z: f32[N, N], V: f32[M]) {
    Y[i, j] = X[i, n] * X[j, n]
    Z[i, j] = X[m, i] * X[m, j]
    V[m]    = X[m, n] * X[0, n]
}
""",
    "one dimension": """
kernel k(X: f32[M, N]) -> (total: f32, high: f32, mean: f32[N], scan: f32[M + 1, N]) {
    total        = X[m, n]                :: +(m, n)
    high         = X[m, n]                :: max(m, n)
    mean[n]      = X[m, n] / M
    scan[0, n]   = 0
    scan[m+1, n] = scan[m, n] * 0.9 + X[m, n]
}
""",
    "scatter": """
kernel k(X: f32[M, N]) -> (Y: f32[8, N], S: f32[8]) {
    place: i32[M]
    place[m]       = m % 8
    Y[place[m], n] = X[m, n]              :: +(m)
    S[place[m]]    = X[m, n]              :: +(m, n)
}
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7000), (301, 65), (64, 130)], ids=str)
def test_one_and_two_threads_give_the_same_bits(name: str, shape: tuple[int, int]) -> None:
    x = normal(*shape)
    one, two, again = (results(kernel(PROGRAMS[name])(x, threads=t)) for t in (1, 2, 2))
    for a, b, c in zip(one, two, again, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_several_threads_call_one_kernel(name: str) -> None:
    compiled = kernel(PROGRAMS[name])
    inputs = [normal(40 + 7 * i, 50 + 13 * i, seed=i) for i in range(6)]
    expected = [results(compiled(x)) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: results(compiled(inputs[i % 6])), range(120)))
    for i, given in enumerate(found):
        for a, b in zip(given, expected[i % 6], strict=True):
            np.testing.assert_array_equal(a, b)
