"""Fewer passes over the data: deferral, the online derivation of chained reductions, and its split form."""
