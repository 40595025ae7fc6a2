"""Adapters that other libraries made, trained and converted: the same numbers as theirs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_bfl_flux_control_lora_to_diffusers,
    _convert_kohya_flux_lora_to_diffusers,
    _convert_xlabs_flux_lora_to_diffusers,
)
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from openkontext.bfl import transformer_rows
from openkontext.lora import Replaced, Whole, read_lora


class Block(nn.Module):
    """Linear layers that have the names of some of a single-stream block's."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.ModuleDict(
            {
                "attn": nn.ModuleDict({"to_q": nn.Linear(12, 24), "to_k": nn.Linear(12, 20)}),
                "proj_mlp": nn.Linear(12, 32),
                "proj_out": nn.Linear(24, 12),
            }
        )
        self.single_transformer_blocks = nn.ModuleList([block])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = self.single_transformer_blocks[0]
        return torch.cat(
            [block["attn"]["to_k"](x), block["proj_mlp"](x), block["proj_out"](block["attn"]["to_q"](x))], -1
        )


NAMES = ["to_q", "to_k", "proj_mlp", "proj_out"]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=3, lora_alpha=5, target_modules=NAMES),
        LoraConfig(r=3, lora_alpha=5, target_modules=NAMES, use_dora=True),
        LoraConfig(r=4, lora_alpha=3, target_modules=NAMES, use_rslora=True, use_dora=True),
        LoraConfig(r=2, lora_alpha=7, target_modules=NAMES, lora_bias=True),
        LoHaConfig(r=2, alpha=3, target_modules=NAMES),
        LoKrConfig(r=2, alpha=3, target_modules=NAMES),
        LoKrConfig(r=2, alpha=3, target_modules=NAMES, decompose_both=True),
        LoKrConfig(r=64, alpha=64, target_modules=NAMES),
    ],
    ids=["lora", "dora", "rs-dora", "lora with bias", "loha", "lokr", "lokr both", "lokr whole"],
)
def test_what_peft_saves_computes_what_peft_computes(config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Block()
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    theirs = get_peft_model(plain, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name or "hada_" in name or "lokr_" in name:
                parameter.copy_(parameter.abs() + 0.3 * torch.rand_like(parameter))
    theirs.save_pretrained(tmp_path)
    x = torch.randn(5, 12)
    with torch.no_grad():
        expected = theirs(x)

    changes = read_lora(tmp_path).changes["transformer"]
    ours = Block()
    merged = dict(state)
    for name, change in changes.items():
        merged[name] = state[name] + torch.from_numpy(change.delta(lambda each: state[each].numpy(), name))
    ours.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=2e-5, atol=2e-5)
        ours.load_state_dict(state)
        assert (ours(x) - expected).norm() > 0.05 * expected.norm()


def deltas(tensors: dict[str, torch.Tensor], folder: Path) -> dict[str, np.ndarray]:
    """Of a file of low-rank and whole changes, by parameter."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "lora.safetensors")
    changes = read_lora(folder / "lora.safetensors").changes["transformer"]
    return {
        name: change.value if isinstance(change, Replaced) else change.delta(lambda _: np.zeros(0), name)
        for name, change in changes.items()
    }


def products(converted: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What the pairs of a file in diffusers' names add to each weight."""
    return {
        name.removeprefix("transformer.").replace(".lora_A", ""): (
            converted[name.replace("lora_A", "lora_B")] @ down
        ).numpy()
        for name, down in converted.items()
        if ".lora_A." in name
    }


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, delta in theirs.items():
        np.testing.assert_allclose(ours[name], delta, rtol=1e-4, atol=1e-4, err_msg=name)


def linear_rows(num_layers: int, num_single: int) -> list[tuple[str, int, int]]:
    """BFL's linear layers, as wide as diffusers' converters take them to be: name, out, in."""
    widths = {"qkv": 9216, "mlp.0": 12288, "img_mod.lin": 18432, "txt_mod.lin": 18432, "linear1": 21504}
    widths |= {"modulation.lin": 9216, "adaLN_modulation.1": 6144, "final_layer.linear": 64}
    found = []
    for row in transformer_rows(num_layers, num_single):
        if row.stored.endswith(".weight"):
            name = row.stored.removesuffix(".weight")
            out = next((width for end, width in widths.items() if name.endswith(end)), 3072)
            found.append((name, out, 8))
    return found


def test_kohyas_files_as_diffusers_converts_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, (name, out, into) in enumerate(linear_rows(1, 1)):
        flat, rank = f"lora_unet_{name.replace('.', '_')}", 1 + index % 3
        tensors[f"{flat}.lora_down.weight"] = torch.randn(rank, into, generator=generator)
        tensors[f"{flat}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
        if not name.startswith("final_layer"):  # whose alphas diffusers drops
            tensors[f"{flat}.alpha"] = torch.tensor(0.5 + index)
    ours = deltas(tensors, tmp_path)
    converted = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    same(ours, products(converted))


def test_xlabs_files_as_diffusers_converts_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for block in range(3):
        for what, out in (("qkv", 48), ("proj", 16)):
            for stream in ("double", "single"):
                for number in ("1", "2") if stream == "double" else ("",):
                    name = f"{stream}_blocks.{block}.processor.{what}_lora{number}"
                    tensors[f"{name}.down.weight"] = torch.randn(2 + block, 16, generator=generator)
                    tensors[f"{name}.up.weight"] = torch.randn(out, 2 + block, generator=generator)
    ours = deltas(tensors, tmp_path)
    converted = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    same(ours, products(converted))


def test_control_loras_as_diffusers_converts_them(tmp_path: Path) -> None:
    """Black Forest Labs' own: every layer with biases, and norms that take the place of the model's."""
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, torch.Tensor] = {}
    for name, out, _ in linear_rows(19, 38):
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, 2, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
        tensors[f"{name}.lora_B.bias"] = torch.randn(out, generator=generator)
    for row in transformer_rows(19, 38):
        if row.stored.endswith(".scale"):
            tensors[row.stored] = torch.randn(4, generator=generator)
    ours = deltas(tensors, tmp_path)
    converted = _convert_bfl_flux_control_lora_to_diffusers(dict(tensors))
    theirs = {}
    for name, value in converted.items():
        bare = name.removeprefix("transformer.")
        if bare.endswith(".lora_A.weight"):
            up = converted[name.replace("lora_A", "lora_B")]
            theirs[bare.replace(".lora_A", "")] = (up @ value).numpy()
        elif bare.endswith(".lora_B.bias"):
            theirs[bare.replace(".lora_B", "")] = value.numpy()
        elif ".lora_" not in bare:
            theirs[bare] = value.numpy()
    # diffusers swaps scale and shift in both matrices there, where they lie in the rows of the second alone.
    swapped = tensors["final_layer.adaLN_modulation.1.lora_B.weight"].chunk(2)[::-1]
    down = tensors["final_layer.adaLN_modulation.1.lora_A.weight"]
    theirs["norm_out.linear.weight"] = (torch.cat(swapped) @ down).numpy()
    same(ours, theirs)
    kinds = read_lora(tmp_path / "lora.safetensors").changes["transformer"]
    assert isinstance(kinds["transformer_blocks.0.attn.norm_added_q.weight"], Replaced)
    assert isinstance(kinds["transformer_blocks.0.attn.to_q.bias"], Whole)
