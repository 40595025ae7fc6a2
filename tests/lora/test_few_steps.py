"""LoRAs for few steps in the names of their files: at their cards' strengths, what diffusers computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from openkontext import load
from openkontext.export.loading import import_repository
from openkontext.repository import Repository
from openkontext.runtime.adapters import parameter_shapes

RANK = 8


@pytest.fixture(scope="module")
def nano() -> FluxTransformer2DModel:
    """nano's transformer as diffusers has it."""
    ours = import_repository(Repository.open("nano").path).transformer.float()
    config = ours.config
    theirs = FluxTransformer2DModel(
        in_channels=config.in_channels,
        num_layers=config.num_layers,
        num_single_layers=config.num_single_layers,
        attention_head_dim=config.attention_head_dim,
        num_attention_heads=config.num_attention_heads,
        joint_attention_dim=config.joint_attention_dim,
        pooled_projection_dim=config.pooled_projection_dim,
        axes_dims_rope=config.axes_dims_rope,
        guidance_embeds=True,
    )
    theirs.pos_embed.theta = config.theta
    theirs.load_state_dict(ours.state_dict())
    return theirs.eval()


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    ids = np.stack([np.arange(32) // 16, np.arange(32) % 16 // 4, np.arange(32) % 4], 1)
    arrays = {
        "hidden_states": rng.standard_normal((1, 32, 64)),
        "encoder_hidden_states": rng.standard_normal((1, 32, 192)),
        "pooled_projections": rng.standard_normal((1, 128)),
        "timestep": np.array([0.75]),
        "img_ids": ids,
        "txt_ids": np.zeros((32, 3)),
        "guidance": np.array([3.5]),
    }
    return {name: value.astype(np.float32) for name, value in arrays.items()}


@pytest.mark.parametrize(
    ("strength", "everywhere", "dtype", "size"),
    [(0.125, True, torch.float32, 0.3), (1.0, False, torch.bfloat16, 0.1)],
    ids=["Hyper-SD", "FLUX.1-Turbo-Alpha"],
)
def test_at_the_strength_of_its_card_it_is_diffusers(
    nano: FluxTransformer2DModel, tmp_path: Path, strength: float, everywhere: bool, dtype, size: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (out, *into) in parameter_shapes(
        Repository.open("nano").graph("transformer", "bf16"), "transformer"
    ).items():
        if into and (everywhere or "blocks" in name):
            stem = f"transformer.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, into[0], generator=generator).to(dtype) * 0.1
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, RANK, generator=generator).to(dtype) * size
    save_file(tensors, tmp_path / "few-steps.safetensors")
    given = {name: torch.from_numpy(value) for name, value in inputs().items()}
    nano.load_lora_adapter(
        {name: value.float() for name, value in tensors.items()}, prefix="transformer", adapter_name="few"
    )
    try:
        nano.set_adapters(["few"], [strength])
        with torch.inference_mode():
            expected = nano(**given, return_dict=False)[0].numpy()
    finally:
        nano.delete_adapters("few")
    with torch.inference_mode():
        plain = nano(**given, return_dict=False)[0].numpy()

    editor = load(loras=[(tmp_path / "few-steps.safetensors", strength)])
    found = editor.components.transformer(**inputs())
    assert editor.components.warnings == []  # every layer of the file is one of the model's
    change = np.linalg.norm(expected - plain)
    assert change > 0.05 * np.linalg.norm(plain)
    assert np.linalg.norm(found - expected) < 0.01 * change
