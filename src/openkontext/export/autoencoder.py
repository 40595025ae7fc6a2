"""The ONNX graphs of the image autoencoder's two halves, as in `openkontext.model.autoencoder`.

Shapes: B batch, C channels, h and w the size of the feature map.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from openkontext.export.graph_builder import GraphBuilder
from openkontext.model.config import AutoencoderConfig

_EPS = 1e-6
_OPSET = 22  # the first whose Conv and InstanceNormalization take bfloat16


def encoder_graph(
    config: AutoencoderConfig,
    parameters: Mapping[str, ir.TensorProtocol],
    dtype: ir.DataType,
) -> ir.Model:
    """Images [B, 3, 8H, 8W] in -1..1 -> mean of the unscaled latent [B, C, H, W]; B, H and W are dynamic."""
    g = GraphBuilder(dtype, parameters, _OPSET)
    side = config.downsampling
    images = g.input("images", ("B", 3, f"{side}H", f"{side}W"))
    with g.scope("encoder"):
        hidden = _conv(g, images, "conv_in")
        width = config.block_out_channels[0]
        for level, channels in enumerate(config.block_out_channels):
            with g.scope(f"down_blocks.{level}"):
                for i in range(config.layers_per_block):
                    hidden = _resnet(g, hidden, f"resnets.{i}", width, channels, config.norm_num_groups)
                    width = channels
                if level < len(config.block_out_channels) - 1:
                    # Half the size; a row and a column of zeros to the right and below only.
                    hidden = _conv(g, hidden, "downsamplers.0.conv", strides=[2, 2], pads=[0, 0, 1, 1])
        hidden = _mid_block(g, hidden, width, config.norm_num_groups)
        moments = _head(g, hidden, config.norm_num_groups)
    mean = g.slice(moments, 1, 0, config.latent_channels)
    g.output(mean, "latent", ("B", config.latent_channels, "H", "W"))
    return g.model(config)


def decoder_graph(
    config: AutoencoderConfig,
    parameters: Mapping[str, ir.TensorProtocol],
    dtype: ir.DataType,
) -> ir.Model:
    """Unscaled latents [B, C, H, W] -> images [B, 3, 8H, 8W]; B, H and W are dynamic."""
    g = GraphBuilder(dtype, parameters, _OPSET)
    side = config.downsampling
    latent = g.input("latent", ("B", config.latent_channels, "H", "W"))
    with g.scope("decoder"):
        width = config.block_out_channels[-1]
        hidden = _mid_block(g, _conv(g, latent, "conv_in"), width, config.norm_num_groups)
        for level, channels in enumerate(reversed(config.block_out_channels)):
            with g.scope(f"up_blocks.{level}"):
                for i in range(config.layers_per_block + 1):
                    hidden = _resnet(g, hidden, f"resnets.{i}", width, channels, config.norm_num_groups)
                    width = channels
                if level < len(config.block_out_channels) - 1:
                    hidden = _conv(g, _double_size(g, hidden), "upsamplers.0.conv")
        images = _head(g, hidden, config.norm_num_groups)
    g.output(images, "images", ("B", 3, f"{side}H", f"{side}W"))
    return g.model(config)


def _conv(g: GraphBuilder, x: ir.Value, name: str, **attributes: list[int]) -> ir.Value:
    """Convolution; 3x3 with padding that keeps the size, unless the attributes say otherwise."""
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], **attributes}
    with g.scope(name):
        return g.op("Conv", x, g.parameter("weight"), g.parameter("bias"), **attributes)


def _group_norm(g: GraphBuilder, x: ir.Value, name: str, groups: int) -> ir.Value:
    """Group normalization as torch's exporter writes it: InstanceNormalization over [B, groups, -1]."""
    with g.scope(name):
        shape = g.op("Shape", x)
        ones, zeros = g.constant(np.ones(groups)), g.constant(np.zeros(groups))
        normed = g.op("InstanceNormalization", g.reshape(x, 0, groups, -1), ones, zeros, epsilon=_EPS)
        weight, bias = (
            g.op("Unsqueeze", g.parameter(each), g.constant([1, 2])) for each in ("weight", "bias")
        )
        return g.op("Add", g.op("Mul", g.op("Reshape", normed, shape), weight), bias)


def _resnet(
    g: GraphBuilder, x: ir.Value, name: str, in_channels: int, out_channels: int, groups: int
) -> ir.Value:
    with g.scope(name):
        hidden = _conv(g, g.silu(_group_norm(g, x, "norm1", groups)), "conv1")
        hidden = _conv(g, g.silu(_group_norm(g, hidden, "norm2", groups)), "conv2")
        if in_channels != out_channels:
            x = _conv(g, x, "conv_shortcut", kernel_shape=[1, 1], pads=[0, 0, 0, 0])
        return g.op("Add", x, hidden)


def _mid_block(g: GraphBuilder, x: ir.Value, channels: int, groups: int) -> ir.Value:
    with g.scope("mid_block"):
        x = _resnet(g, x, "resnets.0", channels, channels, groups)
        x = _attention(g, x, channels, groups)
        return _resnet(g, x, "resnets.1", channels, channels, groups)


def _attention(g: GraphBuilder, x: ir.Value, channels: int, groups: int) -> ir.Value:
    """Single-head attention over all positions [B, C, h, w]."""
    with g.scope("attentions.0"):
        shape = g.op("Shape", x)
        flat = g.reshape(_group_norm(g, x, "group_norm", groups), 0, channels, -1)
        tokens = g.op("Transpose", flat, perm=[0, 2, 1])
        query, key, value = (g.split_heads(g.linear(tokens, name), 1) for name in ("to_q", "to_k", "to_v"))
        mixed = g.linear(g.attention(query, key, value, channels**-0.5), "to_out.0")
        return g.op("Add", x, g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1]), shape))


def _double_size(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Every pixel twice along both axes."""
    scales = g.constant(np.array([1, 1, 2, 2], np.float32), ir.DataType.FLOAT)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.op("Resize", x, None, scales, **nearest)


def _head(g: GraphBuilder, x: ir.Value, groups: int) -> ir.Value:
    return _conv(g, g.silu(_group_norm(g, x, "conv_norm_out", groups)), "conv_out")
