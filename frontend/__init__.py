"""From `.ecs` text to a checked cascade: grammar, parser, names, extents and types, formatter."""
