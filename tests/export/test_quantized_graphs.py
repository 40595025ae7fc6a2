"""Quantized transformers: against files of another tool with the same weights, and against torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from peer_exports import PEER_EXPORTS, needs_peers, relative_error

from openkontext.export.calibration import Calibration, batched
from openkontext.export.graph_weights import GraphFloats
from openkontext.export.precisions import QuantRecipe, write_weights
from openkontext.export.quantizers.selection import is_quantized
from openkontext.export.transformer import transformer_graph
from openkontext.export.work import Work
from openkontext.model.checkpoints import Checkpoint, transformer_of
from openkontext.model.config import TransformerConfig
from openkontext.model.transformer import FluxTransformer
from openkontext.runtime import load_graph

PEER_CONFIG = TransformerConfig(
    in_channels=64,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=32,
    num_attention_heads=4,
    joint_attention_dim=64,
    pooled_projection_dim=32,
    axes_dims_rope=(4, 14, 14),
)
PEER_TEXT_LENGTH = 16


def peer_cases(precision: str) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Inputs and outputs of the other tool's own run."""
    with np.load(PEER_EXPORTS / precision / "cases.npz") as cases:
        count = sum(name.startswith("out") for name in cases.files)
        inputs = [
            {name.removeprefix(f"in{i}_"): cases[name] for name in cases.files if name.startswith(f"in{i}_")}
            for i in range(count)
        ]
        return inputs, [cases[f"out{i}"] for i in range(count)]


@pytest.fixture(scope="module")
def peer_weights() -> Checkpoint[TransformerConfig]:
    floats = GraphFloats(PEER_EXPORTS / "bf16" / "model.onnx", "transformer")
    return transformer_of(floats, PEER_CONFIG)


def written(
    weights: Checkpoint[TransformerConfig],
    folder: Path,
    precision: str,
    recipe: QuantRecipe,
    calibration: Calibration,
    text_length: int,
) -> Path:
    """A transformer alone."""
    work = Work(folder, "test")
    scales = write_weights(
        weights, (precision,), work, "new", lambda: calibration, recipe, lambda _share, _what: None
    )
    data = work.file(f"new/transformer.opt/{precision}/backbone.onnx_data")
    data.sync()
    quantized = scales[precision] if precision.startswith("fp") else None
    path = data.path.with_name("model.onnx")
    graph = transformer_graph(weights.config, data.tensors(), ir.DataType.BFLOAT16, text_length, quantized)
    ir.save(graph, path)
    work.close()
    return path


@pytest.fixture(scope="module")
def peer_export(peer_weights, tmp_path_factory) -> Callable[..., Path]:
    """Our export of the other tool's weights, calibrated with its two inputs."""
    inputs, _ = peer_cases("bf16")
    calibration = Calibration(batched(inputs), "the other tool's inputs")
    made: dict[tuple[str, QuantRecipe], Path] = {}

    def export(precision: str, recipe: QuantRecipe) -> Path:
        if (precision, recipe) not in made:
            folder = tmp_path_factory.mktemp("export")
            made[precision, recipe] = written(
                peer_weights, folder, precision, recipe, calibration, PEER_TEXT_LENGTH
            )
        return made[precision, recipe]

    return export


RECIPES = {
    "bf16": ("bf16", QuantRecipe()),
    "fp8": ("fp8", QuantRecipe()),
    "fp4": ("fp4", QuantRecipe(rank=0, smooth=False)),
    "fp4_svd": ("fp4", QuantRecipe(rank=8)),
}
"""Folder of the other tool's file -> how we make its like."""


@needs_peers
@pytest.mark.parametrize("folder", ["fp8", "fp4", "fp4_svd"])
def test_layers_have_the_operators_of_another_tool(peer_export, folder):
    ours = layers(ir.load(peer_export(*RECIPES[folder])).graph, "/")
    theirs = layers(ir.load(PEER_EXPORTS / folder / "model.onnx").graph, "/m/")
    assert len(theirs) > 30
    assert ours.keys() == theirs.keys()
    for layer, operators in theirs.items():
        assert ours[layer] == operators, layer


@needs_peers
@pytest.mark.parametrize("folder", ["fp4", "fp4_svd"])
def test_names_of_stored_tensors_are_those_of_another_tool(peer_export, folder):
    ours = ir.load(peer_export(*RECIPES[folder])).graph.initializers
    theirs = ir.load(PEER_EXPORTS / folder / "model.onnx").graph.initializers
    described = [
        {
            name.removeprefix("m."): (value.dtype, tuple(value.shape.numpy()))
            for name, value in initializers.items()
            if "quantizer" in name or "_f4" in name or "_scale" in name
        }
        for initializers in (ours, theirs)
    ]
    layers = {name.partition(".weight_f4")[0] for name in described[0] if name.endswith(".weight_f4")}
    # The other tool also stores what its switched-off quantizers would use.
    theirs_used = {n: v for n, v in described[1].items() if any(n.startswith(f"{each}.") for each in layers)}
    missing = theirs_used.keys() - described[0].keys()
    # Without a smoothing where none was found best.
    assert all(name.endswith("._pre_quant_scale") for name in missing)
    assert described[0] == {name: value for name, value in theirs_used.items() if name not in missing}


@needs_peers
def test_stored_fp4_weights_are_those_of_another_tool(peer_export):
    ours = ir.load(peer_export(*RECIPES["fp4"])).graph.initializers
    theirs = ir.load(PEER_EXPORTS / "fp4" / "model.onnx").graph.initializers
    checked = equal = total = 0
    for name, value in theirs.items():
        if not name.endswith(("_f4", "_f8_scale", "_f32_scale")):
            continue
        peer, own = value.const_value.numpy(), ours[name.removeprefix("m.")].const_value.numpy()
        same = int((own == peer).sum())
        assert same / peer.size > 0.99, name
        checked, equal, total = checked + 1, equal + same, total + peer.size
    assert checked > 90
    assert equal / total >= 0.999


@needs_peers
@pytest.mark.parametrize("folder", ["fp8", "fp4", "fp4_svd"])
def test_quantizing_costs_no_more_than_in_another_tool(peer_export, peer_weights, folder):
    """Both against the same weights unquantized; ours quantizes attention too."""
    graph = load_graph(peer_export(*RECIPES[folder]))
    inputs, outputs = peer_cases(folder)
    _, unquantized = peer_cases("bf16")
    model = FluxTransformer(PEER_CONFIG)
    model.load_state_dict({name: peer_weights.read(name).float() for name in peer_weights.shapes})
    for given, theirs, their_reference in zip(inputs, outputs, unquantized, strict=True):
        tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in given.items()}
        with torch.no_grad():
            reference = model(**tensors).numpy()
        error = relative_error(graph.run(**given)["latent"], reference)
        assert error < 1.1 * relative_error(theirs, their_reference)


def layers(graph: ir.Graph, prefix: str) -> dict[str, str]:
    """Name of each quantized layer -> the expression that it computes, down to what goes into it."""
    found = {}
    for node in graph:
        module = (node.name or "").removeprefix(prefix).rpartition("/")[0]
        if node.op_type not in ("MatMul", "Gemm") or not (node.name or "").startswith(prefix):
            continue
        layer = module.replace("/", ".")
        if not is_quantized(layer) or not any(_is_stored(value, layer) for value in node.inputs):
            continue
        last = node.outputs[0]
        while True:  # up to the last operator of the layer
            after = [
                use.node
                for use in last.uses()
                if use.node.op_type == "Add" and (use.node.name or "").startswith(f"{prefix}{module}/Add")
            ]
            if not after:
                break
            last = after[0].outputs[0]
        found[layer] = _expression(last, f"{prefix}{module}/", layer)
    return found


def _is_stored(value: ir.Value | None, layer: str) -> bool:
    """Whether a layer's main weight leads to a value."""
    while value is not None and value.producer() is not None:
        producer = value.producer()
        if producer.op_type not in ("Cast", "Transpose", "DequantizeLinear", *_PAIR):
            return False
        value = producer.inputs[0]
    return (
        value is not None
        and value.is_initializer()
        and f"{layer}.weight" in (value.name or "")
        and ("lora" not in (value.name or ""))
    )


_PAIR = ("TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear")


def _expression(value: ir.Value, module: str, layer: str) -> str:
    producer = value.producer()
    if producer is None:
        assert value.name is not None
        stored = value.name.removeprefix("m.").removeprefix(f"{layer}.")
        return f"{stored}:{'FLOAT8E4M3FN' if stored == 'weight' else value.dtype.name}"
    if producer.op_type == "Constant":
        tensor = producer.attributes["value"].as_tensor()
        return f"constant:{tensor.dtype.name}{list(tensor.shape.numpy())}"
    inside = any((name or "").startswith(module) for name in (producer.name, value.name))
    if not inside and f"{layer}.weight" not in (value.name or ""):  # nodes on a weight have its name
        return "x"
    arguments = [_expression(each, module, layer) for each in producer.inputs]
    if producer.op_type in _PAIR and arguments[0].startswith("weight:"):
        # The other tool stores 16 bits and quantizes in the graph; its `fold_fp8_qdq_to_dq` makes this of it.
        if producer.op_type == "TRT_FP8QuantizeLinear":
            return arguments[0]
        return f"DequantizeLinear({', '.join(arguments)})"
    attributes = {
        name: attribute.value
        for name, attribute in sorted(producer.attributes.items())
        if (producer.op_type, name) not in (("Gemm", "alpha"), ("Gemm", "beta"))
    }
    written = "".join(f", {name}={value}" for name, value in attributes.items())
    name = f"{producer.domain}::{producer.op_type}" if producer.domain else producer.op_type
    index = f"[{producer.outputs.index(value)}]" if len(producer.outputs) > 1 else ""
    return f"{name}({', '.join(arguments)}{written}){index}"
