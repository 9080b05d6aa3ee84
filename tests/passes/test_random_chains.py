"""Random chains of reductions: whatever is derived computes the same, whatever is refused is left as it was."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einfall.passes.online.derive import derive

from .comparison import check_equal, check_form, only

MASKS = ["", "where n <= p", "where n < 3", "where n % 2 == p % 2", "where keep[p, n]", "where n < 0"]
SCORES = [
    "X[p, n]",
    "X[p, n] * W[n]",
    "3 * tanh(X[p, n] / 3)",
    "X[p, n] + 0.1 * (n - p)",
    "if X[p, n] > 1 then X[p, n] else -inf",
]
FIRST = ["max", "min", "absmax", "mean", "sum of squares"]
NEXT = [
    "exp(S[p, n] - D0[p])",
    "exp(S[p, n] - D0[p]) * Y[p, n]",
    "exp(S[p, n] - D0[p]) * (S[p, n] - D0[p])",
    "S[p, n] - D0[p]",
    "(S[p, n] - D0[p]) * Y[p, n]",
    "(S[p, n] - D0[p]) ** 2",
    "S[p, n] / (D0[p] + 1) * Y[p, n]",
    "abs(S[p, n] - D0[p])",
    "S[p, n] * D0[p] + Y[p, n]",
    "E[p, n]",
    "E[p, n] * Y[p, n]",
    "E[p, n] / (1 + D1[p] * D1[p]) * Y[p, n]",
    "(Y[p, n] - D1[p]) * (S[p, n] - D0[p])",
]


@st.composite
def programs(draw: st.DrawFn) -> str:
    first = draw(st.sampled_from(FIRST))
    lines = [f"S[p, n] = {draw(st.sampled_from(SCORES))}    {draw(st.sampled_from(MASKS))}"]
    lines.append(
        {
            "max": "D0[p] = S[p, n]    :: max(n)",
            "min": "D0[p] = S[p, n]    :: min(n)",
            "absmax": "D0[p] = abs(S[p, n])    :: max(n)",
            "mean": "D0[p] = S[p, n] / N",
            "sum of squares": "D0[p] = S[p, n] * S[p, n]",
        }[first]
    )
    sign = "D0[p] - S[p, n]" if first == "min" else "S[p, n] - D0[p]"
    lines.append(f"E[p, n] = exp({sign})")
    # Later results may use the second; the second itself may not.
    second = draw(st.sampled_from([v for v in NEXT if "D1" not in v]))
    values = [second, *draw(st.lists(st.sampled_from(NEXT), min_size=1, max_size=2))]
    for number, value in enumerate(values, start=1):
        operator = draw(st.sampled_from(["+", "+", "+", "max", "min"]))
        lines.append(f"D{number}[p] = {value}    :: {operator}(n)")
    results = ", ".join(f"D{k}: f32[P]" for k in range(len(values) + 1))
    extra = ""
    if draw(st.booleans()):
        lines.append("Z[p, n] = S[p, n] * D1[p]")
        extra = ", Z: f32[P, N]"
    body = "\n".join(f"    {line}" for line in lines)
    head = "kernel k(X: f32[P, N], W: f32[N], Y: f32[P, N], keep: bool[P, N])"
    return f"{head} -> ({results}{extra}) {{\n{body}\n}}\n"


def sums_of(text: str) -> list[str]:
    """The results of a program that are sums."""
    lines = [line.split() for line in text.splitlines() if line.lstrip().startswith("D")]
    return [line[0].partition("[")[0] for line in lines if "::" not in line or "+(n)" in line]


def check(text: str, tile: int, n: int, seed: int, sums: Collection[str] = ()) -> None:
    written = only(text)
    derivation = derive(written, tile=tile)
    if derivation.cascade == written:
        assert all(p.before == p.after for p in derivation.passes.values())
        return
    check_form(derivation.cascade)
    assert any(p.after < p.before for p in derivation.passes.values())
    random = np.random.default_rng(seed)
    arguments = {
        "X": random.normal(size=(3, n)) * 2,
        "W": random.normal(size=n),
        "Y": random.normal(size=(3, n)),
        "keep": random.random((3, n)) < 0.5,
    }
    check_equal(written, derivation.cascade, arguments, rtol=1e-7, sums=sums)


CASES = {
    "text": programs(),
    "tile": st.sampled_from([1, 2, 3, 5]),
    "n": st.sampled_from([0, 1, 2, 3, 7]),
    "seed": st.integers(0, 99),
}


SHARE = "exp(S[p, n] - D0[p]) / (1 + D1[p] * D1[p]) * Y[p, n]"
HEAD = """kernel k(X: f32[P, N], W: f32[N], Y: f32[P, N], keep: bool[P, N]) -> (D0: f32[P], D1: f32[P], D2: f32[P]) {
    S[p, n] = %s
    D0[p]   = S[p, n] :: max(n)
    D1[p]   = S[p, n] * D0[p] + Y[p, n] :: +(n)
"""
FINITE = HEAD % "X[p, n]"
"""D1 is D0 times one sum and another: 0 times -inf before anything is seen."""

INFINITE = HEAD % "if X[p, n] > 1 then X[p, n] else -inf"
"""D1 may be infinite in the end, and what is divided by it 0."""


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "text",
    [
        FINITE + "D2[p] = (Y[p, n] - D1[p]) * (S[p, n] - D0[p]) :: +(n)}",
        FINITE + "D2[p] = S[p, n] - D0[p] - D1[p] :: max(n)}",
        FINITE + f"D2[p] = {SHARE} :: min(n)}}",
        INFINITE + f"D2[p] = {SHARE} :: min(n)}}",
        INFINITE + "D2[p] = exp(S[p, n] - D0[p]) / (1 + abs(D1[p])) * Y[p, n] :: max(n)}",
    ],
)
def test_bases_that_are_infinite_before_anything_is_seen_or_in_the_end(text: str, n: int) -> None:
    for seed in (0, 4):
        check(text, 1, n, seed)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(**CASES)
def test_whatever_is_derived_computes_the_same(text: str, tile: int, n: int, seed: int) -> None:
    check(text, tile, n, seed, sums_of(text))


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True)
@given(**CASES)
def test_many_more_chains(text: str, tile: int, n: int, seed: int) -> None:
    check(text, tile, n, seed, sums_of(text))
