"""The parser: what the language's forms become, and that nothing but EinfallError escapes."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from einfall.frontend import syntax, tables
from einfall.frontend.parser import parse
from einfall.ir.diagnostics import EinfallError
from einfall.ir.span import SourceText

from .programs import programs

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.ecs"))

ATTENTION = """\
# softmax attention
kernel attention(
    Q: f32[H, P, E],
    K: f32[H, M, E],
    V: f32[H, M, F],
) -> (AV: f32[H, P, F]) {
    QK[h, p, m] = Q[h, p, e] * K[h, m, e] / sqrt(E)
    GM[h, p]    = QK[h, p, m]                          :: max(m)
    SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
    SD[h, p]    = SN[h, p, m]
    A[h, p, m]  = SN[h, p, m] / SD[h, p]
    AV[h, p, f] = A[h, p, m] * V[h, m, f]
}
check attention(H = 2, P = 33, M = 65, E = 16, F = 24)
"""


def kernel(body: str) -> str:
    return f"kernel f(X: f32[M], S: f32) -> (Y: f32[M]) {{\n{body}\n}}\n"


def statement(text: str) -> syntax.Statement:
    """The only statement of a kernel with this body."""
    (item,) = parse(kernel(text)).items
    assert isinstance(item, syntax.Kernel)
    (result,) = item.statements
    return result


def expression(text: str) -> syntax.Expression:
    result = statement(f"Y[m] = {text}")
    assert isinstance(result, syntax.Einsum)
    return result.value


def parenthesised(node: syntax.Expression) -> str:
    """The expression with every grouping spelled out."""
    match node:
        case syntax.Integer() | syntax.Real():
            return node.text
        case syntax.Boolean():
            return str(node.value).lower()
        case syntax.Name():
            return node.name
        case syntax.Access():
            return f"{node.tensor.name}[{', '.join(map(parenthesised, node.indices))}]"
        case syntax.Call():
            return f"{node.function.name}({', '.join(map(parenthesised, node.arguments))})"
        case syntax.Cast():
            return f"{'bit' if node.bits else ''}cast({node.type.name}, {parenthesised(node.operand)})"
        case syntax.Unary():
            return f"({node.operator} {parenthesised(node.operand)})"
        case syntax.Binary():
            return f"({parenthesised(node.left)} {node.operator} {parenthesised(node.right)})"
        case syntax.Conditional():
            parts = map(parenthesised, (node.condition, node.accepted, node.rejected))
            return "(if {} then {} else {})".format(*parts)


def test_attention() -> None:
    program = parse(ATTENTION, "attention.ecs")
    attention, check = program.items
    assert isinstance(attention, syntax.Kernel)
    assert attention.name.name == "attention"
    assert [each.name.name for each in attention.parameters] == ["Q", "K", "V"]
    assert [each.name.name for each in attention.results] == ["AV"]
    maximum = attention.statements[1]
    assert isinstance(maximum, syntax.Einsum)
    assert maximum.reduction is not None
    assert (maximum.reduction.operator, [rank.name for rank in maximum.reduction.ranks]) == ("max", ["m"])
    assert str(maximum.span) == "attention.ecs:8:5"
    assert isinstance(check, syntax.Check)
    values = {each.name.name: each.value for each in check.values}
    assert values == {"H": 2, "P": 33, "M": 65, "E": 16, "F": 24}
    assert [comment.text for comment in program.comments] == ["# softmax attention"]


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("a + b * c", "(a + (b * c))"),
        ("a - b - c", "((a - b) - c)"),
        ("-x ** 2", "(- (x ** 2))"),
        ("2 ** 3 ** n", "(2 ** (3 ** n))"),
        ("2 ** -x ** 2", "(2 ** (- (x ** 2)))"),
        ("-a * b", "((- a) * b)"),
        ("a // b % c / d", "(((a // b) % c) / d)"),
        ("a | b ^ c & d << e + f", "(a | (b ^ (c & (d << (e + f)))))"),
        ("a + b << c == d | e", "(((a + b) << c) == (d | e))"),
        ("not a == b and c or d", "(((not (a == b)) and c) or d)"),
        ("not not a", "(not (not a))"),
        ("A[i] ?? 0 + 1", "((A[i] ?? 0) + 1)"),
        ("a ?? b ?? c", "((a ?? b) ?? c)"),
        ("a ?? 2 ** b", "((a ?? 2) ** b)"),
        ("A[i] ?? -inf", "(A[i] ?? (- inf))"),
        ("if a or b then c + 1 else if d then e else f", "(if (a or b) then (c + 1) else (if d then e else f))"),
        ("1 + (if a then b else c)", "(1 + (if a then b else c))"),
        ("I[c, p + r - 1, s*q]", "I[c, ((p + r) - 1), (s * q)]"),
        ("W[eid[t], k, h // (H // G)]", "W[eid[t], k, (h // (H // G))]"),
        ("bitcast(f32, bitcast(i32, a) - 0x3F780000)", "bitcast(f32, (bitcast(i32, a) - 0x3F780000))"),
        ("type[e] * let", "(type[e] * let)"),
        ("X[]", "X[]"),
        ("clamp(x, -1, 1,)", "clamp(x, (- 1), 1)"),
    ],
)
def test_grouping(text: str, grouped: str) -> None:
    assert parenthesised(expression(text)) == grouped
    assert expression(grouped) == expression(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0x3F780000", 0x3F780000), ("007", 7), (str(10**900), 10**900), ("2.5e-3", 0.0025), (".5", 0.5)],
)
def test_numbers(text: str, value: float) -> None:
    node = expression(text)
    assert isinstance(node, syntax.Integer | syntax.Real)
    assert node.value == value
    assert isinstance(node.value, type(value))


def test_infinity_and_truth() -> None:
    infinity, truth = expression("inf"), expression("true")
    assert isinstance(infinity, syntax.Real)
    assert math.isinf(infinity.value)
    assert isinstance(truth, syntax.Boolean)
    assert truth.value


def test_an_annotation_is_not_a_declaration() -> None:
    annotated = statement("QK: bf16[h, p] = X[h] * X[p]")
    assert isinstance(annotated, syntax.Einsum)
    assert isinstance(annotated.type, syntax.TypeName)
    assert annotated.type.name == "bf16"
    assert annotated.target == statement_target("QK[h, p] = 1")
    declared = statement("MX: f32[V, N + 1]")
    assert isinstance(declared, syntax.Declaration)
    assert len(declared.type.dimensions) == 2


def statement_target(text: str) -> syntax.Access:
    node = statement(text)
    assert isinstance(node, syntax.Einsum)
    return node.target


def test_rank_zero_is_written_with_or_without_brackets() -> None:
    assert statement("Z = X[m]") == statement("Z[] = X[m]")
    assert statement("Z: f32 = X[m]") == statement("Z: f32[] = X[m]")


def test_quantised_types() -> None:
    alias, item = parse("type w4 = quant(u4, group = K:128, scale = f16)\n" + kernel("Y = 1")).items
    assert isinstance(item, syntax.Kernel)
    assert isinstance(alias, syntax.TypeDefinition)
    assert isinstance(alias.type, syntax.QuantType)
    assert alias.type.element.name == "u4"
    group, scale = alias.type.options
    assert isinstance(group.value, syntax.GroupSize)
    assert (group.value.rank.name, group.value.size) == ("K", expression("128"))
    assert isinstance(scale.value, syntax.TypeName)


def test_a_statement_goes_on_after_an_operator_and_before_a_clause() -> None:
    one_line = statement("Y[m] = X[m, k] * 2 :: max(k) where k < m and m > 0")
    assert statement("Y[m] =\n X[m,\n k] *\n 2  # two\n\n :: max(k)\n where k < m\n and m > 0") == one_line
    assert statement("Y[m] = X[m, k]\n * 2\n ::\n max(k) where\n k < m and\n m > 0") == one_line


def test_soft_keywords_are_names_where_they_introduce_nothing() -> None:
    program = parse("kernel kernel(type: f32[M], const const: f32) -> (let: f32[M]) {\n let[m] = type[m]\n}")
    (item,) = program.items
    assert isinstance(item, syntax.Kernel)
    assert [(each.name.name, each.constant) for each in item.parameters] == [("type", False), ("const", True)]


@pytest.mark.parametrize(
    "variant",
    [
        ATTENTION.replace("\n", "\r\n"),
        ATTENTION.replace("\n", "\r"),
        "\ufeff" + ATTENTION,
        ATTENTION.replace("    ", "\t"),
        ATTENTION.rstrip("\n"),
        ATTENTION.replace("{\n", "\n{\n").replace("\n)", ")"),
        ATTENTION.replace("softmax", "温度 → softmax ✓"),
    ],
)
def test_layout_does_not_matter(variant: str) -> None:
    assert parse(variant) == parse(ATTENTION)


def test_spans_lie_on_the_text() -> None:
    program = parse(ATTENTION)
    seen = 0
    stack: list[object] = [program]
    source = SourceText(ATTENTION)
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack += node
        elif isinstance(node, syntax.Node):
            assert is_dataclass(node)
            stack += [getattr(node, each.name) for each in fields(node)]
            assert node.span == source.span(node.span.start, node.span.end)
            if isinstance(node, syntax.Name):
                seen += 1
                assert ATTENTION[node.span.start : node.span.end] == node.name
    assert seen > 60


def test_every_syntax_error_of_a_file_is_reported() -> None:
    text = kernel("Y[m] = X[m] * * 2\nZ[m] X[m]\nfine[m] = X[m]\nW[m = 2\nV[m] = 1 && 0") + "let = 4\ncheck f(M == 2)\n"
    with pytest.raises(EinfallError) as caught:
        parse(text)
    found = [(each.code, each.span.line) for each in caught.value.diagnostics if each.span]
    assert found == [("E0106", 2), ("E0107", 3), ("E0102", 5), ("E0114", 6), ("E0106", 8), ("E0107", 9)]


def test_rendering() -> None:
    with pytest.raises(EinfallError) as caught:
        parse("kernel f(X: f32[M]) -> (Y: f32[M]) {\n\tY[m] = X[m] where m = 2  # 漢\n}\n", "f.ecs")
    assert str(caught.value) == (
        "error[E0107]: `=` defines; a comparison is written with `==`\n"
        " --> f.ecs:2:22\n"
        "  |\n"
        "2 |     Y[m] = X[m] where m = 2  # 漢\n"
        "  |                         ^\n"
        "help: write `==`"
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (kernel("Y = " + "(" * 5000 + "1" + ")" * 5000), "E0109"),
        (kernel("Y = " + "(" * 5000), "E0109"),
        (kernel("Y = " + "-" * 5000 + "1"), "E0109"),
        (kernel("Y = " + "not " * 5000 + "1"), "E0109"),
        (kernel("Y = " + "1 + " * 5000 + "1"), "E0109"),
        (kernel("Y = " + "2 ** " * 5000 + "1"), "E0109"),
        (kernel("Y = " + "if a then b else " * 5000 + "1"), "E0109"),
        (kernel("Y = " + "f(" * 5000 + "1" + ")" * 5000), "E0109"),
        (kernel("Y = " + "9" * 100_000), "E0105"),
        (kernel("Y = 1e99999"), "E0105"),
        ("", "E0115"),
        ("\ufeff", "E0115"),
        ("\n\r\n\t", "E0115"),
        ("\x00\x1b\ud800", "E0101"),
        ("}" * 1000, "E0103"),
        ("é\n" * 20_000, "E0101"),
        ("X[m\n" * 10_000, "E0109"),
        (kernel("X[m] X[m]\n" * 10_000), "E0107"),
        (kernel("X[m] = (\n" * 3_000), "E0102"),
        ("kernel f(" * 3_000, "E0109"),
    ],
    ids=lambda value: value if len(value) < 6 else None,
)
def test_hostile_input(text: str, code: str) -> None:
    with pytest.raises(EinfallError) as caught:
        parse(text)
    assert caught.value.code == code
    str(caught.value).encode()


def test_a_hundred_terms_are_fine() -> None:
    assert isinstance(expression(" + ".join(["X[m]"] * 100)), syntax.Binary)
    assert isinstance(expression("(" * 90 + "1" + ")" * 90), syntax.Integer)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_parse(path: Path) -> None:
    assert parse(path.read_text(encoding="utf-8"), path.name).items


def test_the_tables_are_those_of_the_grammar() -> None:
    # Not compared byte by byte: the numbers of the states depend on Python's hash seed.
    written, wanted = json.loads(tables.TABLES.read_text(encoding="utf-8")), json.loads(tables.tables_text())
    assert written["key"] == wanted["key"], "run `python -m einfall.frontend.tables`"
    assert len(written["data"]["parser"]["parser"]["states"]) == len(wanted["data"]["parser"]["parser"]["states"])


def test_the_grammar_serves_where_the_tables_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = parse(ATTENTION)
    for text in (None, "{", '{"key": "another grammar"}'):
        stale = tmp_path / "tables.json"
        if text is not None:
            stale.write_text(text, encoding="utf-8")
        monkeypatch.setattr(tables, "TABLES", stale)
        tables.parser.cache_clear()
        assert parse(ATTENTION) == program
    monkeypatch.undo()
    tables.parser.cache_clear()


@given(programs())
@settings(max_examples=150, deadline=None)
def test_random_programs_parse(text: str) -> None:
    assert parse(text) == parse(text.replace("\r\n", "\n") + "\n# more")


def mutate(text: str, source: random.Random) -> str:
    """The text with a few characters, tokens or lines lost, doubled, swapped or replaced."""
    pieces = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "=",
        "==",
        "::",
        "->",
        "where",
        "kernel",
        "if",
        "\n",
        "#",
        "?",
        "1e",
        "é",
        "\0",
    ]
    for _ in range(source.randint(1, 6)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice([0, 1, 1, 2, 5, 40]))
        match source.randrange(4):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:]
            case 2:
                text = text[:start] + source.choice(pieces) + text[end:]
            case _:
                text = text[:start] + chr(source.choice([source.randrange(128), source.randrange(0x2000)])) + text[start:]
    return text


def assert_only_user_errors(seed: int, rounds: int) -> None:
    source = random.Random(seed)
    originals = [ATTENTION, *(path.read_text(encoding="utf-8") for path in EXAMPLES)]
    accepted = 0
    for _ in range(rounds):
        text = mutate(source.choice(originals), source)
        try:
            parse(text)
            accepted += 1
        except EinfallError as error:
            assert all(each.code.startswith("E01") for each in error.diagnostics), text
            assert str(error)
    assert 0 < accepted < rounds


def test_mutations_raise_only_user_errors() -> None:
    assert_only_user_errors(seed=1, rounds=300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_mutations_raise_only_user_errors(seed: int) -> None:
    assert_only_user_errors(seed=100 + seed, rounds=2000)


@pytest.mark.parametrize("seed", range(20))
def test_garbage_raises_only_user_errors(seed: int) -> None:
    source = random.Random(seed)
    garbage = bytes(source.randrange(256) for _ in range(400))
    for encoding in ("latin-1", "utf-8"):
        with pytest.raises(EinfallError):
            parse(garbage.decode(encoding, "surrogateescape"))
