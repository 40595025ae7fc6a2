"""diffusers' pipeline for FLUX.1 Kontext over tiny random networks."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel


def dynamic_scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler with FLUX.1 Kontext [dev]'s published configuration."""
    return FlowMatchEulerDiscreteScheduler(
        **{"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0, **config}
    )


def tiny_pipeline() -> FluxKontextPipeline:
    """The same weights in every call."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    for parameter in transformer.parameters():  # so that the output is as large as the latents
        torch.nn.init.normal_(parameter, std=0.15)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=20,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=48,
            eos_token_id=49,
        )
    )
    t5 = T5EncoderModel(T5Config(vocab_size=50, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    pipe = FluxKontextPipeline(
        scheduler=dynamic_scheduler(),
        vae=autoencoder,
        text_encoder=clip,
        tokenizer=None,
        text_encoder_2=t5,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    for module in (transformer, autoencoder, clip, t5):
        module.eval()
    return pipe
