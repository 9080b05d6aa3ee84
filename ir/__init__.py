"""The cascade graph, its types and operators, the tile program and target records. Imports nothing of ours."""
