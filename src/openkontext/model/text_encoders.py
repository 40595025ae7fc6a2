"""The two text encoders, CLIP and T5, built by transformers from a preset's numbers."""

from typing import Any

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from openkontext.model.config import ClipTextConfig, T5EncoderConfig


def build_clip(config: ClipTextConfig) -> CLIPTextModel:
    """CLIP text encoder with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.length,
            projection_dim=config.hidden_size,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.eos_token_id,
        )
    )


def build_t5(config: T5EncoderConfig) -> T5EncoderModel:
    """T5 v1.1 encoder with random weights and no dropout."""
    numbers: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        # Positions are relative, so that the model has no length of its own; T5's first configuration files
        # kept the length that it was trained with under this name.
        "n_positions": config.length,
    }
    return T5EncoderModel(
        T5Config(feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False, **numbers)
    )


def clip_config(clip: CLIPTextModel) -> ClipTextConfig:
    """The numbers of a CLIP text encoder, however made."""
    config: Any = clip.config
    # transformers keeps the 2 of old configuration files, which means: the highest id of the vocabulary.
    eos = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    bos = config.vocab_size - 2 if config.eos_token_id == 2 else config.bos_token_id
    return ClipTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        bos_token_id=bos,
        eos_token_id=eos,
        length=config.max_position_embeddings,
    )


def t5_config(t5: T5EncoderModel) -> T5EncoderConfig:
    """The numbers of a T5 encoder, however made; the length is 512 where its configuration has none."""
    config: Any = t5.config
    return T5EncoderConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        length=getattr(config, "n_positions", T5EncoderConfig.length),
    )


def encode_text(
    clip: CLIPTextModel, t5: T5EncoderModel, clip_ids: Tensor, t5_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """What the transformer is told of an instruction.

    FLUX masks no padding: every token takes part, as it did in training.

    Args:
        clip: CLIP text encoder.
        t5: T5 encoder.
        clip_ids: CLIP tokens [B, clip length]; each row has the end token, and is read at its first.
        t5_ids: T5 tokens [B, text length].

    Returns:
        Pooled embedding [B, clip width] and text tokens [B, text length, T5 width].
    """
    pooled: Tensor = clip(input_ids=clip_ids).pooler_output
    text: Tensor = t5(input_ids=t5_ids).last_hidden_state
    return pooled, text
