"""What the catalogue says about one kind of error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """One stable error code.

    `title` is a short noun phrase, `explanation` says what the rule is and why it exists, `wrong` shows an input
    that raises the code and `fixed` the same input put right. For the codes of the language (E01 to E07) both
    examples are whole `.ecs` files; a test checks that the first raises the code and that the second does not.
    """

    code: str
    title: str
    explanation: str
    wrong: str
    fixed: str
