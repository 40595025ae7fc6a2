"""The weights of a graph, by their names in the model, whoever exported it and in whatever precision."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from openkontext.errors import InputError
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.config import AutoencoderConfig, ClipTextConfig, TransformerConfig
from openkontext.model.encoder_files import clip_of
from openkontext.model.text_encoders import build_clip
from openkontext.model.weights import Shape
from openkontext.runtime import load_graph
from openkontext.runtime.model_file import data_files, read_model
from openkontext.runtime.opened_graph import opened_graph, typed_model
from openkontext.runtime.passes.layers import (
    FLOATS,
    LinearLayer,
    float_type,
    is_vector,
    linear_layers,
    stored_shape,
)
from openkontext.runtime.passes.parameters import parameters
from openkontext.runtime.stored_weights import stored_weight


class GraphFloats:
    """The parameters of a network, read from its graph one at a time.

    Where a weight is quantized, it is the number that the graph computes with: dequantized, SVDQuant's branch
    and smoothing included, in the type that the layer computes in.

    Args:
        path: of `model.onnx`.
        role: "transformer", "clip", "t5", "vae" or "vae_encoder".

    Raises:
        InputError: the graph or its data cannot be read.
    """

    def __init__(self, path: Path, role: str) -> None:
        model = read_model(path)
        data_files(model, path)
        self._model = typed_model(model, path)
        opened = opened_graph(self._model, path)
        self.path, self.graph = path, opened.graph
        self.metadata: Mapping[str, str] = opened.metadata_props
        shapes: dict[str, Shape] = {}
        self._reads: dict[str, Callable[[], Tensor]] = {}
        for name, value in parameters(self.graph, role).items():
            shape = stored_shape(value) or ()
            shapes[name] = shape[-1:] if is_vector(value) else _without_ones(shape)
            self._reads[name] = lambda value=value, shape=shapes[name]: _read(value).reshape(shape)  # type: ignore[misc]
        for name, layer in linear_layers(self.graph, role).items():
            shapes[f"{name}.weight"] = layer.shape
            self._reads[f"{name}.weight"] = lambda layer=layer: self._weight(layer)  # type: ignore[misc]
        self.shapes: Mapping[str, Shape] = shapes

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start to stop along the first axis, in memory of their own.

        Raises:
            InputError: the data file cannot be read any more, or the weight is stored in an unknown way.
        """
        found = self._reads[name]()
        if not found.is_floating_point():
            raise InputError(
                f"{self.path}: {name} is stored as {found.dtype} in a way that is not known: "
                "take a graph in another precision"
            )
        return found[start:stop]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `read`."""
        return self.read(name, start, stop)

    def _weight(self, layer: LinearLayer) -> Tensor:
        """The weight [out, in] of a layer."""
        if (found := _plain(layer)) is not None:
            value, turned = found
            return _read(value).T.contiguous() if turned else _read(value)
        array = stored_weight(self._model, self.path, layer)
        return torch.from_numpy(array).to(_TORCH[float_type(layer, self.graph)])


def norm_groups(graph: ir.Graph) -> int:
    """How many groups the group normalizations of an autoencoder's graph have; FLUX.1's where it has none."""
    for node in graph.all_nodes():
        if node.op_type == "GroupNormalization":
            return node.attributes.get_int("num_groups", 0) or AutoencoderConfig.norm_num_groups
        if node.op_type == "InstanceNormalization" and node.inputs[1] is not None:
            return (stored_shape(node.inputs[1]) or (AutoencoderConfig.norm_num_groups,))[0]
    return AutoencoderConfig.norm_num_groups


def rotary_numbers(graph: ir.Graph) -> dict[str, Any]:
    """Rotary axes and theta of a transformer's graph, as fields of its configuration; empty where not found.

    Each axis multiplies positions by frequencies theta^(-2i/d), i < d/2 (arXiv 2104.09864), before a cosine.
    """
    found = dict(
        rates
        for node in graph.all_nodes()
        if node.op_type == "Cos" and (rates := _rates_of_positions(node.inputs[0])) is not None
    )
    if sorted(found) != list(range(len(TransformerConfig.axes_dims_rope))):
        return {}
    axis = max(found.values(), key=len)
    theta = float(axis[1] / axis[0]) ** -len(axis)
    return {"axes_dims_rope": tuple(2 * len(found[i]) for i in sorted(found)), "theta": round(theta)}


def _rates_of_positions(value: ir.Value | None) -> tuple[int, NDArray[np.float64]] | None:
    """The column of the position ids, and the falling frequencies, that a value is computed from."""
    rates, column = None, None
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        tensor = ir.convenience.get_const_tensor(current)
        if tensor is not None and tensor.size > 1 and tensor.dtype.is_floating_point():
            array = tensor.numpy().astype(np.float64).reshape(-1)
            if array[0] == 1 and (np.diff(array) < 0).all() and array[-1] > 0:
                rates = array
        elif (node := current.producer()) is not None:
            column = _column(node) if column is None else column
            pending.extend(node.inputs)
    return None if rates is None or column is None else (column, rates)


def _column(node: ir.Node) -> int | None:
    """Which column of some numbers a node takes; None for a node that does something else."""
    if node.op_type != "Gather" or None in node.inputs or node.inputs[0].dtype == ir.DataType.INT64:  # type: ignore[union-attr]
        return None  # those of a shape are whole
    index = ir.convenience.get_const_tensor(node.inputs[1])  # type: ignore[arg-type]
    return int(index.numpy().reshape(())) if index is not None and index.size == 1 else None


def clip_of_graph(floats: GraphFloats) -> Checkpoint[ClipTextConfig]:
    """CLIP's text encoder of a graph that does not say its numbers.

    No weight's shape tells the number of attention heads: the graph is run, and compared with torch for each
    number that divides the width.

    Raises:
        InputError: it is not whole, or the graph computes something else.
    """
    network = clip_of(floats)
    end = _end_token(floats.graph)
    config = network.config
    if end is not None:  # the one before begins a text, in all vocabularies of CLIP
        config = replace(config, bos_token_id=max(end - 1, 0), eos_token_id=end)
    ids = np.full((1, config.length), config.eos_token_id, np.int64)
    count = max(2, config.length // 2)
    words = [word for word in range(config.vocab_size) if word != config.eos_token_id]
    ids[0, :count] = np.random.default_rng(0).choice(words, count)
    graph = load_graph(floats.path, role="clip", threads=1)
    wanted = torch.from_numpy(np.asarray(graph.run(input_ids=ids)["pooled_embeddings"], np.float32))
    state = {name: network.read(name).float() for name in network.shapes}
    divisors = [heads for heads in range(1, config.hidden_size + 1) if config.hidden_size % heads == 0]
    for heads in sorted(divisors, key=lambda heads: heads != config.num_heads):
        clip = build_clip(replace(config, num_heads=heads)).eval()
        clip.load_state_dict(state)
        with torch.no_grad():
            pooled = clip(input_ids=torch.from_numpy(ids)).pooler_output
        if float((pooled - wanted).norm() / wanted.norm()) < _AGREES:
            return replace(network, config=replace(config, num_heads=heads))
    raise InputError(
        f"{floats.path} computes something else than CLIP's text encoder of {config.num_layers} layers: "
        "start from the model's checkpoint instead"
    )


def _end_token(graph: ir.Graph) -> int | None:
    """The token whose first place CLIP's graph looks up; None where it takes the highest id."""
    for node in graph.all_nodes():
        if node.op_type != "ArgMax" or node.inputs[0] is None:
            continue
        value: ir.Value | None = node.inputs[0]
        while value is not None and (producer := value.producer()) is not None:
            if producer.op_type == "Equal":
                tensors = [ir.convenience.get_const_tensor(each) for each in producer.inputs if each]
                return next(
                    (int(t.numpy().reshape(())) for t in tensors if t is not None and t.size == 1), None
                )
            value = producer.inputs[0] if producer.op_type in ("Cast", "Identity") else None
    return None


_AGREES = 0.02
"""Relative error of bfloat16 arithmetic, with room; another number of heads gives many times that."""

_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


def _plain(layer: LinearLayer) -> tuple[ir.Value, bool] | None:
    """The stored weight of a layer that computes with it as it is, and whether it is [in, out]."""
    value: ir.Value | None = layer.weight
    turned = not layer.by_row
    if layer.smoothing is not None or layer.branch is not None:
        return None
    while value is not None and ir.convenience.get_const_tensor(value) is None:
        node = value.producer()
        if node is None or node.domain or node.op_type not in ("Identity", "Transpose"):
            return None
        turned ^= node.op_type == "Transpose"
        value = node.inputs[0]
    return None if value is None or value.dtype not in FLOATS else (value, turned)


def _read(value: ir.Value) -> Tensor:
    """The numbers of an initializer or constant, in memory of their own."""
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array = _from_file(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor.numpy().copy()
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _from_file(tensor: ir.ExternalTensor) -> NDArray[np.generic]:
    """Read, not mapped: the pages of a mapped file count as the process's memory."""
    dtype, shape = tensor.dtype.numpy(), tensor.shape.numpy()
    try:
        found = np.fromfile(tensor.path, dtype, int(np.prod(shape)), offset=tensor.offset or 0)
        return found.reshape(shape)
    except (OSError, ValueError) as error:
        raise InputError(f"{tensor.path} cannot be read: {error}") from None


def _without_ones(shape: Shape) -> Shape:
    """A vector's shape without the axes that an exporter gave it to be broadcast; any other as it is."""
    size = int(np.prod(shape))
    return (size,) if size > 1 and size == max(shape) else shape
