"""Rewrites and analyses on cascades and tile programs, one file per pass."""
