"""Attention of f32 on tensor cores, where a tolerance permits tf32: both products with their sums in registers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import einfall as ef
from einfall.codegen.cuda.build import build
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.target import Target
from einfall.passes.pipeline import lower
from tests.cuda import kernels
from tests.cuda.test_fragments import heads, held, text_of
from tests.cuda_emulation.device import Worker, set_order
from tests.cuda_emulation.traffic import Traffic, counted


def permitted(name: str) -> str:
    """An example whose operands may be rounded to tf32."""
    head, kernel, rest = text_of(name, "f32").partition("kernel ")
    return f"{head}@tolerance(1e-2)\n{kernel}{rest}"


def test_scores_and_results_are_in_registers() -> None:
    (found,) = held(permitted("attention"), E=64, F=64)
    assert found is not None
    assert (found.rows, found.warps, found.fragments) == (128, 4, 2)
    assert found.tiles["RSAV"] == 64 and found.multiplied == {"BSN"}
    (wide,) = held(permitted("attention"), E=128, F=128)
    assert wide is not None and (wide.warps, wide.fragments) == (8, 1)


def test_which_instruction() -> None:
    target = Target.parse("cuda:sm_90")

    def source(text: str) -> str:
        program = read_program(text).select(None)
        return build(lower(specialise(program, {"E": 64, "F": 64}), target=target).program, target).source

    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in source(permitted("attention"))
    assert "mma.sync" not in source(text_of("attention", "f32"))


def attention(
    gpu: Worker, name: str, p: int, m: int, e: int, f: int, *, h: int = 1, special: float | None = None, every: bool = False
) -> None:
    """Against the interpreter."""
    given, text = heads(p, m, e, f, h, special, np.float32), permitted(name)
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": e, "F": f}, every_order=every)
    expected = ef.interpret(text, **given)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    finite = np.isfinite(expected)
    assert np.array_equal(found[~finite], expected[~finite].astype(np.float32), equal_nan=True)
    assert np.abs(found - expected)[finite].max(initial=0) < 4e-3


def test_ragged_rows_keys_and_widths(gpu: Worker) -> None:
    attention(gpu, "attention", 130, 67, 24, 40, every=True)


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 23, 64, 128])
@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_widths_of_heads(gpu: Worker, name: str, width: int) -> None:
    attention(gpu, name, 131, 77, width, width)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "m"), [(1, 1), (17, 64), (129, 63), (5, 0), (0, 5)])
@pytest.mark.parametrize("name", ["attention", "causal_attention", "softcap_attention", "sliding_window_attention"])
def test_edges(gpu: Worker, name: str, p: int, m: int) -> None:
    attention(gpu, name, p, m, 16, 16, h=2)


@pytest.mark.slow
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["attention", "causal_attention"])
def test_numbers_that_are_not_finite(gpu: Worker, name: str, special: float) -> None:
    attention(gpu, name, 70, 70, 32, 32, special=special)


@pytest.mark.slow
def test_rows_without_keys(gpu: Worker) -> None:
    rng = np.random.default_rng(4)
    shapes = {"Q": (2, 1, 40, 16), "K": (2, 1, 70, 16), "V": (2, 1, 70, 24)}
    text = permitted("padding_mask_attention")
    cascade = read_program(text).select(None)
    given = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    (mask,) = (p for p in cascade.parameters if p.name not in given)
    given[mask.name] = np.zeros((2, 70), mask.value.storage)
    given[mask.name][1, ::3] = 1
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": 16, "F": 24})
    assert np.abs(found - ef.interpret(text, **given)).max() < 4e-3
    assert not found[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["C[m, f]", "C[f, m]"])
def test_a_chain_of_products_beside_infinities(gpu: Worker, layout: str) -> None:
    """Columns beyond the edge of a tile, which the next product reads, hold no product of an infinity and 0; its right operand
    lies either way."""
    shape = layout.upper().removeprefix("C")
    text = f"""@tolerance(1e-2)
    kernel chain(A: f32[P, E], B: f32[E, M], C: f32{shape}) -> (Y: f32[P, F]) {{
        X[p, m] = A[p, e] * B[e, m]
        Y[p, f] = X[p, m] * {layout}
    }}"""
    rng = np.random.default_rng(5)
    shapes = {"A": (40, 16), "B": (16, 24), "C": (24, 40) if layout == "C[m, f]" else (40, 24)}
    given = {name: rng.integers(1, 4, shape).astype(np.float32) for name, shape in shapes.items()}
    given["A"][3, 2] = np.inf
    (found,) = gpu.run(kernels.run, text, given, {}, "cuda:sm_80", fixed={"E": 16, "M": 24, "F": 40}, every_order=True)
    assert np.array_equal(found, ef.interpret(text, **given), equal_nan=True)


def traffic(given: Mapping[str, np.ndarray], text: str, width: int) -> list[Traffic]:
    set_order(0, 0)
    return counted(lambda: kernels.run(text, given, {}, "cuda:sm_80", fixed={"E": width, "F": width}))


@pytest.mark.slow
@pytest.mark.parametrize("values", ["V[h, m, f]", "V[h, f, m]"])
def test_no_bank_conflicts(gpu: Worker, values: str) -> None:
    text = permitted("attention").replace("V[h, m, f]", values).replace("V: f32[H, M, F]", f"V: f32{values[1:].upper()}")
    rng = np.random.default_rng(0)
    shapes = {"Q": (1, 128, 64), "K": (1, 64, 64), "V": (1, 64, 64)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    shared = [each for each in gpu.run(traffic, given, text, 64) if each.space == "shared"]
    assert {each.kind for each in shared} == {"read", "write"}
    assert all(each.excess == 1.0 for each in shared), shared
