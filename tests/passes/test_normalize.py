"""LayerNorm becomes RMSNorm where its mean is provably zero, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einfall.compiler.samples import sample_arguments
from einfall.frontend import load
from einfall.ir.cascade import Cascade
from einfall.passes.analysis.passcount import count
from einfall.passes.pipeline import lower, prepare
from einfall.passes.simplification.normalize import normalize

from .comparison import check_equal, check_form, only

PATH = Path(__file__).parents[2] / "examples" / "norms" / "pre_rmsnorm.ecs"
HEAD = "kernel k(X: f32[N, D], R: f32[N, D], H: f32[N, K], W: f32[K, D], g: f32[N], b: bool[N], keep: bool[N, D]) -> "
NORM = """
        MU[n]   = Z[n, d] / D
        VAR[n]  = (Z[n, d] - MU[n]) ** 2 / D
        Y[n, d] = (Z[n, d] - MU[n]) * rsqrt(VAR[n] + 0.001)
    }"""
CENTRED = """
        XM[n]    = X[n, d] / D
        XC[n, d] = X[n, d] - XM[n]
        RM[n]    = R[n, d] * (1 / D)
        RC[n, d] = R[n, d] - RM[n]
        WS[k]    = W[k, d]
        WC[k, d] = W[k, d] - WS[k] / D
        P[n, d]  = H[n, k] * WC[k, d]"""


def program(value: str, before: str = CENTRED, clause: str = "") -> Cascade:
    return only(f"{HEAD}(Y: f32[N, D]) {{{before}\n        Z[n, d] = {value}    {clause}{NORM}")


def arguments(seed: int = 0, n: int = 3, d: int = 5, k: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"X": (n, d), "R": (n, d), "H": (n, k), "W": (k, d), "g": (n,)}
    masks = {"b": random.random(n) < 0.5, "keep": random.random((n, d)) < 0.7}
    return {name: random.normal(size=shape) + 3 for name, shape in shapes.items()} | masks


@pytest.mark.parametrize(
    "value",
    [
        "XC[n, d]",
        "XC[n, d] + RC[n, d] * 2",
        "P[n, d]",
        "XC[n, d] * g[n] - P[n, d] / 3",
        "(XC[n, d] + RC[n, d] + P[n, d]) * sigmoid(g[n])",
        "if b[n] then XC[n, d] else -P[n, d]",
    ],
)
def test_means_that_are_zero(value: str) -> None:
    written = program(value)
    found = normalize(written)
    check_form(found.cascade)
    assert not found.cascade.writers("MU")
    assert count(written)["d"] > count(found.cascade)["d"]
    assert "normalize:zero_mean" in {d.made_by for d in found.decisions}
    for d in (1, 5, 8):
        check_equal(written, found.cascade, arguments(d=d))
    assert normalize(found.cascade).cascade is found.cascade


@pytest.mark.parametrize(
    "value",
    [
        "X[n, d]",
        "XC[n, d] + 1",
        "XC[n, d] * R[n, d]",
        "XC[n, d] ** 2",
        "abs(XC[n, d])",
        "XC[n, d] + X[n, d]",
        "XC[n, d] * X[n, 0] + XC[n, d] / (d + 1)",
        "if keep[n, d] then XC[n, d] else RC[n, d]",
    ],
)
def test_means_that_are_not(value: str) -> None:
    written = program(value)
    assert normalize(written).cascade is written


@pytest.mark.parametrize(
    "before",
    [
        "\n        M[n] = X[n, d] / (D + 1)\n        XC[n, d] = X[n, d] - M[n]",  # not the mean
        "\n        M[n] = X[n, d] / D    where keep[n, d]\n        XC[n, d] = X[n, d] - M[n]",  # the mean of some
        "\n        M[n] = R[n, d] / D\n        XC[n, d] = X[n, d] - M[n]",  # of something else
        "\n        M: f16[n] = X[n, d] / D\n        XC[n, d] = X[n, d] - M[n]",  # rounded
        "\n        M[n] = X[n, d] / D\n        XC: bf16[n, d] = X[n, d] - M[n]",  # rounded afterwards
        "\n        M[n] = X[n, d] / D\n        XC[n, d] = X[n, d] - M[n]    where keep[n, d]",  # some are absent
    ],
)
def test_what_is_centred_only_in_appearance(before: str) -> None:
    written = program("XC[n, d]", before)
    assert normalize(written).cascade is written


def test_a_condition_on_some_rows_keeps_the_mean() -> None:
    written = program("XC[n, d]", clause="where b[n]")
    assert normalize(written).cascade is written


def test_pre_rmsnorm() -> None:
    """The example: the mean is gone, the statistics need one pass less, and what is compiled follows from that."""
    (written,) = load(PATH.read_text(), PATH.name).values()
    found = prepare(written).cascade
    assert [e.target for e in found.einsums] == ["RM", "WM", "RC", "WC", "P", "X", "VAR", "Y"]
    assert count(written)["d"] == count(found)["d"] + 1
    for check in written.checks:
        sizes = {name: int(value) for name, value in check.values}
        check_equal(written, found, sample_arguments(written, sizes), sizes)
    lowered = lower(written)
    assert "MU" not in lowered.program.cascade.by_name
    assert "MU" in lower(written, online=False).program.cascade.by_name
