"""Billions of elements per second of the real functions: ours, TVM's own, NumPy's and PyTorch's.

`python bench/cpu/functions.py [--size N] [name …]`. Float32, arrays that stay in a core's cache (default 32768
elements); ours, TVM and NumPy run on one core, PyTorch on one and on two. `masked` is our speed where half of the
arguments are -inf, as attention masks make them (exp, exp2, sigmoid). TVM has no erf for LLVM.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import tvm
from rich.console import Console
from rich.table import Table
from scipy import special
from tvm import tirx

from einfall.codegen import functions, pipeline
from einfall.codegen.microkernels.statements import Statements, index

LANES = 16
TVM = {n: getattr(tirx, n) for n in functions.REAL}
NUMPY: dict[str, Callable[..., np.ndarray]] = {
    **{n: getattr(np, n) for n in ("exp", "exp2", "log", "log2", "sqrt", "tanh")},
    "sigmoid": special.expit,
    "erf": special.erf,
}
TORCH = {n: getattr(torch, n) for n in functions.REAL}


def compile(f: Callable[[tirx.Expr, functions.Bind], tirx.Expr]) -> tvm.runtime.Executable:
    """A kernel that applies `f` to vectors of an array whose size is a multiple of the lanes."""
    size = tirx.Var("size", "int64")
    x, y = (tirx.decl_buffer((size,), "float32", name=n) for n in "xy")
    statements = Statements()
    with statements.loop("i", tirx.truncdiv(size, index(LANES))) as i:
        at = tirx.Ramp(i * LANES, index(1), LANES)
        statements.store(y, at, f(tirx.BufferLoad(x, [at]), statements.share))
    function = tirx.PrimFunc([x, y], statements.finish()).with_attr("global_symbol", "main")
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    module = tvm.IRModule({"main": function.with_attr("tirx.noalias", True)})
    return tvm.compile(module, target=target, tir_pipeline=pipeline.NAME)


def rate(call: Callable[[], object], size: int) -> float:
    """Billions of elements per second: the best of 7 runs of about 10 ms."""
    call()
    start = time.perf_counter()
    call()
    number = max(1, int(0.01 / max(time.perf_counter() - start, 1e-7)))
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(number):
            call()
        best = min(best, (time.perf_counter() - start) / number)
    return size / best / 1e9


def arguments(name: str, size: int) -> np.ndarray:
    """Random arguments from where the function is interesting."""
    low, high = (0.1, 9) if name in ("log", "log2", "sqrt", "rsqrt") else (-5, 5)
    return np.random.default_rng(1).uniform(low, high, size).astype(np.float32)


def row(name: str, size: int) -> list[str]:
    x = arguments(name, size)
    tvm_x, tvm_y = tvm.runtime.tensor(x), tvm.runtime.tensor(np.zeros_like(x))
    speeds: list[float | None] = []
    ours = compile(functions.REAL[name])
    speeds.append(rate(lambda: ours(tvm_x, tvm_y), size))
    if name in ("exp", "exp2", "sigmoid"):
        masked = tvm.runtime.tensor(np.where(np.arange(size) % 2, x, -np.inf).astype(np.float32))
        speeds.append(rate(lambda: ours(masked, tvm_y), size))
    else:
        speeds.append(None)
    if name == "erf":
        speeds.append(None)
    else:
        theirs = compile(lambda value, _: TVM[name](value))
        speeds.append(rate(lambda: theirs(tvm_x, tvm_y), size))
    if name in NUMPY:
        out = np.empty_like(x)
        speeds.append(rate(lambda: NUMPY[name](x, out=out), size))
    else:
        speeds.append(None)
    torch_x, torch_y = torch.from_numpy(x), torch.empty(size)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        speeds.append(rate(lambda: TORCH[name](torch_x, out=torch_y), size))
    return [name, *("" if s is None else f"{s:.2f}" for s in speeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=[], metavar="name", help="functions; all if none is given")
    parser.add_argument("--size", type=int, default=32768, help="elements, rounded up to a multiple of 16")
    options = parser.parse_args()
    size = -(-options.size // LANES) * LANES
    table = Table(title=f"G elements/s, float32, {size} elements")
    for column in ("function", "ours", "masked", "TVM", "NumPy", "torch, 1 thread", "torch, 2 threads"):
        table.add_column(column, justify="left" if column == "function" else "right")
    for name in options.names or functions.REAL:
        table.add_row(*row(name, size))
    Console().print(table)


if __name__ == "__main__":
    main()
