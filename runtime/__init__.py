"""Calling compiled kernels: arguments, packing, workspace, artifacts. Runs where no compiler is installed."""
