"""pytest runs the check items of `.ecs` files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GOOD = """kernel scale(X: f32[M]) -> (Y: f32[M]) {
    Y[m] = X[m] * 2
}
check scale(M = 5)
check scale(M = 0)
"""


def test_collected(tmp_path: Path) -> None:
    (tmp_path / "good.ecs").write_text(GOOD)
    (tmp_path / "wrong.ecs").write_text("kernel f(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = Z[m]\n}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "EINFALL_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert "scale(M = 5) PASSED" in done.stdout and "scale(M = 0) PASSED" in done.stdout, done.stdout
    assert "wrong.ecs::program FAILED" in done.stdout
    assert "error[E02" in done.stdout and "Traceback" not in done.stdout
    assert "1 failed, 2 passed" in done.stdout and done.returncode == 1
