"""Exponentials with another shift than the maximum of their row."""
