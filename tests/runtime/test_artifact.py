"""Saved kernels: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einfall.ir.diagnostics import EinfallError
from einfall.ir.expr import Cast, Expr, Select, integer, op, size
from einfall.ir.types import DTYPES, I32, QuantType
from einfall.runtime.artifact import FORMAT, Artifact, tool_versions
from einfall.runtime.explanation import Choice, Explanation, Group, Live, Passes
from einfall.runtime.kernel import Kernel
from einfall.runtime.signature import Signature, expr_from_json, expr_json

from .kernels import add_module, compiled, signature


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    library = tmp_path_factory.mktemp("library") / "kernel.so"
    add_module().export_library(str(library))
    sig = signature("add", ["A: f32[M, N]", "B: f32[M, N]"], ["C: f32[M, N]"])
    return Artifact(
        signature=sig,
        explanation=compiled(sig, lambda: None).explanation,
        target="cpu:test",
        arch="x86_64",
        features=frozenset({"avx2"}),
        library=library.read_bytes(),
        sources={"cascade": "kernel add …\n", "tir": "# tir"},
        versions=tool_versions("0.1"),
    )


def test_round_trip(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.write(tmp_path / "add.efk")
    again = Artifact.read(path)
    assert again == artifact
    assert again.to_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["add.efk"]
    kernel = Kernel(compiled(again.signature, again.load_code().function))
    a = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(kernel(a, a), a + a)


def test_another_machine(artifact: Artifact) -> None:
    artifact.check_host("x86_64", frozenset({"avx2", "fma"}))
    with pytest.raises(EinfallError, match="needs avx2") as failure:
        artifact.check_host("x86_64", frozenset({"fma"}))
    assert failure.value.code == "E1106"
    with pytest.raises(EinfallError, match="this machine is aarch64"):
        artifact.check_host("aarch64", frozenset({"avx2"}))


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """An archive with some members changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def edit_manifest(change: Callable[[dict[str, object]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()

    return edit


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("E1104", lambda m: m.pop("manifest.json")),
        ("E1104", lambda m: m.pop("kernel.so")),
        ("E1104", lambda m: m.update({"../../evil": b"x"})),
        ("E1104", lambda m: m.update({"kernel.pkl": b"x"})),
        ("E1104", lambda m: m.update({"kernel.so": b"x" + m["kernel.so"]})),
        ("E1104", lambda m: m.update({"kernel.ecs": b"kernel other"})),
        ("E1104", lambda m: m.update({"manifest.json": b"[]"})),
        ("E1104", lambda m: m.update({"manifest.json": b"{"})),
        ("E1104", lambda m: m.update({"manifest.json": b"[" * 100_000})),
        ("E1104", lambda m: m.update({"kernel.ll": bytes(1 << 27)})),
        ("E1104", edit_manifest(lambda m: m.pop("signature"))),
        ("E1104", edit_manifest(lambda m: m.update({"signature": {"name": 3}}))),
        ("E1104", edit_manifest(lambda m: m.update({"explanation": None}))),
        ("E1104", edit_manifest(lambda m: m["sha256"].pop("kernel.so"))),  # type: ignore[attr-defined]
        ("E1105", edit_manifest(lambda m: m.update({"format": FORMAT + 1}))),
        ("E1105", edit_manifest(lambda m: m.update({"versions": {"apache-tvm": "0.1"}}))),
    ],
)
def test_changed_archives(artifact: Artifact, code: str, change: Callable[[dict[str, bytes]], None]) -> None:
    with pytest.raises(EinfallError) as failure:
        Artifact.from_bytes(rewritten(artifact.to_bytes(), change))
    assert failure.value.code == code


def test_damaged_bytes(artifact: Artifact) -> None:
    """No cut and no flipped byte gives anything but the artifact itself or E1104 (E1105: the format number)."""
    content = artifact.to_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        if random.random() < 0.3:
            broken = broken[: random.integers(len(broken))]
        else:
            for _ in range(int(random.integers(1, 4))):
                broken[random.integers(len(broken))] ^= int(random.integers(1, 256))
        try:
            assert Artifact.from_bytes(bytes(broken)) == artifact
        except EinfallError as failure:
            assert failure.code in ("E1104", "E1105")


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(content: bytes) -> None:
    with pytest.raises(EinfallError) as failure:
        Artifact.from_bytes(content)
    assert failure.value.code == "E1104"


def test_a_library_that_is_none(artifact: Artifact) -> None:
    with pytest.raises(EinfallError) as failure:
        replace(artifact, library=b"no library").load_code()
    assert failure.value.code == "E1104"


def test_files(artifact: Artifact, tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none.efk", "E1101"), (tmp_path, "E1102")):
        with pytest.raises(EinfallError) as failure:
            Artifact.read(path)
        assert failure.value.code == code
    (tmp_path / "text.efk").write_text("kernel")
    with pytest.raises(EinfallError, match=r"text\.efk is no sound kernel file") as failure:
        Artifact.read(tmp_path / "text.efk")
    assert failure.value.code == "E1104"
    for path in (tmp_path, tmp_path / "no" / "folder.efk"):
        with pytest.raises(EinfallError) as failure:
            artifact.write(path)
        assert failure.value.code == "E1107"
    (tmp_path / "attention.efk").write_text("x")
    with pytest.raises(EinfallError, match=r"did you mean `attention\.efk`"):
        Artifact.read(tmp_path / "atention.efk")


sizes = st.recursive(
    st.integers(0, 2**62).map(integer) | st.sampled_from("MNK").map(size),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["add", "sub", "mul", "floordiv", "mod", "ceildiv", "min"]), inner, inner).map(
            lambda t: op(*t)
        ),
        st.tuples(inner, inner, inner).map(
            lambda t: Select(condition=op("lt", t[0], t[1]), then=t[1], otherwise=t[2], dtype=t[1].dtype)
        ),
        inner.map(lambda e: Cast(value=e, dtype=I32)),
    ),
    max_leaves=8,
)


@given(sizes)
def test_size_expressions_as_json(expr: Expr) -> None:
    assert expr_from_json(json.loads(json.dumps(expr_json(expr)))) == expr


def test_signature_as_json() -> None:
    sig = signature(
        "all",
        ["X: bf16[M, 3, M+N]", "s: f32"],
        ["Y: i8[M]", "Z: bool[N]"],
        lets=[("L", op("ceildiv", size("M"), integer(2)))],
        requires=[(op("ge", size("M"), integer(1)), "M >= 1")],
        workspace=op("mul", size("M"), integer(4)),
    )
    packed = QuantType(name=None, element=DTYPES["u4"], dimension="K", group=128, scale=DTYPES["f16"], zero=None)
    first, *rest = sig.parameters
    sig = replace(sig, parameters=(replace(first, dtype=packed), *rest), fixed={"H": 3})
    assert Signature.from_json(json.loads(json.dumps(sig.to_json()))) == sig
    assert str(sig) == "all(X: quant(u4, group = K:128, scale = f16)[M, 3, M + N], s: f32) -> (Y: i8[M], Z: bool[N])"


def test_explanation_as_json() -> None:
    found = Explanation(
        kernel="k",
        einsums=("Y[m] = X[m]",),
        groups=(Group(tensors=("Y", "Z"), in_tiles=("Z",), over=("m",), condition="M > 3"),),
        decisions=(Choice(made_by="fuse", subject="Y", chosen="fused", because="one pass"),),
        flops=size("M"),
        traffic=integer(3),
        workspace=integer(0),
        tiles=op("mul", size("M"), integer(4)),
        packed=size("M"),
        passes={"m": Passes(before=3, after=1)},
        live_before=(Live(rank="m", tensor="Y", levels=(1, 2), elements=size("M")),),
        live_after=(Live(rank="m0", tensor="Y", levels=(1, 2), elements=integer(64), in_tile=True),),
    )
    assert Explanation.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.at(M=5) == {"flops": 5, "traffic": 3, "workspace": 0, "tiles": 20, "packed": 5}
    text = str(replace(found, threads=3))
    for line in (
        "m: 3 → 1",
        "1. if M > 3: Y, in parallel over m; in the thread's tile: Z",
        "Y: fused\n      because one pass [fuse]",
        "Y: 64 elements (passes 1 and 2 over m0, in a tile)",
        "bytes of tiles, each of 3 threads: M * 4",
    ):
        assert line in text
    assert "<td>m</td><td>3</td><td>1</td>" in found._repr_html_()


@pytest.mark.parametrize("part", ["passes", "live_before", "live_after", "groups", "decisions"])
def test_a_damaged_explanation_is_refused(part: str) -> None:
    data = compiled(signature("k", ["X: f32[M]"], ["Y: f32[M]"]), lambda: None).explanation.to_json()
    data[part] = {"m": 3} if part == "passes" else ["nonsense"]
    with pytest.raises(ValueError, match=r"^(not|no) "):
        Explanation.from_json(data)
