import pytest

from openkontext.errors import InputError
from openkontext.model.config import PRESETS, AutoencoderConfig, ClipTextConfig, TransformerConfig
from openkontext.model.config_json import (
    autoencoder_from_json,
    autoencoder_to_json,
    transformer_from_json,
    transformer_to_json,
)

# transformer/config.json and vae/config.json in the form in which FLUX.1 Kontext [dev] is published.
PUBLISHED_TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": "0.34.0.dev0",
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "out_channels": 64,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
PUBLISHED_AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.34.0.dev0",
    "_name_or_path": "somewhere",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


def test_published_configuration_is_the_preset():
    preset = PRESETS["flux1-kontext-dev"]
    assert transformer_from_json(PUBLISHED_TRANSFORMER, "config.json") == preset.transformer
    assert autoencoder_from_json(PUBLISHED_AUTOENCODER, "config.json") == preset.autoencoder


@pytest.mark.parametrize("name", PRESETS)
def test_configuration_survives_json(name):
    preset = PRESETS[name]
    assert transformer_from_json(transformer_to_json(preset.transformer), "x") == preset.transformer
    assert autoencoder_from_json(autoencoder_to_json(preset.autoencoder), "x") == preset.autoencoder


@pytest.mark.parametrize("name", PRESETS)
def test_widths_of_the_parts_of_a_preset_agree(name):
    preset = PRESETS[name]
    assert preset.transformer.in_channels == 4 * preset.autoencoder.latent_channels
    assert preset.transformer.joint_attention_dim == preset.t5.d_model
    assert preset.transformer.pooled_projection_dim == preset.clip.hidden_size
    assert preset.autoencoder.downsampling == 8


def test_theta_is_written_only_where_it_is_our_own():
    assert "theta" not in transformer_to_json(TransformerConfig())
    assert transformer_to_json(TransformerConfig(theta=100))["theta"] == 100


def test_a_silent_configuration_means_what_diffusers_takes():
    assert transformer_from_json({}, "x") == TransformerConfig(guidance_embeds=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2DModel"),
        ({"patch_size": 2}, "patch_size"),
        ({"out_channels": 32}, "out_channels"),
        ({"num_layers": "19"}, "num_layers"),
        ({"num_layers": -1}, "num_layers"),
        ({"guidance_embeds": 1}, "guidance_embeds"),
        ({"axes_dims_rope": None}, "axes_dims_rope"),
        ({"axes_dims_rope": [16, 56, 57]}, "axes_dims_rope"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_transformer_we_do_not_have_is_refused(change, named):
    with pytest.raises(InputError, match=named):
        transformer_from_json(PUBLISHED_TRANSFORMER | change, "config.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_quant_conv": True}, "use_quant_conv"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention"),
        ({"act_fn": "relu"}, "act_fn"),
        ({"latents_mean": [0.1]}, "latents_mean"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 3}, "down_block_types"),
        ({"norm_num_groups": 48}, "norm_num_groups"),
        ({"norm_num_groups": 0}, "norm_num_groups"),
        ({"scaling_factor": "1"}, "scaling_factor"),
    ],
)
def test_an_autoencoder_we_do_not_have_is_refused(change, named):
    with pytest.raises(InputError, match=named):
        autoencoder_from_json(PUBLISHED_AUTOENCODER | change, "config.json")


def test_impossible_numbers_are_refused():
    with pytest.raises(InputError, match="axes_dims_rope"):
        TransformerConfig(attention_head_dim=64)
    with pytest.raises(InputError, match="norm_num_groups"):
        AutoencoderConfig(block_out_channels=(16, 32))
    with pytest.raises(InputError, match="eos_token_id"):
        ClipTextConfig(eos_token_id=2)
