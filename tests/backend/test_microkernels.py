"""Every matrix product that a machine has a micro-kernel for: types, orders of the operands, edges, strides, threads.

The operands are small whole numbers, so that the sum is exact in any order and has to be equal bit by bit. They lie in larger
arrays of NaN (or of a large number, for integers): whatever is read beyond an edge shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import einfall
from einfall.compiler.checking import compare
from einfall.compiler.host import host_target
from einfall.compiler.program import read_program
from einfall.ir.target import named
from einfall.runtime.kernel import Kernel

STORAGE = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "i32": np.int32,
    "i16": np.int16,
    "i8": np.int8,
    "u8": np.uint8,
}


@dataclass(frozen=True, kw_only=True)
class Types:
    """Element types of both operands and of the result."""

    x: str
    w: str
    y: str

    def __str__(self) -> str:
        return f"{self.x}·{self.w}→{self.y}"


TYPES = [
    Types(x=x, w=w, y=y)
    for x, w, y in (
        ("f32", "f32", "f32"),
        ("f64", "f64", "f64"),
        ("bf16", "bf16", "f32"),
        ("bf16", "bf16", "bf16"),
        ("f16", "f16", "f32"),
        ("f32", "bf16", "f32"),
        ("u8", "i8", "i32"),
        ("i8", "i8", "i32"),
        ("u8", "u8", "i32"),
        ("i16", "i16", "i32"),
    )
]
ORDERS = {
    "rows by rows": ("M, K", "N, K", "X[m, k] * W[n, k]"),
    "rows by columns": ("M, K", "K, N", "X[m, k] * W[k, n]"),
    "columns by columns": ("K, M", "K, N", "X[k, m] * W[k, n]"),
}
TARGETS = ("cpu", "cpu:haswell", "cpu:icelake-server")

# From one element to past two tiles of every register and matrix tile: 6 x 64, 14 x 32 and 32 x 32, depths of 32 and 64.
ROWS = (1, 2, 3, 5, 6, 7, 8, 13, 15, 16, 17, 29, 32, 33, 65)
COLUMNS = (1, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 97, 129)
DEPTHS = (1, 2, 3, 4, 5, 16, 31, 33, 63, 64, 65, 129)
EDGES = tuple(product(ROWS, COLUMNS, DEPTHS))
FEW = tuple(product((1, 6, 7, 17, 33, 65), (1, 16, 17, 65, 129), (1, 5, 33, 65)))


def program(types: Types, order: str) -> str:
    x, w, body = ORDERS[order]
    return f"kernel p(X: {types.x}[{x}], W: {types.w}[{w}]) -> (Y: {types.y}[M, N]) {{ Y[m, n] = {body} }}"


@cache
def compiled(text: str, target: str = "cpu", **sizes: int) -> Kernel:
    return einfall.compile(text, target=target, cache=False, **sizes)


def needs(target: str) -> None:
    """Skips where this machine lacks what the target has."""
    name = target.partition(":")[2]
    if name and not (named("cpu", name).features <= host_target().features):
        pytest.skip(f"this machine cannot run code for {name}")


def whole(dtype: str, rows: int, columns: int, seed: int) -> np.ndarray:
    """Whole numbers from -3 (0 for an unsigned type) to 3, inside of an array of other values."""
    storage = STORAGE[dtype]
    low = 0 if dtype.startswith("u") else -3
    around = np.full((rows + 3, columns + 5), 99 if dtype[0] in "iu" else np.nan).astype(storage)
    inside = around[1 : rows + 1, 2 : columns + 2]
    inside[...] = np.random.default_rng(seed).integers(low, 4, (rows, columns)).astype(storage)
    return inside


def oriented(order: str, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``x`` (m, k) and ``w`` (n, k) as the program takes them, still inside of something else."""
    return (_turned(x) if order == "columns by columns" else x), (w if order == "rows by rows" else _turned(w))


def _turned(x: np.ndarray) -> np.ndarray:
    around = np.full((x.shape[1] + 3, x.shape[0] + 5), 99 if x.dtype.kind in "iu" else np.nan).astype(x.dtype)
    inside = around[1 : x.shape[1] + 1, 2 : x.shape[0] + 2]
    inside[...] = x.T
    return inside


def check_edges(types: Types, order: str, target: str, sizes: Iterable[tuple[int, int, int]], **fixed: int) -> None:
    """All of these sizes: equal to the product in f64, which is exact, rounded once; nothing is written beyond the result."""
    kernel = compiled(program(types, order), target, **fixed)
    storage = STORAGE[types.y]
    largest = max(ROWS), max(COLUMNS), max(DEPTHS)
    xs, ws = whole(types.x, largest[0], largest[2], 1), whole(types.w, largest[1], largest[2], 2)
    for m, n, k in sizes:
        x, w = xs[:m, :k], ws[:n, :k]
        frame = np.full((m + 2, n + 5), 77).astype(storage)
        kernel(*oriented(order, x, w), out=frame[1:-1, 2:-3])
        wanted = frame.copy()
        wanted[1:-1, 2:-3] = (x.astype(np.float64) @ w.astype(np.float64).T).astype(storage)
        np.testing.assert_array_equal(frame, wanted, err_msg=f"{types} {order} {target} m={m} n={n} k={k}")


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_edges_on_this_machine(types: Types) -> None:
    check_edges(types, "rows by rows", "cpu", FEW)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("types", TYPES, ids=str)
def test_edges_of_every_order_on_older_machines_too(types: Types, order: str, target: str) -> None:
    needs(target)
    check_edges(types, order, target, EDGES)


@pytest.mark.slow
@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("types", TYPES, ids=str)
def test_few_rows_known_when_compiled(types: Types, rows: int) -> None:
    check_edges(types, "rows by rows", "cpu", product((rows,), COLUMNS, DEPTHS), M=rows)


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_vectors(types: Types) -> None:
    """One row, and one column: matrix times vector in both orders."""
    row = f"kernel p(X: {types.x}[K], W: {types.w}[N, K]) -> (Y: {types.y}[N]) {{ Y[n] = X[k] * W[n, k] }}"
    column = f"kernel p(X: {types.x}[K], W: {types.w}[K, N]) -> (Y: {types.y}[N]) {{ Y[n] = X[k] * W[k, n] }}"
    for n, k in product(COLUMNS, (*DEPTHS, 257)):
        x, w = whole(types.x, 1, k, 1)[0], whole(types.w, n, k, 2)
        wanted = (w.astype(np.float64) @ x.astype(np.float64)).astype(STORAGE[types.y])
        np.testing.assert_array_equal(compiled(row)(x, w), wanted, err_msg=f"n={n} k={k}")
        np.testing.assert_array_equal(compiled(column)(x, _turned(w)), wanted, err_msg=f"columns, n={n} k={k}")


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_strides_and_shared_memory(types: Types) -> None:
    """Rows and columns left out, backwards, transposed, repeated; both operands in one array."""
    kernel = compiled(program(types, "rows by rows"))
    for m, n, k in ((1, 33, 65), (7, 1, 31), (17, 66, 130)):
        x, w = whole(types.x, 2 * m, 2 * k, 1), whole(types.w, 2 * n, 2 * k, 2)
        forms = {
            "every second row": (x[::2, :k], w[::2, :k]),
            "every second column": (x[:m, ::2], w[:n, ::2]),
            "backwards": (x[m - 1 :: -1, :k] if m > 1 else x[:1, :k], w[:n, k - 1 :: -1]),
            "column-major": (np.asfortranarray(x[:m, :k]), np.asfortranarray(w[:n, :k])),
            "one row repeated": (np.broadcast_to(x[:1, :k], (m, k)), np.broadcast_to(w[:1, :k], (n, k))),
            "one number repeated": (np.broadcast_to(x[0, 0], (m, k)), w[:n, :k]),
        }
        for name, (a, b) in forms.items():
            wanted = (a.astype(np.float64) @ b.astype(np.float64).T).astype(STORAGE[types.y])
            np.testing.assert_array_equal(kernel(a, b), wanted, err_msg=f"{name} m={m} n={n} k={k}")


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_nothing_to_add_or_to_do(types: Types) -> None:
    kernel = compiled(program(types, "rows by rows"))
    for m, n, k in ((0, 5, 3), (5, 0, 3), (4, 33, 0), (0, 0, 0)):
        found = kernel(np.zeros((m, k), STORAGE[types.x]), np.zeros((n, k), STORAGE[types.w]))
        assert found.shape == (m, n) and not found.any()


@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("sizes", [(97, 130, 300), (1, 600, 700), (8, 513, 257)], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(types: Types, sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    random = np.random.default_rng(3)
    x, w = (
        random.standard_normal(shape).astype(STORAGE[dtype]) if dtype[0] in "fb" else whole(dtype, *shape, 4)
        for dtype, shape in ((types.x, (m, k)), (types.w, (n, k)))
    )
    kernel = compiled(program(types, "rows by rows"))
    one, two = kernel(x, w, threads=1), kernel(x, w, threads=2)
    assert one.tobytes() == two.tobytes()
    outcome = compare(read_program(program(types, "rows by rows")).select(None), {"X": x, "W": w}, [one])
    assert outcome.passed, str(outcome)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("types", [t for t in TYPES if t.x[0] in "fb"], ids=str)
def test_infinities_and_nan_reach_their_row_and_column_only(types: Types, target: str) -> None:
    needs(target)
    kernel = compiled(program(types, "rows by rows"), target)
    for m, n, k in ((1, 40, 33), (13, 70, 65), (34, 130, 130)):
        x, w = whole(types.x, m, k, 1).copy(), whole(types.w, n, k, 2).copy()
        w[w == 0] = 1
        x[m // 2, k // 2], w[n // 2, k // 3], x[-1, -1] = np.inf, np.nan, -np.inf
        with np.errstate(invalid="ignore"):
            wanted = (x.astype(np.float64) @ w.astype(np.float64).T).astype(STORAGE[types.y])
        found = kernel(x, w).astype(np.float64)  # NumPy finds no NaN in a bf16 array
        np.testing.assert_array_equal(found, wanted.astype(np.float64), err_msg=f"m={m} n={n} k={k}")


@pytest.mark.parametrize("online", [True, False], ids=["one pass", "as written"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_operands_that_are_computed(dtype: str, online: bool) -> None:
    """Both products of attention: an epilogue on one, an operand from the same loops for the other."""
    path = Path(einfall.__file__).parent / "examples/attention/attention.ecs"
    text = path.read_text("utf-8").replace("f32", dtype)
    kernel = einfall.compile(text, online=online, cache=False)
    cascade = read_program(text).select(None)
    random = np.random.default_rng(5)
    for p, m, e, f in ((1, 1, 8, 8), (33, 65, 16, 24), (64, 64, 64, 64), (70, 130, 40, 33)):
        shapes = {"Q": (2, p, e), "K": (2, m, e), "V": (2, m, f)}
        given = {name: random.standard_normal(shape).astype(STORAGE[dtype]) for name, shape in shapes.items()}
        outcome = compare(cascade, given, [kernel(**given)])
        assert outcome.passed, str(outcome)


@pytest.mark.parametrize("types", [t for t in TYPES if t.x[0] in "iu"], ids=str)
def test_integers_at_the_ends_of_their_range(types: Types) -> None:
    """The largest products of bytes overflow 16 bits: instructions that saturate there would show."""
    kernel = compiled(program(types, "rows by rows"))
    ends = {name: (np.iinfo(STORAGE[name]).min, np.iinfo(STORAGE[name]).max) for name in (types.x, types.w)}
    m, n, k = 9, 35, 66 if types.x != "i16" else 1
    for a, b in product(ends[types.x], ends[types.w]):
        x, w = np.full((m, k), a, STORAGE[types.x]), np.full((n, k), b, STORAGE[types.w])
        wanted = x.astype(np.int64) @ w.astype(np.int64).T
        np.testing.assert_array_equal(kernel(x, w), wanted)
