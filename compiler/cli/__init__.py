"""The `einfall` command."""
