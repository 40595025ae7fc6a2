"""Kernels of ONNX Runtime in place of what they compute: against numpy, and the graph of before."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from peer_exports import PEER_EXPORTS, needs_peers, relative_error

from openkontext.onnx_runtime import onnxruntime
from openkontext.repository import Repository
from openkontext.runtime import arena, cache, load_graph, lowering
from openkontext.runtime import graph as graph_module
from openkontext.runtime.model_file import read_model

HEADS, WIDTH = 3, 8


def rewritten(text: str, **stored: NDArray[Any]) -> onnx.ModelProto:
    """A graph from ONNX's textual form, with the kernels in it."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    model = lowering.with_types(model)
    return lowering.fused(model) or model


def count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph.node)


def run(model: onnx.ModelProto, **arrays: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, arrays)[0]
    return result


def attention(query: str, key: str, between: str = "p = Softmax <axis = -1> (s)", value: str = "vt") -> str:
    """The text of a graph with attention; the parts of it that exporters write in different ways."""
    shape = f"{HEADS}, {WIDTH}"
    return (
        f"g (float[B, S, {shape}] q, float[B, L, {shape}] k, float[B, L, {shape}] v) => "
        f"(float[B, S, {shape}] y) {{ {query} {key} vt = Transpose <perm = [0, 2, 1, 3]> (v) "
        f"s = MatMul (qs, ks) {between} z = MatMul (p, {value}) y = Transpose <perm = [0, 2, 1, 3]> (z) }}"
    )


PLAIN = "qs = Transpose <perm = [0, 2, 1, 3]> (q)"
SCALED = "qt = Transpose <perm = [0, 2, 1, 3]> (q) qs = Mul (qt, c)"
FROM_SHAPE = (
    "qt = Transpose <perm = [0, 2, 1, 3]> (q) n = Shape (qt) begin = Constant <value_ints = [-1]> () "
    "end = Constant <value_ints = [9223372036854775807]> () d = Slice (n, begin, end) "
    "f = Cast <to = 1> (d) r = Sqrt (f) w = Div (c, r) qs = Mul (qt, w)"
)
BY_COLUMN = "ks = Transpose <perm = [0, 2, 3, 1]> (k)"
IN_TWO = (
    "kt = Transpose <perm = [0, 2, 1, 3]> (k) kc = Cast <to = 1> (kt) "
    "ks = Transpose <perm = [0, 1, 3, 2]> (kc)"
)
SCALED_KEYS = "kt = Transpose <perm = [0, 2, 3, 1]> (k) ks = Mul (c, kt)"


def operands(rng: np.random.Generator, batch: int) -> dict[str, NDArray[np.float32]]:
    sizes = {"q": 5, "k": 7, "v": 7}
    return {
        name: rng.standard_normal((batch, size, HEADS, WIDTH)).astype(np.float32)
        for name, size in sizes.items()
    }


def by_hand(scale: float, **given: NDArray[np.float32]) -> NDArray[np.float64]:
    q, k, v = (given[name].astype(np.float64) for name in "qkv")
    scores = np.exp(scale * np.einsum("bshd,blhd->bhsl", q, k))
    result: NDArray[np.float64] = np.einsum("bhsl,blhd->bshd", scores / scores.sum(-1, keepdims=True), v)
    return result


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("query", "key", "scale"),
    [
        (PLAIN, BY_COLUMN, 1),
        (SCALED, BY_COLUMN, 0.6),
        (SCALED, SCALED_KEYS, 0.36),
        (PLAIN, IN_TWO, 1),
        (FROM_SHAPE, SCALED_KEYS, 0.36 / WIDTH**0.5),
    ],
)
def test_attention_as_exporters_write_it(query: str, key: str, scale: float, batch: int) -> None:
    model = rewritten(attention(query, key), c=np.array([0.6], np.float32))
    assert (count(model, "MultiHeadAttention"), count(model, "Softmax")) == (1, 0)
    given = operands(np.random.default_rng(0), batch)
    np.testing.assert_allclose(run(model, **given), by_hand(scale, **given), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "text",
    [
        attention(PLAIN, BY_COLUMN, "m = Add (s, c) p = Softmax <axis = -1> (m)"),  # a mask
        attention(PLAIN, BY_COLUMN, "u = Softmax <axis = -1> (s) p = Neg (u)"),
        attention(PLAIN, BY_COLUMN, "p = Softmax <axis = 1> (s)"),
        attention(PLAIN, "kt = Transpose <perm = [0, 2, 3, 1]> (k) ks = Mul (kt, w)"),  # not one number
        attention(PLAIN, BY_COLUMN, value="vs").replace("s = MatMul", "vs = Mul (vt, c) s = MatMul"),
        attention("qs = Transpose <perm = [0, 2, 1, 3]> (q)", BY_COLUMN).replace(
            "(float[B, S, 3, 8] y)", "(float[B, S, 3, 8] y, float[B, 3, S, L] p)"
        ),  # somebody else reads the probabilities
    ],
    ids=["mask", "between", "axis", "vector", "scaled values", "two readers"],
)
def test_what_is_no_plain_attention_stays(text: str) -> None:
    stored = {"c": np.array([0.6], np.float32), "w": np.ones((WIDTH, 1), np.float32)}
    model = rewritten(text, **stored)
    assert (count(model, "MultiHeadAttention"), count(model, "Softmax")) == (0, 1)


def rotary(cos: str = "cos", sin: str = "sin", heads: int = 1) -> str:
    angles = f"float[S, {heads}, {WIDTH // 2}, 1]"
    return (
        f"g (float[B, S, {HEADS}, {WIDTH}] x, {angles} cos, {angles} sin) => "
        f"(float[B, S, {HEADS}, {WIDTH}] y) {{ "
        f"pair = Constant <value_ints = [0, 0, {HEADS}, {WIDTH // 2}, 2]> () p = Reshape (x, pair) "
        "a, b = Split <axis = -1, num_outputs = 2> (p) "
        f"ac = Mul (a, cos) bs = Mul ({sin}, b) as = Mul (a, sin) bc = Mul (b, {cos}) "
        "first = Sub (ac, bs) second = Add (bc, as) both = Concat <axis = -1> (first, second) "
        f"flat = Constant <value_ints = [0, 0, {HEADS}, {WIDTH}]> () y = Reshape (both, flat) }}"
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_pairs_are_turned_as_complex_numbers(batch: int) -> None:
    model = rewritten(rotary())
    assert count(model, "RotaryEmbedding") == 1
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, 6, HEADS, WIDTH)).astype(np.float32)
    angles = rng.uniform(-9, 9, (6, 1, WIDTH // 2, 1)).astype(np.float32)
    y = run(model, x=x, cos=np.cos(angles), sin=np.sin(angles))
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles[..., 0])
    np.testing.assert_allclose(y[..., ::2] + 1j * y[..., 1::2], turned, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "text",
    [rotary(heads=HEADS), rotary(cos="sin"), rotary().replace("Sub (ac, bs)", "Sub (bs, ac)")],
    ids=["angles by head", "no turn", "another sign"],
)
def test_what_is_no_turn_stays(text: str) -> None:
    model = rewritten(text)
    if "Sub (bs, ac)" not in text:
        assert count(model, "RotaryEmbedding") == 0
        return
    rng = np.random.default_rng(2)
    arrays = {
        "x": rng.standard_normal((1, 2, HEADS, WIDTH)),
        "cos": rng.standard_normal((2, 1, 4, 1)),
        "sin": rng.standard_normal((2, 1, 4, 1)),
    }
    given = {name: array.astype(np.float32) for name, array in arrays.items()}
    a, b = given["x"][..., ::2], given["x"][..., 1::2]
    cos, sin = given["cos"][..., 0], given["sin"][..., 0]
    np.testing.assert_allclose(run(model, **given)[..., ::2], b * sin - a * cos, rtol=0, atol=2e-6)


def norm(scale: str = "B, 1, 16", inputs: str = "x, w, b", use: str = "") -> str:
    return (
        f"g (float[B, S, 16] x, float[{scale}] scale, float[{scale}] shift) => "
        f"(float[B, S, 16] y{', float[B, S, 16] n' if use else ''}) {{ "
        f"n = LayerNormalization <epsilon = 0.001> ({inputs}) m = Mul (n, scale) y = Add (shift, m) }}"
    )


@pytest.mark.parametrize("inputs", ["x, w, b", "x, w"])
def test_a_norm_takes_its_modulation(inputs: str) -> None:
    model = rewritten(norm(inputs=inputs), w=np.ones(16, np.float32), b=np.zeros(16, np.float32))
    assert (count(model, "LayerNormalization"), count(model, "Mul")) == (1, 0)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 5, 16)).astype(np.float32)
    scale, shift = rng.standard_normal((2, 2, 1, 16)).astype(np.float32)
    y = run(model, x=x, scale=scale, shift=shift)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 0.001)
    np.testing.assert_allclose(y, exact * scale + shift, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("text", "weight", "bias"),
    [
        (norm(), 1.5, 0.0),
        (norm(), 1.0, 0.5),
        (norm(scale="B, S, 16"), 1.0, 0.0),
        (norm(use="twice"), 1.0, 0.0),
    ],
    ids=["own weight", "own bias", "by token", "two readers"],
)
def test_other_norms_stay(text: str, weight: float, bias: float) -> None:
    model = rewritten(text, w=np.full(16, weight, np.float32), b=np.full(16, bias, np.float32))
    assert count(model, "Mul") == 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@needs_peers
@pytest.mark.parametrize("name", ["bf16", "fp8", "fp4", "fp4_svd"])
def test_graphs_of_another_tool(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PEER_EXPORTS / name / "model.onnx"
    cases = np.load(PEER_EXPORTS / name / "cases.npz")
    model = lowering.lower(read_model(path), path, "cpu", "int8")
    assert model is not None
    assert (count(model, "MultiHeadAttention"), count(model, "Softmax")) == (4, 0)

    def latent() -> NDArray[Any]:
        graph = load_graph(path, role="transformer", arithmetic="int8", threads=1)
        return graph.run(**{key: cases[f"in0_{key}"] for key in graph.inputs})["latent"]

    with_kernels = latent()
    monkeypatch.setattr(lowering, "fused", lambda model: None)
    cache.clear()
    assert 0 < relative_error(with_kernels, latent()) < 1e-6


def test_nano_has_a_kernel_for_each_attention_and_turn() -> None:
    path = Repository.open("nano").graph("transformer", "bf16")
    model = lowering.lower(read_model(path), path, "cpu")
    assert model is not None
    blocks = count(model, "MultiHeadAttention")
    assert blocks > 0
    assert (count(model, "Softmax"), count(model, "RotaryEmbedding")) == (0, 2 * blocks)


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_faithful_computes_what_a_quantized_file_says(precision: str) -> None:
    path = Repository.open("nano").graph("transformer", precision)
    model = lowering.lower(read_model(path), path, "cpu", "faithful")
    assert model is not None
    assert not any(count(model, kernel) for kernel in ("MultiHeadAttention", "RotaryEmbedding"))


@needs_peers
@pytest.mark.parametrize(
    ("folded", "low_memory", "part"), [(0, False, True), (0, True, False), (1 << 30, False, False)]
)
def test_a_large_transformer_shares_the_arena(
    home: Path, folded: int, low_memory: bool, part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", folded)
    graph = load_graph(PEER_EXPORTS / "bf16" / "model.onnx", role="transformer", low_memory=low_memory)
    assert graph._session.get_session_options().enable_cpu_mem_arena is part


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's memory")
def test_the_arena_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y) { z = Exp (x) y = Neg (z) }'
    )
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    arena.take_part(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.zeros(16 << 20, np.float32)
    x[:] = 1
    session.run(None, {"x": x})
    kept = resident()
    arena.give_back()
    assert resident() < kept - x.nbytes / 2
    np.testing.assert_allclose(session.run(None, {"x": x[:4]})[0], -np.e, rtol=1e-6)
