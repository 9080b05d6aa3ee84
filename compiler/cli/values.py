"""Values on the command line: sizes, scalars and input files, written NAME=VALUE."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...ir.cascade import Cascade, Role
from ...ir.diagnostics import did_you_mean, error

_PAIR = re.compile(r"([A-Za-z_][A-Za-z0-9_]*'*)\s*=\s*(.*)", re.DOTALL)


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE, for argparse."""
    match = _PAIR.fullmatch(text.strip())
    if match is None or not match[2].strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return match[1], match[2].strip()


def pairs(text: str) -> list[tuple[str, str]]:
    """NAME=VALUE,NAME=VALUE,…, for argparse."""
    return [pair(part) for part in text.split(",") if part.strip()]


def size(name: str, text: str) -> int:
    """A size as a number. Raises EinfallError E1012."""
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise error("E1012", f"the size `{name}` is a whole number, not {text!r}") from None


def number(name: str, text: str) -> int | float | bool:
    """A scalar argument. Raises EinfallError E1014."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise error("E1014", f"`{name}` is a number, not {text!r}")


def sizes_of(cascade: Cascade, given: Iterable[tuple[str, str]]) -> dict[str, int]:
    """NAME=VALUE pairs that are all sizes. Raises EinfallError E1001, E1012."""
    found: dict[str, int] = {}
    for name, text in given:
        if name not in cascade.sizes:
            raise error(
                "E1001",
                f"`{cascade.name}` has no size `{name}`",
                help=did_you_mean(name, cascade.sizes) or f"its sizes are {', '.join(cascade.sizes) or 'none'}",
            )
        found[name] = size(name, text)
    return found


def sort_arguments(
    cascade: Cascade, given: Iterable[tuple[str, str]]
) -> tuple[dict[str, np.ndarray], dict[str, int | float | bool], dict[str, int]]:
    """(arrays, scalars, sizes) from NAME=VALUE pairs; the value of a tensor is the name of a file.

    Raises EinfallError E1001, E1012, E1014, E1101, E1112.
    """
    arrays: dict[str, np.ndarray] = {}
    scalars: dict[str, int | float | bool] = {}
    sizes: dict[str, int] = {}
    for name, text in given:
        tensor = cascade.by_name.get(name)
        if tensor is not None and tensor.role is Role.SCALAR:
            scalars[name] = number(name, text)
        elif tensor is not None and tensor.is_parameter:
            arrays[name] = _only_array(name, Path(text))
        elif name in cascade.sizes:
            sizes[name] = size(name, text)
        else:
            known = [*(p.name for p in cascade.parameters), *cascade.sizes]
            raise error(
                "E1001",
                f"`{cascade.name}` has no parameter or size `{name}`",
                help=did_you_mean(name, known) or f"it has {', '.join(known)}",
            )
    return arrays, scalars, sizes


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises EinfallError E1101, E1102, E1112."""
    loaded = _loaded(path)
    if isinstance(loaded, np.ndarray):
        raise error("E1112", f"{path} holds one array without a name", help=f"give it as NAME={path}")
    return loaded


def store_arrays(cascade: Cascade, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays read from files with the types that NumPy's file format cannot name put back: raw bytes of the right width
    are taken for the parameter's type.
    """
    found = {}
    for name, array in arrays.items():
        tensor = cascade.by_name.get(name)
        wanted = tensor.value.storage if tensor is not None else array.dtype
        found[name] = array.view(wanted) if array.dtype.kind == "V" and array.itemsize == wanted.itemsize else array
    return found


def _only_array(name: str, path: Path) -> np.ndarray:
    loaded = _loaded(path)
    if isinstance(loaded, np.ndarray):
        return loaded
    if name in loaded:
        return loaded[name]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise error("E1112", f"{path} holds several arrays, none of them `{name}`: {', '.join(loaded)}", help=f"--inputs {path}")


def _loaded(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    from ...runtime.artifact import read_file

    read_file(path)  # the errors of missing files and folders
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as failure:  # a foreign file can fail in any way: zip, zlib, struct, tokenize …
        reason = str(failure).strip().partition("\n")[0]
        raise error("E1112", f"{path} is no NumPy file (.npy or .npz): {reason}") from None
