"""LoRAs in torch: those that train, written to files, and any adapter merged into weights.

`openkontext.lora` reads the files. What is written is that of diffusers and PEFT for FLUX: one safetensors
file with `transformer.LAYER.lora_A.weight` [rank, in] and `transformer.LAYER.lora_B.weight` [out, rank],
where LAYER is the layer's name in `FluxTransformer2DModel`. The scale is alpha / rank; alpha stands in the
metadata (`lora_adapter_metadata`, a JSON text with PEFT's `LoraConfig`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openkontext.errors import InputError
from openkontext.lora import Change, LoraFile, LowRank, read_lora
from openkontext.lora.alphas import METADATA
from openkontext.lora.matching import fit
from openkontext.lora.names import TRANSFORMER
from openkontext.model.weights import WeightEntry, write_weights

_PREFIX = "transformer."


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """What a LoRA adds to one linear layer: `alpha / rank * up @ down`."""

    down: Tensor
    """[rank, in], `lora_A` in files."""
    up: Tensor
    """[out, rank], `lora_B` in files."""
    alpha: float
    """The scale is alpha / rank."""

    @property
    def rank(self) -> int:
        """Rank of what is added."""
        return self.down.shape[0]

    @property
    def delta(self) -> Tensor:
        """What is added to the weight [out, in], float32."""
        return (self.alpha / self.rank) * (self.up.float() @ self.down.float())


Lora = Mapping[str, LoraLayer]
"""By the layer's name in the transformer, without `.weight`."""


def load_lora(path: str | Path) -> Lora:
    """Read a LoRA of the transformer's linear layers, to train it on or to look at it; any tool's names.

    Args:
        path: the `.safetensors` file, or the folder that it was saved to.

    Raises:
        InputError: there is no such file, it is damaged, or it is more than that: `read_lora` reads the other
            kinds.
    """
    read = read_lora(path)
    lora: dict[str, LoraLayer] = {}
    for name, change in read.changes.get(TRANSFORMER, {}).items():
        if not isinstance(change, LowRank):
            raise InputError(
                f"{read.path}: its change of {name} is no product of two matrices, and only such can train on"
            )
        lora[name.removesuffix(".weight")] = LoraLayer(_tensor(change.down), _tensor(change.up), change.alpha)
    if not lora:
        raise InputError(f"{read.path} changes nothing of the transformer")
    return lora


def save_lora(lora: Lora, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a LoRA that diffusers' `load_lora_weights` and `load_lora_adapter` read; whole or not at all.

    Args:
        lora: what to write.
        path: of the file.
        notes: what else the file's metadata says, each under "openkontext." and its name.

    Raises:
        InputError: the file cannot be written.
    """
    ranks = {layer: each.rank for layer, each in lora.items()}
    alphas = {layer: each.alpha for layer, each in lora.items()}
    rank, alpha = (max(set(values.values()), key=list(values.values()).count) for values in (ranks, alphas))
    config = {
        "r": rank,
        "lora_alpha": alpha,
        # The ^ keeps PEFT from taking the end of a longer name for it.
        "rank_pattern": {f"^{layer}": value for layer, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{layer}": value for layer, value in alphas.items() if value != alpha},
        "target_modules": sorted(lora),
    }
    said = json.dumps({f"{_PREFIX}{name}": value for name, value in config.items()}, sort_keys=True)
    entries = [
        WeightEntry(f"{_PREFIX}{layer}.{part}.weight", tuple(tensor.shape), tensor.dtype, tensor.clone)
        for layer, each in sorted(lora.items())
        for part, tensor in (("lora_A", each.down), ("lora_B", each.up))
    ]
    told = {f"openkontext.{name}": text for name, text in (notes or {}).items()}
    write_weights(Path(path), entries, {"format": "pt", METADATA: said, **told})


@torch.no_grad()
def merge_lora(
    network: nn.Module, lora: Lora | LoraFile, strength: float = 1.0, role: str = TRANSFORMER
) -> None:
    """Add an adapter to the weights of a network, so that no trace of it slows the model down.

    Args:
        network: with diffusers' names, such as `FluxTransformer`; its weights are replaced, not written to,
            since they may be mapped from a file.
        lora: as `load_lora` reads it, or `read_lora` with its further kinds.
        strength: how much of it; 0 adds nothing.
        role: which of the file's networks it is: "transformer", "clip" or "t5".

    Raises:
        InputError: it was made for another network; the message names the layer.
    """
    if not isinstance(lora, LoraFile):
        named: dict[str, Change] = {f"{layer}.weight": _low_rank(each) for layer, each in lora.items()}
        lora = LoraFile(Path("the LoRA"), {role: named})
    state = network.state_dict()
    changes = fit(lora, {role: {name: tuple(weight.shape) for name, weight in state.items()}}).changes
    for name, change in changes.get(role, {}).items():
        tensor = merged_weight(state[name], change, name, strength, state.__getitem__)
        layer, _, parameter = name.rpartition(".")
        old = network.get_parameter(name)
        setattr(
            network.get_submodule(layer), parameter, nn.Parameter(tensor, requires_grad=old.requires_grad)
        )


def merged_weight(weight: Tensor, change: Change, name: str, strength: float, read: Any) -> Tensor:
    """A parameter with a change added, in its own type.

    Args:
        weight: the parameter.
        change: what an adapter does to it.
        name: its name in the model.
        strength: how much of the change.
        read: gives any parameter of the model by its name.
    """
    delta = change.delta(lambda other: _array(read(other)), name)
    wide = weight.detach().float()
    return (wide + strength * torch.from_numpy(delta).to(wide.device)).to(weight.dtype)


def _low_rank(layer: LoraLayer) -> LowRank:
    return LowRank(_array(layer.down), _array(layer.up), layer.alpha)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def _tensor(array: NDArray[Any]) -> Tensor:
    """The numbers in their own type where torch takes it from numpy, else in float32; never a view."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    if array.dtype.kind == "f" and array.dtype.itemsize in (2, 4, 8):
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.astype(np.float32))
