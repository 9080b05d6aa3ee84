"""Is what a compiled kernel computes what the program says? Comparison with the interpreter.

A result passes when its error against the exact interpreter is within a small factor of the error that the typed
interpreter makes by rounding after every Einsum, plus a few units of rounding; for f64, in which both interpreters round
alike, of how far the result moves with its f64 arguments. Where the program is discontinuous (``floor``, ``argmax``,
comparisons, conversions to integers), a rounding can change a value altogether: there the exact or the typed interpreter's
value will do, element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.cascade import Cascade, Tensor
from ..ir.expr import Bitcast, Cast, Default, Expr, Op, Select, walk
from ..ir.interpreter import interpret
from ..ir.operators import REDUCTIONS
from ..ir.types import F64, DType

_FACTOR = 8.0
"""How much larger than the typed interpreter's an error may be: another order of summation, functions within 4 ulp."""

_ULPS = 32.0
"""Roundings that are allowed where the typed interpreter happens to make none, relative to the largest value."""

_JUMPS = frozenset({"floor", "ceil", "round", "sign", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultComparison:
    """One result. Errors are against the exact interpreter; ``relative`` is to the largest exact value."""

    name: str
    shape: tuple[int, ...]
    error: float
    relative: float
    allowed: float
    passed: bool
    reason: str = ""

    def __str__(self) -> str:
        if self.passed:
            return f"{self.name}{list(self.shape)}: agrees, largest error {self.error:.2g} ({self.allowed:.2g} allowed)"
        return f"{self.name}{list(self.shape)}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All results of one call."""

    results: tuple[ResultComparison, ...]

    @property
    def passed(self) -> bool:
        return all(each.passed for each in self.results)

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((each.relative for each in self.results), default=0.0)

    def to_json(self) -> dict[str, object]:
        return {
            "passed": self.passed,
            "results": [
                {"name": r.name, "passed": r.passed, "error": r.error, "relative": r.relative, "reason": r.reason}
                for r in self.results
            ],
        }

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))


def compare(
    cascade: Cascade,
    arguments: Mapping[str, np.ndarray | int | float | bool],
    found: Sequence[np.ndarray],
    *,
    sizes: Mapping[str, int] | None = None,
) -> Comparison:
    """Compare the results ``found`` by a compiled kernel with the interpreter's for the same arguments."""
    with np.errstate(all="ignore"):
        exact = interpret(cascade, arguments, sizes=sizes, mode="exact")
        typed = interpret(cascade, arguments, sizes=sizes, mode="typed")
        jumps = is_discontinuous(cascade)
        moved = exact
        if not jumps and any(tensor.value == F64 for tensor in cascade.results):
            moved = interpret(cascade, _moved(arguments), sizes=sizes, mode="exact")
        return Comparison(
            results=tuple(
                _compare(
                    tensor,
                    np.asarray(value),
                    exact[tensor.name],
                    typed[tensor.name],
                    moved[tensor.name],
                    jumps,
                    cascade.tolerance,
                )
                for tensor, value in zip(cascade.results, found, strict=True)
            )
        )


def is_discontinuous(cascade: Cascade) -> bool:
    """Whether a small change of a float somewhere in the cascade can make a large one in a result."""
    for einsum in cascade.einsums:
        if einsum.reduction is not None and REDUCTIONS[einsum.reduction].coordinate:
            return True
        if any(_jumps(node) for expr in einsum.expressions() for node in walk(expr)):
            return True
        target = cascade.by_name[einsum.target].value
        if einsum.value.dtype.is_float and not target.is_float:
            return True
    return False


def _jumps(node: Expr) -> bool:
    match node:
        case Op(op=name, args=(first, *_)):
            return name in _JUMPS and first.dtype.is_float
        case Cast(dtype=dtype, value=value):
            return value.dtype.is_float and not dtype.is_float
        case Bitcast():
            return True
        case Select(condition=condition):
            return any(_jumps(inner) for inner in walk(condition))
        case Default():
            return False
        case _:
            return False


def _moved(arguments: Mapping[str, np.ndarray | int | float | bool]) -> dict[str, np.ndarray | int | float | bool]:
    """The arguments, every f64 up or down by a unit of rounding: the exact interpreter rounds in f64 as a kernel does, so
    that its error in a sum that cancels shows only in how far the sum moves with what it adds."""
    random = np.random.default_rng(0)

    def nudged(value: np.ndarray | int | float | bool) -> np.ndarray | int | float | bool:
        if not isinstance(value, np.ndarray) or value.dtype != np.float64:
            return value
        return np.asarray(value * (1 + np.finfo(np.float64).eps * random.choice((-1.0, 1.0), value.shape)))

    return {name: nudged(value) for name, value in arguments.items()}


def _compare(
    tensor: Tensor,
    found: np.ndarray,
    exact: np.ndarray,
    typed: np.ndarray,
    moved: np.ndarray,
    jumps: bool,
    tolerance: float | None,
) -> ResultComparison:
    if found.shape != exact.shape:
        return _failed(tensor, found, f"has the shape {list(found.shape)}, expected {list(exact.shape)}")
    if not tensor.value.is_float:
        good = found == exact
        if jumps:
            good |= found == typed
        return _verdict(tensor, found, exact, good, 0.0)
    values, reference, rounded = (x.astype(np.float64) for x in (found, exact, typed))
    finite = np.isfinite(reference)
    scale = float(np.max(np.abs(reference), where=finite, initial=0.0))
    both = finite & np.isfinite(rounded)
    near = finite & np.isfinite(moved)
    own = max(
        float(np.max(np.abs(rounded - reference), where=both, initial=0.0)),
        float(np.max(np.abs(moved - reference), where=near, initial=0.0)),
    )
    allowed = _FACTOR * own + _rounding(tensor.value) * scale + _tiniest(tensor.value)
    if tolerance is not None:
        allowed = max(allowed, tolerance * float(np.sqrt(np.sum(np.square(reference), where=finite))))
    good = _near(values, reference, allowed)
    if jumps or not bool(both.all()):
        good |= _near(values, rounded, allowed)
    return _verdict(tensor, values, reference, good, allowed)


def _rounding(dtype: DType) -> float:
    """The relative error that rounding to the type, and a sum in f32 in another order, may make."""
    unit = 2.0 ** -{"f64": 53, "f32": 24, "f16": 11, "bf16": 8, "f8_e4m3": 4, "f8_e5m2": 3}.get(dtype.name, 2)
    return _ULPS * 2.0**-53 if dtype.name == "f64" else _ULPS * 2.0**-24 + 2 * unit


def _tiniest(dtype: DType) -> float:
    """Where everything underflows, flushing to zero is a matter of taste."""
    return {"f64": 1e-300, "f32": 1e-37, "bf16": 1e-37, "f16": 6e-8}.get(dtype.name, 1e-3)


def _near(values: np.ndarray, reference: np.ndarray, allowed: float) -> np.ndarray:
    close = np.abs(values - reference) <= allowed
    return np.asarray(close | (values == reference) | (np.isnan(values) & np.isnan(reference)))


def _verdict(tensor: Tensor, found: np.ndarray, exact: np.ndarray, good: np.ndarray, allowed: float) -> ResultComparison:
    difference = np.abs(found.astype(np.float64) - exact.astype(np.float64))
    finite = np.isfinite(difference)
    error = float(np.max(difference, where=finite, initial=0.0))
    scale = float(np.max(np.abs(exact.astype(np.float64)), where=np.isfinite(exact.astype(np.float64)), initial=0.0))
    relative = error / scale if scale > 0 else error
    reason = ""
    if not bool(np.all(good)):
        wrong = int(np.size(good) - np.count_nonzero(good))
        place = tuple(int(i) for i in np.argwhere(~good)[0])
        reason = (
            f"{wrong} of {np.size(good)} elements are wrong; the first at {list(place)} is {found[place]}, "
            f"expected {exact[place]} (allowed error {allowed:.2g})"
        )
    return ResultComparison(
        name=tensor.name,
        shape=found.shape,
        error=error,
        relative=relative,
        allowed=allowed,
        passed=not reason,
        reason=reason,
    )


def _failed(tensor: Tensor, found: np.ndarray, reason: str) -> ResultComparison:
    return ResultComparison(
        name=tensor.name,
        shape=found.shape,
        error=float("inf"),
        relative=float("inf"),
        allowed=0.0,
        passed=False,
        reason=reason,
    )
