"""The ONNX graph of the flow transformer, block by block as in `openkontext.model.transformer`.

Shapes: B batch, L tokens (text, then image), H heads, D head width, C hidden width.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import torch

from openkontext.export.graph_builder import GraphBuilder
from openkontext.export.integer_graph import IntegerGraphBuilder
from openkontext.export.quantized_graph import QuantizedGraphBuilder
from openkontext.model.config import TransformerConfig

Rotary: TypeAlias = tuple[ir.Value, ir.Value]
"""Cosine and sine of every token's rotary angles, each [L, 1, D/2, 1] float32."""

_EPS = 1e-6
_TIME_CHANNELS = 256
_FLOAT = ir.DataType.FLOAT


def transformer_graph(
    config: TransformerConfig,
    parameters: Mapping[str, ir.TensorProtocol],
    dtype: ir.DataType,
    text_length: int,
    scales: Mapping[str, float] | None = None,
) -> ir.Model:
    """The graph of `FluxTransformer.forward`.

    Inputs and output are those of the published file: batch `B` and image tokens `latent_dim` dynamic, text
    length fixed; positions and guidance in float32, everything else in `dtype`.

    Args:
        config: shape of the network.
        parameters: its weights under their names in the model.
        dtype: type of weights and activations; angles are computed in float32 in any case.
        text_length: text tokens.
        scales: of a quantized graph (`QuantizedGraphBuilder`); None for one in `dtype` throughout.
    """
    g: GraphBuilder
    if scales is not None:
        g = QuantizedGraphBuilder(dtype, parameters, scales)
    elif any(tensor.dtype == ir.DataType.INT8 for tensor in parameters.values()):
        g = IntegerGraphBuilder(dtype, parameters)
    else:
        g = GraphBuilder(dtype, parameters)
    image = g.input("hidden_states", ("B", "latent_dim", config.in_channels))
    text = g.input("encoder_hidden_states", ("B", text_length, config.joint_attention_dim))
    pooled = g.input("pooled_projections", ("B", config.pooled_projection_dim))
    timestep = g.input("timestep", ("B",))
    img_ids = g.input("img_ids", ("latent_dim", 3), _FLOAT)
    txt_ids = g.input("txt_ids", (text_length, 3), _FLOAT)
    guidance = g.input("guidance", ("B",), _FLOAT) if config.guidance_embeds else None

    conditioning = _conditioning(g, timestep, guidance, pooled)
    rotary = _rotary(g, g.op("Concat", txt_ids, img_ids, axis=0), config)
    image, text = g.linear(image, "x_embedder"), g.linear(text, "context_embedder")
    for i in range(config.num_layers):
        with g.scope(f"transformer_blocks.{i}"):
            image, text = _double_stream_block(g, image, text, conditioning, rotary, text_length, config)
    tokens = g.op("Concat", text, image, axis=1)
    for i in range(config.num_single_layers):
        with g.scope(f"single_transformer_blocks.{i}"):
            tokens = _single_stream_block(g, tokens, conditioning, rotary, config)
    scale, shift = _modulation(g, conditioning, "norm_out", 2)
    image = _modulated_norm(g, g.slice(tokens, 1, text_length), "norm_out.norm", shift, scale, config)
    g.output(g.linear(image, "proj_out"), "latent", ("B", "latent_dim", config.in_channels))
    return g.model(config)


def _conditioning(
    g: GraphBuilder, timestep: ir.Value, guidance: ir.Value | None, pooled: ir.Value
) -> ir.Value:
    """Sum of the embeddings of time, guidance and pooled text, through the SiLU that its readers share."""
    with g.scope("time_text_embed"):
        embedding = _embedder(g, _sinusoid(g, g.cast(timestep, _FLOAT)), "timestep_embedder")
        if guidance is not None:
            embedded = _embedder(g, _sinusoid(g, guidance), "guidance_embedder")
            embedding = g.op("Add", embedding, embedded)
        embedding = g.op("Add", embedding, _embedder(g, pooled, "text_embedder"))
        return g.silu(embedding)


def _sinusoid(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Cosines, then sines, of 1000 x: [B] float32 -> [B, 256]."""
    half = _TIME_CHANNELS // 2
    # By torch, as in the model: at angles up to 1000, the last bit of a frequency tells.
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).numpy()
    with g.scope("time_proj"):
        scaled = g.op("Mul", x, g.constant(1000.0, _FLOAT))
        column = g.op("Unsqueeze", scaled, g.constant([1]))
        angles = g.op("Mul", column, g.constant(frequencies[None], _FLOAT))
        return g.cast(g.op("Concat", g.op("Cos", angles), g.op("Sin", angles), axis=-1), g.dtype)


def _embedder(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    with g.scope(name):
        return g.vector_linear(g.silu(g.vector_linear(x, "linear_1")), "linear_2")


def _rotary(g: GraphBuilder, ids: ir.Value, config: TransformerConfig) -> Rotary:
    """Angles from positions [L, 3].

    Not as a MatMul: TensorRT may run that in TF32, whose rounding would turn far tokens by wrong angles.
    """
    with g.scope("pos_embed"):
        angles = []
        for position, dim in zip(g.split(ids, 3), config.axes_dims_rope, strict=True):
            frequencies = (config.theta ** -(np.arange(0, dim, 2) / dim)).astype(np.float32)
            angles.append(g.op("Mul", position, g.constant(frequencies[None], _FLOAT)))
        all_angles = g.op("Unsqueeze", g.op("Concat", *angles, axis=-1), g.constant([1, 3]))
        return g.op("Cos", all_angles), g.op("Sin", all_angles)


def _rotate(g: GraphBuilder, x: ir.Value, rotary: Rotary) -> ir.Value:
    """Turn the channel pairs (0, 1), (2, 3), ... of queries or keys [B, L, H, D] in float32."""
    cos, sin = rotary
    pairs = g.cast(g.reshape(x, 0, 0, 0, -1, 2), _FLOAT)
    first, second = g.split(pairs, 2)
    turned = g.op(
        "Concat",
        g.op("Sub", g.op("Mul", first, cos), g.op("Mul", second, sin)),
        g.op("Add", g.op("Mul", first, sin), g.op("Mul", second, cos)),
        axis=-1,
    )
    return g.reshape(g.cast(turned, g.dtype), 0, 0, 0, -1)


def _modulation(g: GraphBuilder, conditioning: ir.Value, name: str, count: int) -> list[ir.Value]:
    """`count` vectors [B, 1, C] from the conditioning [B, C]."""
    with g.scope(name):
        vectors = g.op("Unsqueeze", g.vector_linear(conditioning, "linear"), g.constant([1]))
        return list(g.split(vectors, count))


def _modulated_norm(
    g: GraphBuilder, x: ir.Value, name: str, shift: ir.Value, scale: ir.Value, config: TransformerConfig
) -> ir.Value:
    normed = g.layer_norm(x, name, config.hidden_size, _EPS, affine=False)
    return g.op("Add", g.op("Mul", normed, g.op("Add", scale, g.constant(1.0))), shift)


def _gated(g: GraphBuilder, x: ir.Value, gate: ir.Value, branch: ir.Value) -> ir.Value:
    return g.op("Add", x, g.op("Mul", gate, branch))


def _feed_forward(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    with g.scope(name):
        hidden = g.linear(x, "net.0.proj")
        with g.scope("net.0"):
            hidden = g.op("Gelu", hidden, approximate="tanh")
        return g.linear(hidden, "net.2")


def _projections(
    g: GraphBuilder, x: ir.Value, names: tuple[str, str, str], norms: tuple[str, str], heads: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries and keys, normalized, and values of one stream, each [B, L, H, D]."""
    query, key, value = (g.split_heads(g.linear(x, name), heads) for name in names)
    return g.rms_norm(query, norms[0], _EPS), g.rms_norm(key, norms[1], _EPS), value


def _attend(
    g: GraphBuilder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    rotary: Rotary,
    config: TransformerConfig,
) -> ir.Value:
    scale = config.attention_head_dim**-0.5
    return g.attention(_rotate(g, query, rotary), _rotate(g, key, rotary), value, scale)


def _double_stream_block(
    g: GraphBuilder,
    image: ir.Value,
    text: ir.Value,
    conditioning: ir.Value,
    rotary: Rotary,
    text_length: int,
    config: TransformerConfig,
) -> tuple[ir.Value, ir.Value]:
    """Joint attention, then a perceptron per stream."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = _modulation(g, conditioning, "norm1", 6)
    t_shift, t_scale, t_gate, t_shift_mlp, t_scale_mlp, t_gate_mlp = _modulation(
        g, conditioning, "norm1_context", 6
    )
    normed = _modulated_norm(g, image, "norm1.norm", shift, scale, config)
    t_normed = _modulated_norm(g, text, "norm1_context.norm", t_shift, t_scale, config)
    with g.scope("attn"):
        heads = config.num_attention_heads
        of_image = _projections(g, normed, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), heads)
        of_text = _projections(
            g, t_normed, ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"), heads
        )
        query, key, value = (
            g.op("Concat", first, second, axis=1) for first, second in zip(of_text, of_image, strict=True)
        )
        mixed = _attend(g, query, key, value, rotary, config)
        image_mixed = g.linear(g.slice(mixed, 1, text_length), "to_out.0")
        text_mixed = g.linear(g.slice(mixed, 1, 0, text_length), "to_add_out")
    image = _gated(g, image, gate, image_mixed)
    normed = _modulated_norm(g, image, "norm2", shift_mlp, scale_mlp, config)
    image = _gated(g, image, gate_mlp, _feed_forward(g, normed, "ff"))
    text = _gated(g, text, t_gate, text_mixed)
    t_normed = _modulated_norm(g, text, "norm2_context", t_shift_mlp, t_scale_mlp, config)
    text = _gated(g, text, t_gate_mlp, _feed_forward(g, t_normed, "ff_context"))
    return image, text


def _single_stream_block(
    g: GraphBuilder, tokens: ir.Value, conditioning: ir.Value, rotary: Rotary, config: TransformerConfig
) -> ir.Value:
    """Attention and perceptron side by side."""
    shift, scale, gate = _modulation(g, conditioning, "norm", 3)
    normed = _modulated_norm(g, tokens, "norm.norm", shift, scale, config)
    mlp = g.linear(normed, "proj_mlp")
    with g.scope("act_mlp"):
        mlp = g.op("Gelu", mlp, approximate="tanh")
    with g.scope("attn"):
        query, key, value = _projections(
            g, normed, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), config.num_attention_heads
        )
        mixed = _attend(g, query, key, value, rotary, config)
    return _gated(g, tokens, gate, g.linear(g.op("Concat", mixed, mlp, axis=-1), "proj_out"))
