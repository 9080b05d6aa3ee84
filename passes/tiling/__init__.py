"""Cascade to tile program: groups, loops, tiles, placement, and how each Einsum is carried out."""
