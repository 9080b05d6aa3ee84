"""The parse tables of `grammar.lark`, computed ahead of time.

Lark needs 0.15 s to make LALR tables of the grammar, and 0.01 s to read them from `tables.json`. The tables hold for
one grammar and one version of Lark; for any other the grammar is processed afresh, which only takes longer.
After a change of the grammar, `python -m einfall.frontend.tables` writes the file again (a test asks for it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import lark
from lark import Lark, Token
from lark.grammar import Rule
from lark.lexer import TerminalDef

_GRAMMAR = Path(__file__).with_name("grammar.lark")
TABLES = Path(__file__).with_name("tables.json")


class _KeepAll:
    """Makes Lark keep those terminals that no rule uses; `layout.arrange` consumes them."""

    always_accept = ("COMMENT", "MALFORMED_NUMBER", "FOREIGN_OPERATOR", "FOREIGN_NAME", "STRING", "STRANGE")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@cache
def parser() -> Lark:
    """The LALR parser of the language, read from the tables if they are current."""
    grammar = _GRAMMAR.read_text(encoding="utf-8")
    try:
        tables = json.loads(TABLES.read_text(encoding="utf-8"), object_hook=_restore_keys)
    except (OSError, ValueError):
        return _build(grammar)
    if tables.get("key") != _key(grammar):
        return _build(grammar)
    loaded: Lark = Lark._load_from_dict(  # type: ignore[no-untyped-call]
        tables["data"], tables["memo"], postlex=_KeepAll()
    )
    return loaded


def tables_text() -> str:
    """What `tables.json` should hold for the grammar and the version of Lark at hand."""
    grammar = _GRAMMAR.read_text(encoding="utf-8")
    data, memo = _build(grammar).memo_serialize([TerminalDef, Rule])
    data["options"]["postlex"] = None
    return json.dumps({"key": _key(grammar), "data": data, "memo": memo}, separators=(",", ":")) + "\n"


def _build(grammar: str) -> Lark:
    return Lark(
        grammar,
        start="program",
        parser="lalr",
        lexer="basic",
        propagate_positions=True,
        maybe_placeholders=True,
        postlex=_KeepAll(),
    )


def _key(grammar: str) -> str:
    return f"lark {lark.__version__}, grammar {sha256(grammar.encode()).hexdigest()}"


def _restore_keys(found: dict[str, Any]) -> dict[Any, Any]:
    """JSON turns the integer keys of the tables into strings."""
    return {int(key) if key.isdecimal() else key: value for key, value in found.items()}


if __name__ == "__main__":
    TABLES.write_text(tables_text(), encoding="utf-8")
