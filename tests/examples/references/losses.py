"""Losses and the statistics of a softmax."""

from __future__ import annotations

import numpy as np
import scipy.special
from scipy.special import expit, log_softmax

from .registry import Array, reference


@reference()
def logsumexp(X: Array) -> Array:
    return scipy.special.logsumexp(X, axis=1)


@reference()
def cross_entropy(X: Array, target: Array) -> Array:
    return -log_softmax(X, axis=1)[np.arange(len(X)), target]


@reference()
def linear_cross_entropy(X: Array, W: Array, target: Array) -> Array:
    return -log_softmax(X @ W.T, axis=1)[np.arange(len(X)), target]


@reference()
def label_smoothing(X: Array, target: Array) -> Array:
    B, V = X.shape
    wanted = np.full((B, V), 0.1 / V)
    wanted[np.arange(B), target] += 0.9
    return -(wanted * log_softmax(X, axis=1)).sum(axis=1)


@reference()
def entropy(X: Array) -> Array:
    P = scipy.special.softmax(X, axis=1)
    return -scipy.special.xlogy(P, P).sum(axis=1)


@reference()
def kl_divergence(X: Array, Y: Array) -> Array:
    P, Q = scipy.special.softmax(X, axis=1), scipy.special.softmax(Y, axis=1)
    return scipy.special.rel_entr(P, Q).sum(axis=1)


@reference()
def mean_squared_error(X: Array, Y: Array) -> Array:
    return ((X - Y) ** 2).mean(axis=1)


@reference()
def huber(X: Array, Y: Array) -> Array:
    return scipy.special.huber(1, X - Y).mean(axis=1)


@reference()
def binary_cross_entropy(X: Array, target: Array) -> Array:
    probability = expit(X)
    return -np.log(np.where(target, probability, 1 - probability)).mean(axis=1)


@reference()
def info_nce(X: Array, Y: Array) -> Array:
    return -np.diag(log_softmax(X @ Y.T, axis=1))
