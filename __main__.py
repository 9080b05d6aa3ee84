"""`python -m einfall` is the `einfall` command."""

from .compiler.cli import main

raise SystemExit(main())
