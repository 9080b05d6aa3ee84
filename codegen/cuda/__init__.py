"""Tile programs as CUDA kernels: thread blocks for parallel loops, the points of a Compute for threads."""
