"""Adapters that train: PEFT's LoRA layers in our transformer, and what they have learned, as in a file."""

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from openkontext.errors import InputError
from openkontext.model.lora import Lora, LoraLayer
from openkontext.model.transformer import FluxTransformer

TARGETS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "proj_mlp",
    "proj_out",
)
"""All of a block's linear layers but its modulation, by the end of their names."""

_NAME = "default"


def check_targets(transformer: FluxTransformer, targets: tuple[str, ...]) -> list[str]:
    """The layers that an adapter would stand beside.

    Args:
        transformer: to adapt.
        targets: ends of the names of linear layers inside the blocks.

    Raises:
        InputError: a target is no linear layer of a block.
    """
    linear = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and "transformer_blocks." in name
    ]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in linear):
            raise InputError(
                f"the target {target!r} is no linear layer of a block; such are {', '.join(TARGETS)}"
            )
    return [name for name in linear if any(name.endswith(f".{target}") for target in targets)]


def add_adapter(
    transformer: FluxTransformer,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...] = TARGETS,
    seed: int = 0,
) -> None:
    """Freeze a transformer and put LoRA layers beside some of its own; they begin by adding nothing.

    Args:
        transformer: what to adapt; its forward pass stays the same until the adapter has learned something.
        rank: of every layer's adapter.
        alpha: its scale is alpha / rank.
        targets: ends of the names of linear layers inside the blocks.
        seed: of the adapter's first weights.

    Raises:
        InputError: a target is no linear layer of a block.
    """
    names = check_targets(transformer, targets)
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer, adapter_name=_NAME)


def adapter_layers(transformer: nn.Module) -> dict[str, Any]:
    """The adapted layers, by the name that they have in a transformer without adapters."""
    return {name: module for name, module in transformer.named_modules() if isinstance(module, PeftLayer)}


def adapter_lora(transformer: nn.Module) -> Lora:
    """What an adapter has learned, to be saved or merged."""
    lora = {}
    for name, layer in adapter_layers(transformer).items():
        down, up = (whole(part[_NAME].weight.detach()) for part in (layer.lora_A, layer.lora_B))
        lora[name] = LoraLayer(down, up, float(layer.scaling[_NAME] * layer.r[_NAME]))
    return lora


@torch.no_grad()
def set_adapter(transformer: nn.Module, lora: Lora) -> None:
    """Let an adapter begin with what another one of the same layers and rank has learned.

    Raises:
        InputError: the LoRA is of other layers, or of another rank.
    """
    layers = adapter_layers(transformer)
    if set(layers) != set(lora):
        raise InputError("the LoRA to go on with has other layers than this recipe's targets")
    for name, layer in layers.items():
        parts = {"down": layer.lora_A[_NAME].weight, "up": layer.lora_B[_NAME].weight}
        for part, weight in parts.items():
            value = getattr(lora[name], part)
            if value.shape != weight.shape:
                raise InputError(f"the LoRA to go on with has rank {lora[name].rank}, the recipe another")
            weight.copy_(value)


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over processes, in one piece; a call of all of them."""
    return value.full_tensor() if isinstance(value, DTensor) else value
