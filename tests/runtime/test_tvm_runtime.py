"""What a process loads for TVM: a saved kernel needs neither the compiler nor PyTorch, and gets along with both later."""

import subprocess
import sys

import pytest

import einfall as ef
from einfall.runtime.tvm_runtime import importing_tvm

SCALE = "kernel scale(X: f32[M]) -> (Y: f32[M]) { Y[m] = 2 * X[m] }"


def in_a_process_of_its_own(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return ef.compile(SCALE).save(tmp_path_factory.mktemp("saved") / "scale.efk")


def test_a_saved_kernel_runs_without_the_compiler_and_pytorch(saved):
    code = f"""
import sys, numpy as np, einfall as ef
kernel = ef.load({str(saved)!r})
print(kernel(np.ones(3, np.float32)).tolist(), "tvm" in sys.modules, "torch" in sys.modules)
"""
    assert in_a_process_of_its_own(code).split("\n")[0] == "[2.0, 2.0, 2.0] False False"


def test_compiling_does_not_import_pytorch():
    code = f"""
import sys, numpy as np, einfall as ef
kernel = ef.compile({SCALE!r}, cache=False)
print(kernel(np.ones(3, np.float32)).tolist(), "tvm" in sys.modules, "torch" in sys.modules)
"""
    assert in_a_process_of_its_own(code).split("\n")[0] == "[2.0, 2.0, 2.0] True False"


@pytest.mark.parametrize("order", ["torch first", "torch last"])
def test_tensors_of_pytorch(saved, order):
    pytest.importorskip("torch")
    first, last = ("import torch", "") if order == "torch first" else ("", "import torch")
    code = f"""
{first}
import einfall as ef
loaded, made = ef.load({str(saved)!r}), ef.compile({SCALE!r}, cache=False)
{last}
x = torch.ones(5)
assert loaded(x).tolist() == made(x).tolist() == [2.0] * 5
y = torch.empty(5)
made(x, out=y)
assert y.tolist() == [2.0] * 5
import tvm_ffi
assert torch.from_dlpack(tvm_ffi.from_dlpack(x)).tolist() == [1.0] * 5
print("fine")
"""
    assert in_a_process_of_its_own(code).split("\n")[0] == "fine"


@pytest.mark.parametrize("hidden", ["tvm", "tvm_ffi"])
def test_without_tvm_the_user_is_told_what_to_install(saved, hidden):
    code = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
import einfall as ef
for make in (lambda: ef.load({str(saved)!r}), lambda: ef.compile({SCALE!r}, cache=False)):
    try:
        make()
    except ef.EinfallError as failure:
        print(failure.code, "pip install" in str(failure) and "apache-tvm" in str(failure))
"""
    assert in_a_process_of_its_own(code) == "E1113 True\n" * 2


def test_a_broken_library_is_no_mistake_of_the_compiler():
    with pytest.raises(ef.EinfallError) as failure, importing_tvm():
        raise OSError("libtvm_runtime.so: cannot open shared object file")
    assert failure.value.code == "E1113" and "libtvm_runtime.so" in str(failure.value)
    with pytest.raises(ImportError), importing_tvm():
        raise ImportError("cannot import name 'nothing'", name="einfall.codegen")
