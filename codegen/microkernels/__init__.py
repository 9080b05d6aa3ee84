"""Emitters that write the TensorIR of one tile of a contraction, one file per instruction family."""
