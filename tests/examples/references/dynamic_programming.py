"""Dynamic programs, by recursion over prefixes, by enumeration, or by another algorithm for the same quantity."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from .registry import Array, reference, symbols


@reference()
def dtw(X: Array, Y: Array) -> Array:
    def of(x: Array, y: Array) -> float:
        @cache
        def best(i: int, j: int) -> float:
            cost = float(((x[i] - y[j]) ** 2).sum())
            before = [best(*at) for at in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(at) >= 0]
            return cost + min(before, default=0.0)

        return best(len(x) - 1, len(y) - 1)

    return np.array([of(x, y) for x, y in zip(X, Y, strict=True)])


@reference(S=symbols(3), T=symbols(3))
def edit_distance(S: Array, T: Array) -> Array:
    def of(s: Array, t: Array) -> int:
        @cache
        def best(i: int, j: int) -> int:
            if i == 0 or j == 0:
                return i + j
            if s[i - 1] == t[j - 1]:
                return best(i - 1, j - 1)
            return 1 + min(best(i - 1, j), best(i, j - 1), best(i - 1, j - 1))

        return best(len(s), len(t))

    return np.array([of(s, t) for s, t in zip(S, T, strict=True)])


@reference(S=symbols(3), T=symbols(3))
def longest_common_subsequence(S: Array, T: Array) -> Array:
    def of(s: Array, t: Array) -> int:
        # Every subsequence of s, the longest that t contains.
        def contained(word: Array) -> bool:
            rest = iter(t)
            return all(any(letter == other for other in rest) for letter in word)

        picks = product([False, True], repeat=len(s))
        return max(sum(pick) for pick in picks if contained(s[list(pick)]))

    return np.array([of(s, t) for s, t in zip(S, T, strict=True)])


@reference()
def smith_waterman(S: Array, T: Array, W: Array) -> Array:
    def of(s: Array, t: Array) -> float:
        @cache
        def ending(i: int, j: int) -> float:
            """The best score of an alignment that ends before s[i] and t[j], or of none."""
            if i == 0 or j == 0:
                return 0.0
            match = ending(i - 1, j - 1) + float(W[s[i - 1], t[j - 1]])
            return max(0.0, match, ending(i - 1, j) - 0.5, ending(i, j - 1) - 0.5)

        return max(ending(i, j) for i in range(len(s) + 1) for j in range(len(t) + 1))

    return np.array([of(s, t) for s, t in zip(S, T, strict=True)])


@reference()
def gotoh(S: Array, T: Array, W: Array) -> Array:
    def of(s: Array, t: Array) -> float:
        # Cubic: a gap of any length g costs 1 + (g - 1) / 4 at once (Waterman, Smith and Beyer, 1976).
        @cache
        def best(i: int, j: int) -> float:
            if i == j == 0:
                return 0.0
            ways = [best(i - g, j) - 1 - (g - 1) / 4 for g in range(1, i + 1)]
            ways += [best(i, j - g) - 1 - (g - 1) / 4 for g in range(1, j + 1)]
            if i and j:
                ways.append(best(i - 1, j - 1) + float(W[s[i - 1], t[j - 1]]))
            return max(ways)

        return best(len(s), len(t))

    return np.array([of(s, t) for s, t in zip(S, T, strict=True)])


@reference()
def viterbi(start: Array, A: Array, E: Array) -> tuple[Array, Array]:
    B, T, S = E.shape
    score, back = np.empty(B), np.empty((B, T, S), dtype=int)
    for b in range(B):
        v = start
        for t in range(T):
            arrive = v[:, None] + A
            back[b, t] = arrive.argmax(axis=0)
            v = arrive.max(axis=0) + E[b, t]
        score[b] = v.max()
    return score, back


@reference()
def hmm_forward(start: Array, A: Array, E: Array) -> Array:
    # In plain probabilities; the numbers are small enough here.
    def of(emission: Array) -> float:
        v = np.exp(start)
        for e in emission:
            v = (v @ np.exp(A)) * np.exp(e)
        return float(np.log(v.sum()))

    return np.array([of(emission) for emission in E])


def every_path(start: Array, A: Array, emission: Array) -> Array:
    """The score of each state sequence of a hidden Markov model, by enumeration (S^(T+1) of them)."""
    T, S = emission.shape
    return np.array(
        [
            start[path[0]] + sum(A[path[t], path[t + 1]] + emission[t, path[t + 1]] for t in range(T))
            for path in product(range(S), repeat=T + 1)
        ]
    )


@reference()
def floyd_warshall(W: Array) -> Array:
    # Bellman–Ford from every vertex, V - 1 times.
    lengths = np.abs(W)
    np.fill_diagonal(lengths, 0)
    D = lengths
    for _ in range(len(W) - 1):
        D = (D[:, :, None] + lengths[None]).min(axis=1)
    return D
