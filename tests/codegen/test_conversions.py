"""Every conversion against NumPy and ml_dtypes: all codes, all ties, the edges, bit patterns of all sizes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from einfall.codegen import conversions
from einfall.ir.arithmetic import Arithmetic
from einfall.ir.types import DTYPES

# NumPy warns of its own casts of NaN and of overflows.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SMALL = {
    "f8_e4m3": ml_dtypes.float8_e4m3fn,
    "f8_e5m2": ml_dtypes.float8_e5m2,
    "f6_e3m2": ml_dtypes.float6_e3m2fn,
    "f6_e2m3": ml_dtypes.float6_e2m3fn,
    "f4_e2m1": ml_dtypes.float4_e2m1fn,
}
STORED = {"f16": "float16", "bf16": "uint16", **dict.fromkeys(SMALL, "uint8")}
LANES = pytest.mark.parametrize("lanes", [1, 16])


def patterns(stride: int) -> np.ndarray:
    """float32 values whose bit patterns are `stride` apart: all exponents, both signs, NaN."""
    return np.arange(0, 1 << 32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


def hard_values(dtype: type) -> np.ndarray:
    """All values of a small format, the ties between neighbours, and what lies next to either."""
    bits = 16 if np.dtype(dtype).itemsize == 2 else 8
    codes = np.arange(1 << bits, dtype=f"u{bits // 8}")
    values = codes.view(dtype).astype(np.float32)
    finite = np.unique(values[np.isfinite(values)])
    ties = (finite[1:] + finite[:-1]) / np.float32(2)
    exact = np.concatenate([finite, ties])
    near = [np.nextafter(exact, np.float32(s)).astype(np.float32) for s in (-np.inf, np.inf)]
    edges = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38], np.float32)
    return np.concatenate([exact, *near, edges])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal values, NaN to NaN, and equal signs of zero."""
    zero = (a == 0) & (b == 0)
    return bool(np.all(((a == b) | (np.isnan(a) & np.isnan(b))) & (~zero | (np.signbit(a) == np.signbit(b)))))


def expected(x: np.ndarray, name: str) -> np.ndarray:
    """`x` rounded by ml_dtypes, with the saturation that it leaves out (e4m3 to NaN, e5m2 to inf)."""
    largest = np.float32(ml_dtypes.finfo(SMALL[name]).max)
    keep = np.isinf(x) & (name == "f8_e5m2")
    clipped = np.where(np.isnan(x) | keep, x, np.clip(x, -largest, largest))
    rounded = clipped.astype(SMALL[name]).astype(np.float32)
    return rounded if name.startswith("f8") else np.where(np.isnan(x), np.float32(0), rounded)


@LANES
@pytest.mark.parametrize("name", SMALL)
def test_every_code_of_a_small_float_decodes(name, lanes, elementwise):
    codes = np.arange(256, dtype=np.uint8)
    run = elementwise(lambda c, bind: conversions.decode(c, name, bind), inputs=("uint8",), lanes=lanes)
    width = DTYPES[name].bits
    valid = codes[: 1 << width]
    assert same(run(valid), valid.view(SMALL[name]).astype(np.float32))


@LANES
@pytest.mark.parametrize("name", SMALL)
def test_encoding_rounds_ties_to_even_and_saturates(name, lanes, elementwise):
    encode = elementwise(lambda x, bind: conversions.encode(x, name, bind), output="uint8", lanes=lanes)
    rounded = elementwise(lambda x, bind: conversions.round_to(x, name, bind), lanes=lanes)
    for x in (hard_values(SMALL[name]), patterns(65537)):
        want = expected(x, name)
        codes = encode(x)
        assert codes.max() < 1 << DTYPES[name].bits
        assert same(codes.view(SMALL[name]).astype(np.float32), want)
        assert same(rounded(x), want)


@LANES
@pytest.mark.parametrize(("name", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_half_floats_round_ties_to_even_and_keep_specials(name, dtype, lanes, elementwise):
    encode = elementwise(lambda x, bind: conversions.encode(x, name, bind), output=STORED[name], lanes=lanes)
    rounded = elementwise(lambda x, bind: conversions.round_to(x, name, bind), lanes=lanes)
    decode = elementwise(lambda c, bind: conversions.decode(c, name, bind), inputs=(STORED[name],), lanes=lanes)
    codes = np.arange(1 << 16, dtype=np.uint16)
    assert same(decode(codes.view(STORED[name])), codes.view(dtype).astype(np.float32))
    for x in (hard_values(dtype), patterns(65537)):
        want = x.astype(dtype).astype(np.float32)
        assert same(encode(x).view(dtype).astype(np.float32), want)
        assert same(rounded(x), want)


@LANES
@pytest.mark.parametrize(
    ("source", "name"),
    [("float32", n) for n in ("i64", "u64", "i32", "u32", "i16", "u8", "i4", "u3", "t2", "i1")]
    + [("float64", n) for n in ("i64", "u64", "i32", "u32", "i8")],
)
def test_floats_become_integers_by_truncation_and_saturation(name, source, lanes, elementwise):
    target = DTYPES[name]
    held = ("u" if name.startswith("u") else "") + f"int{max(8, target.bits)}"
    run = elementwise(lambda x, bind: conversions.float_to_int(x, target), inputs=(source,), output=held, lanes=lanes)
    limits = np.array([b + d for b in (target.minimum, target.maximum) for d in (-2, -1, -0.5, 0, 0.5, 1, 2)])
    edges = np.array([0, -0.0, 0.5, -0.5, 0.99, -0.99, 2.0**31, -(2.0**31), 2.0**63, 1e30, np.inf, -np.inf, np.nan])
    x = np.concatenate([limits, edges, patterns(1 << 20).astype(np.float64)]).astype(source)
    x = np.concatenate([x, np.nextafter(x, x.dtype.type(0)), np.nextafter(x, x.dtype.type(np.inf))])
    source_type = DTYPES["f64" if source == "float64" else "f32"]
    want = Arithmetic(typed=True).convert(x, source_type, target).astype(held)
    np.testing.assert_array_equal(run(x), want)


@LANES
@pytest.mark.parametrize("name", ["f64", "f32", "f16", "bf16", *SMALL, "i64", "u16", "i8", "i4", "u3", "i1", "t2"])
def test_bits_and_back(name, lanes, elementwise):
    dtype = DTYPES[name]
    width = max(8, dtype.bits)
    codes = np.random.default_rng(7).integers(0, 1 << 64, 1024, np.uint64) >> np.uint64(64 - dtype.bits)
    codes = codes.astype(f"u{width // 8}")
    if dtype.is_float:
        codes = codes[~np.isnan(codes.view(dtype.storage).astype(np.float64))]  # NaN payloads may change
    run = elementwise(
        lambda c, bind: conversions.to_bits(bind_float(conversions.from_bits(c, dtype, bind), bind), dtype, bind),
        inputs=(f"uint{width}",),
        output=f"uint{width}",
        lanes=lanes,
    )
    np.testing.assert_array_equal(run(codes), codes)


def bind_float(value, bind):
    """Shares floats only: TVM cannot share vectors of integers."""
    return bind(value) if str(value.ty.dtype).startswith("float") else value


@LANES
def test_bits_read_as_another_type_agree_with_the_interpreter(lanes, elementwise):
    arithmetic = Arithmetic(typed=True)
    codes = np.arange(256, dtype=np.uint8)
    for source, target in (("u8", "i8"), ("u8", "f8_e4m3"), ("i8", "f8_e5m2")):
        to, of = DTYPES[target], DTYPES[source]
        run = elementwise(
            lambda c, bind, to=to, of=of: conversions.from_bits(
                conversions.to_bits(conversions.from_bits(c, of, bind), of, bind), to, bind
            ),
            inputs=("uint8",),
            output="float32" if to.is_float else "int8",
            lanes=lanes,
        )
        values = codes.view(np.int8 if source == "i8" else np.uint8)
        want = arithmetic.bitcast(arithmetic.load(values, of), of, to)
        np.testing.assert_array_equal(run(codes).astype(np.float64), want.astype(np.float64))
