"""The command line: what goes to stdout and stderr, exit codes, JSON, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from einfall import __version__
from einfall.compiler import driver
from einfall.compiler.cli import main
from einfall.compiler.cli.parser import COMMANDS
from einfall.ir.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
ATTENTION = str(ROOT / "examples" / "attention" / "attention.ecs")

GOOD = """
kernel scale(X: f32[M], s: f32) -> (Y: f32[M]) {
    Y[m] = X[m] * s
}
check scale(M = 5, s = 0.5)
check scale(M = 0)
"""
WRONG = """kernel f(X: f32[M]) -> (Y: f32[M]) {
    Y[m] = Z[m]
}
kernel g(X: f32[M]) -> (Y: f32[M]) {
    Y[m] = X[m, k]
}
"""
MESSY = "kernel  f( X:f32[M] )->( Y:f32[M] ) {\n  Y[m]=X[m]  # copied\n}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINFALL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("EINFALL_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.ecs").write_text(GOOD)
    (tmp_path / "wrong.ecs").write_text(WRONG)
    (tmp_path / "messy.ecs").write_text(MESSY)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"einfall {__version__}"
    assert main(["--help"]) == 0
    assert "einfall run attention.ecs --random" in capsys.readouterr().out
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert "examples:" in text and f"einfall {command}" in text


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.ecs"]) == 0
    assert capsys.readouterr().out == "good.ecs: scale\n"
    assert main(["check", "."]) == 1
    found = capsys.readouterr()
    assert "good.ecs: scale" in found.out and "messy.ecs: f" in found.out
    assert "wrong.ecs:2:12" in found.err and "wrong.ecs:5:12" in found.err  # both mistakes
    assert "1 of 3 files have errors" in found.err
    assert main(["check", "wrong.ecs", "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["ok"] is False and [e["line"] for e in file["errors"]] == [2, 5]


def test_run_on_random_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", ATTENTION, "--random", "H=4,P=10,M=12,E=8,F=6", "--no-bench"]) == 0
    found = capsys.readouterr()
    assert "AV: f32[4, 10, 6]" in found.out and "interpreter: agrees" in found.out
    assert main(["run", ATTENTION, "--random", "H=1,P=2,M=2,E=2,F=2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["results"] == [{"name": "AV", "dtype": "f32", "shape": [1, 2, 2]}]
    assert data["comparison"]["passed"] and data["time"]["median_s"] > 0
    assert main(["run", "good.ecs", "--random", "--no-bench"]) == 0
    assert "Y: f32[5]" in capsys.readouterr().out


def test_run_on_files(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(4, dtype=np.float32)
    np.save("x.npy", x)
    np.savez("both.npz", X=x, unused=x)
    assert main(["run", "good.ecs", "X=x.npy", "s=3", "-o", "y.npy", "--no-bench"]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), 3 * x)
    assert main(["run", "good.ecs", "--inputs", "both.npz", "s=0.5", "-o", "y.npz", "--no-bench"]) == 0
    np.testing.assert_array_equal(np.load("y.npz")["Y"], x / 2)
    assert "`unused` is not used" in capsys.readouterr().err


def test_compile_and_run_what_was_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "good.ecs", "M=4", "-o", "scale.efk"]) == 0
    assert capsys.readouterr().out.startswith("scale(X: f32[4], s: f32) -> (Y: f32[4]) for cpu:")
    np.save("x.npy", np.ones(4, np.float32))
    assert main(["run", "scale.efk", "X=x.npy", "s=2", "--no-bench"]) == 0
    assert "[2. 2. 2. 2.]" in capsys.readouterr().out
    assert main(["run", "scale.efk", "--random", "--no-bench"]) == 0
    capsys.readouterr()
    assert main(["compile", "good.ecs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == "scale(X: f32[M], s: f32) -> (Y: f32[M])"


def test_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "good.ecs"]) == 0
    found = capsys.readouterr().out
    assert "ok     good.ecs:5 scale(M = 5, s = 0.5)" in found and "2 checks passed in 1 file" in found
    assert main(["test", "good.ecs", "--json", "--symbolic"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] == 2 and data["checks"][0]["comparison"]["passed"]
    assert main(["test", "good.ecs", "wrong.ecs", "-q"]) == 1
    found = capsys.readouterr()
    assert "1 files with errors" in found.out and "error[E02" in found.err


def test_a_failing_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from einfall.compiler import testing
    from einfall.runtime.kernel import Kernel

    class Wrong(Kernel):
        def __call__(self, *args: object, **named: object) -> object:
            return super().__call__(*args, **named) + 1  # type: ignore[operator]

    def wrong(*args: object, **options: object) -> Kernel:
        return Wrong(driver.compile(*args, **options)._compiled)  # type: ignore[arg-type]

    monkeypatch.setattr(testing, "compile", wrong)
    assert main(["test", "good.ecs"]) == 1
    found = capsys.readouterr()
    assert "FAILED good.ecs:5" in found.out and "1 checks passed, 1 failed" in found.out
    assert "error[E1304]" in found.err and "5 of 5 elements are wrong" in found.err
    assert "check scale(M = 5, s = 0.5)" in found.err  # the line of the program


def test_fmt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["fmt", "--check", "messy.ecs"]) == 1
    assert capsys.readouterr().out == "messy.ecs\n"
    assert main(["fmt", "--diff", "messy.ecs"]) == 1
    assert "-kernel  f( X:f32[M] )" in capsys.readouterr().out
    assert (tmp_path / "messy.ecs").read_text() == MESSY
    (tmp_path / "messy.ecs").chmod(0o640)
    assert main(["fmt", "messy.ecs"]) == 0
    text = (tmp_path / "messy.ecs").read_text()
    assert text.startswith("kernel f(X: f32[M])") and "# copied" in text
    assert (tmp_path / "messy.ecs").stat().st_mode & 0o777 == 0o640
    assert main(["fmt", "--check", "messy.ecs"]) == 0
    (tmp_path / "wrong.ecs").write_text("kernel (")
    assert main(["fmt", "wrong.ecs"]) == 1
    assert (tmp_path / "wrong.ecs").read_text() == "kernel ("


def test_explain_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-error", "e1004"]) == 0
    assert "E1004: sizes disagree" in capsys.readouterr().out
    assert main(["explain-error"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CATALOGUE)
    assert main(["explain-error", "E1004", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["code"] == "E1004"


def test_explain_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "good.ecs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernels"]["scale"]["passes"] == {"m": {"before": 1, "after": 1}}
    assert main(["source", "good.ecs", "--kind", "llvm"]) == 0
    assert "define" in capsys.readouterr().out


def test_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["source", "good.ecs", "--tolerance", "0.01"]) == 0
    assert capsys.readouterr().out.startswith("@tolerance(0.01)\nkernel scale")
    assert main(["explain", ATTENTION, "--target", "cuda:sm_90"]) == 0
    shown = capsys.readouterr().out
    assert "QK, AV: f32 multiply-adds, no tensor cores" in shown and "--tolerance 1e-2 permits tf32" in shown
    assert main(["explain", ATTENTION, "--target", "cuda:sm_90", "--tolerance", "1e-2"]) == 0
    assert "QK, AV: tf32 on tensor cores" in capsys.readouterr().out
    assert main(["explain", ATTENTION, "--tolerance", "1e-2"]) == 0
    assert "tensor cores" not in capsys.readouterr().out
    assert main(["test", "good.ecs", "--tolerance", "-1"]) == 1
    assert "E0705" in capsys.readouterr().err
    assert main(["compile", "good.ecs", "--tolerance", "1e-2", "-o", "wide.efk"]) == 0
    assert main(["run", "wide.efk", "--random", "--tolerance", "1e-2"]) == 1
    assert "E1110" in capsys.readouterr().err


def test_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    driver._memory.clear()
    main(["compile", "good.ecs"])
    capsys.readouterr()
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernels"] == 1
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "cache" / "kernels")
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.strip() == "removed 1 kernel"


MISTAKES: list[tuple[int, str, list[str]]] = [
    (2, "E1301", []),
    (2, "E1301", ["chekc", "x.ecs"]),
    (2, "E1301", ["check"]),
    (2, "E1301", ["check", "--jsn", "good.ecs"]),
    (2, "E1301", ["compile", "good.ecs", "M"]),
    (2, "E1301", ["run", "good.ecs", "--random", "M"]),
    (2, "E1301", ["run", "good.ecs", "--seed", "x"]),
    (2, "E1301", ["cache", "burn"]),
    (1, "E1302", ["explain-error", "E9999"]),
    (1, "E1303", ["check", "cache_is_empty"]),
    (1, "E1101", ["check", "none.ecs"]),
    (1, "E1101", ["run", "none.efk"]),
    (1, "E1101", ["run", "good.ecs", "X=none.npy", "s=1"]),
    (1, "E1112", ["run", "good.ecs", "X=good.ecs", "s=1"]),
    (1, "E1104", ["run", "fake.efk", "--random"]),
    (1, "E1001", ["compile", "good.ecs", "N=3"]),
    (1, "E1001", ["run", "good.ecs", "Z=x.npy"]),
    (1, "E1001", ["run", "good.ecs", "--random", "Q=3"]),
    (1, "E1002", ["run", "good.ecs"]),
    (1, "E1005", ["run", ATTENTION, "--random", "H=3"]),
    (1, "E1012", ["compile", "good.ecs", "M=-3"]),
    (1, "E1012", ["compile", "good.ecs", "M=3.5"]),
    (1, "E1014", ["run", "good.ecs", "--random", "M=3", "s=much"]),
    (1, "E1013", ["run", "good.ecs", "--random", "M=4611686018427387904"]),
    (1, "E1107", ["compile", "good.ecs", "-o", "no/such/folder.efk"]),
    (1, "E1107", ["run", "good.ecs", "--random", "M=3", "-o", "result.txt", "--no-bench"]),
    (1, "E1022", ["run", "good.ecs", "--random", "M=3", "--threads", "0"]),
    (1, "E1201", ["compile", "good.ecs", "--target", "cpu:pentium"]),
    (1, "E1020", ["source", "good.ecs", "--kind", "ptx"]),
    (1, "E1108", ["compile", "good.ecs", "--kernel", "scael"]),
    (1, "E02", ["compile", "wrong.ecs"]),
]


@pytest.mark.parametrize(("code", "error", "arguments"), MISTAKES, ids=[" ".join(a)[-50:] for _, _, a in MISTAKES])
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, code: int, error: str, arguments: list[str]) -> None:
    (tmp_path / "cache_is_empty").mkdir()
    (tmp_path / "fake.efk").write_bytes(b"PK\x03\x04 no")
    assert main(arguments) == code
    found = capsys.readouterr()
    assert f"error[{error}" in found.err and "Traceback" not in found.err
    takes_json = arguments and arguments[0] in ("check", "compile", "run", "explain-error", "cache")
    if takes_json and "--jsn" not in arguments:
        assert main([*arguments, "--json"]) == code
        assert json.loads(capsys.readouterr().out)["errors"][0]["code"].startswith(error)


def test_defects_are_reported_as_such(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from einfall.compiler.cli import programs

    def broken(_: object) -> list[Path]:
        raise ZeroDivisionError("something inside")

    monkeypatch.setattr(programs, "programs", broken)
    assert main(["check", "good.ecs"]) == 70
    found = capsys.readouterr().err
    assert "error[E9001]" in found and "ZeroDivisionError: something inside" in found and "Traceback" not in found
    monkeypatch.setenv("EINFALL_DEBUG", "1")
    assert main(["check", "good.ecs"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from einfall.compiler.cli import programs

    def interrupted(_: object) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "programs", interrupted)
    assert main(["check", "good.ecs"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_as_a_process(tmp_path: Path) -> None:
    """`python -m einfall`, a pipe whose reader leaves, and colours only on demand."""
    command = [sys.executable, "-m", "einfall", "explain-error"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "\x1b[" not in listing.stdout
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.wait(timeout=120)
    assert b"Traceback" not in process.stderr.read() and process.returncode in (0, 141)


def test_starting_is_quick() -> None:
    """The command needs neither TVM nor PyTorch to say what is wrong with a program."""
    code = "import sys; from einfall.compiler.cli import main; main(['check', 'good.ecs']); "
    code += "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    assert not {"tvm", "tvm_ffi", "torch", "sympy", "scipy"} & set(found.stdout.split())
