"""Which sums are implicit matrix products for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

import einfall as ef
from einfall.compiler.program import read_program
from einfall.ir.target import Target
from einfall.ir.tile import Compute, MatrixProduct
from einfall.passes.pipeline import lower

EXAMPLES = Path(ef.__file__).parent / "examples/convolution"
GPU = Target.parse("cuda:sm_80")
FILTERED = """\
kernel one(I: {t}[N, {c}, P, Q], W: {t}[K, {c}, 3, 3]) -> (O: f32[N, K, P, Q]) {{
    O[n, k, p, q] = I[n, c, p + r - 1, q + s - 1] * W[k, c, r, s]
}}
"""


def product(source: Path | str, target: Target = GPU) -> MatrixProduct | None:
    """That of the only Compute, where it is implicit."""
    program = lower(read_program(source).select(None), target=target).program
    if len(program.body) != 1 or not isinstance(program.body[0], Compute):
        return None
    found = program.body[0].product
    return found if found is not None and found.joined is not None else None


@pytest.mark.parametrize("name", ["conv2d", "conv2d_im2col", "conv2d_strided", "conv2d_dilated", "conv2d_valid"])
def test_a_convolution_joins_the_points_of_all_images(name: str) -> None:
    found = product(EXAMPLES / f"{name}.ecs")
    assert found is not None and found.joined is not None
    assert (found.row_ranks, found.column_ranks, found.inner) == (("k",), ("n", "p", "q"), "c")
    assert found.joined.taps == ("r", "s")


def test_groups_are_a_batch_and_what_follows_is_an_epilogue() -> None:
    grouped, followed = (product(EXAMPLES / f"{name}.ecs") for name in ("conv2d_grouped", "conv2d_bias_relu"))
    assert grouped is not None and grouped.column_ranks == ("n", "p", "q")
    assert followed is not None and followed.epilogue is not None


@pytest.mark.parametrize("name", ["depthwise_conv2d", "avg_pool2d", "causal_conv1d"])
def test_without_channels_there_is_no_product(name: str) -> None:
    assert product(EXAMPLES / f"{name}.ecs") is None


def test_few_channels_are_not_worth_it_and_other_machines_have_their_own() -> None:
    assert product(FILTERED.format(t="f32", c=3)) is None
    assert product(FILTERED.format(t="f32", c=16)) is not None
    assert product(FILTERED.format(t="f32", c=16), Target.parse("cpu")) is None


def test_bf16_is_for_tensor_cores() -> None:
    found = product(FILTERED.format(t="bf16", c="C"))
    assert found is not None and found.kernel == "mma bf16·bf16"
