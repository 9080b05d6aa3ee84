"""Recurrences, step by step, or in the closed form where there is one."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit

from .registry import Array, reference


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


@reference()
def prefix_sum(X: Array) -> Array:
    return np.cumsum(X, axis=1)


@reference()
def running_max(X: Array) -> tuple[Array, Array]:
    return np.maximum.accumulate(X, axis=1), X.max(axis=1)


@reference()
def moving_average(X: Array, decay: Array) -> Array:
    keep = expit(decay)
    t = np.arange(len(X))
    # Closed form: the weight of x[s] in y[t] is (1 - a) a^(t - s).
    lag = np.maximum(t[:, None] - t[None, :], 0)
    causal = np.tri(len(X))[:, :, None]
    return np.einsum("tsd,sd->td", causal * (1 - keep) * keep ** lag[:, :, None], X)


@reference()
def linear_attention(Q: Array, K: Array, V: Array) -> Array:
    def feature(x: Array) -> Array:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1

    # The quadratic form: a masked matrix of similarities.
    similar = (feature(Q) @ feature(K).swapaxes(1, 2)) * np.tri(Q.shape[1])
    return similar @ V / similar.sum(-1, keepdims=True)


@reference()
def retention(Q: Array, K: Array, V: Array) -> Array:
    H, T, E = Q.shape
    t = np.arange(T)
    O = np.empty((H, T, V.shape[2]))
    for h in range(H):
        decay = np.tri(T) * (1 - 2.0 ** (-5 - h)) ** np.maximum(t[:, None] - t[None, :], 0)
        O[h] = (Q[h] @ K[h].T * decay) @ V[h] / np.sqrt(E)
    return O


@reference()
def gated_linear_attention(Q: Array, K: Array, V: Array, gate: Array) -> Array:
    # Parallel form: the decays between s and t are ratios of their running products.
    T, E = Q.shape[1:]
    total = np.cumsum(log_expit(gate) / 16, axis=1)
    decay = np.exp(total[:, :, None] - total[:, None, :])
    scores = np.einsum("hte,hse,htse->hts", Q, K, decay) * np.tri(T)
    return scores @ V / np.sqrt(E)


def _delta_rule(Q: Array, K: Array, V: Array, alpha: Array, beta: Array) -> Array:
    """S ← a (I − b k kᵀ) S + b k vᵀ, o = Sᵀ q, with unit keys, one head and step at a time."""
    H, T, E = Q.shape
    O = np.empty((H, T, V.shape[2]))
    for h in range(H):
        S = np.zeros((E, V.shape[2]))
        for t in range(T):
            k = K[h, t] / np.sqrt(K[h, t] @ K[h, t] + 1e-6)
            S = alpha[h, t] * (np.eye(E) - beta[h, t] * np.outer(k, k)) @ S + beta[h, t] * np.outer(k, V[h, t])
            O[h, t] = S.T @ Q[h, t]
    return O


@reference()
def deltanet(Q: Array, K: Array, V: Array, beta: Array) -> Array:
    return _delta_rule(Q, K, V, np.ones_like(beta), expit(beta))


@reference()
def gated_deltanet(Q: Array, K: Array, V: Array, alpha: Array, beta: Array) -> Array:
    return _delta_rule(Q, K, V, expit(alpha), expit(beta))


@reference()
def mamba_scan(U: Array, delta: Array, Alog: Array, B: Array, C: Array, skip: Array) -> Array:
    Y = np.empty_like(U)
    state = np.zeros_like(Alog)
    for t, (u, dt) in enumerate(zip(U, softplus(delta), strict=True)):
        state = np.exp(dt[:, None] * -np.exp(Alog)) * state + np.outer(dt * u, B[t])
        Y[t] = state @ C[t] + skip * u
    return Y


@reference()
def mamba2(X: Array, delta: Array, Alog: Array, B: Array, C: Array, skip: Array) -> Array:
    # The dual, attention-like form of the paper: Y = (L ∘ C Bᵀ) (dt X).
    T, H, _ = X.shape
    dt = softplus(delta)
    Y = np.empty_like(X)
    for h in range(H):
        total = np.cumsum(-dt[:, h] * np.exp(Alog[h]))
        L = np.tri(T) * np.exp(np.minimum(total[:, None] - total[None, :], 0))
        Y[:, h] = (L * (C @ B.T)) @ (dt[:, h : h + 1] * X[:, h]) + skip[h] * X[:, h]
    return Y


@reference()
def s4d(U: Array, Alog: Array, freq: Array, logdt: Array, CR: Array, CI: Array, skip: Array) -> Array:
    A = -np.exp(Alog) + 1j * freq
    dt = np.exp(logdt)[:, None]
    step = (1 + dt / 2 * A) / (1 - dt / 2 * A)
    entry = dt / (1 - dt / 2 * A)
    powers = step[None] ** np.arange(len(U))[:, None, None]
    impulse = 2 * np.real(((CR + 1j * CI) * entry * powers).sum(-1))
    Y = skip * U
    for t in range(len(U)):
        for s in range(t + 1):
            Y[t] += impulse[t - s] * U[s]
    return Y


@reference()
def s4d_convolution(U: Array, B: Array, C: Array, logdt: Array) -> Array:
    # The recurrent form.
    D, N = B.shape
    dt = np.exp(logdt)[:, None]
    state = np.zeros((D, N))
    Y = np.empty_like(U)
    for t, u in enumerate(U):
        state = np.exp(-dt * np.arange(1, N + 1)) * state + dt * B * u[:, None]
        Y[t] = (C * state).sum(1)
    return Y


@reference()
def rg_lru(X: Array, WA: Array, BA: Array, WX: Array, BX: Array, decay: Array) -> Array:
    state = np.zeros(X.shape[1])
    Y = np.empty_like(X)
    for t, x in enumerate(X):
        log_a = -8 * softplus(decay) * expit(x @ WA + BA)
        state = np.exp(log_a) * state + np.sqrt(-np.expm1(2 * log_a)) * expit(x @ WX + BX) * x
        Y[t] = state
    return Y


@reference()
def elman(X: Array, H0: Array, W: Array, U: Array, bias: Array) -> Array:
    states = [H0]
    for x in X:
        states.append(np.tanh(x @ W.T + states[-1] @ U.T + bias))
    return np.stack(states[1:])


@reference()
def lstm(X: Array, H0: Array, C0: Array, W: Array, U: Array, bias: Array) -> tuple[Array, Array, Array]:
    h, c = H0, C0
    Y = np.empty((len(X), *H0.shape))
    for t, x in enumerate(X):
        i, f, g, o = (x @ W[j].T + h @ U[j].T + bias[j] for j in range(4))
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        Y[t] = h
    return Y, h, c


@reference()
def gru(X: Array, H0: Array, W: Array, U: Array, BW: Array, BU: Array) -> Array:
    h = H0
    Y = np.empty((len(X), *H0.shape))
    for t, x in enumerate(X):
        reset = expit(x @ W[0].T + BW[0] + h @ U[0].T + BU[0])
        update = expit(x @ W[1].T + BW[1] + h @ U[1].T + BU[1])
        new = np.tanh(x @ W[2].T + BW[2] + reset * (h @ U[2].T + BU[2]))
        h = new + update * (h - new)
        Y[t] = h
    return Y


@reference()
def slstm(X: Array, U: Array) -> Array:
    # Without the stabiliser: it cancels in c / n.
    T, _, N = X.shape
    h, c, n = np.zeros(N), np.zeros(N), np.zeros(N)
    Y = np.empty((T, N))
    for t in range(T):
        z, i, f, o = (X[t, j] + U[j] @ h for j in range(4))
        c = expit(f) * c + np.exp(i) * np.tanh(z)
        n = expit(f) * n + np.exp(i)
        h = expit(o) * c / n
        Y[t] = h
    return Y


@reference()
def mlstm(Q: Array, K: Array, V: Array, igate: Array, fgate: Array) -> Array:
    # Without the stabiliser: the floor of the denominator, exp(-m) in scaled units, is 1.
    H, T, E = Q.shape
    O = np.empty((H, T, V.shape[2]))
    for h in range(H):
        C, n = np.zeros((V.shape[2], E)), np.zeros(E)
        for t in range(T):
            k = np.exp(igate[h, t]) * K[h, t] / np.sqrt(E)
            C = expit(fgate[h, t]) * C + np.outer(V[h, t], k)
            n = expit(fgate[h, t]) * n + k
            O[h, t] = C @ Q[h, t] / max(abs(n @ Q[h, t]), 1)
    return O


@reference()
def mlgru(X: Array, WF: Array, BF: Array, WC: Array, BC: Array, WG: Array, BG: Array, WO: Array, BO: Array) -> Array:
    h = np.zeros(WF.shape[1])
    rows = []
    for x in X:
        forget, candidate = expit(x @ WF + BF), x @ WC + BC
        h = forget * h + (1 - forget) * candidate * expit(candidate)
        rows.append((expit(x @ WG + BG) * h) @ WO + BO)
    return np.stack(rows)


@reference()
def rwkv6(R: Array, K: Array, V: Array, W: Array, bonus: Array) -> Array:
    H, T, E = R.shape
    O = np.empty((H, T, V.shape[2]))
    for h in range(H):
        S = np.zeros((E, V.shape[2]))
        for t in range(T):
            kv = np.outer(K[h, t], V[h, t])
            O[h, t] = R[h, t] @ (S + bonus[h][:, None] * kv)
            S = np.exp(-np.exp(W[h, t]))[:, None] * S + kv
    return O


@reference()
def heat_equation(U0: Array, source: Array) -> Array:
    N = len(U0)
    step = np.eye(N) + 0.25 * (np.eye(N, k=1) - 2 * np.eye(N) + np.eye(N, k=-1))
    u = U0
    for heat in source:
        u = step @ u + heat
    return u
