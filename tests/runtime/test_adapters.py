"""LoRAs beside the layers of a graph: against the same graph with the weights changed in it."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from peer_exports import PEER_EXPORTS, needs_peers, relative_error

import openkontext
from openkontext.lora import Change, Decomposed, Kronecker, LowRank, Replaced, Whole
from openkontext.runtime import load_graph
from openkontext.runtime.adapters import STRENGTHS, beside, parameter_shapes, strength_vector
from openkontext.runtime.model_file import read_model

NANO = Path(openkontext.__file__).parent / "nano"
Make = Callable[[np.random.Generator, NDArray[np.float32]], Change]


def low_rank(rank: int) -> Make:
    def make(rng: np.random.Generator, weight: NDArray[np.float32]) -> LowRank:
        down, up = rng.standard_normal((rank, weight.shape[1])), rng.standard_normal((weight.shape[0], rank))
        size = 0.5 * np.linalg.norm(weight) / np.linalg.norm(up @ down)
        return LowRank((down * size).astype(np.float32), up.astype(np.float32), float(rank))

    return make


def kronecker(rng: np.random.Generator, weight: NDArray[np.float32]) -> Kronecker:
    left, right = (
        rng.standard_normal((4, 8)),
        rng.standard_normal((weight.shape[0] // 4, weight.shape[1] // 8)),
    )
    scale = 0.5 * np.linalg.norm(weight) / (np.linalg.norm(left) * np.linalg.norm(right))
    return Kronecker(left.astype(np.float32), right.astype(np.float32), float(scale))


def whole(rng: np.random.Generator, weight: NDArray[np.float32]) -> Whole:
    return Whole((0.5 * np.std(weight) * rng.standard_normal(weight.shape)).astype(np.float32))


def decomposed(inner: Make, by_row: bool) -> Make:
    def make(rng: np.random.Generator, weight: NDArray[np.float32]) -> Decomposed:
        norm = np.linalg.norm(weight, axis=1 if by_row else 0)
        magnitude = (norm * rng.uniform(0.7, 1.4, norm.shape)).astype(np.float32)
        direction = inner(rng, weight)
        assert isinstance(direction, LowRank | Kronecker | Whole)
        beside = () if by_row else (("the only one", direction),)
        return Decomposed(direction, magnitude, by_row, beside)

    return make


KINDS: Mapping[str, Make] = {
    "low rank": low_rank(6),
    "kronecker": kronecker,
    "whole": whole,
    "dora": decomposed(low_rank(3), True),
    "dora of kronecker": decomposed(kronecker, True),
    "dora by column": decomposed(low_rank(3), False),
}


@cache
def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights of a graph in 16 bits, by their names in the model."""
    found = {}
    for tensor in onnx.load(path).graph.initializer:
        name = tensor.name.removeprefix("m.")
        found[name] = numpy_helper.to_array(tensor).astype(np.float32)
    return found


def changes_of(path: Path, role: str, make: Make, seed: int = 0) -> dict[str, Change]:
    """A change of every linear layer of the blocks."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in parameter_shapes(path, role).items():
        if len(shape) == 2 and ("block" in name or "layers" in name):
            change = make(rng, weights(path)[name])
            if isinstance(change, Decomposed) and not change.by_row:
                change = Decomposed(change.direction, change.magnitude, False, ((name, change.direction),))
            found[name] = change
    return found


def merged(path: Path, folder: Path, adapters: Mapping[str, tuple[Change, float]]) -> Path:
    """The graph with its weights changed, as an export of the merged model has them."""
    model, stored = onnx.load(path), weights(path)
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("m.")
        if name in adapters:
            change, strength = adapters[name]
            new = stored[name] + strength * change.delta(stored.__getitem__, name)
            tensor.CopyFrom(numpy_helper.from_array(new.astype(ml_dtypes.bfloat16), tensor.name))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights")
    return folder / "model.onnx"


def run(path: Path, inputs: Mapping[str, NDArray[Any]], **options: Any) -> NDArray[np.float32]:
    graph = load_graph(path, role="transformer", threads=1, **options)
    return graph.run(**{name: inputs[name] for name in graph.inputs})["latent"]


@cache
def peer_inputs() -> dict[str, NDArray[Any]]:
    cases = np.load(PEER_EXPORTS / "bf16" / "cases.npz")
    return {name.removeprefix("in0_"): cases[name] for name in cases.files if name.startswith("in0_")}


@needs_peers
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_bfloat16_graph_it_is_the_merged_graph(tmp_path: Path, kind: str) -> None:
    path = PEER_EXPORTS / "bf16" / "model.onnx"
    changes = changes_of(path, "transformer", KINDS[kind])
    expected = run(merged(path, tmp_path, {n: (c, 0.8) for n, c in changes.items()}), peer_inputs())
    result = run(path, peer_inputs(), adapters=[changes], strengths=[0.8])
    assert relative_error(result, expected) < 0.002
    assert relative_error(run(path, peer_inputs()), expected) > 0.05


@needs_peers
@pytest.mark.parametrize(
    ("precision", "kind", "arithmetic"),
    [
        ("fp8", "low rank", "faithful"),
        ("fp8", "dora", "fast"),
        ("fp4", "kronecker", "faithful"),
        ("fp4_svd", "low rank", "faithful"),
        ("fp4_svd", "dora", "fast"),
    ],
)
def test_on_a_quantized_graph_the_error_is_that_of_the_precision(
    tmp_path: Path, precision: str, kind: str, arithmetic: str
) -> None:
    path, exact = (PEER_EXPORTS / name / "model.onnx" for name in (precision, "bf16"))
    changes = changes_of(exact, "transformer", KINDS[kind])
    expected = run(merged(exact, tmp_path, {n: (c, 0.8) for n, c in changes.items()}), peer_inputs())
    result = run(path, peer_inputs(), arithmetic=arithmetic, adapters=[changes], strengths=[0.8])
    alone = relative_error(run(path, peer_inputs(), arithmetic=arithmetic), run(exact, peer_inputs()))
    # Larger outputs carry more of the same relative error: by the factor that was seen, and a tenth.
    assert relative_error(result, expected) < 1.4 * alone
    limit = {"fp8": 0.055, "fp4": 0.147, "fp4_svd": 0.147}[precision]
    assert relative_error(result, expected) < limit


@needs_peers
def test_strengths_change_from_call_to_call(tmp_path: Path) -> None:
    path = PEER_EXPORTS / "bf16" / "model.onnx"
    first, second = (changes_of(path, "transformer", low_rank(rank), rank) for rank in (2, 5))
    graph = load_graph(path, role="transformer", adapters=[first, second], strengths=[1.0, 1.0], threads=1)
    inputs = {name: peer_inputs()[name] for name in graph.inputs}
    graph.fix(STRENGTHS, strength_vector([0.0, 0.0]))
    np.testing.assert_allclose(graph.run(**inputs)["latent"], run(path, inputs), atol=1e-5)
    graph.fix(STRENGTHS, strength_vector([0.3, -0.6]))
    both = {
        name: (Whole(0.3 * first[name].delta(_none, name) - 0.6 * second[name].delta(_none, name)), 1.0)
        for name in first
    }
    assert relative_error(graph.run(**inputs)["latent"], run(merged(path, tmp_path, both), inputs)) < 0.002


def _none(name: str) -> NDArray[Any]:
    raise AssertionError(name)


def test_norms_and_biases_of_nano(tmp_path: Path) -> None:
    """Parameters with one axis."""
    path = NANO / "transformer.opt" / "bf16" / "model.onnx"
    rng = np.random.default_rng(3)
    stored = weights(path)
    names = ("transformer_blocks.0.attn.norm_q.weight", "transformer_blocks.1.attn.norm_added_k.weight")
    changes: dict[str, Change] = {
        names[0]: Replaced(rng.uniform(0.5, 2, stored[names[0]].shape).astype(np.float32)),
        names[1]: Whole(rng.normal(0, 0.3, stored[names[1]].shape).astype(np.float32)),
        "transformer_blocks.0.attn.to_v.bias": Whole(rng.normal(0, 0.5, 192).astype(np.float32)),
        "transformer_blocks.0.norm1.linear.bias": Whole(rng.normal(0, 0.3, 1152).astype(np.float32)),
        "proj_out.weight": low_rank(4)(rng, stored["proj_out.weight"]),
        "proj_out.bias": Whole(rng.normal(0, 0.5, 64).astype(np.float32)),
    }
    assert changes.keys() <= parameter_shapes(path, "transformer").keys()
    inputs = nano_inputs()
    expected = run(merged(path, tmp_path, {n: (c, 0.7) for n, c in changes.items()}), inputs)
    result = run(path, inputs, adapters=[changes], strengths=[0.7])
    assert relative_error(result, expected) < 0.004
    assert relative_error(run(path, inputs), expected) > 0.05


def nano_inputs() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    graph = load_graph(NANO / "transformer.opt" / "bf16" / "model.onnx", threads=1)
    sizes = {"B": 1, "latent_dim": 24}
    return {
        name: rng.standard_normal([sizes.get(s, s) for s in spec.shape]).astype(np.float32)
        for name, spec in graph.inputs.items()
    } | {"timestep": np.array([0.6], np.float32), "guidance": np.array([2.5], np.float32)}


@pytest.mark.parametrize("role", ["clip", "t5"])
def test_text_encoders_of_nano(tmp_path: Path, role: str) -> None:
    path = NANO / f"{role}.opt" / "model.onnx"
    changes = changes_of(path, role, low_rank(3))
    (tmp_path / "merged").mkdir()
    other = merged(path, tmp_path / "merged", {n: (c, 1.0) for n, c in changes.items()})
    ids = np.random.default_rng(0).integers(0, 40, (1, 32))
    output = {"clip": "pooled_embeddings", "t5": "text_embeddings"}[role]
    expected, plain = (load_graph(each, role=role).run(input_ids=ids)[output] for each in (other, path))
    result = load_graph(path, role=role, adapters=[changes], strengths=[1.0]).run(input_ids=ids)[output]
    assert relative_error(result, expected) < 0.004
    assert relative_error(plain, expected) > 0.05


@needs_peers
@pytest.mark.parametrize("precision", ["bf16", "fp4"])
def test_layers_are_found_where_nodes_have_no_names(tmp_path: Path, precision: str) -> None:
    """Tools that rename or drop the names of nodes keep those of the weights."""
    path = PEER_EXPORTS / precision / "model.onnx"
    model = read_model(path)
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    renamed = tmp_path / "model.onnx"
    renamed.write_bytes(model.SerializeToString())
    found, all_of = (parameter_shapes(each, "transformer") for each in (renamed, path))
    linear = {name: shape for name, shape in all_of.items() if len(shape) == 2}
    assert {name: shape for name, shape in found.items() if len(shape) == 2} == linear


@needs_peers
def test_a_rewritten_graph_serves_any_lora_of_the_same_shapes() -> None:
    """So that what is kept on disk, which goes by the graph, is found again."""
    path = PEER_EXPORTS / "fp8" / "model.onnx"
    exact = PEER_EXPORTS / "bf16" / "model.onnx"
    first, second = (changes_of(exact, "transformer", low_rank(2), seed) for seed in (11, 12))
    model = read_model(path)
    (one, fed), (two, other) = (beside(model, path, "transformer", [each]) for each in (first, second))
    assert one.SerializeToString() == two.SerializeToString()
    assert any((fed[name] != other[name]).any() for name in fed)


@needs_peers
def test_svdquants_branch_takes_the_lora_in() -> None:
    """As nunchaku does: one pair of products for both, of the ranks of both."""
    path = PEER_EXPORTS / "fp4_svd" / "model.onnx"
    changes = changes_of(PEER_EXPORTS / "bf16" / "model.onnx", "transformer", low_rank(6))
    model = read_model(path)
    rewritten, feed = beside(model, path, "transformer", [changes])

    def count(graph: onnx.ModelProto, operator: str) -> int:
        return sum(node.op_type == operator for node in graph.graph.node)

    layers = sum(name.endswith("/down") for name in feed)
    joined = (count(rewritten, "Concat") - count(model, "Concat")) // 2
    has_branch = {
        tensor.name.removeprefix("m.").partition(".weight_quantizer")[0] + ".weight"
        for tensor in model.graph.initializer
        if tensor.name.endswith("_svdquant_lora_a")
    }
    assert joined == len(has_branch & changes.keys()) > 0
    assert count(rewritten, "MatMul") - count(model, "MatMul") == 2 * (layers - joined)
