"""Saved kernels where only the runtime is installed: TVM's runtime libraries, its bindings and NumPy, no compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import einfall as ef
from einfall.codegen.cuda import toolkit

SCALE = "kernel scale(X: f32[M, N], c: f32) -> (Y: f32[M, N]) { Y[m, n] = c * X[m, n] }"

PACKAGES = ("einfall", "tvm_ffi", "numpy", "ml_dtypes", "typing_extensions", "tomli")
DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi", "numpy", "ml_dtypes")
COMPILERS = ("tvm", "lark", "sympy", "networkx", "scipy", "torch", "rich")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages from which compiled kernels can be loaded, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        for place in spec.submodule_search_locations or [spec.origin or ""]:
            (folder / Path(place).name).unlink(missing_ok=True)
            (folder / (name if Path(place).is_dir() else Path(place).name)).symlink_to(place)
    for beside in Path(np.__file__).parents[1].glob("numpy.libs"):
        (folder / beside.name).symlink_to(beside)
    for name in DISTRIBUTIONS:
        found = next(path for path in importlib.metadata.files(name) or () if path.name == "METADATA")
        place = Path(str(found.locate())).parent
        (folder / place.name).symlink_to(place)
    tvm = importlib.util.find_spec("tvm")
    assert tvm is not None and tvm.submodule_search_locations
    (folder / "tvm/lib").mkdir(parents=True)
    for library in Path(tvm.submodule_search_locations[0]).glob("lib/libtvm_runtime*"):
        (folder / "tvm/lib" / library.name).symlink_to(library)
    return folder


def in_it(folder: Path, code: str) -> dict[str, object]:
    """What a process there prints as JSON. It sees neither our environment nor that of the user."""
    code = f"import sys, json; sys.path.append({str(folder)!r})\nimport numpy as np, einfall as ef\n{code}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOADED = f"[m for m in {COMPILERS!r} if m in sys.modules]"


def test_a_kernel_for_cpus(alone: Path, tmp_path: Path) -> None:
    path = ef.compile(SCALE, cache=False).save(tmp_path / "scale.efk")
    code = f"""
kernel = ef.load({str(path)!r})
found = [kernel(np.ones((2, 3), np.float32), c).tolist() for c in (2.0, 3.0)]
bound = kernel.bind(c=4.0)(np.ones((1, 1), np.float32), out=np.empty((1, 1), np.float32)).tolist()
print(json.dumps({{"found": found, "bound": bound, "text": str(kernel.explain()), "modules": {LOADED}}}))
"""
    said = in_it(alone, code)
    assert said["found"] == [[[2.0] * 3] * 2, [[3.0] * 3] * 2]
    assert said["bound"] == [[4.0]]
    assert "Y[m, n] = c * X[m, n]" in str(said["text"])
    assert said["modules"] == []


@pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no nvcc")
def test_a_kernel_for_a_gpu_says_what_is_missing(alone: Path, tmp_path: Path) -> None:
    path = ef.compile(SCALE, target="cuda:sm_90", cache=False).save(tmp_path / "scale.efk")
    code = f"""
kernel = ef.load({str(path)!r})
try:
    kernel(np.ones((2, 3), np.float32), 2.0)
except ef.EinfallError as failure:
    print(json.dumps({{"code": failure.code, "text": str(failure), "target": kernel.target, "modules": {LOADED}}}))
"""
    said = in_it(alone, code)
    assert said["code"] in ("E1207", "E1010")  # no driver, or an array that is not on the GPU that is there
    assert "sm_90" in str(said["text"]) or said["code"] == "E1010"
    assert said["target"] == "cuda:sm_90"
    assert said["modules"] == []


def test_compiling_says_what_is_missing(alone: Path) -> None:
    code = f"""
try:
    ef.compile({SCALE!r}, cache=False)
except ef.EinfallError as failure:
    print(json.dumps([failure.code, str(failure)]))
"""
    found, text = in_it(alone, code)
    assert found == "E1113"
    assert "is not installed" in text
    assert "pip install einfall" in text
