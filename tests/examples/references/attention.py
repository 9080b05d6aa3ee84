"""Attention and its variants: scores by matrix products, a softmax over the keys that are kept."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp

from .registry import Array, reference, symbols, up_to


def weights(scores: Array, keep: Array | bool = True) -> Array:
    """Softmax over the last axis among the kept entries; a row that keeps none is 0."""
    kept = np.broadcast_to(np.asarray(keep), scores.shape)
    result = np.zeros(scores.shape)
    for row in np.ndindex(*scores.shape[:-1]):
        chosen = np.flatnonzero(kept[row])
        if chosen.size:
            shifted = np.exp(scores[row][chosen] - scores[row][chosen].max())
            result[row][chosen] = shifted / shifted.sum()
    return result


def scaled(Q: Array, K: Array) -> Array:
    return Q @ np.swapaxes(K, -1, -2) / np.sqrt(Q.shape[-1])


def not_later(P: int, M: int) -> Array:
    """The causal mask whose last query sees the last key."""
    return np.tri(P, M, M - P, dtype=bool)


@reference()
def attention(Q: Array, K: Array, V: Array) -> Array:
    return weights(scaled(Q, K)) @ V


@reference()
def attention_bf16(Q: Array, K: Array, V: Array) -> Array:
    return weights(scaled(Q, K)) @ V


@reference()
def attention_lse(Q: Array, K: Array, V: Array) -> tuple[Array, Array]:
    return weights(scaled(Q, K)) @ V, logsumexp(scaled(Q, K), axis=-1)


@reference()
def causal_attention(Q: Array, K: Array, V: Array) -> Array:
    return weights(scaled(Q, K), not_later(Q.shape[1], K.shape[1])) @ V


@reference()
def grouped_query_attention(Q: Array, K: Array, V: Array) -> Array:
    share = Q.shape[0] // K.shape[0]
    return weights(scaled(Q, np.repeat(K, share, axis=0))) @ np.repeat(V, share, axis=0)


@reference()
def sliding_window_attention(Q: Array, K: Array, V: Array) -> Array:
    P, M = Q.shape[1], K.shape[1]
    window = np.tri(P, M, 0, dtype=bool) & ~np.tri(P, M, -8, dtype=bool)
    return weights(scaled(Q, K), window) @ V


@reference(prefix=up_to("T"))
def prefix_lm_attention(Q: Array, K: Array, V: Array, prefix: Array) -> Array:
    T = Q.shape[1]
    keep = np.stack([np.tri(T, dtype=bool) for _ in prefix])
    for b, length in enumerate(prefix):
        keep[b, :, :length] = True
    return weights(scaled(Q, K), keep) @ V


@reference(doc=symbols(3))
def document_mask_attention(Q: Array, K: Array, V: Array, doc: Array) -> Array:
    same = np.equal.outer(doc, doc) & np.tri(len(doc), dtype=bool)
    return weights(scaled(Q, K), same) @ V


@reference()
def padding_mask_attention(Q: Array, K: Array, V: Array, keep: Array) -> Array:
    return weights(scaled(Q, K), keep[:, None, None, :]) @ V


@reference()
def alibi_attention(Q: Array, K: Array, V: Array, slope: Array) -> Array:
    P, M = Q.shape[1], K.shape[1]
    distance = np.arange(M)[None, :] - np.arange(P)[:, None]
    return weights(scaled(Q, K) + slope[:, None, None] * distance, distance <= 0) @ V


@reference()
def relative_position_attention(Q: Array, K: Array, V: Array, R: Array) -> Array:
    H, P, M = Q.shape[0], Q.shape[1], K.shape[1]
    bias = np.empty((H, P, M))
    for p in range(P):
        bias[:, p] = R[:, P - 1 - p : P - 1 - p + M]
    return weights(scaled(Q, K) + bias) @ V


@reference()
def softcap_attention(Q: Array, K: Array, V: Array) -> Array:
    return weights(2.5 * np.tanh(scaled(Q, K) / 2.5)) @ V


@reference()
def sink_attention(Q: Array, K: Array, V: Array, sink: Array) -> Array:
    # The sink is one more key that all queries see and whose value is 0.
    H, P, M = Q.shape[0], Q.shape[1], K.shape[1]
    scores = np.concatenate([scaled(Q, K), np.broadcast_to(sink[:, None, None], (H, P, 1))], axis=-1)
    keep = np.concatenate([not_later(P, M), np.ones((P, 1), dtype=bool)], axis=-1)
    return weights(scores, keep) @ np.concatenate([V, np.zeros((H, 1, V.shape[-1]))], axis=1)


@reference()
def differential_attention(Q0: Array, Q1: Array, K0: Array, K1: Array, V: Array, lam: Array) -> Array:
    return weights(scaled(Q0, K0)) @ V - lam[:, None, None] * (weights(scaled(Q1, K1)) @ V)


@reference()
def evoformer_attention(Q: Array, K: Array, V: Array, mask: Array, pair: Array, gate: Array) -> Array:
    scores = scaled(Q, K) + mask[:, None, None, :] + pair[None]
    return expit(gate) * (weights(scores) @ V)


@reference()
def mla_attention(QN: Array, QR: Array, latent: Array, KR: Array, WK: Array, WV: Array) -> Array:
    # Not absorbed: every head's keys and values are formed from the latent vectors.
    keys = np.einsum("mc,hce->hme", latent, WK)
    values = np.einsum("mc,hcf->hmf", latent, WV)
    H, M = keys.shape[:2]
    queries = np.concatenate([QN, QR], axis=-1)
    keys = np.concatenate([keys, np.broadcast_to(KR, (H, *KR.shape))], axis=-1)
    return weights(scaled(queries, keys), not_later(QN.shape[1], M)) @ values


@reference(length=up_to("M"))
def decode_attention(Q: Array, K: Array, V: Array, length: Array) -> Array:
    B, H = Q.shape[:2]
    share = H // K.shape[1]
    result = np.zeros((B, H, V.shape[-1]))
    for b in range(B):
        for h in range(H):
            keys, values = K[b, h // share, : length[b]], V[b, h // share, : length[b]]
            result[b, h] = weights(scaled(Q[b, h : h + 1], keys))[0] @ values
    return result


@reference(length=lambda rng, sizes, shape: rng.integers(0, sizes["J"] * sizes["S"] + 1, shape))
def paged_decode_attention(Q: Array, K: Array, V: Array, table: Array, length: Array) -> Array:
    B, H = Q.shape[:2]
    result = np.zeros((B, H, V.shape[-1]))
    for b in range(B):
        keys, values = np.concatenate(K[table[b]]), np.concatenate(V[table[b]])
        for h in range(H):
            scores = scaled(Q[b, h : h + 1], keys[: length[b], h])
            result[b, h] = weights(scores)[0] @ values[: length[b], h]
    return result


@reference()
def tensor_attention(Q: Array, K1: Array, K2: Array, V1: Array, V2: Array) -> Array:
    # Plain attention over the pairs (i, j), whose keys and values are columnwise Kronecker products.
    pairs = len(K1) * len(K2)
    keys = (K1[:, None] * K2[None]).reshape(pairs, -1)
    values = (V1[:, None] * V2[None]).reshape(pairs, -1)
    return weights(Q @ keys.T / Q.shape[1]) @ values


@reference()
def sigmoid_attention(Q: Array, K: Array, V: Array) -> Array:
    M = K.shape[1]
    return expit(scaled(Q, K) - np.log(M)) @ V if M else np.zeros((*Q.shape[:2], V.shape[-1]))


@reference()
def qknorm_attention(Q: Array, K: Array, V: Array, scale: Array) -> Array:
    unit_q = Q / np.sqrt((Q**2).sum(-1, keepdims=True) + 1e-6)
    unit_k = K / np.sqrt((K**2).sum(-1, keepdims=True) + 1e-6)
    return weights(scale[:, None, None] * (unit_q @ unit_k.swapaxes(1, 2))) @ V


def _one_head(Q: Array, K: Array, V: Array) -> Array:
    """What all of FuseMax's cascades compute: unscaled scores, the result transposed."""
    return (weights(Q @ K.T) @ V).T


@reference()
def fusemax_3pass(Q: Array, K: Array, V: Array) -> Array:
    return _one_head(Q, K, V)


@reference()
def fusemax_2pass(Q: Array, K: Array, V: Array) -> Array:
    return _one_head(Q, K, V)


@reference()
def fusemax_1pass(Q: Array, K: Array, V: Array) -> Array:
    return _one_head(Q, K, V)
