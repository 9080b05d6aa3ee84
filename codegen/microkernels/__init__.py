"""Emitters that write the TensorIR of one tile of a contraction, one file per instruction family."""

from .gemm import emit_gemm
from .operand import Epilogue, Operand, Site
from .plan import CpuFacts, GemmPlan, plan_gemm

__all__ = ["CpuFacts", "Epilogue", "GemmPlan", "Operand", "Site", "emit_gemm", "plan_gemm"]
