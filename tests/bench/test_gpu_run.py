"""The measurements on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench/gpu/run.py"


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_rehearsal(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found, page = tmp_path / "found.json", tmp_path / "page.md"
    names = ("gemm bf16 4096", "gemm i8 4096", "D64 2048 causal", "decode", "cross-entropy", "norm f32 8192")
    run = script(
        "--rehearse", "--no-suite", "--samples", "3", "--json", str(found), "--markdown", str(page), "--filter", *names
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        "gemm bf16 4096", "gemm i8 4096", "attention bf16 D64 2048 causal", "decode bf16 32768", "rmsnorm f32 8192×16384",
        "layernorm f32 8192×16384", "cross-entropy f32 8192×32768",
    ]  # fmt: skip
    assert all(row["error"] <= 1 and row["ratio"] > 0 for row in rows)
    assert "| gemm i8 4096 |" in page.read_text("utf-8")


def test_without_a_gpu() -> None:
    from einfall.runtime.driver import driver

    if driver().devices:
        pytest.skip("there is a GPU")
    run = script("--filter", "decode")
    assert run.returncode == 2
    assert "driver" in run.stderr
