"""Configurations inferred from the shapes of a checkpoint's tensors, where nothing says them."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from openkontext.bfl import Row, autoencoder_rows, transformer_rows
from openkontext.model.config import AutoencoderConfig, TransformerConfig
from openkontext.model.weights import Shape

Format: TypeAlias = Literal["bfl", "diffusers"]
"""Whose names tensors have: Black Forest Labs' or diffusers'."""

Shapes: TypeAlias = Mapping[str, Shape]
"""Name -> shape."""


def infer_transformer(shapes: Shapes, format: Format, **known: Any) -> TransformerConfig:
    """The configuration of a transformer.

    Args:
        shapes: name -> shape of every tensor.
        format: whose names these are.
        known: of the configuration, what is known already.

    Raises:
        KeyError: a tensor is missing.
        InputError: the shapes suit no configuration; or ValueError, IndexError, ZeroDivisionError.
    """
    num_layers = _count(shapes, r"(?:double_blocks|transformer_blocks)\.(\d+)\.")
    num_single_layers = _count(shapes, r"(?:single_blocks|single_transformer_blocks)\.(\d+)\.")
    shape = _by_parameter(shapes, format, transformer_rows(num_layers, num_single_layers))
    hidden_size, in_channels = shape("x_embedder.weight")
    blocks = "transformer_blocks" if num_layers else "single_transformer_blocks"
    (head_dim,) = shape(f"{blocks}.0.attn.norm_q.weight")
    eighth = head_dim // 8
    guidance = "guidance_in." if format == "bfl" else "time_text_embed.guidance_embedder."
    axes = (eighth, (head_dim - eighth) // 2, (head_dim - eighth) // 2)
    return TransformerConfig(
        in_channels=in_channels,
        num_layers=num_layers,
        num_single_layers=num_single_layers,
        attention_head_dim=head_dim,
        num_attention_heads=hidden_size // head_dim,
        joint_attention_dim=shape("context_embedder.weight")[1],
        pooled_projection_dim=shape("time_text_embed.text_embedder.linear_1.weight")[1],
        guidance_embeds=any(name.startswith(guidance) for name in shapes),
        **{"axes_dims_rope": axes, **known},
    )


def infer_autoencoder(shapes: Shapes, format: Format, **known: Any) -> AutoencoderConfig:
    """The configuration of an autoencoder; arguments and errors as of `infer_transformer`."""
    levels = _count(shapes, r"encoder\.(?:down|down_blocks)\.(\d+)\.")
    layers = _count(shapes, r"encoder\.(?:down|down_blocks)\.0\.(?:block|resnets)\.(\d+)\.")
    shape = _by_parameter(shapes, format, autoencoder_rows(levels, layers))
    return AutoencoderConfig(
        block_out_channels=tuple(
            shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)
        ),
        layers_per_block=layers,
        latent_channels=shape("decoder.conv_in.weight")[1],
        **known,
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers the names have at the group of a pattern that they begin with."""
    matches = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in matches if match})


def _by_parameter(shapes: Shapes, format: Format, rows: list[Row]) -> Callable[[str], Shape]:
    """Look up a stored shape by the name of the one parameter in it."""
    if format == "diffusers":
        return shapes.__getitem__
    stored = {row.parts[0]: row.stored for row in rows}
    return lambda name: shapes[stored[name]]
