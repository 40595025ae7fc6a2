"""The names of Black Forest Labs' single files, as tables against diffusers' names.

A table row is one tensor of the BFL file and the diffusers tensors that lie in it, one below the other along
the first axis. Read from `src/flux/model.py` and `src/flux/modules/` of github.com/black-forest-labs/flux.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Row:
    """How one stored tensor becomes parameters of the model."""

    stored: str
    """Name in the file."""
    parts: tuple[str, ...]
    """Names of the parameters, in the order in which they lie in the stored tensor."""
    swapped: bool = False
    """The stored tensor has its two halves the other way round."""
    pointwise: bool = False
    """The stored weight is that of a 1x1 convolution, the parameter that of a linear layer."""


Layers: TypeAlias = dict[str, tuple[str, ...]]
"""BFL layer -> diffusers layers; every one has a weight and a bias."""

_TRANSFORMER: Layers = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_FINAL_MODULATION = ("final_layer.adaLN_modulation.1", "norm_out.linear")  # shift, scale against scale, shift
_DOUBLE_BLOCK: Layers = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_BLOCK_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE_BLOCK: Layers = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_SINGLE_BLOCK_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}

_RESNET: Layers = {
    "norm1": ("norm1",),
    "conv1": ("conv1",),
    "norm2": ("norm2",),
    "conv2": ("conv2",),
    "nin_shortcut": ("conv_shortcut",),
}
_ENDS: Layers = {"conv_in": ("conv_in",), "norm_out": ("conv_norm_out",), "conv_out": ("conv_out",)}
_ATTENTION_NORM: Layers = {"norm": ("group_norm",)}
_ATTENTION_POINTWISE: Layers = {"q": ("to_q",), "k": ("to_k",), "v": ("to_v",), "proj_out": ("to_out.0",)}


def transformer_rows(num_layers: int, num_single_layers: int) -> list[Row]:
    """Every tensor of a BFL transformer, those of the guidance embedder included."""
    rows = list(_rows(_TRANSFORMER))
    for suffix in ("weight", "bias"):
        stored, part = _FINAL_MODULATION
        rows.append(Row(f"{stored}.{suffix}", (f"{part}.{suffix}",), swapped=True))
    for i in range(num_layers):
        stored, part = f"double_blocks.{i}.", f"transformer_blocks.{i}."
        rows += _rows(_DOUBLE_BLOCK, stored, part)
        rows += _norm_rows(_DOUBLE_BLOCK_NORMS, stored, part)
    for i in range(num_single_layers):
        stored, part = f"single_blocks.{i}.", f"single_transformer_blocks.{i}."
        rows += _rows(_SINGLE_BLOCK, stored, part)
        rows += _norm_rows(_SINGLE_BLOCK_NORMS, stored, part)
    return rows


def autoencoder_rows(levels: int, layers_per_block: int) -> list[Row]:
    """Every tensor of a BFL autoencoder, with a shortcut for every residual block."""
    rows: list[Row] = []
    for side in ("encoder.", "decoder."):
        rows += _rows(_ENDS, side, side)
        rows += _rows(_RESNET, f"{side}mid.block_1.", f"{side}mid_block.resnets.0.")
        rows += _rows(_RESNET, f"{side}mid.block_2.", f"{side}mid_block.resnets.1.")
        stored, part = f"{side}mid.attn_1.", f"{side}mid_block.attentions.0."
        rows += _rows(_ATTENTION_NORM, stored, part)
        rows += _rows(_ATTENTION_POINTWISE, stored, part, pointwise=True)
    for i in range(levels):
        # BFL counts the decoder's levels from the finest, diffusers in the order in which they run.
        down = (f"encoder.down.{i}.", f"encoder.down_blocks.{i}.")
        up = (f"decoder.up.{levels - 1 - i}.", f"decoder.up_blocks.{i}.")
        for j in range(layers_per_block):
            rows += _rows(_RESNET, f"{down[0]}block.{j}.", f"{down[1]}resnets.{j}.")
        for j in range(layers_per_block + 1):
            rows += _rows(_RESNET, f"{up[0]}block.{j}.", f"{up[1]}resnets.{j}.")
        if i < levels - 1:
            rows += _rows({"downsample.conv": ("downsamplers.0.conv",)}, *down)
            rows += _rows({"upsample.conv": ("upsamplers.0.conv",)}, *up)
    return rows


def _rows(layers: Layers, stored: str = "", part: str = "", pointwise: bool = False) -> Iterator[Row]:
    for name, parts in layers.items():
        for suffix in ("weight", "bias"):
            yield Row(
                f"{stored}{name}.{suffix}",
                tuple(f"{part}{each}.{suffix}" for each in parts),
                pointwise=pointwise and suffix == "weight",
            )


def _norm_rows(norms: dict[str, str], stored: str, part: str) -> Iterator[Row]:
    for name, each in norms.items():
        yield Row(f"{stored}{name}.scale", (f"{part}{each}.weight",))
