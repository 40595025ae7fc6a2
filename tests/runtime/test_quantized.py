"""FP8 and FP4 graphs as TensorRT's tools write them: against those tools' own outputs, and against numpy."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from quantized_graphs import FLOAT4, KINDS, Draft, as_stored

from openkontext.errors import InputError
from openkontext.runtime import graph as graph_module
from openkontext.runtime import load_graph, lowering


# The greatest error that the folder's README gives for a correct reading, and a twentieth for another order
# of rounding: one bfloat16 rounding that falls the other way moves a value by a whole step of E2M1.
@needs_peers
@pytest.mark.parametrize(("name", "allowed"), [("fp8", 0.022), ("fp4", 0.052), ("fp4_svd", 0.046)])
def test_runs_a_quantized_export_of_another_tool(name: str, allowed: float) -> None:
    graph = load_graph(PEER_EXPORTS / name / "model.onnx", role="transformer", threads=1)
    cases = np.load(PEER_EXPORTS / name / "cases.npz")
    for case in range(2):
        result = graph.run(**{key: cases[f"in{case}_{key}"] for key in graph.inputs})
        assert relative_error(result["latent"], cases[f"out{case}"]) < 1.05 * allowed


@needs_peers
@pytest.mark.parametrize("folded", [0, 1 << 30], ids=["mapped", "folded"])
@pytest.mark.parametrize("name", ["fp8", "fp4", "fp4_svd"])
def test_fast_is_no_further_from_bfloat16_than_the_other_tool_is(
    name: str, folded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", folded)
    graph = load_graph(PEER_EXPORTS / name / "model.onnx", arithmetic="fast", threads=1)
    cases, wide = (np.load(PEER_EXPORTS / folder / "cases.npz") for folder in (name, "bf16"))
    for case in range(2):
        result = graph.run(**{key: cases[f"in{case}_{key}"] for key in graph.inputs})["latent"]
        exact = wide[f"out{case}"]
        assert relative_error(result, exact) <= 1.1 * relative_error(cases[f"out{case}"], exact)


def tolerance(precision: str, kind: str, fast: bool) -> float:
    """Relative error that rounding leaves.

    Where a graph computes in its own 16 bits (fp16 on this provider) its rounding is the difference, and so
    it is where a graph rounds on the way: a value at an edge then comes out a whole step of E2M1 away. FP4 in
    `fast` rounds activations to 8 bits, block by block: by no more than half of amax / 127 each, 0.9% of the
    block at the very most.
    """
    if fast and kind.startswith("fp4"):
        return 9e-3
    if precision == "fp32":
        return 1e-5
    return 0.06 if kind in ("fp4 smoothed", "fp4 svd") else 3e-3


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_linear_layers(
    tmp_path: Path, kind: str, arithmetic: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    precision = str(rng.choice(["bf16", "fp16", "fp32"]))
    gemm, bias, mapped = rng.integers(0, 2, 3).astype(bool)
    if mapped:
        monkeypatch.setattr(graph_module, "FOLDED_BYTES", 0)
        monkeypatch.setattr(lowering, "SMALL_BYTES", 0)
    width, out = 16 * int(rng.integers(1, 5)), 4 * int(rng.integers(1, 12))
    x = rng.standard_normal((5, width) if gemm else (2, 5, width)).astype(np.float32)
    x[..., 0, :16] = 0  # a block without any value
    w, b = (as_stored(rng.standard_normal(shape), precision) for shape in ((out, width), out))
    draft = Draft(rng, precision, {"x": x}, fast=arithmetic == "fast")
    y = draft.linear("x", w, kind, b if bias else None, gemm)
    shape = ["B", width] if gemm else ["B", "T", width]
    graph = load_graph(draft.save(tmp_path, y, {"x": shape}), arithmetic=arithmetic, threads=1)
    result = graph.run(x=draft.values["x"])["y"]
    assert relative_error(result, draft.values[y]) < tolerance(precision, kind, arithmetic == "fast")


@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
def test_fp4_in_a_graph_that_declares_an_opset_without_it(tmp_path: Path, arithmetic: str) -> None:
    """Older releases of the tool put FP4 into the graph of opset 20 that PyTorch had exported."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 32)).astype(np.float32)
    draft = Draft(rng, "fp32", {"x": x}, fast=arithmetic == "fast")
    y = draft.linear("x", rng.standard_normal((16, 32)).astype(np.float32), "fp4")
    graph = load_graph(draft.save(tmp_path, y, {"x": ["B", 32]}, opset=20), arithmetic=arithmetic)
    allowed = tolerance("fp32", "fp4", arithmetic == "fast")
    assert relative_error(graph.run(x=x)["y"], draft.values[y]) < allowed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_random_attention(
    tmp_path: Path, precision: str, arithmetic: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    if seed % 2:  # FP8 by ONNX's own operators, as in a large model
        monkeypatch.setattr(lowering, "SMALL_BYTES", 0)
    heads, tokens, width = (int(rng.integers(1, 9)) for _ in range(3))
    given = {name: rng.standard_normal((2, heads, tokens, 4 * width)).astype(np.float32) for name in "qkv"}
    draft = Draft(rng, precision, given, fast=arithmetic == "fast")
    y = draft.attention("q", "k", "v")
    shapes: dict[str, list[Any]] = {name: ["B", heads, "T", 4 * width] for name in given}
    graph = load_graph(draft.save(tmp_path, y, shapes), arithmetic=arithmetic, threads=1)
    # A rounding to 16 bits that falls the other way moves a value by a step of E4M3, a sixteenth of it.
    allowed = 5e-3 if arithmetic == "fast" else 0.025
    given = {name: draft.values[name] for name in given}
    assert relative_error(graph.run(**given)["y"], draft.values[y]) < allowed


@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"block_size": 12},
            r"node '\w+' \(trt:TRT_FP4DynamicQuantize\): expected a block size that divides",
        ),
        ({"axis": 0}, "expected blocks along the last axis, not 0"),
        ({"scale_type": 1}, "expected block scales of type FLOAT8E4M3FN"),
    ],
)
def test_what_is_not_understood_is_named(
    tmp_path: Path, arithmetic: str, change: dict[str, int], message: str
) -> None:
    draft = Draft(np.random.default_rng(0), "fp32", {"x": np.ones((1, 32), np.float32)})
    y = draft.fp4("x", 0.01)
    for node in draft.nodes:
        for attribute in node.attribute:
            if node.domain == "trt" and attribute.name in change:
                attribute.i = change[attribute.name]
    with pytest.raises(InputError, match=message):
        load_graph(draft.save(tmp_path, y, {"x": ["B", 32]}), arithmetic=arithmetic)


def test_fp4_weights_used_in_another_way_are_named(tmp_path: Path) -> None:
    draft = Draft(np.random.default_rng(0), "fp32", {"x": np.ones((1, 16), np.float32)})
    weight = draft("Cast", [draft.weight(np.ones((16, 16)), FLOAT4, "w")], to=TensorProto.FLOAT)
    path = draft.save(tmp_path, draft("MatMul", ["x", weight]), {"x": ["B", 16]})
    with pytest.raises(InputError, match=r"model.onnx: node 'node0' \(Cast\): expected FP4 weights to go"):
        load_graph(path)


def test_an_unknown_arithmetic_is_named(tmp_path: Path) -> None:
    draft = Draft(np.random.default_rng(0), "fp32", {"x": np.ones((1, 16), np.float32)})
    path = draft.save(tmp_path, draft("Neg", ["x"]), {"x": ["B", 16]})
    with pytest.raises(InputError, match="unknown arithmetic 'quick': choose one of faithful, fast"):
        load_graph(path, arithmetic="quick")


@pytest.mark.parametrize("readers", [1, 2])
def test_fp8_of_activations_is_rounded_to_the_bit(tmp_path: Path, readers: int) -> None:
    """Every tie and edge of E4M3, of both signs, against ml_dtypes' own conversion."""
    codes = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ties = (codes[1:] + codes[:-1]) / 2
    edges = np.concatenate(
        (codes, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9)))
    )
    draw = np.random.default_rng(0)
    any_size = draw.standard_normal(4096).astype(np.float32) * np.float32(2) ** draw.integers(-14, 12, 4096)
    x = np.concatenate((edges, any_size, [0, 464, 480, 1e30])).astype(np.float32)
    x = np.concatenate((x, -x)) * np.float32(0.25)
    sums = {1: "y = Identity (d0)", 2: "y = Add (d0, d1)"}
    dequantized = "".join(f"d{i} = DequantizeLinear (q, s)\n" for i in range(readers))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        g (float[N] x) => (float[N] y) <float s = {{0.25}}, float8e4m3fn z = {{0}}> {{
            q = QuantizeLinear (x, s, z)
            {dequantized} {sums[readers]}
        }}"""
    )
    onnx.save(model, tmp_path / "model.onnx")
    lowered = lowering.lower(model, tmp_path / "model.onnx", "cpu")
    assert lowered is not None
    assert not any("QuantizeLinear" in node.op_type for node in lowered.graph.node)
    result = load_graph(tmp_path / "model.onnx", threads=1).run(x=x)["y"] / readers
    expected = np.clip(4 * x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) / 4
    np.testing.assert_array_equal(result, expected)
