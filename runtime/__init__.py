"""Running compiled kernels: argument checks, calls, artifacts, threads, timing. Needs TVM's runtime only."""
