"""Whole programs: those of the language page, those of the examples, and those that try to break the front end."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from einfall.frontend import load
from einfall.ir.diagnostics import EinfallError
from einfall.ir.verifier import verify

from .lowered import extents, lower, only, program, texts

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.ecs"))

ATTENTION = program(
    "Q: f32[H, P, E], K: f32[H, M, E], V: f32[H, M, F]) -> (AV: f32[H, P, F]",
    "QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)",
    "GM[h, p]    = QK[h, p, m]                          :: max(m)",
    "SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])",
    "SD[h, p]    = SN[h, p, m]",
    "A[h, p, m]  = SN[h, p, m] / SD[h, p]",
    "AV[h, p, f] = A[h, p, m] * V[h, m, f]",
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_lower(path: Path) -> None:
    for cascade in load(path.read_text(encoding="utf-8"), path.name).values():
        verify(cascade)


def test_attention() -> None:
    cascade = load(ATTENTION)["k"]
    verify(cascade)
    assert cascade.sizes == ("H", "P", "E", "M", "F")
    assert [e.reduction for e in cascade.einsums] == ["+", "max", None, "+", None, "+"]
    assert [e.reduced for e in cascade.einsums] == [("e",), ("m",), (), ("m",), (), ("m",)]


def test_one_pass_attention() -> None:
    cascade = lower(
        "Q: f32[P, E], K: f32[M, E], V: f32[M, F]) -> (AV: f32[F, P]",
        "let M0 = 64",
        "let M1 = M // M0",
        "require M % M0 == 0",
        "BK: f32[M1, M0, E]",
        "BV: f32[M1, M0, F]",
        "BK[m1, m0, e]    = K[m1*M0 + m0, e]",
        "BV[m1, m0, f]    = V[m1*M0 + m0, f]",
        "BQK[m1, m0, p]   = Q[p, e] * BK[m1, m0, e]",
        "RM[0, p] = -inf",
        "RD[0, p] = 0",
        "RNV[0, f, p] = 0",
        "LM[m1, p]        = BQK[m1, m0, p]                                  :: max(m0)",
        "RM[m1+1, p]      = max(RM[m1, p], LM[m1, p])",
        "SLN[m1, m0, p]   = exp(BQK[m1, m0, p] - RM[m1+1, p])",
        "SLD[m1, p]       = SLN[m1, m0, p]",
        "SLNV[m1, f, p]   = SLN[m1, m0, p] * BV[m1, m0, f]",
        "PRM[m1, p]       = exp(RM[m1, p] - RM[m1+1, p])",
        "RD[m1+1, p]      = SLD[m1, p] + RD[m1, p] * PRM[m1, p]",
        "RNV[m1+1, f, p]  = SLNV[m1, f, p] + RNV[m1, f, p] * PRM[m1, p]",
        "AV[f, p]         = RNV[M1, f, p] / RD[M1, p]",
    )
    assert {t.name: t.iterative_dims for t in cascade.tensors if t.steps} == {"RM": (0,), "RD": (0,), "RNV": (0,)}
    assert extents(only(cascade, "PRM")) == {"m1": "M1", "p": "P"}
    assert extents(only(cascade, "RNV")) == {"m1": "M1", "f": "F", "p": "P"}


def test_convolution_with_padding_by_absence() -> None:
    cascade = lower(
        "I: f32[C, P, Q], W: f32[K, C, R, S]) -> (O: f32[K, P, Q]",
        "O[k, p, q] = I[c, p + r - 1, q + s - 1] * W[k, c, r, s]",
    )
    assert only(cascade, "O").reduced == ("c", "r", "s")


def test_grouped_queries() -> None:
    cascade = lower(
        "Q: f32[H, P, E], K: f32[G, M, E]) -> (QK: f32[H, P, M]",
        "QK[h, p, m] = Q[h, p, e] * K[h // (H // G), m, e]  where m <= p",
    )
    assert texts(only(cascade, "QK").output_filter) == ["m <= p"]


TOKEN = re.compile(r"[A-Za-z_]\w*'*|\d+\.?\d*(?:e-?\d+)?|::|\?\?|\*\*|//|->|[<>=!]=|<<|>>|\n|[^\sA-Za-z0-9]|[ \t]+")


def mutated(rng: random.Random, text: str) -> str:
    """A program with a few words exchanged, lines left out or doubled."""
    tokens = TOKEN.findall(text)
    words = [token for token in tokens if token[0].isalnum()]
    for _ in range(rng.choice([1, 1, 2, 4])):
        if rng.random() < 0.75:
            place = rng.choice([i for i, token in enumerate(tokens) if token[0].isalnum()])
            tokens[place] = rng.choice([*words, "0", "t+1", "m // 2", "i8", "-1", "0.5"])
        else:
            lines = "".join(tokens).split("\n")
            line = lines.pop(rng.randrange(len(lines)))
            if rng.random() < 0.5:
                lines[rng.randrange(len(lines)) : 0] = [line, line]
            tokens = TOKEN.findall("\n".join(lines))
    return "".join(tokens)


def check_mutations(count: int, seed: int) -> None:
    """Any text gives verified cascades or an EinfallError whose report can be shown."""
    rng = random.Random(seed)
    sources = [path.read_text(encoding="utf-8") for path in EXAMPLES]
    accepted = 0
    for _ in range(count):
        text = mutated(rng, rng.choice(sources))
        try:
            cascades = load(text)
        except EinfallError as error:
            assert "E90" not in str(error), text
        else:
            accepted += 1
            for cascade in cascades.values():
                verify(cascade)
    assert 0 < accepted < count


def test_mutated_examples() -> None:
    check_mutations(150, seed=1)


@pytest.mark.slow
def test_many_mutated_examples() -> None:
    check_mutations(10_000, seed=2)


def nested(template: str, levels: int, start: str = "m") -> str:
    for level in range(levels):
        start = template.format(start, level)
    return start


LINE = "X: f32[M]) -> (Y: f32[M]"
HOSTILE = {
    "squares": program(
        LINE,
        "Z: f32[A100]",
        "Z[i] = X[0]",
        "Y[m] = X[m] + Z[0]",
        items="let A0 = M\n" + "".join(f"let A{i + 1} = A{i} * A{i}\n" for i in range(100)),
    ),
    "sums": program(
        LINE,
        "Z: f32[A8]",
        "Z[i] = X[0]",
        "Y[m] = X[m] + Z[0]",
        items="let A0 = M + 2*M + 1\n" + "".join(f"let A{i + 1} = A{i} * (A{i} + M)\n" for i in range(8)),
    ),
    "minima": program(LINE, f"Y[m] = X[{nested('min(min({1}, {0} // 2), {1} + m)', 25)}]"),
    "products": program(LINE, f"Y[m] = X[{nested('({0} * (m + {1}))', 45)}]"),
    "parentheses": program(LINE, f"Y[m] = {nested('({0} + 1)', 90, 'X[m]')}"),
    "terms": program(LINE, "Y[m] = " + " + ".join(["X[m]"] * 140)),
    "functions": program(
        LINE,
        "Y[m] = f299(X[m])",
        items="def f0(x) = x\n" + "".join(f"def f{i + 1}(x) = f{i}(x) + 1\n" for i in range(299)),
    ),
    "doubling": program(
        LINE,
        "Y[m] = f59(X[m])",
        items="def f0(x) = x\n" + "".join(f"def f{i + 1}(x) = f{i}(x) * f{i}(x)\n" for i in range(59)),
    ),
    "limits": program(LINE, "S[0] = 1", f"S[t+1] = S[{' + '.join(f'min(t, {i})' for i in range(30))}] + X[t]", "Y[t] = S[t+1]"),
    "powers": program(LINE, "require 2 ** (2 ** 60) > M", "Y[m] = X[m] * 2 ** 100000000"),
    "tower": program(LINE, "let A = 2 ** 2 ** 2 ** 2 ** 2 ** 2", "require A > 1", "Y[m] = X[m] * A"),
    "digits": program(LINE, f"Y[m] = X[{'9' * 900}] * {'9' * 900} + cast(i8, {'9' * 300})"),
    "chain": program(LINE, *(f"A{i}[m] = {f'A{i - 1}' if i else 'X'}[m] + 1" for i in reversed(range(60))), "Y[m] = A59[m]"),
    "dimensions": program(f"X: f32[{', '.join(['2'] * 900)}]) -> (Y: f32[1]", "Y[i] = 1"),
    "sizes": program(LINE, "Y[m] = X[m]") + "check k(M = 99999999999999999999999999)\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_end(name: str) -> None:
    try:
        load(HOSTILE[name])
    except EinfallError as error:
        assert error.code < "E08"
