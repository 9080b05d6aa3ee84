"""Compiled kernels that deal a long rank out to parts: right results, whatever the rows, the length and the threads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.cascade import Cascade
from einfall.ir.expr import Const
from einfall.ir.interpreter import interpret
from einfall.ir.printer import to_source
from einfall.ir.tile import Loop, TileProgram, When, walk
from einfall.passes.online.derive import derive
from einfall.passes.online.split import LEAST_PART, split
from einfall.passes.pipeline import lower
from einfall.passes.tiling.assemble import assemble
from einfall.runtime.kernel import Kernel

from .kernels import normal, results

EXAMPLES = Path(__file__).parents[2] / "examples"
# Of the host's kind, but with cores enough for parts wherever the tests run.
FOUR_CORES = replace(host_target(), cores=4)
LONG = 2 * LEAST_PART + 77
DOT = "kernel k(X: f32[N], Y: f32[N]) -> (T: f32, L: f32) {\n    T = X[n] * Y[n]\n    L = X[n]    :: max(n)\n}\n"


def cascade(name: str) -> Cascade:
    return read_program(DOT if name == "dot" else EXAMPLES / f"{name}.ecs").select(None)


@cache
def compiled(name: str, **sizes: int) -> Kernel:
    return einfall.compile(DOT if name == "dot" else EXAMPLES / f"{name}.ecs", target=FOUR_CORES, cache=False, **sizes)


def check(name: str, **arguments: np.ndarray) -> list[np.ndarray]:
    """Within some roundings of single precision, relative to the largest input: long sums cancel."""
    found = results(compiled(name)(**arguments))
    with np.errstate(all="ignore"):
        exact = interpret(cascade(name), arguments)
    for value, expected in zip(found, exact.values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    return found


def decode(heads: int, length: int, filled: int, features: int = 16) -> dict[str, np.ndarray]:
    return {
        "Q": normal(1, heads, features),
        "K": normal(1, 1, length, features, seed=1),
        "V": normal(1, 1, length, features, seed=2),
        "length": np.array([filled], np.int32),
    }


@pytest.mark.parametrize("name", ["losses/logsumexp", "others/variance", "others/argmax", "norms/softmax"])
@pytest.mark.parametrize("shape", [(1, LONG), (3, LONG), (4, LONG), (1, LONG - 78), (1, 70000), (2, 1), (1, 0), (0, LONG)])
def test_rows_of_every_number_and_length(name: str, shape: tuple[int, int]) -> None:
    check(name, X=normal(*shape))


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("filled", [0, 1, 1000, LEAST_PART, LONG])
def test_decoding_with_few_heads(heads: int, filled: int) -> None:
    found = check("attention/decode_attention", **decode(heads, LONG, filled))
    if filled == 0:
        assert not found[0].any()


@pytest.mark.parametrize("length", [0, 1, LONG, 100_003])
def test_reductions_that_depend_on_no_other(length: int) -> None:
    check("dot", X=normal(length), Y=normal(length, seed=1))


def test_infinities_and_large_values_stay_in_their_parts() -> None:
    x = normal(1, LONG) * np.float32(1e4)
    x[:, : LEAST_PART + 5] = -np.inf
    check("losses/logsumexp", X=x)
    (nothing,) = results(compiled("losses/logsumexp")(X=np.full((1, LONG), -np.inf, np.float32)))
    assert nothing[0] == -np.inf


def test_few_queries_of_known_number_share_their_keys() -> None:
    kernel = compiled("attention/attention", H=1, P=5, E=16, F=16)
    arguments = {"Q": normal(1, 5, 16), "K": normal(1, LONG, 16, seed=1), "V": normal(1, LONG, 16, seed=2)}
    outcome = compare(cascade("attention/attention"), arguments, results(kernel(**arguments)))
    assert outcome.passed, str(outcome)
    assert "up to 8 parts" in str(kernel.explain())


@pytest.mark.parametrize("name", ["losses/logsumexp", "others/variance", "attention/decode_attention"])
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    arguments = decode(1, LONG, LONG - 5) if "decode" in name else {"X": normal(1, LONG)}
    kernel = compiled(name)
    for first, second in zip(results(kernel.with_threads(1)(**arguments)), results(kernel(**arguments)), strict=True):
        assert np.array_equal(first, second)


def _conditions(program: TileProgram) -> list[When]:
    return [node for node in program.body if isinstance(node, When)]


def test_parts_are_chosen_by_rows_and_length_alone() -> None:
    program = lower(cascade("losses/logsumexp"), target=FOUR_CORES).program
    chosen = program.decisions[0]
    assert chosen.chosen == f"up to 8 parts, side by side, if M < 4 and N >= {2 * LEAST_PART}"
    assert len(_conditions(program)) == 2
    one = lower(cascade("losses/logsumexp"), target=replace(FOUR_CORES, cores=1)).program
    assert not any(d.made_by == "split" for d in one.decisions)


def test_the_parts_are_one_parallel_loop_with_states_of_their_own() -> None:
    form = split(derive(cascade("losses/logsumexp")), most=8)
    assert form is not None
    program = assemble(form.cascade, FOUR_CORES)
    parts, merge = (node for node in program.body if isinstance(node, Loop))
    assert parts.parallel and merge.parallel
    assert {b.name for b in parts.buffers} >= {"RGM", "RSD"}
    assert all(isinstance(e, Const) or e.name == "N0" for b in parts.buffers for e in b.shape)  # type: ignore[attr-defined]
    assert any(isinstance(node, Loop) and not node.parallel for node in walk(parts.body))
    again = read_program(to_source(form.cascade)).select(None)
    assert assemble(again, FOUR_CORES) == program
