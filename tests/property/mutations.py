"""Examples changed at random, as careless or hostile authors would: most are wrong, some say something else."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random

EXAMPLES = Path(__file__).parents[2] / "examples"
_TOKEN = re.compile(r"[A-Za-z_][A-Za-z_0-9]*'*|\d+(?:\.\d+)?(?:e-?\d+)?|::|\?\?|->|//|\*\*|<<|>>|[<>=!]=|\S|\s+")
_OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "<<",
    ">>",
    "|",
    "&",
    "^",
    "<",
    "<=",
    "==",
    "!=",
    "and",
    "or",
    "??",
    "=",
    "::",
]
_NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "7",
    "64",
    "1e38",
    "1e400",
    "0.5",
    "inf",
    "2147483648",
    "18446744073709551616",
    "0x7F",
    "M",
    "m",
]
_PIECES = [
    "where m <= p", ":: max(m)", ":: argmin(n)", "if x then 1 else 2", "?? 0", "not ", "-", "cast(i8, ",
    "bitcast(i32, ", "exp(", "[", "]", "(", ")", "{", "}", ",", ":", "'", "#", "\\", "\x00", "é", "\n", "\r", "\t",
    "let N = 0\n", "require M > 0\n", "[0]", "[m+1]", "[m, m]", "@", "const ", "f8_e4m3", "i4", "bool", "q4_0", "true",
    "0.0", '"', "kernel", "def f(x) = f(x)\n", "+1", "//0",
]  # fmt: skip


@cache
def texts() -> tuple[str, ...]:
    """The programs of the examples."""
    return tuple(path.read_text("utf-8") for path in sorted(EXAMPLES.glob("*/*.ecs")))


def mutant(seed: int) -> str:
    """One example with one to four changes."""
    random = Random(seed)
    text = random.choice(texts())
    for _ in range(random.choice([1, 1, 1, 2, 2, 4])):
        text = _change(text, random)
    return text


def _change(text: str, random: Random) -> str:
    tokens = _TOKEN.findall(text)
    words = [i for i, t in enumerate(tokens) if not t.isspace()]
    if not words:
        return random.choice(_PIECES)
    at = random.choice(words)
    names = [t for t in tokens if t[0].isalpha()]
    match random.randrange(14):
        case 0:
            del tokens[at]
        case 1:
            tokens.insert(at, tokens[at])
        case 2:
            other = random.choice(words)
            tokens[at], tokens[other] = tokens[other], tokens[at]
        case 3 | 4 | 5:
            places = [i for i in words if tokens[i][0].isalpha()] or words
            tokens[random.choice(places)] = random.choice(names or ["x"])
        case 6:
            places = [i for i in words if tokens[i] in _OPERATORS] or words
            tokens[random.choice(places)] = random.choice(_OPERATORS)
        case 7:
            places = [i for i in words if tokens[i][0].isdigit()] or words
            tokens[random.choice(places)] = random.choice(_NUMBERS)
        case 8:
            tokens[at] = random.choice(_NUMBERS)
        case 9:
            tokens.insert(at, random.choice(_PIECES))
        case 10:
            place = random.randrange(len(text))
            return text[:place] + text[place + random.randint(1, 3) :]
        case 11:
            lines = text.splitlines(keepends=True)
            del lines[random.randrange(len(lines))]
            return "".join(lines)
        case 12:
            lines = text.splitlines(keepends=True)
            others = random.choice(texts()).splitlines(keepends=True)
            lines.insert(random.randrange(len(lines) + 1), random.choice(others))
            return "".join(lines)
        case 13:
            lines = text.splitlines(keepends=True)
            a, b = (random.randrange(len(lines)) for _ in range(2))
            lines[a], lines[b] = lines[b], lines[a]
            return "".join(lines)
    return "".join(tokens)
