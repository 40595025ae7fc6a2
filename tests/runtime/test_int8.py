"""Products of 8-bit integers: against numpy, another tool's graphs and their bfloat16, and kept on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from peer_exports import PEER_EXPORTS, needs_peers, relative_error
from quantized_graphs import KINDS, Draft, as_stored, layers

from openkontext import load
from openkontext.repository import Repository
from openkontext.runtime import cache, int8_weights, load_graph
from openkontext.runtime import graph as graph_module

BITS = (8, 7)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=BITS, ids=["8 bits", "7 bits"])
def bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bits of weights: 8 where the machine's products are exact, 7 where they saturate; both run anywhere."""
    monkeypatch.setattr(graph_module, "weight_bits", lambda: request.param)
    return int(request.param)


def by_hand(x: NDArray[Any], weight: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """The rule in float64: codes of tokens to 127, of output channels to 127 or 63."""
    rows = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-30) / 127
    columns = np.abs(weight).max(0) / (2 ** (bits - 1) - 1)
    codes = np.rint(np.divide(weight, columns, out=np.zeros_like(weight), where=columns > 0))
    exact: NDArray[np.float64] = (np.rint(x / rows) @ codes) * columns * rows
    return exact


def test_a_layer_worked_by_hand(tmp_path: Path, bits: int) -> None:
    """Steps are 1 for a token up to 127, and 1 or 127/63 for a channel; so are the products."""
    top = 2 ** (bits - 1) - 1
    weight = np.zeros((16, 16), np.float32)
    weight[:3, 0] = [top, 1.4, -2.6]  # codes top, 1, -3
    weight[:3, 1] = [-2 * top, 2.9, 4]  # steps of 2: codes -top, 1, 2
    x = np.zeros((3, 16), np.float32)
    x[0, :3] = [127, 2.4, -3.6]  # codes 127, 2, -4
    x[1, :3] = [-0.127, 0.0024, 0.0036]  # steps of a thousandth: codes -127, 2, 4
    text = "g (float[B, 16] x) => (float[B, 16] y) { z = Neg (x) n = Neg (z) y = MatMul (n, w) }"
    path = layers(tmp_path / "a", text, w=weight)
    y = load_graph(path, arithmetic="int8", threads=1).run(x=x)["y"]
    expected = np.zeros((3, 16))
    expected[0, :2] = [127 * top + 2 + 12, 2 * (-127 * top + 2 - 8)]
    expected[1, :2] = [0.001 * (-127 * top + 2 - 12), 0.002 * (127 * top + 2 + 8)]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("gemm", [False, True])
def test_any_layer_in_any_type(tmp_path: Path, bits: int, dtype: str, gemm: bool) -> None:
    rng = np.random.default_rng(3)
    precision = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    x = as_stored(rng.standard_normal((2, 7, 48)) * rng.uniform(0.01, 100, (2, 7, 1)), precision)
    x = x[0] if gemm else x
    weight, bias = (
        as_stored(rng.standard_normal((48, 80)), precision),
        as_stored(rng.standard_normal(80), precision),
    )
    stored = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.upper()))
    shape = "B, 48" if gemm else "B, T, 48"
    product = "Gemm <transB = 1> (n, w, b)" if gemm else "MatMul (n, w)"
    text = (
        f"g ({dtype}[{shape}] x) => ({dtype}[{shape[:-2]}80] y) {{ z = Neg (x) n = Neg (z) y = {product} }}"
    )
    given = {"w": (weight.T if gemm else weight).astype(stored)} | (
        {"b": bias.astype(stored)} if gemm else {}
    )
    y = load_graph(layers(tmp_path / "a", text, **given), arithmetic="int8", threads=1).run(x=x)["y"]
    expected = by_hand(x, weight, bits) + (bias if gemm else 0)
    # A code at an edge may fall the other way: a whole step of one product in 48.
    assert relative_error(y, expected) < 2e-3
    assert relative_error(y, x.astype(np.float64) @ weight + (bias if gemm else 0)) < (
        0.02 if bits == 8 else 0.03
    )


@needs_peers
@pytest.mark.parametrize("folded", [0, 1 << 30], ids=["mapped", "folded"])
@pytest.mark.parametrize("name", ["bf16", "fp8", "fp4", "fp4_svd"])
def test_no_further_from_bfloat16_than_the_published_arithmetic(
    name: str, folded: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "FOLDED_BYTES", folded)
    path = PEER_EXPORTS / name / "model.onnx"
    graph = load_graph(path, role="transformer", arithmetic="int8", threads=1, low_memory=True)
    cases, wide = (np.load(PEER_EXPORTS / folder / "cases.npz") for folder in (name, "bf16"))
    for case in range(2):
        exact = wide[f"out{case}"]
        result = graph.run(**{key: cases[f"in{case}_{key}"] for key in graph.inputs})["latent"]
        published = relative_error(cases[f"out{case}"], exact)
        assert relative_error(result, exact) <= (1.1 * published if name != "bf16" else 0.024)


@needs_peers
@pytest.mark.parametrize("name", ["bf16", "fp4_svd"])
def test_all_layers_but_the_first_the_last_and_those_of_the_conditioning(home: Path, name: str) -> None:
    load_graph(PEER_EXPORTS / name / "model.onnx", role="transformer", arithmetic="int8", threads=1)
    (entry,) = (home / "graphs").glob("*.onnx")
    model = cache.read(entry)
    assert model is not None
    # 2 blocks of 14 layers, 2 of 6; SVDQuant's branches have become part of the weights
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in model.graph.node) == 40
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    left = [name for name in products if "attn/MatMul" not in name]
    kept = ("x_embedder", "context_embedder", "time_text_embed", "norm_out", "/m/proj_out", "bmm")
    assert all(any(part in node for part in kept) for node in left), left
    assert not any("_f4" in weight and "blocks" in weight for weight in weights)
    rounded = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == len(set(rounded)) < 40  # queries, keys and values share what is rounded


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stored_weight(tmp_path: Path, kind: str, seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    precision = str(rng.choice(["bf16", "fp16", "fp32"]))
    width, out = 64, 48
    x = rng.standard_normal((2, 5, width)).astype(np.float32)
    w, b = (as_stored(rng.standard_normal(shape), precision) for shape in ((out, width), out))
    draft = Draft(rng, precision, {"x": x}, fast=True)
    given = draft("Neg", [draft("Neg", ["x"])])  # what a caller feeds is left to the layers that come first
    draft.values[given] = draft.values["x"]
    y = draft.linear(given, w, kind, b)
    graph = load_graph(draft.save(tmp_path, y, {"x": ["B", "T", width]}), arithmetic="int8", threads=1)
    error = relative_error(graph.run(x=draft.values["x"])["y"], draft.values[y])
    assert 1e-4 < error < (0.012 if bits == 8 else 0.018)  # above 0: it is rounded at all


class NanoCalls:
    """What nano's transformer is given in an edit of four steps; how far it then is from bfloat16."""

    def __init__(self) -> None:
        self._calls: list[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]] = []
        editor = load("nano", precision="bf16")
        transformer = editor.components.transformer

        def recorded(**arrays: NDArray[Any]) -> NDArray[np.float32]:
            self._calls.append((arrays, transformer(**arrays)))
            return self._calls[-1][1]

        editor.components.transformer = recorded  # type: ignore[method-assign]
        picture = Path(__file__).parents[2] / "examples" / "scene.png"
        editor.edit(picture, "make it night", num_inference_steps=4, seed=1)
        self.published = {precision: self.error(precision, "faithful") for precision in ("fp8", "fp4")}

    def error(self, precision: str, arithmetic: str) -> float:
        path = Repository.open("nano").graph("transformer", precision)
        graph = load_graph(path, role="transformer", arithmetic=arithmetic, threads=1)
        return max(relative_error(graph.run(**given)["latent"], exact) for given, exact in self._calls)


@pytest.fixture(scope="module")
def nano() -> NanoCalls:
    return NanoCalls()


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_nano_lies_no_further_from_bfloat16_than_as_published(
    precision: str, bits: int, nano: NanoCalls
) -> None:
    allowed = 1.1 * nano.published[precision] if precision != "bf16" else nano.published["fp8"]
    assert nano.error(precision, "int8") < allowed


def test_an_edit_says_how_it_was_computed(home: Path) -> None:
    editor = load("nano", arithmetic="int8")
    picture = Path(__file__).parents[2] / "examples" / "scene.png"
    result = editor.edit(picture, "make it night", num_inference_steps=1, seed=1)
    assert (result.arithmetic, cache.weights()[0]) == ("int8", 1)  # the text encoders are not rounded


def test_sums_of_two_products_fit_16_bits_with_weights_of_7() -> None:
    """`vpmaddubsw` of x86 cuts such sums off: worked in numpy for the largest codes, and for random ones."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (64, 256))
    x[0] = 255
    for bits, exact in ((7, True), (8, False)):
        codes, _ = int8_weights.quantize(rng.standard_normal((256, 32)).astype(np.float32), bits)
        codes[:, 0] = int8_weights.LEVELS[bits]
        pairs = np.einsum("mpi,pin->mpn", x.reshape(64, 128, 2), codes.astype(np.int64).reshape(128, 2, 32))
        cut = np.clip(pairs, -(2**15), 2**15 - 1).sum(1)
        assert np.array_equal(cut, x @ codes.astype(np.int64)) == exact


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells what a processor has")
def test_the_processor_is_asked_by_trying() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    if "avx2" not in flags:
        pytest.skip("no processor of x86 with AVX2")
    assert int8_weights.weight_bits() == (8 if "avx512_vnni" in flags or "avx_vnni" in flags else 7)


WEIGHT = np.random.default_rng(1).standard_normal((32, 48)).astype(np.float32)
X = np.random.default_rng(2).standard_normal((5, 32)).astype(np.float32)
ONE = "g (float[B, 32] x) => (float[B, 48] y) { z = Neg (x) y = MatMul (z, w) }"


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    x = X.copy()
    x[1, 3], x[2, 3] = np.inf, -np.inf
    y = load_graph(layers(tmp_path / "a", ONE, w=WEIGHT), arithmetic="int8").run(x=x)["y"]
    assert not np.isfinite(y[1:3]).any()
    assert np.isfinite(y[[0, 3, 4]]).all()
