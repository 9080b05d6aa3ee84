"""Random `.ecs` programs as text, for the round trips of the parser and the formatter."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = st.sampled_from(["m", "k", "n'", "p", "M", "K", "X", "Y''", "RM", "type", "let", "check", "_a1"])
TENSORS = st.sampled_from(["X", "Y", "RM", "type", "W'", "dst"])
ELEMENTS = st.sampled_from(["f32", "bf16", "i8", "w4"])
NUMBERS = st.sampled_from(["0", "7", "0x3F80", "2.5e-3", ".5", "3.", "inf", "true", "1e9", str(2**70)])
OPERATORS = [
    *("or", "and", "==", "<", ">=", "|", "^", "&", "<<", ">>", "+", "-", "*", "/", "//", "%", "**", "??"),
]
SPACES = st.sampled_from(["", " ", "  ", "\t"])


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """An expression; every operand of an operator is parenthesised or atomic, and parentheses may be redundant."""
    kinds = ["name", "number"] if depth == 0 else ["name", "number", "access", "call", "cast", "unary", "binary", "if"]
    gap = draw(SPACES)
    match draw(st.sampled_from(kinds)):
        case "name":
            return draw(NAMES)
        case "number":
            return draw(NUMBERS)
        case "access":
            return f"{draw(TENSORS)}{gap}[{draw(items(depth - 1))}]"
        case "call":
            return f"exp{gap}({draw(items(depth - 1))})"
        case "cast":
            return f"bitcast({draw(ELEMENTS)},{gap}{draw(expressions(depth - 1))})"
        case "unary":
            return f"({draw(st.sampled_from(['-', 'not ']))}{gap}({draw(expressions(depth - 1))}))"
        case "binary":
            left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
            operator = draw(st.sampled_from(OPERATORS))
            return f"(({left}) {operator} ({right}))"
        case _:
            parts = [draw(expressions(depth - 1)) for _ in range(3)]
            return "(if {} then {} else {})".format(*parts)


@st.composite
def items(draw: st.DrawFn, depth: int = 1) -> str:
    """The inside of brackets: expressions, commas, possibly line breaks and comments."""
    parts = draw(st.lists(expressions(depth), max_size=3))
    separator = draw(st.sampled_from([", ", ",", " ,  ", ",\n", ",  # why\n", "\n,\n# own\n"]))
    trailing = draw(st.sampled_from(["", ",", ", \n", ", # last\n"])) if parts else ""
    return separator.join(parts) + trailing


@st.composite
def einsums(draw: st.DrawFn) -> str:
    """An Einsum with any of its optional parts."""
    target = draw(TENSORS)
    annotation = draw(st.sampled_from(["", "", ": bf16", " :quant(u4, group = K:32, scale=f16)"]))
    brackets = f"[{draw(items(1))}]" if draw(st.booleans()) else ""
    equals = draw(st.sampled_from(["=", "=  ", "=\n"]))
    text = f"{target}{annotation}{brackets} {equals} {draw(expressions(2))}"
    if draw(st.booleans()):
        break_ = draw(st.sampled_from([" ", "\n", "  # c\n"]))
        operator = draw(st.sampled_from(["+", "*", "max", "and", "argmin"]))
        ranks = ", ".join(draw(st.lists(NAMES, max_size=2)))
        text += f"{break_}::{draw(SPACES)}{operator}{draw(SPACES)}({ranks})"
    if draw(st.booleans()):
        text += draw(st.sampled_from([" ", "\n"])) + f"where {draw(expressions(2))}"
    return text


STATEMENTS = st.one_of(
    einsums(),
    st.builds("let {} = {}".format, NAMES, expressions(1)),
    st.builds("require ({})".format, expressions(1)),
    st.builds("{}: {}[M, K // 2]".format, TENSORS, ELEMENTS),
)
LINE_ENDS = st.sampled_from(["\n", "\n\n\n", "   # a comment, é ×\n", "\r\n", "\n\t# own line\n\n"])


@st.composite
def kernels(draw: st.DrawFn) -> str:
    """A kernel with statements, comments and blank lines."""
    parameters = draw(st.sampled_from(["", "X: f32[M,K]", "X: f32[M],\n const W: w4[N, K],", "\n# p\ns: f32 # x\n"]))
    before = draw(st.sampled_from(["", "@tolerance(1e-2) ", "# about\n@tolerance(1)\n"]))
    body = "".join(f"{draw(STATEMENTS)}{draw(LINE_ENDS)}" for _ in range(draw(st.integers(0, 5))))
    opening = draw(st.sampled_from([" {", "\n{\n", "{ # open\n", "\n\n{"]))
    return f"{before}kernel f({parameters}) ->(Y:f32[M], Z : i8){opening}{body}}}"


ITEMS = st.one_of(
    kernels(),
    st.builds("def g({}) = {}".format, st.sampled_from(["", "x", "x, y,"]), expressions(2)),
    st.builds("let N={}".format, expressions(1)),
    st.just("type w4 = quant(u4, group=K:128, scale = f16)"),
    st.just("check f(M = 3, x=-2.5,inf' = -inf , b = true)"),
)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A file with at least one kernel."""
    parts = [*draw(st.lists(ITEMS, max_size=3)), draw(kernels())]
    start = draw(st.sampled_from(["", "\ufeff", "\n\n", "# head\n\n", "  \t\n"]))
    return (
        start
        + "".join(part + draw(LINE_ENDS) for part in parts[:-1])
        + parts[-1]
        + draw(st.sampled_from(["", "\n", "\r\n\n", "  # last, no line end"]))
    )
