"""Types: weak operands, promotion, accumulators, inference and what is stored."""

from __future__ import annotations

import pytest

from einfall.ir.types import DTYPES

from .lowered import codes, dtype, lower, only, refused, spelt

X = "X: {}[M]) -> (Y: {}[M]"


def value(element: str, result: str, expression: str) -> str:
    """The value of `Y[m] = expression` with `X: element[M]` and `Y: result[M]`."""
    return spelt(only(lower(X.format(element, result), f"Y[m] = {expression}"), "Y").value)


@pytest.mark.parametrize(
    ("element", "expression", "expected"),
    [
        ("f32", "X[m] + 1", "add.f32(X[m], 1.0.f32)"),
        ("bf16", "X[m] * 0.1", "mul.bf16(X[m], 0.1.bf16)"),
        ("f32", "X[m] * m", "mul.f32(X[m], f32(m))"),
        ("f32", "X[m] * (m - M)", "mul.f32(X[m], f32(sub.i64(m, M)))"),
        ("f32", "X[m] / sqrt(M)", "div.f32(X[m], sqrt.f32(f32(M)))"),
        ("f64", "X[m] / sqrt(M)", "div.f64(X[m], sqrt.f64(f64(M)))"),
        ("f64", "X[m] * (1 / M)", "mul.f64(X[m], div.f64(1.0.f64, f64(M)))"),
        ("f32", "max(X[m], -inf)", "max.f32(X[m], -inf.f32)"),
        ("f32", "X[m] ?? 0", "Default.f32(X[m], 0.0.f32)"),
        ("f32", "if m < 3 then X[m] else 1", "Select.f32(lt.bool(m, 3.i64), X[m], 1.0.f32)"),
        ("f32", "X[m] ** 2", "pow.f32(X[m], 2.i64)"),
        ("f32", "X[m] ** -1", "pow.f32(X[m], -1.i64)"),
        ("f32", "X[m] ** 0.5", "pow.f32(X[m], 0.5.f32)"),
        ("f32", "2 ** -m * X[m]", "mul.f32(pow.f32(2.0.f32, f32(neg.i64(m))), X[m])"),
        ("f32", "X[m] * (m > 2)", "mul.f32(X[m], f32(gt.bool(m, 2.i64)))"),
        ("i32", "X[m] / 2", "div.f32(f32(X[m]), 2.0.f32)"),
        ("i32", "X[m] * 0.5", "mul.f32(f32(X[m]), 0.5.f32)"),
        ("i8", "exp(X[m])", "exp.f32(f32(X[m]))"),
        ("i32", "floor(X[m]) ** 2", "pow.i32(X[m], 2.i64)"),
        ("i8", "clamp(X[m], -1, 1)", "clamp.i8(X[m], -1.i8, 1.i8)"),
        ("i32", "min(X[m], 3, M)", "min.i32(min.i32(X[m], 3.i32), i32(M))"),
        ("i32", "bitcast(f32, X[m] + 0x3F800000)", "Bitcast.f32(add.i32(X[m], 1065353216.i32))"),
        ("i32", "bitcast(f32, 0x3F800000) * X[m]", "mul.f32(Bitcast.f32(1065353216.i32), f32(X[m]))"),
        ("i32", "bitcast(f32, 0xFFFFFFFF)", "Bitcast.f32(4294967295.u32)"),
        ("f32", "bitcast(i32, 1.0) + bitcast(i32, X[m])", "add.i32(Bitcast.i32(1.0.f32), Bitcast.i32(X[m]))"),
        ("f32", "cast(f32, X[m])", "X[m]"),
        ("i32", "cast(i8, 300) + cast(i8, X[m])", "add.i8(44.i8, i8(X[m]))"),
        ("i8", "cast(f32, cast(i32, X[m]))", "f32(i32(X[m]))"),
        ("i32", "X[m] ** 2 // 3 % 5", "mod.i32(floordiv.i32(pow.i32(X[m], 2.i64), 3.i32), 5.i32)"),
    ],
)
def test_operands_are_brought_to_one_type(element: str, expression: str, expected: str) -> None:
    assert value(element, "f64", expression) == expected


def test_small_floats_meet_weak_expressions_in_f32() -> None:
    """The distance m - p does not fit 8 bits of mantissa; the tensor stays bf16 all the same."""
    cascade = lower("X: bf16[M], s: bf16[M]) -> (Y: f32[M]", "Z[m] = X[m] + s[m] * (m - M)", "Y[m] = Z[m]")
    expected = "add.f32(f32(X[m]), mul.f32(f32(s[m]), f32(sub.i64(m, M))))"
    assert spelt(only(cascade, "Z").value) == expected
    assert dtype(cascade, "Z") == "bf16"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("f16", "bf16", "f32"),
        ("bf16", "f32", "f32"),
        ("i8", "i32", "i32"),
        ("u8", "i8", "i16"),
        ("u32", "i32", "i64"),
        ("i8", "bf16", "bf16"),
        ("i32", "bf16", "f32"),
        ("bool", "f32", "f32"),
        ("bool", "bool", "i32"),
        ("t2", "i1", "i8"),
    ],
)
def test_two_typed_operands(a: str, b: str, expected: str) -> None:
    cascade = lower(f"A: {a}[M], B: {b}[M]) -> (Y: f64[M]", "Z[m] = A[m] + B[m]", "Y[m] = Z[m]")
    assert dtype(cascade, "Z") == expected


@pytest.mark.parametrize(
    ("a", "b", "local", "value_type", "accumulator"),
    [
        ("i8", "i8", "i32", "i32", "i32"),
        ("u8", "i8", "i32", "i32", "i32"),
        ("i8", "i64", "i64", "i64", "i64"),
        ("u32", "u32", "u32", "u32", "u32"),
        ("bf16", "bf16", "bf16", "bf16", "f32"),
        ("f32", "f32", "f32", "f32", "f32"),
        ("f64", "f32", "f64", "f64", "f64"),
        ("i1", "t2", "i32", "i32", "i32"),
    ],
)
def test_accumulators(a: str, b: str, local: str, value_type: str, accumulator: str) -> None:
    cascade = lower(f"A: {a}[M, K], B: {b}[K]) -> (Y: f64[M]", "Z[m] = A[m, k] * B[k]", "Y[m] = Z[m]")
    einsum = only(cascade, "Z")
    assert (dtype(cascade, "Z"), str(einsum.value.dtype), str(einsum.accumulator)) == (local, value_type, accumulator)


def test_products_of_small_integers_are_formed_in_the_accumulator() -> None:
    cascade = lower("A: i8[M, K], B: u8[K]) -> (Y: i32[M]", "Y[m] = A[m, k] * B[k] - A[m, k]")
    assert spelt(only(cascade, "Y").value) == "sub.i32(mul.i32(i32(A[m, k]), i32(B[k])), i32(A[m, k]))"


def test_a_maximum_keeps_its_type() -> None:
    cascade = lower("A: i8[M, K]) -> (Y: i8[M]", "Y[m] = A[m, k] :: max(k)")
    assert str(only(cascade, "Y").accumulator) == "i8"


def test_conditions_are_counted() -> None:
    cascade = lower("A: f32[M, K]) -> (Y: i32[M]", "Z[m] = A[m, k] > 0 :: +(k)", "Y[m] = Z[m]")
    assert dtype(cascade, "Z") == "i32"
    assert spelt(only(cascade, "Z").value) == "i32(gt.bool(A[m, k], 0.0.f32))"


def test_coordinates_are_i32() -> None:
    cascade = lower("A: f32[M, K]) -> (Y: f32[M]", "B[m] = A[m, k] :: argmax(k)", "Y[m] = A[m, B[m]]")
    assert dtype(cascade, "B") == "i32"
    assert spelt(only(cascade, "Y").value) == "A[m, i64(B[m])]"


@pytest.mark.parametrize(
    ("writers", "expected"),
    [
        (["S[0] = 0", "S[t+1] = S[t] + X[t]"], "bf16"),
        (["S[0] = -inf", "S[t+1] = max(S[t], X[t])"], "bf16"),
        (["S[0] = 0", "S[t+1] = S[t] + 1 where X[t] > 0"], "i32"),
        (["S[0] = 0.5", "S[t+1] = S[t] + t where X[t] > 0"], "f32"),
        (["S[0] = W[0]", "S[t+1] = S[t] + X[t]"], "f64"),
        (["S[0] = 0", "R[t] = S[t] * X[t]", "S[t+1] = R[t] + W[t]"], "f64"),
    ],
)
def test_iterative_tensors_take_the_type_that_their_cycle_settles_on(writers: list[str], expected: str) -> None:
    cascade = lower("X: bf16[T], W: f64[T]) -> (Y: f64[T]", *writers, "Y[t] = S[t+1]")
    assert dtype(cascade, "S") == expected


def test_declarations_and_annotations_decide() -> None:
    cascade = lower("X: f32[M]) -> (Y: f32[M]", "A: bf16[m] = X[m]", "B: f16[M]", "B[m] = A[m] * 2", "Y[m] = B[m]")
    assert (dtype(cascade, "A"), dtype(cascade, "B")) == ("bf16", "f16")
    assert cascade.by_name["A"].annotated and not cascade.by_name["A"].declared
    assert cascade.by_name["B"].annotated and cascade.by_name["B"].declared
    assert spelt(only(cascade, "A").value) == "X[m]"


def test_weak_einsums_take_the_type_of_their_target() -> None:
    signature = "X: f32[M]) -> (A: i8[M], B: f64[M], C: f32[M], D: bf16[M]"
    cascade = lower(signature, "A[m] = m", "B[m] = 1 / 3", "C[m] = 2 * m", "D[m] = 1 / M")
    assert spelt(only(cascade, "A").value) == "i8(m)"
    assert spelt(only(cascade, "B").value) == "div.f64(1.0.f64, 3.0.f64)"
    assert spelt(only(cascade, "C").value) == "f32(mul.i64(2.i64, m))"
    assert spelt(only(cascade, "D").value) == "div.f32(1.0.f32, f32(M))"


def test_shifts_keep_the_left_type() -> None:
    cascade = lower("X: u8[M], N: i32[M]) -> (Y: u8[M]", "Y[m] = X[m] << N[m]")
    assert spelt(only(cascade, "Y").value) == "u8(shl.i32(i32(X[m]), N[m]))"


@pytest.mark.parametrize("given", ["f32", "f16", "i8", "i32", "u8", "bool"])
@pytest.mark.parametrize("stored", ["f64", "f32", "bf16", "i64", "i32", "i8", "u8", "bool"])
def test_what_a_tensor_takes(given: str, stored: str) -> None:
    source, target = DTYPES[given], DTYPES[stored]
    loses = not target.is_float and (source.is_float or target.minimum > source.minimum or target.maximum < source.maximum)
    assert codes(X.format(given, stored), "Y[m] = X[m]") == (["E0404"] if loses else [])
    if not target.is_bool:
        assert codes(X.format(given, stored), f"Y[m] = cast({stored}, X[m])") == []


def test_literals_must_fit() -> None:
    assert codes(X.format("i8", "i8"), "Y[m] = X[m] + 127") == []
    assert codes(X.format("u8", "u8"), "Y[m] = X[m] * -1") == ["E0403"]
    assert codes(X.format("i1", "i1"), "Y[m] = max(X[m], 0)") == ["E0403"]
    assert refused(X.format("i8", "i32"), "Y[m] = X[m] + 128").help == "cast the other operand: `cast(i16, …)`"


def test_a_sum_that_does_not_fit_is_declared_or_converted_apart() -> None:
    problem = refused("X: i8[M, K]) -> (Y: i8[M]", "Y[m] = X[m, k]")
    assert problem.code == "E0404"
    assert problem.help is not None and "declare `Y` as i32" in problem.help


def test_quantised_tensors_give_real_values() -> None:
    items = "type w4 = quant(u4, group = K:128, scale = f16, zero = f16)\n"
    signature = "X: bf16[M, K], W: w4[N, K], Q: q8_0[N, K]) -> (Y: f32[M, N]"
    cascade = lower(signature, "Y[m, n] = X[m, k] * W[n, k] * Q[n, k]", items=items)
    assert (str(cascade.by_name["W"].dtype), str(cascade.by_name["Q"].dtype)) == ("w4", "q8_0")
    assert str(only(cascade, "Y").value.dtype) == "f32"
