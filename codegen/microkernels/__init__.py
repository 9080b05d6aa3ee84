"""Emitters that write the TensorIR of one tile of a contraction, one file per instruction family."""

from .gemm import emit_gemm
from .operand import Epilogue, Operand, Site

__all__ = ["Epilogue", "Operand", "Site", "emit_gemm"]
