"""The ONNX graphs of the two text encoders, as transformers' CLIPTextModel and T5EncoderModel compute them.

Shapes: B batch, L tokens, H heads, D head width.
"""

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from openkontext.export.graph_builder import GraphBuilder
from openkontext.export.quantized_graph import QuantizedGraphBuilder
from openkontext.model.config import ClipTextConfig, T5EncoderConfig

_CLIP_EPS = 1e-5
T5_EPS = 1e-6
"""Of T5's norms."""

_T5_BUCKETS = 32
_T5_MAX_DISTANCE = 128


def clip_graph(
    config: ClipTextConfig,
    parameters: Mapping[str, ir.TensorProtocol],
    dtype: ir.DataType,
) -> ir.Model:
    """CLIP's text encoder: input_ids int32 [B, L] -> text_embeddings [B, L, C] and pooled_embeddings [B, C].

    The pooled embedding is the last layer's output at the first end token. B is dynamic.
    """
    g = GraphBuilder(dtype, parameters)
    length, width = config.length, config.hidden_size
    input_ids = g.input("input_ids", ("B", length), ir.DataType.INT32)
    with g.scope("embeddings"):
        hidden = g.op("Gather", g.parameter("token_embedding.weight"), input_ids)
        hidden = g.op("Add", hidden, g.parameter("position_embedding.weight"))
    lowest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).min)  # finite in float32 and in bfloat16
    causal_mask = g.constant(np.triu(np.full((length, length), lowest), 1))
    for i in range(config.num_layers):
        with g.scope(f"encoder.layers.{i}"):
            normed = g.layer_norm(hidden, "layer_norm1", width, _CLIP_EPS)
            with g.scope("self_attn"):
                query, key, value = (
                    g.split_heads(g.linear(normed, name), config.num_heads)
                    for name in ("q_proj", "k_proj", "v_proj")
                )
                mixed = g.attention(query, key, value, (width // config.num_heads) ** -0.5, causal_mask)
                hidden = g.op("Add", hidden, g.linear(mixed, "out_proj"))
            normed = g.layer_norm(hidden, "layer_norm2", width, _CLIP_EPS)
            with g.scope("mlp"):
                inner = g.linear(normed, "fc1")
                # CLIP's own approximation of GELU
                gate = g.op("Sigmoid", g.op("Mul", inner, g.constant(1.702)))
                hidden = g.op("Add", hidden, g.linear(g.op("Mul", inner, gate), "fc2"))
    hidden = g.layer_norm(hidden, "final_layer_norm", width, _CLIP_EPS)
    is_end = g.op("Equal", input_ids, g.constant(config.eos_token_id, ir.DataType.INT32))
    first_end = g.op("ArgMax", g.op("Cast", is_end, to=ir.DataType.INT32), axis=1, keepdims=1)
    pooled = g.op("GatherND", hidden, first_end, batch_dims=1)
    g.output(hidden, "text_embeddings", ("B", length, width))
    g.output(pooled, "pooled_embeddings", ("B", width))
    return g.model(config)


def t5_graph(
    config: T5EncoderConfig,
    parameters: Mapping[str, ir.TensorProtocol],
    dtype: ir.DataType,
    scales: Mapping[str, float] | None = None,
) -> ir.Model:
    """The encoder of T5 v1.1: input_ids int32 [B, L] -> text_embeddings [B, L, d_model]; B is dynamic.

    Args:
        config: shape of the network.
        parameters: its weights under their names in the model.
        dtype: type of weights and activations.
        scales: of a quantized graph (`QuantizedGraphBuilder`); None for one in `dtype` throughout.
    """
    g = (
        GraphBuilder(dtype, parameters)
        if scales is None
        else QuantizedGraphBuilder(dtype, parameters, scales)
    )
    length, heads = config.length, config.num_heads
    input_ids = g.input("input_ids", ("B", length), ir.DataType.INT32)
    hidden = g.op("Gather", g.parameter("shared.weight"), input_ids)
    with g.scope("encoder"):
        bias = _position_bias(g, length)
        for i in range(config.num_layers):
            with g.scope(f"block.{i}.layer.0"):
                normed = g.rms_norm(hidden, "layer_norm", T5_EPS)
                with g.scope("SelfAttention"):
                    query, key, value = (
                        g.split_heads(g.linear(normed, name, bias=False), heads) for name in ("q", "k", "v")
                    )
                    mixed = g.attention(query, key, value, 1, bias)
                    hidden = g.op("Add", hidden, g.linear(mixed, "o", bias=False))
            with g.scope(f"block.{i}.layer.1"):
                normed = g.rms_norm(hidden, "layer_norm", T5_EPS)
                with g.scope("DenseReluDense"):
                    gate = g.op("Gelu", g.linear(normed, "wi_0", bias=False), approximate="tanh")
                    inner = g.op("Mul", gate, g.linear(normed, "wi_1", bias=False))
                    hidden = g.op("Add", hidden, g.linear(inner, "wo", bias=False))
        hidden = g.rms_norm(hidden, "final_layer_norm", T5_EPS)
    g.output(hidden, "text_embeddings", ("B", length, config.d_model))
    return g.model(config)


def _position_bias(g: GraphBuilder, length: int) -> ir.Value:
    """T5's learned bias of every head for every distance [1, H, L, L], the same in all blocks.

    The length is fixed, so that the rows of the learned table are known for each of the 2 L - 1 distances;
    these are laid out for every pair of positions. A runtime folds all of it when it loads the graph.
    """
    with g.scope("block.0.layer.0.SelfAttention"):
        buckets = relative_position_bucket(np.arange(-length + 1, length))
        by_distance = g.op("Gather", g.parameter("relative_attention_bias.weight"), g.constant(buckets))
        positions = np.arange(length)
        keys, queries = g.constant(positions[None] + length - 1), g.constant(positions[:, None])
        bias = g.op("Gather", by_distance, g.op("Sub", keys, queries))
        return g.op("Unsqueeze", g.op("Transpose", bias, perm=[2, 0, 1]), g.constant([0]))


def relative_position_bucket(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of T5's table for a key `distance` tokens after the query (arXiv 1910.10683, section 2.1).

    Half of the 32 rows are for keys before the query, half for keys after it. In each half, the first 8 are
    for the distances 0 to 7; the others grow with the logarithm of the distance, the last for 91 and more.
    """
    half = _T5_BUCKETS // 2
    exact = half // 2
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact) / math.log(_T5_MAX_DISTANCE / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, far)
