"""Which recurrences are scans, and that their chunked forms compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.program import read_program
from einfall.ir.cascade import Cascade
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.sizes import evaluate
from einfall.ir.target import Target
from einfall.ir.verifier import verify
from einfall.passes.pipeline import lower
from einfall.passes.recurrences import chunk_choice
from einfall.passes.recurrences.chunk import chunked
from einfall.passes.recurrences.recurrence import recurrences

EXAMPLES = Path(__file__).parents[2] / "examples"

SCANS = {
    "gated_linear_attention": ["(+, *)"],
    "linear_attention": ["(+, *)", "(+, *)"],
    "mamba2": ["(+, *)"],
    "mamba_scan": ["(+, *)"],
    "mlgru": ["(+, *)"],
    "mlstm": ["(max, +)", "(+, *)", "(+, *)"],
    "moving_average": ["(+, *)"],
    "prefix_sum": ["(+, *)"],
    "retention": ["(+, *)"],
    "rg_lru": ["(+, *)"],
    "running_max": ["(max, +)"],
    "rwkv6": ["(+, *)"],
    "s4d": ["(+, *)"],
}

REFUSED = {
    "recurrences/deltanet": "the transition is a matrix",
    "recurrences/gated_deltanet": "the transition is a matrix",
    "recurrences/heat_equation": "another element of the state",
    "recurrences/elman": "passes through `tanh`",
    "recurrences/gru": "multiplies states",
    "recurrences/lstm": "multiplies states",
    "recurrences/slstm": "passes through",
    "dynamic_programming/viterbi": "the transition is a matrix",
    "dynamic_programming/edit_distance": "another iterative rank",
}


def cascade_of(text: str) -> Cascade:
    (cascade,) = read_program(text).cascades().values()
    return cascade


def example(path: str) -> Cascade:
    return cascade_of((EXAMPLES / f"{path}.ecs").read_text())


def arguments(cascade: Cascade, steps: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Normal arguments; the iterative rank (T, in mamba_scan L) has ``steps`` steps, the others small, different extents."""
    rng = np.random.default_rng(seed)
    long = "T" if "T" in cascade.sizes else "L"
    sizes = {name: steps if name == long else 2 + n for n, name in enumerate(cascade.sizes)}
    return {p.name: rng.normal(size=[evaluate(e, sizes) for e in p.shape]).astype(np.float32) for p in cascade.parameters}


def rewritten(cascade: Cascade, chunk: int, *, on_gpu: bool = False) -> Cascade:
    found = chunked(cascade, chunk=chunk, on_gpu=on_gpu)
    assert found is not None
    assert found.cascade != cascade
    verify(found.cascade)
    return found.cascade


def same(
    cascade: Cascade, given: dict[str, np.ndarray], chunk: int = 4, tolerance: float = 1e-12, *, on_gpu: bool = False
) -> None:
    """The chunked form gives what the program as written gives, in float64."""
    for got, want in zip(_results(rewritten(cascade, chunk, on_gpu=on_gpu), given), _results(cascade, given), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * (np.abs(want).max(initial=1e-30)))


def _results(cascade: Cascade, given: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(interpret(cascade, given).values())


@pytest.mark.parametrize(("name", "rings"), SCANS.items())
def test_scans_are_recognised(name: str, rings: list[str]) -> None:
    found = recurrences(example(f"recurrences/{name}"))
    assert [r.refusal for r in found] == [None] * len(rings)
    assert [str(r.ring) for r in found] == rings
    assert all("associative scan" in r.decision().because for r in found)


@pytest.mark.parametrize(("path", "reason"), REFUSED.items())
def test_what_is_no_scan_is_refused_with_the_reason(path: str, reason: str) -> None:
    cascade = example(path)
    refusals = [r.refusal for r in recurrences(cascade)]
    assert any(reason in (r or "") for r in refusals), refusals
    found = chunked(cascade)
    assert found is not None
    assert found.cascade == cascade
    assert any(reason in d.because for d in found.decisions)


def test_a_cascade_without_recurrences_has_no_chunked_form() -> None:
    assert chunked(example("norms/softmax")) is None


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 14])
def test_chunks_compute_the_same_at_odd_lengths(name: str, steps: int) -> None:
    cascade = example(f"recurrences/{name}")
    same(cascade, arguments(cascade, steps))


@pytest.mark.parametrize("name", [n for n in SCANS if n not in ("mamba_scan", "mlgru", "s4d")])  # their readers sum
@pytest.mark.parametrize("steps", [0, 4, 5, 14])
def test_chunks_for_thread_blocks_compute_the_same(name: str, steps: int) -> None:
    cascade = example(f"recurrences/{name}")
    same(cascade, arguments(cascade, steps), on_gpu=True)


@pytest.mark.parametrize("name", SCANS)
def test_a_chunked_form_prints_and_parses(name: str) -> None:
    made = rewritten(example(f"recurrences/{name}"), 4)
    assert cascade_of(to_source(made)) == made


def test_products_where_a_contraction_reads_the_state() -> None:
    made = to_source(rewritten(example("recurrences/retention"), 8))
    assert "where t0' <= t0" in made
    decisions = chunked(example("recurrences/mlstm"))
    assert decisions is not None
    chosen = {d.subject.split(" of ")[1].split(" ")[0]: d.chosen for d in decisions.decisions}
    assert "matrix products" in chosen["C"] and "matrix products" in chosen["N"]
    assert chosen["M"] == "one step after the other"


def test_a_normaliser_shares_the_weights_of_its_state() -> None:
    made = rewritten(example("recurrences/linear_attention"), 8)
    scores = [e for e in made.einsums if e.origin.made_by == "chunk:scores"]
    assert len(scores) == 1


GATED = """
kernel k(Q: f32[T, E], K: f32[T, E], V: f32[T, F], g: f32[T{row}]) -> (O: f32[T, F]) {{
    S[0, e, f]   = 0
    S[t+1, e, f] = {decay} * S[t, e, f] + K[t, e] * V[t, f]
    O[t, f]      = Q[t, e] * S[t+1, e, f]
}}
"""


@pytest.mark.parametrize("row", ["", ", E"])
@pytest.mark.parametrize(
    ("decay", "low", "high"),
    [
        ("exp({g})", -50, -50),  # strong decay: e^-700 within a chunk of 14
        ("exp({g})", -3000, 0),
        ("{g}", 0, 0),  # the state is forgotten in every step
        ("{g}", -1, 1),  # no logarithm
        ("(if {g} > 0 then 1 else 0)", -1, 1),  # resets
    ],
)
def test_strong_zero_and_negative_decays(row: str, decay: str, low: float, high: float) -> None:
    gate = "g[t, e]" if row else "g[t]"
    cascade = cascade_of(GATED.format(row=row, decay=decay.format(g=gate)))
    given = arguments(cascade, 31)
    given["g"] = np.random.default_rng(5).uniform(low, high, given["g"].shape).astype(np.float32)
    with np.errstate(under="ignore"):
        same(cascade, given, chunk=14)


@pytest.mark.parametrize("row", ["", ", E"])
def test_strong_decay_stays_finite_when_compiled(row: str) -> None:
    gate = "g[t, e]" if row else "g[t]"
    cascade = cascade_of(GATED.format(row=row, decay=f"exp({gate})"))
    given = arguments(cascade, 70)
    given["g"] = np.where(np.random.default_rng(6).random(given["g"].shape) < 0.5, -50, -0.01).astype(np.float32)
    given["V"] *= np.float32(1e30)
    kernel = einfall.compile(to_source(rewritten(cascade, 16)), cache=False)
    want = _results(cascade, given)[0]
    got = kernel(**given)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["gated_linear_attention", "linear_attention", "rwkv6", "s4d", "running_max", "mlgru"])
def test_chunked_forms_compile(name: str) -> None:
    cascade = example(f"recurrences/{name}")
    kernel = einfall.compile(to_source(rewritten(cascade, 8)), cache=False)
    for steps in (0, 1, 8, 27):
        given = arguments(cascade, steps)
        got = kernel(**given)
        for value, want in zip(got if isinstance(got, tuple) else (got,), _results(cascade, given), strict=True):
            np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5 * np.abs(want[np.isfinite(want)]).max(initial=1e-30))


MASKED = """
kernel k(X: f32[T]) -> (Y: f32[T]) {
    Z[t]   = X[t] where t > 2
    S[0]   = 0
    S[t+1] = S[t] + Z[t]
    Y[t]   = S[t+1]
}
"""

EARLIER = """
kernel k(X: f32[T]) -> (Y: f32[T]) {
    S[0]   = 0
    S[t+1] = S[t] + X[t]
    Y[t]   = S[t-1] ?? 0
}
"""


@pytest.mark.parametrize(("text", "reason"), [(MASKED, "may be absent"), (EARLIER, "another generation")])
def test_readers_and_absence_that_chunks_cannot_give(text: str, reason: str) -> None:
    cascade = cascade_of(text)
    found = chunked(cascade)
    assert found is not None
    assert found.cascade == cascade
    assert any(reason in d.because for d in found.decisions), found.decisions


PAIR = """
kernel k(X: f32[D, T], A: f32[D, T]) -> (Y: f32[T, D], last: f32[D]) {
    S[d, 0]   = 1
    R[c, 0]   = 2
    S[d, t+1] = A[d, t] * S[d, t] - 0.5 * R[d, t] + X[d, t]
    R[c, u+1] = R[c, u] / 2 + S[c, u]
    Y[t, d]   = S[d, t] * R[d, t+1]
    last[d]   = S[d, T] + R[d, T]
}
"""


@pytest.mark.parametrize("steps", [0, 1, 4, 11])
def test_mixed_states_with_initial_values_and_other_names(steps: int) -> None:
    cascade = cascade_of(PAIR)
    same(cascade, arguments(cascade, steps))


def test_explain_says_how_recurrences_run_and_why() -> None:
    shown = einfall.compile(EXAMPLES / "recurrences" / "retention.ecs", cache=False).explain()
    assert "associative scan" in str(shown)
    assert "one step after the other" in str(shown)


@pytest.mark.parametrize("name", ["gated_linear_attention", "linear_attention", "prefix_sum"])
def test_the_cost_model_decides_between_steps_and_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decisions(asked: float) -> list[str]:
        monkeypatch.setattr(chunk_choice, "WORTH_CHUNKS", asked)
        lowered = lower(example(f"recurrences/{name}"), target=Target.parse("cpu:sapphirerapids"))
        return [d.chosen for d in lowered.program.decisions if d.made_by == "chunk"]

    assert all(chosen == "one step after the other" for chosen in decisions(0.0))
    assert any(chosen.startswith("chunks of") for chosen in decisions(100.0))
