"""LoRA files under other names than diffusers': against the BFL checkpoint that they were made for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openkontext.errors import InputError
from openkontext.model.checkpoints import load_transformer, save_transformer
from openkontext.model.lora import load_lora, merge_lora
from openkontext.model.transformer import FluxTransformer

LAYERS = (
    "img_in",
    "double_blocks.0.img_attn.qkv",
    "double_blocks.1.txt_mlp.2",
    "double_blocks.1.img_mod.lin",
    "single_blocks.0.linear1",
    "single_blocks.1.linear2",
    "final_layer.adaLN_modulation.1",
    "final_layer.linear",
)


def bfl(layer: str, part: str) -> str:
    return f"{layer}.lora_{'A' if part == 'down' else 'B'}.weight"


def comfy(layer: str, part: str) -> str:
    return f"diffusion_model.{bfl(layer, part)}"


def kohya(layer: str, part: str) -> str:
    return f"lora_unet_{layer.replace('.', '_')}.lora_{part}.weight"


@pytest.mark.parametrize("name", [bfl, comfy, kohya])
def test_merging_is_adding_to_the_bfl_checkpoint(small_transformer, randomize, tmp_path, name):
    """The other way: add to BFL's own fused weights in their file, then load that."""
    model = randomize(FluxTransformer(small_transformer))
    save_transformer(model, tmp_path / "flux.safetensors", "bfl")
    stored = load_file(tmp_path / "flux.safetensors")
    generator = torch.Generator().manual_seed(3)
    lora = {}
    for rank, layer in enumerate(LAYERS, start=1):
        weight = stored[f"{layer}.weight"]
        down = torch.randn(rank, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        lora |= {name(layer, "down"): down, name(layer, "up"): up}
        alpha = float(rank)
        if name is kohya:
            alpha = rank / 2
            lora[name(layer, "alpha").replace("lora_alpha.weight", "alpha")] = torch.tensor(alpha)
        stored[f"{layer}.weight"] = weight + 0.8 * alpha / rank * up @ down
    save_file(lora, tmp_path / "lora.safetensors")
    save_file(stored, tmp_path / "merged.safetensors")
    expected = load_transformer(tmp_path / "merged.safetensors", config=small_transformer)
    merge_lora(model, load_lora(tmp_path / "lora.safetensors"), 0.8)
    for (key, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


def test_kohyas_flat_names_of_diffusers_layers(tmp_path):
    flat = "lora_transformer_single_transformer_blocks_12_attn_to_q"
    tensors = {f"{flat}.lora_down.weight": torch.ones(2, 8), f"{flat}.lora_up.weight": torch.ones(8, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    assert list(load_lora(tmp_path / "lora.safetensors")) == ["single_transformer_blocks.12.attn.to_q"]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"double_blocks.0.img_attn.norm.key_norm.scale": (4,)},
            "norm_k.weight is no product of two matrices",
        ),
        ({"text_encoder.layers.0.q_proj.lora_C.weight": (4, 4)}, "lora_C.weight is no part of a LoRA"),
        (
            {
                "double_blocks.0.img_attn.qkv.lora_A.weight": (2, 8),
                "double_blocks.0.img_attn.qkv.lora_B.weight": (25, 2),
            },
            "has 25 rows, which are no 3 layers'",
        ),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, tensors, said):
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=said):
        load_lora(tmp_path / "lora.safetensors")
