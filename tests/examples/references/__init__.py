"""Independent NumPy references of the examples; importing the package fills the table."""

from . import (
    attention,
    convolution,
    dynamic_programming,
    gemm,
    graphs,
    losses,
    norms,
    others,
    recurrences,
    structured,
)
from .registry import REFERENCES, Reference

__all__ = [
    "REFERENCES",
    "Reference",
    "attention",
    "convolution",
    "dynamic_programming",
    "gemm",
    "graphs",
    "losses",
    "norms",
    "others",
    "recurrences",
    "structured",
]
