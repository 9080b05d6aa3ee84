"""Tiles in registers: which there are, and attention with them in every order of the threads."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike

import einfall as ef
from einfall.codegen.cuda.build import build
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.blocks import registers_of_block
from einfall.ir.expr import reads_of
from einfall.ir.fragments import Held
from einfall.ir.target import Target
from einfall.ir.tile import Compute, Loop, When, walk
from einfall.passes.pipeline import lower
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker

ATTENTION = Path(ef.__file__).parent / "examples/attention"
TARGET = Target.parse("cuda:sm_80")


def text_of(name: str, dtype: str = "bf16") -> str:
    return (ATTENTION / f"{name}.ecs").read_text().replace("f32", dtype)


def held(text: str, **sizes: int) -> list[Held | None]:
    """Of each parallel loop of the form in one part: the tiles of the others' names are primed."""
    program = lower(specialise(read_program(text).select(None), sizes), target=TARGET).program
    loops = (n for n in walk(program.body) if isinstance(n, Loop) and n.parallel)
    whole = (loop for loop in loops if not any("'" in b.name for b in loop.buffers))
    return [registers_of_block(loop, TARGET, program.lets) for loop in whole]


def test_scores_and_results_of_attention_are_in_registers() -> None:
    (found,) = held(text_of("attention"), E=64, F=64)
    assert found is not None
    assert (found.rows, found.warps, found.fragments) == (128, 4, 2)
    assert found.tiles["RSAV"] == 64 and found.tiles["BQK"] == 64 and found.tiles["RGM"] is None


def test_where_elements_meet_masks_one_by_one_they_are_in_shared_memory() -> None:
    finite, other = held(text_of("causal_attention"), E=64, F=64)
    assert finite is not None and other is not None
    assert "BSN" in finite.tiles and "BSN" not in other.tiles


def test_beside_matrices_in_shared_memory_a_warp_has_fewer_rows() -> None:
    """Threads that work on those one by one need registers too."""
    finite, other = held(text_of("causal_attention"), E=128, F=128)
    assert finite is not None and other is not None
    assert (finite.fragments, finite.warps, other.fragments, other.warps) == (2, 4, 1, 8)


def test_where_a_flag_does_not_hold_nothing_is_left_of_what_it_guards() -> None:
    """Both forms of masked products with what may not be finite: each has one product with the values, not both."""
    program = lower(
        specialise(read_program(text_of("causal_attention")).select(None), {"E": 64, "F": 64}), target=TARGET
    ).program
    for loop in (n for n in walk(program.body) if isinstance(n, Loop) and n.parallel):
        asked = [n for n in walk((loop,)) if isinstance(n, When) and any(r.tensor == "V.finite" for r in reads_of(n.condition))]
        assert not asked


def source_of(text: str, **sizes: int) -> str:
    return build(lower(specialise(read_program(text).select(None), sizes), target=TARGET).program, TARGET).source


def test_neighbours_of_16_bits_share_a_register_before_branches_meet() -> None:
    """One turn of either branch, masked and not, of each of the two kernels with products of finite values."""
    assert source_of(text_of("causal_attention"), E=64, F=64).count("= einfall_together(") == 4


def test_three_blocks_of_tiles_that_leave_registers_for_them() -> None:
    """Left to itself the compiler takes one or two more than there are for three."""
    assert source_of(text_of("causal_attention"), E=64, F=64).count("__launch_bounds__(128, 3)") == 4  # declared, defined
    assert "__launch_bounds__(128, 3)" not in source_of(text_of("attention"), E=128, F=128)


def test_operands_of_any_alignment_are_gathered_one_chunk_after_the_other() -> None:
    source = source_of(text_of("attention"), E=64, F=64)
    assert source.count("einfall_gather2((") == source.count("#pragma unroll 1\n") - 1 > 0  # and in the function itself


def test_all_blocks_look_for_values_that_are_not_finite() -> None:
    """One block alone, line by line, would take some hundred times as long as the attention after it."""
    program = lower(read_program(text_of("causal_attention")).select(None), target=TARGET).program
    looking = [n for n in walk(program.body) if isinstance(n, Compute) and "finite" in n.target]
    readers = [n for n in looking if any(r.tensor == "V" for r in n.reads())]
    assert readers and all(len(n.parallel) == 2 and len(n.reduced) == 1 for n in readers)
    assert all(len(n.reduced) == 1 for n in looking)


def test_too_many_columns_for_registers() -> None:
    assert held(text_of("attention"), E=64, F=1024) == [None]


def test_f32_is_not_on_tensor_cores() -> None:
    assert held(text_of("attention", "f32"), E=64, F=64) == [None]


def heads(p: int, m: int, e: int, f: int, h: int, special: float | None, dtype: DTypeLike) -> dict[str, np.ndarray]:
    """Queries, keys and values, of which some are ``special``."""
    rng = np.random.default_rng(p + m)
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in ((h, p, e), (h, m, e), (h, m, f)))
    if special is not None:
        v[:, -1, 0] = special
        k[:, 0, :] = special
    return {"Q": q, "K": k, "V": v}


def attention(gpu: Worker, name: str, p: int, m: int, e: int, f: int, *, h: int = 1, special: float | None = None) -> None:
    """In every order of the threads, against the interpreter."""
    given = heads(p, m, e, f, h, special, ml_dtypes.bfloat16)
    (found,) = gpu.run(kernels.run, text_of(name), given, {}, "cuda:sm_80", fixed={"E": e, "F": f}, every_order=True)
    expected = ef.interpret(text_of(name), **given)
    assert np.array_equal(np.isnan(found.astype(float)), np.isnan(expected))
    finite = np.isfinite(expected)
    assert np.abs(found.astype(float) - expected)[finite].max(initial=0) < 0.03


def test_ragged_rows_keys_and_widths(gpu: Worker) -> None:
    attention(gpu, "attention", 130, 67, 24, 40)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "m"), [(1, 1), (17, 64), (128, 128), (129, 63), (5, 0), (0, 5)])
@pytest.mark.parametrize("name", ["attention", "causal_attention", "softcap_attention", "sliding_window_attention"])
def test_edges(gpu: Worker, name: str, p: int, m: int) -> None:
    attention(gpu, name, p, m, 16, 16, h=2)


@pytest.mark.slow
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_numbers_that_are_not_finite(gpu: Worker, name: str, special: float) -> None:
    attention(gpu, name, 70, 70, 32, 32, special=special)


def test_rows_of_infinite_scores_are_no_number_whatever_the_mask_hides(gpu: Worker) -> None:
    given = heads(40, 30, 16, 16, 1, None, ml_dtypes.bfloat16)
    given["Q"] = np.abs(given["Q"])
    given["K"][:, 0] = -np.inf  # all that the first query with a key sees
    (found,) = gpu.run(kernels.run, text_of("causal_attention"), given, {}, "cuda:sm_80", fixed={"E": 16, "F": 16})
    found = found.astype(float)[0]
    assert (found[:10] == 0).all() and np.isnan(found[10]).all() and np.isfinite(found[11:]).all()


def test_exponentials_of_a_row_are_two_instructions_each() -> None:
    """What is subtracted from a row's scores is multiplied by log₂e once."""
    program = lower(specialise(read_program(text_of("attention")).select(None), {"E": 64, "F": 64}), target=TARGET).program
    exponentials = re.findall(r"= einfall_ex2_approx_ftz_f32\((\w+)\(", build(program, TARGET).source)
    assert exponentials and set(exponentials) == {"fmaf"}


@pytest.mark.parametrize("score", [1e3, 2.9e38])
def test_large_scores(gpu: Worker, score: float) -> None:
    """Of which the largest times log₂e would be infinite."""
    given = heads(20, 30, 16, 16, 1, None, ml_dtypes.bfloat16)
    given["Q"][..., 1:] = 0
    given["Q"][..., 0] = given["K"][..., 0] = score**0.5
    given["K"][:, ::2, 0] = 0
    text = text_of("attention").replace(" / sqrt(E)", "")
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": 16, "F": 16})
    assert np.abs(found.astype(float) - given["V"][:, 1::2].astype(float).mean(1, keepdims=True)).max() < 0.01


def matches(gpu: Worker, name: str, sizes: dict[str, int], given: dict[str, np.ndarray]) -> None:
    found = gpu.run(kernels.run, text_of(name), given, {}, "cuda:sm_80", fixed=sizes)
    comparison = compare(read_program(text_of(name)).select(None), given, found)
    assert comparison.passed, str(comparison)


def numbers(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


@pytest.mark.slow
def test_a_running_sum_to_which_shared_memory_is_added(gpu: Worker) -> None:
    given = numbers(0, Q=(1, 100, 16), K=(1, 100, 16), V=(1, 100, 16))
    given["V"][:, -1, 0] = np.inf  # of the last tile of keys: what the ones before gave must be kept
    matches(gpu, "causal_attention", {"E": 16, "F": 16}, given)


@pytest.mark.slow
def test_vectors_in_registers_of_tiles_in_shared_memory(gpu: Worker) -> None:
    given = numbers(1, Q=(1, 70, 16), K=(1, 70, 16), V=(1, 70, 24))
    given["doc"] = np.repeat(np.arange(4, dtype=np.int32), (3, 40, 1, 26))
    matches(gpu, "document_mask_attention", {"E": 16, "F": 24}, given)
    given = numbers(2, Q=(17, 16), K1=(5, 16), K2=(70, 16), V1=(5, 24), V2=(70, 24))
    matches(gpu, "tensor_attention", {"E": 16, "F": 24}, given)


@pytest.mark.slow
def test_rows_of_three_fragments(gpu: Worker) -> None:
    (*_, found) = held(text_of("attention"), E=16, F=24, P=40)
    assert found is not None and (found.rows, found.warps, found.fragments) == (40, 4, 1)
    matches(gpu, "attention", {"E": 16, "F": 24, "P": 40}, numbers(3, Q=(1, 40, 16), K=(1, 70, 16), V=(1, 70, 24)))


@pytest.mark.slow
def test_products_of_products_beside_infinities(gpu: Worker) -> None:
    """Columns beyond the edge of a short tile, which the next product reads, hold no product of an infinity and 0."""
    text = """kernel chain(A: bf16[P, E], B: bf16[E, M], C: bf16[M, F]) -> (Y: f32[P, F]) {
        X[p, m] = A[p, e] * B[e, m]
        Z: bf16[p, m] = max(X[p, m], 0)
        Y[p, f] = Z[p, m] * C[m, f]
    }"""
    rng = np.random.default_rng(5)
    shapes = {"A": (40, 16), "B": (16, 24), "C": (24, 24)}
    given = {name: rng.integers(1, 4, shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    given["A"][3, 2] = np.inf
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": 16, "M": 24, "F": 24}, every_order=True)
    assert np.array_equal(found.astype(float), ef.interpret(text, **given), equal_nan=True)
