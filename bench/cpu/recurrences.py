"""Recurrences, one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from cases import Case, Contestants, example, normal, unfused, with_torch

T, B, N = 256, 8, 256
LONG, HEADS, WIDTH, CHANNELS, STATES = 2048, 16, 64, 2048, 16
CHUNK = 64


def cases() -> Iterator[Case]:
    """Linear recurrences of language models, an LSTM layer and a prefix sum."""
    yield Case(
        name=f"gated linear attention H{HEADS} E{WIDTH} T{LONG}",
        make=_gated_linear_attention,
        flops=5.0 * HEADS * LONG * WIDTH * WIDTH,
        traffic=4.0 * 5 * HEADS * LONG * WIDTH,
        tolerance=1e-3,
    )
    yield Case(
        name=f"mamba scan D{CHANNELS} N{STATES} T{LONG}",
        make=_mamba,
        flops=20.0 * LONG * CHANNELS * STATES,
        traffic=4.0 * LONG * (3 * CHANNELS + 2 * STATES),
        tolerance=1e-3,
    )
    yield Case(
        name=f"lstm T{T} B{B} H{N}",
        make=_lstm,
        flops=2.0 * T * B * 4 * N * 2 * N,
        traffic=4.0 * (2 * T * B * N + 8 * N * N),
    )
    yield Case(name="prefix sum 1024×4096", make=_prefix_sum, traffic=8.0 * 1024 * 4096)


def _gated_linear_attention() -> Contestants:
    """PyTorch has no operator for it: both of its contestants are the chunks of Yang et al., 2312.06635, section 4."""
    sizes = {"H": HEADS, "T": LONG, "E": WIDTH, "F": WIDTH}
    kernel, plain = (make("recurrences/gated_linear_attention.ecs", **sizes) for make in (example, unfused))
    q, k, v, gate = (normal(HEADS, LONG, WIDTH, seed=seed) for seed in range(4))
    out = np.empty((HEADS, LONG, WIDTH), np.float32)

    def compiled(torch: ModuleType):
        def chunks(q, k, v, gate):
            shape = (HEADS, LONG // CHUNK, CHUNK, WIDTH)
            q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
            total = torch.cumsum(torch.nn.functional.logsigmoid(gate).reshape(shape) / 16, 2)
            last = total[:, :, -1:]
            rows, columns = q * torch.exp(total), k * torch.exp(-total)
            inside = torch.tril(rows @ columns.transpose(2, 3)) @ v
            added = (k * torch.exp(last - total)).transpose(2, 3) @ v
            kept = torch.exp(last).transpose(2, 3)
            state = torch.zeros(HEADS, WIDTH, WIDTH)
            parts = []
            for c in range(LONG // CHUNK):
                parts.append(rows[:, c] @ state)
                state = kept[:, c] * state + added[:, c]
            return (inside + torch.stack(parts, 1)).reshape(HEADS, LONG, WIDTH) * WIDTH**-0.5

        return chunks, tuple(map(torch.from_numpy, (q, k, v, gate)))

    def peer(torch: ModuleType):
        function, arguments = compiled(torch)
        return lambda: function(*arguments)

    contestants = {"einfall": lambda: kernel(q, k, v, gate, out=out), "unfused": lambda: plain(q, k, v, gate, out=out)}
    return with_torch(contestants, peer, compiled)


def _mamba() -> Contestants:
    """PyTorch has no operator for it: it goes step by step, each one compiled where `torch.compile` is wanted."""
    kernel, plain = (make("recurrences/mamba_scan.ecs", L=LONG, D=CHANNELS, N=STATES) for make in (example, unfused))
    u, delta = normal(LONG, CHANNELS), normal(LONG, CHANNELS, seed=1)
    decay, skip = normal(CHANNELS, STATES, seed=2, scale=0.5), normal(CHANNELS, seed=3)
    b, c = normal(LONG, STATES, seed=4), normal(LONG, STATES, seed=5)
    out = np.empty((LONG, CHANNELS), np.float32)

    def steps(torch: ModuleType, step):
        a, d, negative, s, bt, ct = map(torch.from_numpy, (u, delta, -np.exp(decay), skip, b, c))

        def scan():
            dt = torch.nn.functional.softplus(d)
            state = torch.zeros(CHANNELS, STATES)
            rows = []
            for t in range(LONG):
                state, y = step(state, dt[t], negative, bt[t], ct[t], a[t])
                rows.append(y)
            return torch.stack(rows) + s * a

        return scan

    def step(state, dt, negative, b, c, u):
        state = (dt[:, None] * negative).exp() * state + (dt * u)[:, None] * b
        return state, state @ c

    def peer(torch: ModuleType):
        return steps(torch, step)

    def compiled(torch: ModuleType):
        return steps(torch, torch.compile(step)), ()

    contestants = {
        "einfall": lambda: kernel(u, delta, decay, b, c, skip, out=out),
        "unfused": lambda: plain(u, delta, decay, b, c, skip, out=out),
    }
    return with_torch(contestants, peer, compiled)


def _lstm() -> Contestants:
    kernel = example("recurrences/lstm.ecs", T=T, B=B, D=N, N=N)
    x, zeros = normal(T, B, N), np.zeros((B, N), np.float32)
    w, u, bias = (normal(4, N, *rest, seed=seed, scale=0.06) for seed, rest in enumerate(((N,), (N,), ()), 1))
    out = tuple(np.empty(shape, np.float32) for shape in ((T, B, N), (B, N), (B, N)))

    def peer(torch: ModuleType):
        layer = torch.nn.LSTM(N, N)
        with torch.no_grad():
            for name, value in (("weight_ih_l0", w), ("weight_hh_l0", u), ("bias_ih_l0", bias)):
                getattr(layer, name).copy_(torch.from_numpy(value.reshape(4 * N, *value.shape[2:])))
            layer.bias_hh_l0.zero_()
        a = torch.from_numpy(x)

        def call():
            with torch.no_grad():
                y, (h, c) = layer(a)
            return y, h[0], c[0]

        return call

    return with_torch({"einfall": lambda: kernel(X=x, H0=zeros, C0=zeros, W=w, U=u, bias=bias, out=out)}, peer)


def _prefix_sum() -> Contestants:
    kernel = example("recurrences/prefix_sum.ecs", B=1024, T=4096)
    x, y, z = normal(1024, 4096), np.empty((1024, 4096), np.float32), np.empty((1024, 4096), np.float32)

    def peer(torch: ModuleType):
        a, b = torch.from_numpy(x), torch.empty(1024, 4096)
        return lambda: torch.cumsum(a, 1, out=b)

    return with_torch({"einfall": lambda: kernel(x, out=y), "numpy": lambda: np.cumsum(x, 1, out=z)}, peer)
