"""Recurrences: linear ones of language models, LSTM layers, and a prefix sum."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from cases import Case
from field import Array, Field, constant, empty, normal
from onnx_peer import node, session
from torch_peer import compile_for, tensor, tensors, torch

T = 2048
HEADS, WIDTH = 16, 64
CHANNELS, STATES = 2048, 16
CHUNK = 64
LAYERS = {"B1 H256": (1, 256), "B1 H512": (1, 512), "B8 H512": (8, 512)}


def cases() -> Iterator[Case]:
    """All with 2048 steps."""
    yield Case(
        name=f"gated linear attention H{HEADS} E{WIDTH} T{T}",
        family="recurrence",
        make=_gated_linear_attention,
        flops=5.0 * HEADS * T * WIDTH * WIDTH,
        reads=4.0 * 4 * HEADS * T * WIDTH,
        writes=4.0 * HEADS * T * WIDTH,
        goal=1.5,
        tolerance=1e-3,
        quick=True,
    )
    yield Case(
        name=f"mamba scan D{CHANNELS} N{STATES} T{T}",
        family="recurrence",
        make=_mamba,
        flops=8.0 * T * CHANNELS * STATES,
        reads=4.0 * T * (2 * CHANNELS + 2 * STATES),
        writes=4.0 * T * CHANNELS,
        goal=8.0,
        tolerance=1e-3,
    )
    for dtype, element, tolerance in (("f32", 4.0, 1e-4), ("bf16", 2.0, 5e-2)):
        for name, (batch, width) in LAYERS.items():
            yield Case(
                name=f"lstm {dtype} {name} T{T}",
                family="recurrence",
                make=partial(_lstm, batch, width, dtype),
                flops=2.0 * T * batch * 4 * width * 2 * width,
                reads=element * (T * batch * width + 8 * width * width),
                writes=element * T * batch * width,
                dtype=dtype,
                goal=1.5 if width == 512 else None,
                tolerance=tolerance,
                quick=width == 256 and dtype == "f32",
            )
    yield Case(
        name="prefix sum 1024×4096",
        family="recurrence",
        make=_prefix_sum,
        flops=1024.0 * 4096,
        reads=4.0 * 1024 * 4096,
        writes=4.0 * 1024 * 4096,
        tolerance=1e-3,
    )


def _gated_linear_attention(field: Field) -> None:
    """PyTorch has no operator for it: both of its contestants are the chunks of Yang et al., 2312.06635, section 4."""
    q, k, v, gate = (normal(HEADS, T, WIDTH, seed=seed) for seed in range(4))
    sizes = {"H": HEADS, "T": T, "E": WIDTH, "F": WIDTH}
    file, out = "recurrences/gated_linear_attention.ecs", empty(HEADS, T, WIDTH)
    field.kernel(file, q, k, v, gate, results=[out], unfused=True, **sizes)

    def chunks(q, k, v, gate):
        shape = (HEADS, T // CHUNK, CHUNK, WIDTH)
        q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
        total = torch.cumsum(torch.nn.functional.logsigmoid(gate).reshape(shape) / 16, 2)
        last = total[:, :, -1:]
        rows, columns = q * torch.exp(total), k * torch.exp(-total)
        inside = torch.tril(rows @ columns.transpose(2, 3)) @ v
        added = (k * torch.exp(last - total)).transpose(2, 3) @ v
        kept = torch.exp(last).transpose(2, 3)
        state = torch.zeros(HEADS, WIDTH, WIDTH)
        parts = []
        for c in range(T // CHUNK):
            parts.append(rows[:, c] @ state)
            state = kept[:, c] * state + added[:, c]
        return (inside + torch.stack(parts, 1)).reshape(HEADS, T, WIDTH) * WIDTH**-0.5

    @field.peer("torch")
    def eager():
        arguments = tensors(q, k, v, gate)
        return lambda: chunks(*arguments)

    @field.peer("torch.compile")
    def compiled():
        return compile_for(chunks, *tensors(q, k, v, gate))


def _mamba(field: Field) -> None:
    """PyTorch has no operator for it: it goes step by step, each one compiled where `torch.compile` takes part."""
    u, delta = normal(T, CHANNELS), normal(T, CHANNELS, seed=1)
    decay, skip = normal(CHANNELS, STATES, seed=2, scale=0.5), normal(CHANNELS, seed=3)
    b, c = normal(T, STATES, seed=4), normal(T, STATES, seed=5)
    sizes = {"L": T, "D": CHANNELS, "N": STATES}
    out = empty(T, CHANNELS)
    field.kernel("recurrences/mamba_scan.ecs", u, delta, decay, b, c, skip, results=[out], unfused=True, **sizes)

    def step(state, dt, negative, b, c, u):
        state = (dt[:, None] * negative).exp() * state + (dt * u)[:, None] * b
        return state, state @ c

    def steps(step):
        a, d, negative, s, bt, ct = tensors(u, delta, -np.exp(decay), skip, b, c)

        def scan():
            dt = torch.nn.functional.softplus(d)
            state = torch.zeros(CHANNELS, STATES)
            rows = []
            for t in range(T):
                state, y = step(state, dt[t], negative, bt[t], ct[t], a[t])
                rows.append(y)
            return torch.stack(rows) + s * a

        return scan

    @field.peer("torch")
    def eager():
        return steps(step)

    @field.peer("torch.compile")
    def compiled():
        return steps(torch.compile(step, dynamic=False))


def _lstm(batch: int, width: int, dtype: str, field: Field) -> None:
    x, zeros = normal(T, batch, width, dtype=dtype), empty(batch, width, dtype=dtype)
    shapes = enumerate(((4, width, width), (4, width, width), (4, width)), 1)
    w, u, bias = (normal(*shape, seed=seed, scale=0.8 * width**-0.5, dtype=dtype) for seed, shape in shapes)
    program = constant("recurrences/lstm.ecs", "W", "U", "bias")
    field.kernel(
        program.replace("f32", dtype),
        x,
        zeros,
        zeros,
        results=[empty(*shape, dtype=dtype) for shape in ((T, batch, width), (batch, width), (batch, width))],
        bind={"W": w, "U": u, "bias": bias},
        T=T,
        B=batch,
        D=width,
        N=width,
    )

    @field.peer("torch")
    def eager():
        layer = torch.nn.LSTM(width, width).to(tensor(x).dtype)
        for name, value in (("weight_ih_l0", w), ("weight_hh_l0", u), ("bias_ih_l0", bias)):
            getattr(layer, name).copy_(tensor(value.reshape(4 * width, *value.shape[2:])))
        layer.bias_hh_l0.zero_()
        a = tensor(x)

        def call():
            y, (h, c) = layer(a)
            return y, h[0], c[0]

        return call

    if dtype == "f32":

        @field.peer("onnxruntime")
        def onnx():
            return _onnx_lstm(x, w, u, bias)


def _onnx_lstm(x: Array, w: Array, u: Array, bias: Array):
    """ONNX orders the gates i, o, f, c; its results have one more rank, for the directions."""
    steps, batch, width = x.shape
    order = [0, 3, 1, 2]
    flat = {name: value[order].reshape(1, 4 * width, width) for name, value in (("w", w), ("r", u))}
    both = np.concatenate([bias[order].reshape(1, -1), np.zeros((1, 4 * width), np.float32)], 1)
    y, h, c = empty(steps, 1, batch, width), empty(1, batch, width), empty(1, batch, width)
    operator = node("LSTM", "x w r b", "y h c", hidden_size=width)
    call = session([operator], inputs={"x": x}, results={"y": y, "h": h, "c": c}, weights=flat | {"b": both})

    def run():
        call()
        return y[:, 0], h[0], c[0]

    return run


def _prefix_sum(field: Field) -> None:
    x = normal(1024, 4096)
    field.kernel("recurrences/prefix_sum.ecs", x, results=[empty(1024, 4096)], B=1024, T=4096)

    @field.peer("torch")
    def eager():
        a, b = tensors(x, empty(1024, 4096))
        return lambda: torch.cumsum(a, 1, out=b)

    @field.peer("onnxruntime")
    def onnx():
        nodes = [node("CumSum", "x axis", "y")]
        return session(nodes, inputs={"x": x}, results={"y": empty(1024, 4096)}, weights={"axis": np.int64(1)})

    @field.peer("numpy")
    def numpy():
        z = empty(1024, 4096)
        return lambda: np.cumsum(x, 1, out=z)
