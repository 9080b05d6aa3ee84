"""The scalar semantics of section 2 and 5 of the language, operator by operator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einfall.ir.arithmetic import Arithmetic, wrap
from einfall.ir.types import DTYPES, F32, I8, I32, I64, U8, U32, U64, DType

EXACT, TYPED = Arithmetic(typed=False), Arithmetic(typed=True)
INTEGERS = [t for t in DTYPES.values() if t.is_integer and t.name not in ("i1", "t2")]


def carried(values: list[int], dtype: DType) -> np.ndarray:
    return np.array(values, EXACT.carrier(dtype))


def result(name: str, dtype: DType, *args: list[int]) -> tuple[list[int], list[bool]]:
    values, present = EXACT.apply(name, dtype, [carried(a, dtype) for a in args])
    values = np.asarray(EXACT.settle(values, dtype))
    mask = np.ones(values.shape, bool) if present is None else present
    return values.tolist(), np.broadcast_to(mask, values.shape).tolist()


def modulo(value: int, dtype: DType) -> int:
    """Python's big integers as the independent oracle of wrapping."""
    low = int(dtype.minimum)
    return (value - low) % (1 << dtype.bits) + low


@given(st.sampled_from(INTEGERS), st.data())
def test_ring_operators_wrap_at_their_type(dtype: DType, data: st.DataObject) -> None:
    number = st.integers(int(dtype.minimum), int(dtype.maximum))
    a, b = data.draw(number), data.draw(number)
    with np.errstate(all="ignore"):
        assert result("add", dtype, [a], [b])[0] == [modulo(a + b, dtype)]
        assert result("sub", dtype, [a], [b])[0] == [modulo(a - b, dtype)]
        assert result("mul", dtype, [a], [b])[0] == [modulo(a * b, dtype)]
        assert result("neg", dtype, [a])[0] == [modulo(-a, dtype)]
        assert result("abs", dtype, [a])[0] == [modulo(abs(a), dtype)]
        assert result("pow", dtype, [a], [min(abs(b), 5)])[0] == [modulo(a ** min(abs(b), 5), dtype)]


@given(st.sampled_from(INTEGERS), st.data())
def test_integer_division_floors_and_is_absent_at_zero(dtype: DType, data: st.DataObject) -> None:
    number = st.integers(int(dtype.minimum), int(dtype.maximum))
    a, b = data.draw(number), data.draw(number)
    with np.errstate(all="ignore"):
        for name, exact in (
            ("floordiv", lambda: a // b),
            ("mod", lambda: a % b),
            ("ceildiv", lambda: -(-a // b)),
        ):
            values, present = result(name, dtype, [a], [b])
            assert present == [b != 0]
            if b != 0:
                assert values == [modulo(exact(), dtype)]


@pytest.mark.parametrize("dtype", [I8, U8, I32, U32, I64, U64], ids=str)
def test_shifts_beyond_the_width_empty_the_number(dtype: DType) -> None:
    top = int(dtype.maximum)
    values = [int(dtype.minimum), 1, top]
    for count in (0, 1, dtype.bits - 1, dtype.bits, dtype.bits + 5):
        if count > dtype.maximum:
            continue
        counts = [count] * 3
        whole = count < dtype.bits
        left = [modulo(v << count, dtype) if whole else 0 for v in values]
        assert result("shl", dtype, values, counts)[0] == left
        right = [v >> count if whole else (-1 if v < 0 else 0) for v in values]
        assert result("shr", dtype, values, counts)[0] == right


def test_negative_shift_counts_empty_the_number() -> None:
    assert result("shl", I32, [5, -5], [-1, -1])[0] == [0, 0]
    assert result("shr", I32, [5, -5], [-1, -40])[0] == [0, -1]


def test_casts_from_float_truncate_saturate_and_give_0_for_nan() -> None:
    values = np.array([1.9, -1.9, 127.0, 128.0, 1e30, -129.0, -np.inf, np.inf, np.nan])
    assert EXACT.convert(values, F32, I8).tolist() == [1, -1, 127, 127, 127, -128, -128, 127, 0]
    assert EXACT.convert(values, F32, U8).tolist() == [1, 0, 127, 128, 255, 0, 0, 255, 0]
    ends = np.array([2.0**63, -(2.0**63), 2.0**64, 2.0**62])
    assert EXACT.convert(ends, F32, I64).tolist() == [2**63 - 1, -(2**63), 2**63 - 1, 2**62]
    assert EXACT.convert(ends, F32, U64).tolist() == [2**63, 0, 2**64 - 1, 2**62]


def test_casts_between_integers_wrap() -> None:
    assert EXACT.convert(carried([200, -200, 300], I32), I32, I8).tolist() == [-56, 56, 44]
    assert EXACT.convert(carried([-1], I32), I32, U64).tolist() == [2**64 - 1]
    assert EXACT.convert(carried([9, -9], I32), I32, DTYPES["i4"]).tolist() == [-7, 7]


def test_typed_arithmetic_rounds_at_casts_only() -> None:
    third = np.array([1 / 3])
    half = DTYPES["f16"]
    assert EXACT.convert(third, F32, half)[0] == 1 / 3
    assert TYPED.convert(third.astype("f4"), F32, half)[0] == np.float16(np.float32(1 / 3))
    assert TYPED.round(np.array([1 / 3], "f4"), DTYPES["bf16"])[0] == np.float32(ml_dtypes.bfloat16(1 / 3))


def test_bipolar_and_ternary_go_to_their_nearest_value() -> None:
    values = carried([-5, -1, 0, 1, 7], I64)
    assert wrap(values, DTYPES["i1"]).tolist() == [-1, -1, 1, 1, 1]
    assert wrap(values, DTYPES["t2"]).tolist() == [-1, -1, 0, 1, 1]


@pytest.mark.parametrize("name", [n for n, t in DTYPES.items() if t.bits in (1, 2, 3, 4, 8) and n != "t2"])
def test_bits_of_every_small_value_survive_a_round_trip(name: str) -> None:
    dtype = DTYPES[name]
    unsigned = {1: "bool", 2: "u2", 3: "u3", 4: "u4", 8: "u8"}[dtype.bits]
    patterns = EXACT.load(np.arange(1 << dtype.bits, dtype=np.uint8), DTYPES[unsigned])
    values = EXACT.bitcast(patterns, DTYPES[unsigned], dtype)
    again = EXACT.bitcast(values, dtype, DTYPES[unsigned])
    known = values == values  # the payload of a NaN is not kept
    assert again[known].tolist() == patterns[known].tolist()


def test_bitcast_reads_ieee_bits() -> None:
    assert EXACT.bitcast(np.array([1.0, -0.0, 1.5]), F32, I32).tolist() == [0x3F800000, -(2**31), 0x3FC00000]
    assert EXACT.bitcast(carried([0x3F800000], I32), I32, F32).tolist() == [1.0]
    assert EXACT.bitcast(carried([-1], I64), I64, U64).tolist() == [2**64 - 1]


def test_functions_at_their_corners() -> None:
    def apply(name: str, *args: list[float]) -> list[float]:
        with np.errstate(all="ignore"):
            return np.asarray(EXACT.apply(name, F32, [np.array(a) for a in args])[0]).tolist()

    assert apply("round", [0.5, 1.5, 2.5, -0.5]) == [0.0, 2.0, 2.0, -0.0]
    assert apply("sign", [0.0, -3.0, 4.0]) == [0.0, -1.0, 1.0]
    assert apply("sigmoid", [-1000.0, 0.0, 1000.0]) == [0.0, 0.5, 1.0]
    assert apply("log", [0.0]) == [-np.inf]
    assert apply("erf", [0.0, np.inf]) == [0.0, 1.0]
    assert apply("floordiv", [-7.0], [2.0]) == [-4.0]
    assert apply("mod", [-7.0], [2.0]) == [1.0]
    assert apply("clamp", [5.0, -5.0], [-1.0, -1.0], [1.0, 1.0]) == [1.0, -1.0]
    assert np.isnan(apply("max", [np.nan, 1.0], [1.0, np.nan])).all()
    assert np.isnan(apply("min", [np.nan, 1.0], [1.0, np.nan])).all()
