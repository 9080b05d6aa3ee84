"""The cost model orders forms as the memory and the arithmetic units would."""

from pathlib import Path

import pytest

from einfall.compiler.program import read_program_file
from einfall.frontend import load
from einfall.ir.target import named, with_features
from einfall.passes.cost import estimate
from einfall.passes.online.derive import derive
from einfall.passes.tiling.assemble import assemble

EXAMPLES = Path(__file__).parents[2] / "examples"
TARGET = with_features(named("cpu", "sapphirerapids"), frozenset(), cores=2)


def cost(text, **sizes):
    (cascade,) = load(text, "test.ecs").values()
    return estimate(assemble(cascade, TARGET), TARGET, sizes)


def forms(path, **sizes):
    """(as written, derived) costs of an example."""
    cascade = read_program_file(EXAMPLES / path).select(None)
    programs = assemble(cascade, TARGET), assemble(derive(cascade).cascade, TARGET, prefix="online_")
    return [estimate(p, TARGET, sizes) for p in programs]


MATMUL = "kernel k(A: f32[M, K], B: f32[K, N]) -> (C: f32[M, N]) { C[m, n] = A[m, k] * B[k, n] }"
COPY = "kernel k(A: f32[M, N]) -> (C: f32[M, N]) { C[m, n] = A[m, n] }"
TWICE = "kernel k(A: f32[M, N]) -> (C: f32[M]) {\n S[m] = A[m, n]\n C[m] = (A[m, n] - S[m]) ** 2\n}"


def test_a_product_counts_two_operations_a_point():
    assert cost(MATMUL, M=64, N=128, K=256).operations == 2 * 64 * 128 * 256


def test_a_last_tile_counts_for_what_is_left_for_it():
    heads, rows, row, width = 4, 64, 4096, 64  # rows go in blocks of 30
    _, derived = forms("attention/attention.ecs", H=heads, P=rows, M=row, E=width, F=width)
    products = 2 * 2 * heads * rows * row * width
    assert products < derived.operations < 1.25 * products


def test_no_product_beats_the_peak():
    found = cost(MATMUL, M=1024, N=1024, K=1024)
    peak = TARGET.nominal.core.ops["f32"] * TARGET.cores
    assert 0.4 < found.operations / found.seconds / peak < 1


def test_a_copy_moves_each_byte_once():
    found = cost(COPY, M=4096, N=4096)
    assert found.beyond["l3"] == pytest.approx(2 * 4 * 4096**2, rel=0.01)


def test_what_fits_a_cache_comes_in_once():
    row, rows = 1024, 64
    assert cost(TWICE, M=rows, N=row).beyond["l2"] == pytest.approx(4 * rows * row, rel=0.05)
    long = 1 << 26
    assert cost(TWICE, M=1, N=long).beyond["l3"] == pytest.approx(2 * 4 * long, rel=0.05)


def test_one_pass_reads_a_long_row_once():
    written, derived = forms("others/variance.ecs", M=4, N=1 << 26)
    assert derived.beyond["l3"] < 0.6 * written.beyond["l3"] and derived.seconds < written.seconds


def test_one_pass_attention_is_cheaper_for_long_keys():
    written, derived = forms("attention/attention.ecs", H=8, P=2048, M=16384, E=64, F=64)
    assert derived.seconds < written.seconds


def test_corrections_of_an_accumulator_cost_more_than_a_second_pass():
    written, derived = forms("norms/layernorm_gemm.ecs", M=512, K=1024, N=1024)
    assert derived.seconds > 1.2 * written.seconds


@pytest.mark.parametrize("size", [0, 1])
def test_empty_and_single(size):
    assert cost(MATMUL, M=size, N=size, K=size).seconds >= 0
