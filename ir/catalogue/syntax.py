"""Codes E01: the syntax of `.ecs` files."""

from __future__ import annotations

from .kinds import ErrorKind

KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        code="E0101",
        title="unexpected character",
        explanation=(
            "The file contains a character that no part of the language uses. Names consist of the letters A to Z "
            "and a to z, digits, `_` and primes; mathematical symbols such as `≤` or `×` are written with ASCII "
            "operators. Comments may contain anything."
        ),
        wrong="kernel twice(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 2 × X[m]\n}\n",
        fixed="kernel twice(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 2 * X[m]\n}\n",
    ),
    ErrorKind(
        code="E0102",
        title="bracket never closed",
        explanation=(
            "Every `(`, `[` and `{` needs its partner. Inside round and square brackets a newline does not end a "
            "statement, so a forgotten bracket would swallow the lines that follow."
        ),
        wrong="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0103",
        title="closing bracket without an opening one",
        explanation="A `)`, `]` or `}` closes a bracket of its own kind that was opened before it.",
        wrong="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m])\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0104",
        title="malformed number",
        explanation=(
            "Numbers are decimal integers (`42`), hexadecimal integers (`0x3F80`), or decimal fractions with an "
            "optional exponent (`0.5`, `2.5e-3`). They carry no suffix; the type of the other operand decides."
        ),
        wrong="kernel half(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 0.5f * X[m]\n}\n",
        fixed="kernel half(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = 0.5 * X[m]\n}\n",
    ),
    ErrorKind(
        code="E0105",
        title="number out of range",
        explanation=("A literal has a finite value in f64; infinity is written `inf`. Integers have at most 1000 digits."),
        wrong="kernel huge(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] + 1e999\n}\n",
        fixed="kernel huge(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] + inf\n}\n",
    ),
    ErrorKind(
        code="E0106",
        title="unexpected word or symbol",
        explanation=(
            "The text does not follow the grammar at this place. The message says what was found and what could "
            "have stood there."
        ),
        wrong="kernel add(X: f32[M], Z: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] Z[m]\n}\n",
        fixed="kernel add(X: f32[M], Z: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m] * Z[m]\n}\n",
    ),
    ErrorKind(
        code="E0107",
        title="`=` and `==` confused, or `=` missing",
        explanation=(
            "`=` stands once in an Einsum, a `let`, a `def` or a `type`, between what is defined and its definition. "
            "`==` compares two values in a condition."
        ),
        wrong="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] == X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0108",
        title="reserved word used as a name",
        explanation=(
            "`where if then else and or not true false inf` are reserved. The words that begin an item (`kernel`, "
            "`def`, `let`, `type`, `check`, `require`) may be used as names inside a kernel."
        ),
        wrong="kernel copy(X: f32[M]) -> (where: f32[M]) {\n    where[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0109",
        title="expression nested too deeply",
        explanation=(
            "Brackets may be nested 100 levels deep and expressions 150 levels; a chain of operators such as a sum "
            "of many terms counts one level for each term. Name a part of the expression by an Einsum of its own."
        ),
        wrong="let N = " + "(" * 101 + "1" + ")" * 101 + "\n",
        fixed="let N = 1\n\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0110",
        title="unknown annotation",
        explanation="`@tolerance(x)` before a kernel is the only annotation.",
        wrong="@tolerence(1e-2)\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="@tolerance(1e-2)\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0111",
        title="chained comparison",
        explanation="A comparison has two sides; join two comparisons with `and`.",
        wrong="kernel clip(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where 0 < m < 8\n}\n",
        fixed="kernel clip(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where 0 < m and m < 8\n}\n",
    ),
    ErrorKind(
        code="E0112",
        title="kernel without its results",
        explanation=(
            "After the parameters of a kernel stand `->` and its results in parentheses, each with its type, also "
            "where there is only one."
        ),
        wrong="kernel copy(X: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0113",
        title="size in lower case",
        explanation=(
            "Sizes are written in upper case (`M`), rank variables in lower case (`m`): a declaration lists sizes, "
            "the left side of an Einsum lists rank variables."
        ),
        wrong="kernel copy(X: f32[m]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0114",
        title="operator of another language",
        explanation=(
            "The operators are `+ - * / // % **`, `| ^ & << >>`, the comparisons `== != < <= > >=`, the words "
            "`and or not` and `??`. There is no assignment with an operator: an Einsum defines its tensor once."
        ),
        wrong="kernel clip(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where m > 0 && m < 8\n}\n",
        fixed="kernel clip(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]  where m > 0 and m < 8\n}\n",
    ),
    ErrorKind(
        code="E0115",
        title="file without a kernel",
        explanation="An `.ecs` file holds `kernel`, `def`, `let`, `type` and `check` items, at least one `kernel`.",
        wrong="# nothing but a comment\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0116",
        title="statement in the wrong place",
        explanation=(
            "Einsums, local declarations and `require` stand inside the braces of a kernel; `kernel`, `def`, `type` "
            "and `check` stand outside; `let` may stand in both places."
        ),
        wrong="Y[m] = X[m]\n\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
        fixed="kernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n",
    ),
    ErrorKind(
        code="E0117",
        title="clauses of an Einsum out of order",
        explanation=("An Einsum reads `OUT[…] = expression :: reduction(ranks) where condition`, each clause at most once."),
        wrong="kernel top(X: f32[M, N]) -> (Y: f32[M]) {\n    Y[m] = X[m, n]  where n > 0 :: max(n)\n}\n",
        fixed="kernel top(X: f32[M, N]) -> (Y: f32[M]) {\n    Y[m] = X[m, n]  :: max(n) where n > 0\n}\n",
    ),
    ErrorKind(
        code="E0118",
        title="incomplete or unparenthesised `if`",
        explanation=(
            "`if condition then value else value` has all three parts, since every point needs a value (`where` "
            "leaves points out), and is put in parentheses when it is an operand of an operator."
        ),
        wrong="kernel relu(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = if X[m] > 0 then X[m]\n}\n",
        fixed="kernel relu(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = if X[m] > 0 then X[m] else 0\n}\n",
    ),
    ErrorKind(
        code="E0119",
        title="cast without its type",
        explanation="`cast(type, x)` and `bitcast(type, x)` take the name of a type and one expression.",
        wrong="kernel narrow(X: f32[M]) -> (Y: i8[M]) {\n    Y[m] = cast(X[m], i8)\n}\n",
        fixed="kernel narrow(X: f32[M]) -> (Y: i8[M]) {\n    Y[m] = cast(i8, X[m])\n}\n",
    ),
    ErrorKind(
        code="E0120",
        title="malformed storage type",
        explanation=("A quantised storage type reads `quant(element, group = RANK:SIZE, scale = type, zero = type)`."),
        wrong=("type w4 = quantized(u4, group = K:32)\n\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n"),
        fixed=("type w4 = quant(u4, group = K:32)\n\nkernel copy(X: f32[M]) -> (Y: f32[M]) {\n    Y[m] = X[m]\n}\n"),
    ),
)
