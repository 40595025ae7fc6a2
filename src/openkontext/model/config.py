"""The numbers that define a model: transformer, autoencoder and text encoders, and the named presets.

Field names are those of diffusers' and transformers' configuration files where these have such a field.
This module does not import torch.
"""

from dataclasses import dataclass

from openkontext.errors import InputError


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the flow transformer; the defaults are FLUX.1 Kontext [dev].

    Raises:
        InputError: the rotary axes do not add up to the width of a head, or one of them is odd.
    """

    in_channels: int = 64
    """Channels of one packed token, in and out: 4 * latent_channels."""
    num_layers: int = 19
    """Double-stream blocks: image and text keep their own weights and meet in the attention."""
    num_single_layers: int = 38
    """Single-stream blocks: image and text are one sequence."""
    attention_head_dim: int = 128
    """Width of one attention head."""
    num_attention_heads: int = 24
    """Attention heads; the hidden width is heads * head width."""
    joint_attention_dim: int = 4096
    """Width of the T5 text tokens."""
    pooled_projection_dim: int = 768
    """Width of the pooled CLIP embedding."""
    guidance_embeds: bool = True
    """Whether the guidance scale is an input of the (guidance-distilled) model."""
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    """Rotary channels per position axis: which image, row, column."""
    theta: int = 10000
    """Base of the rotary wavelengths."""

    def __post_init__(self) -> None:
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(dim % 2 for dim in self.axes_dims_rope):
            raise InputError(
                f"axes_dims_rope {tuple(self.axes_dims_rope)} must be even numbers that add up to "
                f"attention_head_dim {self.attention_head_dim}"
            )

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the image autoencoder; the defaults are FLUX.1's.

    Raises:
        InputError: a channel count is no multiple of the normalization groups.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels per resolution, finest first; each further one halves the resolution."""
    layers_per_block: int = 2
    """Residual blocks per resolution of the encoder; the decoder has one more."""
    latent_channels: int = 16
    """Channels of the latent."""
    norm_num_groups: int = 32
    """Groups of every group normalization."""
    scaling_factor: float = 0.3611
    """The transformer works on (latent - shift_factor) * scaling_factor."""
    shift_factor: float = 0.1159
    """See scaling_factor."""

    def __post_init__(self) -> None:
        if not self.norm_num_groups or any(size % self.norm_num_groups for size in self.block_out_channels):
            raise InputError(
                f"block_out_channels {tuple(self.block_out_channels)} must be multiples of "
                f"norm_num_groups {self.norm_num_groups}"
            )

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class T5EncoderConfig:
    """Shape of the T5 text encoder; the defaults are T5 v1.1 XXL."""

    vocab_size: int = 32128
    """Rows of the embedding; a tokenizer may use fewer."""
    d_model: int = 4096
    """Width of the text tokens."""
    d_kv: int = 64
    """Width of one attention head."""
    d_ff: int = 10240
    """Width inside the gated feed-forward layer."""
    num_layers: int = 24
    """Encoder blocks."""
    num_heads: int = 64
    """Attention heads."""
    length: int = 512
    """Tokens that every prompt is padded to."""


@dataclass(frozen=True)
class ClipTextConfig:
    """Shape of the CLIP text encoder; the defaults are CLIP ViT-L/14's.

    Raises:
        InputError: the end token has the id 2, which transformers takes for a sign of old files.
    """

    vocab_size: int = 49408
    """Rows of the embedding."""
    hidden_size: int = 768
    """Width of the text tokens and of the pooled embedding."""
    intermediate_size: int = 3072
    """Width inside the feed-forward layer."""
    num_layers: int = 12
    """Encoder blocks."""
    num_heads: int = 12
    """Attention heads."""
    bos_token_id: int = 49406
    """Token that every prompt begins with."""
    eos_token_id: int = 49407
    """Token that ends a prompt and pads it; the pooled embedding is read at its first occurrence."""
    length: int = 77
    """Tokens that every prompt is padded to: the size of the position embedding."""

    def __post_init__(self) -> None:
        if self.eos_token_id == 2:
            raise InputError(
                "eos_token_id 2 makes transformers read CLIP's pooled embedding at the highest id instead of "
                "the end token; give the end token another id"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The four networks of one model."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    t5: T5EncoderConfig
    clip: ClipTextConfig


PRESETS: dict[str, ModelConfig] = {
    "flux1-kontext-dev": ModelConfig(
        TransformerConfig(), AutoencoderConfig(), T5EncoderConfig(), ClipTextConfig()
    ),
    "nano": ModelConfig(
        transformer=TransformerConfig(
            num_layers=3,
            num_single_layers=8,
            attention_head_dim=32,
            num_attention_heads=6,
            joint_attention_dim=192,
            pooled_projection_dim=128,
            axes_dims_rope=(4, 14, 14),
            theta=100,
        ),
        autoencoder=AutoencoderConfig(
            block_out_channels=(32, 64, 128, 128), layers_per_block=1, norm_num_groups=1
        ),
        t5=T5EncoderConfig(
            vocab_size=512, d_model=192, d_kv=48, d_ff=512, num_layers=3, num_heads=4, length=32
        ),
        clip=ClipTextConfig(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=512,
            num_layers=2,
            num_heads=4,
            bos_token_id=1022,
            eos_token_id=1023,
            length=32,
        ),
    ),
}
"""Named models: FLUX.1 Kontext [dev] as published; nano, which this project trains and ships."""
