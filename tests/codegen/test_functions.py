"""The real functions against float64 and mpmath: 4 ulp for every argument, exact limits, whole vectors in registers."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from scipy import special

from einfall.codegen import functions
from einfall.compiler.host import host_target

mpmath = pytest.importorskip("mpmath")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

REFERENCE = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "erf": special.erf,
}
EXACT = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.power(2, x),
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x, 2),
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erf": mpmath.erf,
}
INF, NAN = np.inf, np.nan
LIMITS = {
    "exp": ([0.0, -0.0, INF, -INF, 89, -104], [1, 1, INF, 0, INF, 0]),
    "exp2": (
        [0.0, INF, -INF, 128, 127, -126, -149, -150, 10],
        [1, INF, 0, INF, 2.0**127, 2.0**-126, 2.0**-149, 0, 1024],
    ),
    "log": ([0.0, -0.0, 1, INF, -1, -INF, -1e-45], [-INF, -INF, 0, INF, NAN, NAN, NAN]),
    "log2": ([0.0, -0.0, 1, 8, 2.0**-149, 2.0**-126, INF, -1, -INF], [-INF, -INF, 0, 3, -149, -126, INF, NAN, NAN]),
    "sqrt": ([0.0, -0.0, 4, INF, -1], [0.0, -0.0, 2, INF, NAN]),
    "rsqrt": ([0.0, 4, INF, -1], [INF, 0.5, 0, NAN]),
    "tanh": ([0.0, -0.0, INF, -INF, 1e-45, 20, -1e30], [0.0, -0.0, 1, -1, 1e-45, 1, -1]),
    "sigmoid": ([0.0, INF, -INF, 100, -1e30], [0.5, 1, 0, 1, 0]),
    "erf": ([0.0, -0.0, INF, -INF, 6, -6], [0.0, -0.0, 1, -1, 1, -1]),
}
"""Arguments and exact results, in float32; those of magnitude 0, 1, 4, 8 and inf hold in float64 too."""
LANES = pytest.mark.parametrize("lanes", [1, 8, 16])
NAMES = pytest.mark.parametrize("name", functions.REAL)


def patterns(stride: int, first: int = 0) -> np.ndarray:
    """float32 values whose bit patterns are `stride` apart: all exponents, both signs, subnormals, NaN."""
    return np.arange(first, 1 << 32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


BORDERS = (2**-126, 0.5, 2 / 3, 1, 4 / 3, 4, 9.01, 10, 87.33654, 88.72283, 103.97208, 126, 127.99999, 149, 150)
"""Where results become subnormal, zero or infinite, or where a method changes."""


def near(borders: tuple[float, ...]) -> list[np.ndarray]:
    """All float32 within 1000 places of the borders, of either sign."""
    steps = np.arange(-1000, 1001, dtype=np.int32)
    around = [(np.float32(b).view(np.int32) + steps).view(np.float32) for b in borders]
    return [sign * x for sign in (np.float32(1), np.float32(-1)) for x in around]


def ulps(got: np.ndarray, want: np.ndarray, dtype: type) -> np.ndarray:
    """The distance of `got` from the more precise `want` in units of the last place of `dtype` there."""
    info = np.finfo(dtype)
    nearest = want.astype(dtype)
    place = np.spacing(np.clip(np.abs(nearest), info.tiny, info.max)).astype(want.dtype)
    same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    error = np.where(same & ~np.isfinite(nearest), 0, np.abs(got.astype(want.dtype) - want) / place)
    return np.where(np.isnan(error), np.inf, error)


@LANES
@NAMES
def test_float32_within_4_ulp_over_the_whole_range(name, lanes, elementwise):
    x = np.concatenate([patterns(10007), np.linspace(-110, 110, 100_000, dtype=np.float32), *near(BORDERS)])
    got = elementwise(functions.REAL[name], lanes=lanes)(x)
    error = ulps(got, REFERENCE[name](x.astype(np.float64)), np.float32)
    worst = error.argmax()
    assert error[worst] <= 3, f"{name}({x[worst]!r}) = {got[worst]!r}: {error[worst]:.2f} ulp"


@pytest.mark.parametrize("name", ["erf", "tanh", "sigmoid", "exp"])
def test_float32_within_4_ulp_with_the_instructions_of_the_host(name, elementwise):
    pieces = [sign * 17 / 64 * (n + 0.5) + s for sign in (1, -1) for n in range(16) for s in np.arange(-9, 10) * 1e-7]
    x = np.concatenate([patterns(10007), np.linspace(-12, 12, 300_000, dtype=np.float32), *near(BORDERS)])
    x = np.concatenate([x, np.linspace(-110, 90, 300_000, dtype=np.float32)])
    x = np.concatenate([x, np.array(pieces, np.float32), np.array([INF, -INF, NAN, 0.0, -0.0], np.float32)])
    got = elementwise(functions.REAL[name], features=host_target().features)(x)
    error = ulps(got, REFERENCE[name](x.astype(np.float64)), np.float32)
    worst = error.argmax()
    assert error[worst] <= 3, f"{name}({x[worst]!r}) = {got[worst]!r}: {error[worst]:.2f} ulp"
    assert name == "exp" or not np.any(np.abs(got) > 1)
    if name in ("erf", "tanh"):
        np.testing.assert_array_equal(np.signbit(got[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@pytest.mark.skipif(not {"avx512f", "avx512vl"} <= host_target().features, reason="needs AVX-512")
@pytest.mark.parametrize("name", ["exp", "exp2", "sigmoid"])
@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 4), ("float32", 8), ("float32", 16), ("float64", 8), ("float64", 4)])
def test_the_scaling_instruction_of_avx512_gives_the_same_bits(name, dtype, lanes, elementwise):
    x = np.concatenate([patterns(10007), *near(BORDERS), np.array([INF, -INF, NAN, 0.0, -0.0, 1e30, -1e30], np.float32)])
    x = x.astype(dtype)
    if dtype == "float64":
        edges = (-708.3964185322641, 709.782712893384, -745.1332191019411, 1023.9999999999999, -1022.0, -1074.0)
        x = np.concatenate([x, *(b + np.arange(-2000, 2001) * np.spacing(b) for b in edges)])
    runs = [
        elementwise(functions.REAL[name], inputs=(dtype,), output=dtype, lanes=lanes, features=features)
        for features in (frozenset(), host_target().features)
    ]
    assert "vscalef" not in runs[0].assembly and "vscalef" in runs[1].assembly
    one, other = (run(x) for run in runs)
    if (name, dtype, lanes) == ("exp", "float32", 16):  # it is made from a table
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_array_max_ulp(one[~np.isnan(one)], other[~np.isnan(one)], 4)
        return
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@NAMES
def test_float32_within_4_ulp_at_ten_million_points(name, elementwise):
    run = elementwise(functions.REAL[name])
    for first in range(16):  # every 401st pattern, in parts that bound memory
        x = patterns(16 * 401, first * 401)
        error = ulps(run(x), REFERENCE[name](x.astype(np.float64)), np.float32)
        assert error.max() <= 3


@NAMES
def test_float64_within_4_ulp(name, elementwise):
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            rng.uniform(-760, 760, 500),
            rng.uniform(-7, 7, 500),
            rng.uniform(-1, 1, 300) * 10.0 ** -rng.integers(0, 30, 300),
            10.0 ** rng.uniform(-323, 308, 300),
            1 + rng.uniform(-1, 1, 200) * 10.0 ** -rng.integers(0, 15, 200),
            *(b + np.arange(-20, 21) * np.spacing(b) for b in (-708.3964185322641, 709.782712893384, -745.1332191019411)),
        ]
    )
    if name in ("log", "log2", "sqrt", "rsqrt"):
        x = np.abs(x)
    got = elementwise(functions.REAL[name], inputs=("float64",), output="float64", lanes=8)(x)
    limit = np.finfo(np.float64)
    with mpmath.workdps(40):
        for value, result in zip(x, got, strict=True):
            want = EXACT[name](mpmath.mpf(float(value)))
            if want > limit.max:
                assert result == INF
                continue
            place = float(np.spacing(max(abs(float(want)), limit.tiny)))
            assert abs(mpmath.mpf(float(result)) - want) / place <= 4, f"{name}({value!r}) = {result!r}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@NAMES
def test_limits_are_exact_and_nan_stays(name, dtype, elementwise):
    x, want = (np.array([*values, NAN], dtype) for values in LIMITS[name])
    if dtype == "float64":
        kept = ~np.isfinite(x) | np.isin(np.abs(x), (0, 1, 4, 8))
        x, want = x[kept], want[kept]
    for lanes in (1, 16):
        got = elementwise(functions.REAL[name], inputs=(dtype,), output=dtype, lanes=lanes)(x)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


def test_monotone_where_softmax_needs_it(elementwise):
    x = np.linspace(-20, 0, 200_001, dtype=np.float32)
    y = elementwise(functions.exp)(x)
    assert (np.diff(y) >= 0).all() and y[-1] == 1


@pytest.mark.skipif(not host_target().has("avx512dq"), reason="needs AVX-512")
def test_exp_that_is_read_as_bf16(elementwise):
    run = elementwise(functions.exp_bf16, features=host_target().features)
    x = np.concatenate([patterns(4099), np.linspace(-90, 90, 100_003, dtype=np.float32)])
    got = run(x)
    left = (got.view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(left[got >= np.finfo(np.float32).tiny], got[got >= np.finfo(np.float32).tiny])
    np.testing.assert_array_equal(np.isnan(left), np.isnan(x))
    want = np.exp(x.astype(np.float64))
    inside = (want >= np.finfo(np.float32).tiny) & (want < 3.3e38)
    spacing = 2.0 ** (np.floor(np.log2(want[inside])) - 7)
    assert (np.abs(got[inside] - want[inside]) / spacing).max() < 0.53
    limits = np.array([0.0, -0.0, INF, -INF, NAN, 1e30, -1e30, 89, -104.5, -88.0], np.float32)
    np.testing.assert_array_equal(run(limits)[:-1], [1, 1, INF, 0, NAN, INF, 0, INF, 0])
    assert 6.0e-39 < run(limits)[-1] < 6.1e-39
    body = kernel_body(run.assembly)
    assert len(re.findall(r"^\tv(?!mov|broad|zero)\w+", body, re.MULTILINE)) == 7 * body.count("vscalefps")


@NAMES
def test_a_vector_stays_in_registers(name, elementwise):
    body = kernel_body(elementwise(functions.REAL[name]).assembly)
    assert "call" not in body
    assert not re.search(r"\bv?(mul|add|sub|fmadd\d+|sqrt|div)ss\b", body), "scalar arithmetic in a vector loop"


def test_composition_grows_linearly(elementwise):
    """Sharing survives down to the machine code: each further function adds about as many instructions."""
    sizes = []
    for depth in range(1, 6):

        def nested(x, bind, depth=depth):
            for _ in range(depth):
                x = functions.tanh(x, bind)
            return x

        sizes.append(arithmetic(kernel_body(elementwise(nested).assembly)))
    steps = [b - a for a, b in pairwise(sizes)]
    assert max(steps) <= 2 * sizes[0]


def kernel_body(assembly: str) -> str:
    """The instructions of the computing function."""
    return re.search(r"\nmain_compute_:(.*?)\n\.Lfunc_end", assembly, re.DOTALL).group(1)


def arithmetic(body: str) -> int:
    """How many vector instructions there are."""
    return len(re.findall(r"^\tv\w+", body, re.MULTILINE))


ROUNDING = {
    "floor": (functions.floor, np.floor),
    "ceil": (functions.ceil, np.ceil),
    "round_half_even": (functions.round_half_even, np.round),
    "absolute": (functions.absolute, np.abs),
    "negate": (functions.negate, np.negative),
    "sign": (functions.sign, lambda x: np.where(x == 0, x, np.sign(x))),
}


@LANES
@pytest.mark.parametrize("name", ROUNDING)
def test_rounding_and_signs_are_exact(name, lanes, elementwise):
    ours, numpy = ROUNDING[name]
    x = np.concatenate([patterns(65537), np.arange(-8, 8.25, 0.25, dtype=np.float32), [0.49999997, -0.0, 8388609.0]])
    x = x.astype(np.float32)
    got, want = elementwise(lambda v, bind: ours(v), lanes=lanes)(x), numpy(x)
    np.testing.assert_array_equal(got, want)
    here = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[here]), np.signbit(want[here]))


@LANES
@pytest.mark.parametrize(("ours", "numpy"), [(functions.maximum, np.maximum), (functions.minimum, np.minimum)])
def test_extremes_propagate_nan_from_either_side(ours, numpy, lanes, elementwise):
    values = np.array([NAN, -NAN, INF, -INF, 0.0, 1, -1, 3e38, 1e-45], np.float32)
    a, b = (m.ravel() for m in np.meshgrid(values, values))
    run = elementwise(lambda x, y, bind: ours(x, y), inputs=("float32", "float32"), lanes=lanes)
    np.testing.assert_array_equal(run(a, b), numpy(a, b))


def test_another_type_is_refused(elementwise):
    with pytest.raises(TypeError, match="float32 or float64, not float16"):
        elementwise(functions.exp, inputs=("float16",), output="float16")
