"""Small models with weights in which every parameter matters, and diffusers' classes of the same shape."""

import dataclasses

import pytest
import small_models
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import AutoencoderConfig, TransformerConfig
from openkontext.model.transformer import FluxTransformer


@pytest.fixture
def small_transformer() -> TransformerConfig:
    return small_models.TRANSFORMER


@pytest.fixture
def small_autoencoder() -> AutoencoderConfig:
    return AutoencoderConfig(block_out_channels=(32, 32, 64), layers_per_block=1, latent_channels=4)


@pytest.fixture
def randomize():
    return small_models.randomize


@pytest.fixture
def diffusers_transformer():
    def build(config: TransformerConfig) -> FluxTransformer2DModel:
        numbers = dataclasses.asdict(config)
        theta = numbers.pop("theta")
        model = FluxTransformer2DModel(**numbers)
        model.pos_embed.theta = theta
        return model

    return build


@pytest.fixture
def diffusers_autoencoder():
    def build(config: AutoencoderConfig) -> AutoencoderKL:
        levels = len(config.block_out_channels)
        return AutoencoderKL(
            **dataclasses.asdict(config),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    return build


@pytest.fixture
def transformer_inputs():
    """Random inputs: a target of h x w tokens and context images of the given sizes."""

    def make(
        config: TransformerConfig,
        batch: int,
        target: tuple[int, int],
        contexts: tuple[tuple[int, int], ...] = (),
        text: int = 5,
        seed: int = 0,
    ) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.cat(
            [
                torch.cartesian_prod(
                    torch.tensor([float(image)]), torch.arange(h).float(), torch.arange(w).float()
                )
                for image, (h, w) in enumerate((target, *contexts))
            ]
        )
        return {
            "hidden_states": torch.randn(batch, len(ids), config.in_channels, generator=generator),
            "encoder_hidden_states": torch.randn(
                batch, text, config.joint_attention_dim, generator=generator
            ),
            "pooled_projections": torch.randn(batch, config.pooled_projection_dim, generator=generator),
            "timestep": torch.rand(batch, generator=generator),
            "img_ids": ids,
            "txt_ids": torch.zeros(text, 3),
            "guidance": 4 * torch.rand(batch, generator=generator),
        }

    return make


@pytest.fixture
def relative_error():
    return small_models.relative_error


@pytest.fixture
def transformer(small_transformer, randomize):
    return randomize(FluxTransformer(dataclasses.replace(small_transformer, theta=100)))


@pytest.fixture
def autoencoder(small_autoencoder, randomize):
    return randomize(Autoencoder(small_autoencoder))
