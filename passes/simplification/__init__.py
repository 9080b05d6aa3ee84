"""Smaller cascades and normal forms."""
