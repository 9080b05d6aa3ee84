"""The rules of the code base that no other tool checks: who may import whom, file sizes, packaging."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import einfall

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = ("ir", "frontend", "passes", "codegen", "runtime", "compiler")

MAY_IMPORT = {
    "ir": {"ir"},
    "frontend": {"frontend", "ir"},
    "passes": {"passes", "ir"},
    "codegen": {"codegen", "ir"},
    "runtime": {"runtime", "ir"},
    "compiler": set(FOLDERS) | {""},  # "": the root, for the version
}

FOREIGN = {  # third-party packages that only some folders may use
    "lark": {"frontend"},
    "networkx": {"ir", "passes", "codegen", "frontend", "compiler"},
    "rich": {"compiler", "runtime"},
    "scipy": {"ir", "passes"},  # erf of the interpreter; integer programs
    "sympy": {"passes"},
    "torch": set(),
    "tvm": {"codegen", "runtime", "compiler"},
    "tvm_ffi": {"codegen", "runtime", "compiler"},
}

TVM_OUTSIDE_CODEGEN = {"tvm", "tvm.runtime", "tvm_ffi"}
"""What runtime/ and compiler/ may import of TVM: its runtime, never its compiler."""

LONGEST_FILE = 450


def modules() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, function bodies included."""
    package = ("einfall", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name
            case ast.ImportFrom(module=module, names=names, level=0):
                yield node.lineno, module or ""
                for alias in names:  # `from tvm import runtime` imports tvm.runtime
                    yield node.lineno, f"{module}.{alias.name}"
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(package[: len(package) - level + 1])
                if module is not None:
                    yield node.lineno, f"{base}.{module}"
                else:
                    for alias in names:
                        yield node.lineno, f"{base}.{alias.name}"


def violations(path: Path) -> Iterator[str]:
    folder = folder_of(path)
    where = path.relative_to(ROOT)
    for line, name in imported(path):
        top, _, rest = name.partition(".")
        if top == "einfall":
            target = rest.split(".")[0] if rest.split(".")[0] in FOLDERS else ""
            if target not in MAY_IMPORT[folder]:
                yield f"{where}:{line}: {folder}/ may not import {name}"
        elif top in FOREIGN and folder not in FOREIGN[top]:
            yield f"{where}:{line}: {folder}/ may not import {name}"


def test_imports_follow_the_arrows() -> None:
    assert [v for path in modules() for v in violations(path)] == []


def test_runtime_knows_no_networkx_even_indirectly() -> None:
    code = "import sys, pkgutil, importlib, einfall.runtime as r\n"
    code += "[importlib.import_module(m.name) for m in pkgutil.walk_packages(r.__path__, 'einfall.runtime.')]\n"
    code += "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"networkx", "sympy", "scipy", "lark", "torch", "tvm"} & set(loaded)


def test_only_codegen_imports_the_compiler_of_tvm() -> None:
    """`import tvm` in a function of runtime/ is fine: where no compiler is, it is the runtime alone."""
    found = []
    for path in modules():
        if folder_of(path) == "codegen":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    found += [(path.name, a.name) for a in names if a.name.split(".")[0] == "tvm"]
                case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] == "tvm":
                    names = node.names if module == "tvm" else []
                    found += [(path.name, f"tvm.{a.name}") for a in names] or [(path.name, module)]
    assert [(file, name) for file, name in found if name not in TVM_OUTSIDE_CODEGEN] == []


def test_relative_imports_between_folders() -> None:
    absolute = [f"{p.relative_to(ROOT)}:{line}" for p in modules() for line, name in absolute_own_imports(p)]
    assert absolute == []


def absolute_own_imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, a.name) for a in names if a.name.split(".")[0] == "einfall")
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] == "einfall":
                yield node.lineno, module


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_short_and_well_named(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE, "split it: one subject per file"
    assert path.stem not in {"utils", "helpers", "common", "misc"}, "name the file after what it defines"


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {"einfall"} | {
        ".".join(("einfall", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(settings["packages"]) == found


def test_every_folder_with_code_is_a_package() -> None:
    assert [p for p in modules() if not (p.parent / "__init__.py").exists()] == []


def test_every_data_file_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packaged = {
        file
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    data = {
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert data <= packaged


def test_import_is_light() -> None:
    code = "import sys, einfall; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"lark", "ml_dtypes", "networkx", "numpy", "rich", "scipy", "sympy", "torch", "tvm", "tvm_ffi"}
    assert not heavy & set(loaded)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = einfall.no_such_name


def test_public_names_are_listed() -> None:
    assert {"compile", "load", "interpret", "check", "format", "Kernel", "Target", "EinfallError"} <= set(dir(einfall))
    assert set(einfall.__all__) <= set(dir(einfall))


@pytest.mark.parametrize("name", einfall.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(einfall, name) is not None
