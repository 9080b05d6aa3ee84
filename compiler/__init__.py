"""The driver: `compile`, its options, cache, diagnostics for the machine, and the command line."""
