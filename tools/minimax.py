"""Derives the polynomial coefficients of `codegen/functions/` (Remez exchange in multiple precision).

Run `python tools/minimax.py` to print every table; the numbers in the source are this program's output. Needs mpmath.

Method: for a target f and a weight w, find the polynomial p of degree n that levels w(x)·(f(x) − p(x)) at n + 2 points
(E. Ya. Remez 1934; Muller, *Elementary Functions*, 3rd ed., section 3.5). Coefficients are then rounded to the format
one at a time, lowest power first, and what the rounding of one loses is refitted (least squares) by those that follow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 50
Real = Callable[[mp.mpf], mp.mpf]
POINTS = 801
ERF_WIDTH = 17 / 64
"""Of a piece of erf: a short fraction, so that its multiples are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A table of coefficients, lowest power first, of p ≈ `f` on [`low`, `high`] under `weight`."""

    table: str
    f: Real
    weight: Real
    low: float
    high: float
    degree: int
    double: bool = False


def chebyshev_points(low: float, high: float) -> list[mp.mpf]:
    """Chebyshev points of the interval without those so near to 0 that the difference quotients lose their digits."""
    middle, radius = (mp.mpf(low) + mp.mpf(high)) / 2, (mp.mpf(high) - mp.mpf(low)) / 2
    points = [middle - radius * mp.cos(mp.pi * k / (POINTS - 1)) for k in range(POINTS)]
    return [x for x in points if abs(x) > mp.mpf("1e-8")]


def remez(xs: Sequence[mp.mpf], values: Sequence[mp.mpf], weights: Sequence[mp.mpf], degree: int) -> list[mp.mpf]:
    """The weighted minimax polynomial of `degree` on the points `xs`."""
    count = degree + 2
    chosen = [round((len(xs) - 1) * k / (count - 1)) for k in range(count)]
    solution: list[mp.mpf] = []
    for _ in range(40):
        rows = [[*(xs[i] ** p for p in range(degree + 1)), (-1) ** k / weights[i]] for k, i in enumerate(chosen)]
        found = mp.lu_solve(mp.matrix(rows), mp.matrix([values[i] for i in chosen]))
        solution, level = [found[k] for k in range(degree + 1)], abs(found[degree + 1])
        polynomial = list(reversed(solution))
        errors = [w * (v - mp.polyval(polynomial, x)) for x, v, w in zip(xs, values, weights, strict=True)]
        peaks: list[int] = []
        for i, error in enumerate(errors):
            if not peaks or mp.sign(errors[peaks[-1]]) != mp.sign(error):
                peaks.append(i)
            elif abs(error) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        while len(peaks) > count:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < count or max(map(abs, errors)) <= level * mp.mpf("1.001"):
            break
        chosen = peaks
    return solution


def solve(task: Fit) -> tuple[list[float], float]:
    """The coefficients in the format, lowest power first, and the largest weighted error on the interval."""
    xs = chebyshev_points(task.low, task.high)
    values, weights = [task.f(x) for x in xs], [abs(task.weight(x)) for x in xs]
    coefficients = remez(xs, values, weights, task.degree)
    points, scale = np.array([float(x) for x in xs]), np.array([float(w) for w in weights])
    for k, exact in enumerate(coefficients):
        near = mp.mpf(float(exact) if task.double else float(np.float32(float(exact))))
        coefficients[k] = near
        if k == task.degree:
            break
        # What rounding took away, as a combination of the higher powers.
        powers = np.arange(k + 1, task.degree + 1)
        basis = scale[:, None] * points[:, None] ** powers
        lost, *_ = np.linalg.lstsq(basis, scale * points**k * float(exact - near), rcond=None)
        for power, correction in zip(powers, lost, strict=True):
            coefficients[power] += mp.mpf(float(correction))
    polynomial = list(reversed(coefficients))
    error = max(w * abs(v - mp.polyval(polynomial, x)) for x, v, w in zip(xs, values, weights, strict=True))
    return [float(c) for c in coefficients], float(error)


def exp_tail(r: mp.mpf) -> mp.mpf:
    """q with e^r = 1 + r + r²·q(r)."""
    return (mp.expm1(r) - r) / r**2


def exp_slope(r: mp.mpf) -> mp.mpf:
    """q with e^r = 1 + r·q(r)."""
    return mp.expm1(r) / r


def exp2_tail(r: mp.mpf) -> mp.mpf:
    """q with 2^r = 1 + r·q(r)."""
    return mp.expm1(r * mp.ln(2)) / r


def log_tail(f: mp.mpf) -> mp.mpf:
    """q with log(1 + f) = f + f²·q(f)."""
    return (mp.log1p(f) - f) / f**2


def log2_tail(f: mp.mpf) -> mp.mpf:
    """q with log2(1 + f) = f·log2(e) + f²·q(f)."""
    return log_tail(f) / mp.ln(2)


def erf_exponent(a: mp.mpf) -> mp.mpf:
    """g with erf(a) = 1 − exp(−a·g(a))."""
    return -mp.log(mp.erfc(a)) / a


def erf_weight(a: mp.mpf) -> mp.mpf:
    """The relative error of erf(a) per absolute error of g(a)."""
    return a / mp.expm1(a * erf_exponent(a))


def erf_pieces() -> tuple[Fit, ...]:
    """One table for each of 16 pieces of [0, 4]: in powers of the distance from the middle, the first one erf(r)/r."""
    width, last = ERF_WIDTH, 4.0

    def at(n: int) -> Fit:
        middle = n * width
        low, high = (0.0 if n == 0 else -width / 2), min(width / 2, last - middle)
        if n == 0:
            return Fit(table="ERF_PIECES 0", f=erf_ratio, weight=lambda r: 1 / erf_ratio(r), low=low, high=high, degree=4)
        return Fit(
            table=f"ERF_PIECES {n}",
            f=lambda r: mp.erf(middle + r),
            weight=lambda r: 1 / mp.erf(middle + r),
            low=low,
            high=high,
            degree=5,
        )

    return tuple(map(at, range(16)))


def erf_ratio(r: mp.mpf) -> mp.mpf:
    """erf(r) / r."""
    return mp.erf(r) / r if r else 2 / mp.sqrt(mp.pi)


def fits(double: bool) -> tuple[Fit, ...]:
    """The tables for float32 or float64."""
    r, s, f = 0.3475, 0.5005, 0.3335  # a little over ln2/2, 1/2, 1/3: reduced arguments are themselves rounded

    def table(name: str, target: Real, weight: Real, low: float, high: float, degrees: tuple[int, int]) -> Fit:
        return Fit(table=name, f=target, weight=weight, low=low, high=high, degree=degrees[double], double=double)

    step = Fit(table="EXP_STEP", f=exp_slope, weight=lambda r: r, low=-0.0109, high=0.0109, degree=1)  # over ln2/64
    single = () if double else (*erf_pieces(), step)
    return (
        *single,
        table("EXP", exp_tail, lambda x: x * x / mp.expm1(x), -r, r, (4, 9)),
        table("EXP2", exp2_tail, lambda x: x / mp.power(2, x), -s, s, (5, 11)),
        table("LOG", log_tail, lambda x: x * x / mp.log1p(x), -f, f, (8, 18)),
        table("LOG2", log2_tail, lambda x: x * x * mp.ln(2) / mp.log1p(x), -f, f, (8, 18)),
        table("ERF", erf_exponent, erf_weight, 0.0, 6.0 if double else 4.0, (10, 28)),
    )


def main() -> None:
    """Prints the tables as Python source with the error of each; arguments select tables by name."""
    for double in (False, True):
        for task in fits(double):
            if sys.argv[1:] and task.table.split()[0] not in sys.argv[1:]:
                continue
            coefficients, error = solve(task)
            kind = "float64" if double else "float32"
            print(f"# {task.table} {kind}: weighted error {error:.2e} on [{task.low}, {task.high}]")
            print("(" + ", ".join(map(repr, coefficients)) + ")", flush=True)


if __name__ == "__main__":
    main()
