"""The cascade graph, types and operators, the tile program, target records. Imports nothing of ours."""
