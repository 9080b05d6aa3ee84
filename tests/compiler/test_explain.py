"""`einfall explain` and `einfall opt`: passes before and after, reasons, memory, and derived programs that stand alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.compiler.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
ATTENTION = str(EXAMPLES / "attention" / "attention.ecs")
LAYERNORM = str(EXAMPLES / "norms" / "layernorm.ecs")
SOFTMAX = str(EXAMPLES / "norms" / "softmax.ecs")

DEVIATION = """
kernel deviation(X: f32[M, N]) -> (Y: f32[M]) {
    MU[m] = X[m, n] / N
    Y[m]  = abs(X[m, n] - MU[m]) / N
}
kernel scale(X: f32[K], s: f32) -> (Y: f32[K]) {
    Y[k] = X[k] * s
}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deviation.ecs").write_text(DEVIATION)


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict]:  # type: ignore[type-arg]
    assert main(["explain", *arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == ["kernels"]
    return data["kernels"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_attention_is_one_pass(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, ATTENTION)["attention"]
    assert list(found) == ["passes", "groups", "decisions", "workspace_bytes"]
    assert found["passes"]["m"] == {"before": 3, "after": 1}
    assert all(found["passes"][r] == {"before": 1, "after": 1} for r in "hpef")
    (group,) = found["groups"]
    assert group["over"] == ["h", "p"] and set(group["tensors"]) - set(group["in_tiles"]) == {"AV"}
    ratios = [d for d in found["decisions"] if d["made_by"] == "online:ratio"]
    assert {d["subject"].split()[0] for d in ratios} == {"SD", "SAV"} and all("exp" in d["chosen"] for d in ratios)
    text = printed(capsys, "explain", ATTENTION)
    assert "m: 3 → 1" in text and "h, p, e, f: 1" in text
    assert "QK: M elements (passes 1 and 2 over m)" in text
    assert "BQK: 128 elements (passes 1 and 2 over m0, in a tile)" in text


def test_layernorm_keeps_short_rows_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, LAYERNORM)["layernorm"]
    assert found["passes"] == {"m": {"before": 1, "after": 1}, "k": {"before": 3, "after": 2}}
    short = explained(capsys, LAYERNORM, "K=48", "M=512")["layernorm"]
    assert short["passes"]["k"] == {"before": 3, "after": 2}
    assert [d["taken"] for d in short["decisions"] if d["made_by"].startswith("online:")] == [False, False]
    text = printed(capsys, "explain", LAYERNORM, "K=48", "M=512")
    assert "3 → 2 (compiled as written, which is cheaper)" in text and "the form that was not chosen" in text
    long = explained(capsys, LAYERNORM, "K=4000000", "M=4")["layernorm"]
    assert long["passes"]["k"] == {"before": 3, "after": 2}
    assert all(d["taken"] for d in long["decisions"])


def test_a_refusal_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "deviation.ecs")
    assert list(found) == ["deviation", "scale"]
    assert found["deviation"]["passes"]["n"] == {"before": 2, "after": 2}
    (refusal,) = [d for d in found["deviation"]["decisions"] if d["made_by"] == "online:C2"]
    assert refusal["subject"].startswith("Y") and "depends on" in refusal["because"] and refusal["taken"]
    assert refusal["because"] in printed(capsys, "explain", "deviation.ecs", "--kernel", "deviation")
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    expected = np.abs(x - x.mean(1, keepdims=True)).mean(1)
    np.testing.assert_allclose(ef.compile("deviation.ecs", kernel="deviation")(x), expected, rtol=1e-5)


def test_costs_with_all_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "explain", "deviation.ecs", "--kernel", "scale", "K=1000000")
    assert "FLOPs: 1_000_000" in text and "bytes in and out: 8_000_000" in text
    assert "arithmetic intensity: 0.125 FLOP/byte" in text and "bound by memory" in text
    assert explained(capsys, "deviation.ecs", "K=5")["scale"]["workspace_bytes"] == 0
    kernel = ef.compile("deviation.ecs", kernel="scale", K=10)
    assert "bound by" in str(kernel.explain()) and kernel.explain().intensity == 0.125
    assert main(["explain", "deviation.ecs", "Q=5"]) == 1
    assert "no kernel of deviation.ecs has a size `Q`" in capsys.readouterr().err


def test_workspace_is_that_of_the_kernel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"H": 2, "P": 100, "M": 3000, "E": 64, "F": 96}
    arguments = [f"{name}={value}" for name, value in sizes.items()]
    counts = []
    for threads in ("1", "2"):
        monkeypatch.setenv("EINFALL_NUM_THREADS", threads)
        counts.append(explained(capsys, ATTENTION, *arguments)["attention"]["workspace_bytes"])
    kernel = ef.compile(ATTENTION, **sizes)  # other tiles than with free sizes
    assert counts[0] == kernel.with_threads(1).workspace_bytes()
    assert counts[1] == kernel.with_threads(2).workspace_bytes()
    if kernel.with_threads(2).threads == 2:
        tiles = kernel.explain().at()["tiles"]
        assert counts[1] - counts[0] == tiles > 0
    symbolic = explained(capsys, ATTENTION)["attention"]["workspace_bytes"]
    assert isinstance(symbolic, str) and "F" in symbolic and "M" not in symbolic


def test_explain_generates_no_code(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom einfall.compiler.cli import main\n"
        f"assert main(['explain', {ATTENTION!r}]) == 0\n"
        "assert 'tvm' not in sys.modules and 'einfall.codegen' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "m: 3 → 1" in done.stdout


def test_explanations_survive_the_cache_and_the_file(tmp_path: Path) -> None:
    kernel = ef.compile(LAYERNORM)
    loaded = ef.load(kernel.save(tmp_path / "layernorm.efk"))
    assert loaded.explain() == kernel.explain()
    assert loaded.explain().passes["k"].after == 2 and loaded.explain().live_before[0].tensor == "X"
    assert "k: 3 → 2" in str(loaded.explain())


@pytest.mark.parametrize("name", ["fuse", "defer", "normalize"])
@pytest.mark.parametrize("path", [ATTENTION, SOFTMAX, str(EXAMPLES / "norms" / "layernorm_gemm.ecs")])
def test_what_a_pass_makes_is_a_program(capsys: pytest.CaptureFixture[str], tmp_path: Path, path: str, name: str) -> None:
    text = printed(capsys, "opt", path, "--pass", name)
    derived = tmp_path / "derived.ecs"
    derived.write_text(text)
    assert main(["check", str(derived)]) == 0
    assert main(["test", str(derived), "-q"]) == 0, capsys.readouterr()


def test_derived_attention_computes_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "opt", ATTENTION, "--pass", "fuse")
    assert "let M0 = 128" in text and "RSD[m1+1, h, p]" in text
    r = np.random.default_rng(1)
    q, k, v = (r.standard_normal(s).astype(np.float32) for s in ((2, 33, 16), (2, 130, 16), (2, 130, 24)))
    np.testing.assert_array_equal(ef.compile(text)(q, k, v), ef.compile(ATTENTION)(q, k, v))


def test_opt_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opt", "deviation.ecs", "--pass", "fuse"]) == 0
    found = capsys.readouterr()
    assert "deviation: nothing to rewrite" in found.err and "depends on" in found.err
    assert ef.check(found.out)[1].name == "scale"
    assert main(["opt", "deviation.ecs", "--pass", "fold"]) == 2
    assert main(["opt", "deviation.ecs"]) == 2


def softmax_of(q: np.ndarray, k: np.ndarray, v: np.ndarray, step: int = 8192) -> np.ndarray:
    """Attention of one head in float64, a block of keys at a time."""
    top, total = np.full((len(q), 1), -np.inf), np.zeros((len(q), 1))
    result = np.zeros((len(q), v.shape[1]))
    for start in range(0, len(k), step):
        part = slice(start, start + step)
        scores = q.astype(np.float64) @ k[part].astype(np.float64).T / np.sqrt(q.shape[1])
        new = np.maximum(top, scores.max(1, keepdims=True))
        weights, kept = np.exp(scores - new), np.exp(top - new)
        total = total * kept + weights.sum(1, keepdims=True)
        result = result * kept + weights @ v[part].astype(np.float64)
        top = new
    return result / total


def test_long_attention_runs_in_little_memory() -> None:
    sizes = {"H": 1, "P": 64, "M": 131072, "E": 64, "F": 64}
    kernel = ef.compile(ATTENTION)
    assert kernel.workspace_bytes(**sizes) < 16e6
    assert kernel.workspace_bytes(**{**sizes, "M": 2**40}) == kernel.workspace_bytes(**sizes)
    most = kernel.workspace_bytes(**{**sizes, "P": 2**10})
    assert kernel.workspace_bytes(**sizes) <= most == kernel.workspace_bytes(**{**sizes, "P": 2**30}) < 16e6
    r = np.random.default_rng(2)
    q = 4 * r.standard_normal((1, 64, 64), np.float32)
    k, v = (r.standard_normal((1, 131072, 64), np.float32) for _ in range(2))
    np.testing.assert_allclose(kernel(q, k, v)[0], softmax_of(q[0], k[0], v[0]), rtol=2e-4, atol=2e-5)


def test_colours_only_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    arguments = ["explain", "deviation.ecs", "--kernel", "scale", "K=10"]
    styled = printed(capsys, *arguments)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = printed(capsys, *arguments)
    assert "\x1b[" in styled and "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", styled) == plain
