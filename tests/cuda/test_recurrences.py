"""Recurrences on a GPU: chunks side by side, states that never leave a thread's registers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from einfall.codegen.cuda.channel_ranks import Channels, channels_of
from einfall.compiler.checking import compare
from einfall.compiler.program import read_program
from einfall.compiler.specialise import specialise
from einfall.ir.expr import size
from einfall.ir.sizes import evaluate
from einfall.ir.target import Target
from einfall.ir.tile import Compute, Loop, walk
from einfall.passes.pipeline import lower
from einfall.passes.recurrences.recurrence import SEQUENTIAL
from tests.cuda import kernels
from tests.cuda_emulation.device import Worker
from tests.examples.cases import EXAMPLES

RETENTION_BF16 = """
kernel retention(Q: bf16[H, T, E], K: bf16[H, T, E], V: bf16[H, T, F]) -> (O: bf16[H, T, F]) {
    G: f32[H]
    G[h]            = 1 - exp2(-5 - h)
    S[h, 0, e, f]   = 0
    S[h, t+1, e, f] = G[h] * S[h, t, e, f] + K[h, t, e] * V[h, t, f]
    O[h, t, f]      = Q[h, t, e] * S[h, t+1, e, f] / sqrt(E)
}
"""

ODD: tuple[Mapping[str, int], ...] = (
    {"H": 1, "T": 0, "E": 2, "F": 3},
    {"H": 1, "T": 1, "E": 1, "F": 1},
    {"H": 2, "T": 70, "E": 5, "F": 7},
    {"H": 1, "T": 131, "E": 66, "F": 3},
)
"""No step, one, and last chunks that are not full."""


def example(name: str) -> Path:
    return EXAMPLES / "recurrences" / f"{name}.ecs"


def check(
    gpu: Worker,
    source: Path | str,
    sizes: Mapping[str, int],
    *,
    fixed: Mapping[str, int] | None = None,
    spoilt: tuple[str, float] | None = None,
    every_order: bool = False,
) -> None:
    """A kernel computes what the interpreter does; ``spoilt`` puts a number in the place of an element of an input."""
    cascade = read_program(source).select(None)
    rng = np.random.default_rng(7)
    whole = {**sizes, **(fixed or {})}
    arguments = {
        p.name: rng.normal(size=[evaluate(e, whole) for e in p.shape]).astype(p.value.storage) for p in cascade.parameters
    }
    if spoilt is not None:
        name, value = spoilt
        arguments[name].reshape(-1)[arguments[name].size * 2 // 3] = value
    found = gpu.run(kernels.run, source, arguments, {}, "cuda:sm_80", fixed=fixed, every_order=every_order)
    comparison = compare(cascade, arguments, found, sizes={})
    assert comparison.passed, f"{whole}: {comparison}"


@pytest.mark.parametrize("sizes", ODD[2:3])
def test_chunks_side_by_side(gpu: Worker, sizes: Mapping[str, int]) -> None:
    check(gpu, example("gated_linear_attention"), sizes, every_order=True)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ODD)
@pytest.mark.parametrize("name", ["linear_attention", "gated_linear_attention", "mlstm", "rwkv6", "retention"])
def test_chunks_of_odd_lengths(gpu: Worker, name: str, sizes: Mapping[str, int]) -> None:
    check(gpu, example(name), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("V", np.nan), ("K", np.nan), ("gate", -np.inf), ("gate", -2000.0)])
def test_nothing_reaches_earlier_steps(gpu: Worker, name: str, value: float) -> None:
    # A decay of 0 ends what went before it, and what is no number spoils what comes after it only.
    check(gpu, example("gated_linear_attention"), ODD[2], spoilt=(name, value))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ODD[2:])
def test_chunks_on_tensor_cores(gpu: Worker, sizes: Mapping[str, int]) -> None:
    check(gpu, RETENTION_BF16, sizes)


@pytest.mark.slow
def test_chunks_of_fixed_sizes(gpu: Worker) -> None:
    check(gpu, example("retention"), {"H": 1, "T": 150}, fixed={"E": 64, "F": 64}, every_order=True)


def test_products_of_chunks_are_for_tensor_cores() -> None:
    cascade = specialise(read_program(RETENTION_BF16).select(None), {"E": 64, "F": 64})
    body = lower(cascade, target=Target.parse("cuda:sm_80")).program.body
    products = [n for n in walk(body) if isinstance(n, Compute) and n.product is not None]
    assert {n.product.kernel for n in products if n.product is not None} == {"mma bf16·bf16"}
    # All chunks at the same time, but for the states between them.
    around = [
        n
        for n in walk(body)
        if isinstance(n, Loop) and n.parallel and any(isinstance(m, Compute) and m.product for m in n.body)
    ]
    assert all(len(n.variables) == 3 for n in around)


SCANS = {
    "mamba_scan": ({"L": 0, "D": 3, "N": 2}, {"L": 1, "D": 1, "N": 1}, {"L": 19, "D": 70, "N": 37}),
    "s4d": ({"T": 1, "D": 1, "N": 1}, {"T": 18, "D": 3, "N": 128}, {"T": 9, "D": 2, "N": 200}),
    "rg_lru": ({"T": 0, "D": 5}, {"T": 19, "D": 70}),
    "running_max": ({"B": 70, "T": 9}, {"B": 1, "T": 0}),
    "deltanet": ({"H": 2, "T": 19, "E": 5, "F": 7}, {"H": 1, "T": 1, "E": 1, "F": 1}),
    "gated_deltanet": ({"H": 2, "T": 19, "E": 5, "F": 7}, {"H": 1, "T": 10, "E": 130, "F": 3}),
}
"""With states longer than the registers that a free size is given."""


def channels(source: Path | str, **sizes: int) -> list[Channels | None]:
    """Those of each parallel loop."""
    program = lower(specialise(read_program(source).select(None), sizes), target=Target.parse("cuda:sm_80")).program
    return [channels_of(n, program.lets) for n in walk(program.body) if isinstance(n, Loop) and n.parallel]


def test_a_state_is_dealt_out_to_lanes(gpu: Worker) -> None:
    (found,) = channels(example("mamba_scan"), N=16)
    assert found is not None
    assert (found.lanes, found.short, found.dims["X"], found.spread["X"]) == (4, (), 1, 0)
    check(gpu, example("mamba_scan"), {"L": 19, "D": 70}, fixed={"N": 16}, every_order=True)


def test_a_state_of_any_length_goes_another_way() -> None:
    (found,) = channels(example("s4d"))
    assert found is not None
    assert found.lanes == 32
    assert found.short == (size("N"),)


def test_columns_of_a_matrix_state_are_channels() -> None:
    found = next(c for c in channels(example("deltanet"), E=64, F=64) if c is not None)
    assert (found.lanes, found.dims, found.spread) == (16, {"S": 2, "U": 1}, {"KN": 1, "S": 1})


@pytest.mark.parametrize("path", ["dynamic_programming/viterbi", "attention/attention", "norms/softmax", "recurrences/gru"])
def test_whose_threads_need_one_another(path: str) -> None:
    assert not any(channels(EXAMPLES / f"{path}.ecs"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [(name, sizes) for name, each in SCANS.items() for sizes in each])
def test_channels_of_odd_sizes(gpu: Worker, name: str, sizes: Mapping[str, int]) -> None:
    check(gpu, example(name), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("delta", np.nan), ("delta", 2000.0), ("U", np.inf), ("Alog", np.nan)])
def test_no_channel_reaches_another(gpu: Worker, name: str, value: float) -> None:
    check(gpu, example("mamba_scan"), {"L": 19, "D": 7, "N": 5}, spoilt=(name, value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("prefix_sum", {"B": 3, "T": 1100}), ("rg_lru", {"T": 1030, "D": 5}), ("running_max", {"B": 1, "T": 1024})],
)
def test_few_channels_of_many_steps(gpu: Worker, name: str, sizes: Mapping[str, int]) -> None:
    check(gpu, example(name), sizes)


def test_scans_are_cut_into_chunks_where_channels_are_few() -> None:
    def chosen(name: str, **sizes: int) -> str:
        cascade = specialise(read_program(example(name)).select(None), sizes)
        decisions = lower(cascade, target=Target.parse("cuda:sm_80")).program.decisions
        return next(d.chosen for d in reversed(decisions) if d.made_by == "chunk")

    assert "T >= 1024 and B < 16384" in chosen("prefix_sum")
    assert chosen("prefix_sum", B=1, T=4096).startswith("chunks of 256 steps")
    assert chosen("prefix_sum", B=1 << 14) == SEQUENTIAL
    assert chosen("mamba_scan") == SEQUENTIAL  # every step's state would be stored
