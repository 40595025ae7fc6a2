"""LoRA files: read, write and merge them.

A LoRA adds `scale * up @ down` to the weight of a linear layer (arXiv 2106.09685). The file is that of
diffusers and PEFT for FLUX: one safetensors file with `transformer.LAYER.lora_A.weight` [rank, in] and
`transformer.LAYER.lora_B.weight` [out, rank], LAYER being the layer's name in `FluxTransformer2DModel`. The
scale is alpha / rank; alpha stands in the metadata (`lora_adapter_metadata`, a JSON text with PEFT's
`LoraConfig`) or as a tensor `transformer.LAYER.alpha`, and is the rank where it is not said.
Files with the names of Black Forest Labs or of kohya-ss/sd-scripts are read too (`lora_names`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openkontext.errors import InputError
from openkontext.model.lora_names import fused, layer_and_part, shares
from openkontext.model.weights import Entry, Weights, read_json, write_weights

FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file in a folder that they save to."""

_METADATA = "lora_adapter_metadata"
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
    """Read a LoRA, as this project, diffusers (`save_lora_weights`, `save_lora_adapter`) and PEFT save it.

    Args:
        path: the `.safetensors` file, or the folder that it was saved to.

    Raises:
        InputError: there is no such file, it is damaged, or it holds something other than a LoRA of the
            transformer's linear layers.
    """
    path = _file(Path(path))
    weights = Weights(path)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, shape in weights.shapes.items():
        found = layer_and_part(name)
        if found is None:
            raise InputError(
                f"{path}: the tensor {name} is no part of a LoRA of the transformer; what is read are "
                "LAYER.lora_A.weight, LAYER.lora_B.weight and LAYER.alpha, under the names of diffusers, "
                "Black Forest Labs or kohya"
            )
        layer, part = found
        tensor = weights.rows(name, 0, shape[0]) if shape else weights.scalar(name)
        layers.setdefault(layer, {})[part] = tensor
    alphas = _alphas(path, weights.metadata)
    lora: dict[str, LoraLayer] = {}
    for layer, parts in layers.items():
        lora |= _unfused(path, layer, _layer(path, layer, parts, alphas))
    if not lora:
        raise InputError(f"{path} holds no tensors, so it is no LoRA")
    return lora


def save_lora(lora: Lora, path: str | Path) -> None:
    """Write a LoRA that diffusers' `load_lora_weights` and `load_lora_adapter` read; whole or not at all.

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
        Entry(f"{_PREFIX}{layer}.{part}.weight", tuple(tensor.shape), tensor.dtype, tensor.clone)
        for layer, each in sorted(lora.items())
        for part, tensor in (("lora_A", each.down), ("lora_B", each.up))
    ]
    write_weights(Path(path), entries, {"format": "pt", _METADATA: said})


@torch.no_grad()
def merge_lora(transformer: nn.Module, lora: Lora, strength: float = 1.0) -> None:
    """Add a LoRA to the weights of a transformer, so that no trace of it slows the model down.

    Args:
        transformer: with diffusers' names, such as `FluxTransformer`; its weights are replaced, not written
            to, since they may be mapped from a file.
        lora: as `load_lora` reads it.
        strength: how much of it; 0 adds nothing.

    Raises:
        InputError: the LoRA was made for another transformer; the message names the layer.
    """
    check_lora(transformer, lora)
    for layer, each in lora.items():
        weight = transformer.get_parameter(f"{layer}.weight")
        merged = weight.float() + strength * each.delta.to(weight.device)
        linear = transformer.get_submodule(layer)
        linear.weight = nn.Parameter(merged.to(weight.dtype), requires_grad=weight.requires_grad)


def check_lora(transformer: nn.Module, lora: Lora) -> None:
    """See that every layer of a LoRA is one of the transformer's linear layers, of its size.

    Raises:
        InputError: it is not; the message names the layer.
    """
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    for layer, each in lora.items():
        if layer not in linear:
            raise InputError(f"the LoRA changes the layer {layer}, which this transformer does not have")
        ours, theirs = tuple(linear[layer].weight.shape), (each.up.shape[0], each.down.shape[1])
        if ours != theirs:
            raise InputError(
                f"the LoRA's layer {layer} is for a weight of {list(theirs)}, "
                f"where this transformer has {list(ours)}; it was made for a model of another size"
            )


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} holds no LoRA: neither {' nor '.join(FILE_NAMES)}")


def _layer(path: Path, layer: str, parts: dict[str, Tensor], alphas: "_Alphas") -> LoraLayer:
    try:
        down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    except KeyError as error:
        raise InputError(f"{path}: the tensor {layer}.{error.args[0]} is missing") from None
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise InputError(
            f"{path}: lora_A {list(down.shape)} and lora_B {list(up.shape)} of {layer} do not multiply"
        )
    alpha = parts["alpha"].item() if "alpha" in parts else alphas.of(layer, down.shape[0])
    return LoraLayer(down, up, float(alpha))


def _unfused(path: Path, layer: str, whole: LoraLayer) -> dict[str, LoraLayer]:
    """A layer under BFL's name as the diffusers layers that lie in it; any other as it is."""
    row = fused(layer)
    if row is None:
        return {layer: whole}
    units = shares(row)
    if len(whole.up) % (2 if row.swapped else sum(units)):
        raise InputError(
            f"{path}: lora_B of {layer} has {len(whole.up)} rows, which are no {len(units)} layers'"
        )
    up = torch.cat(whole.up.chunk(2)[::-1]) if row.swapped else whole.up
    unit = len(up) // sum(units)
    pieces = up.split([unit * share for share in units])
    return {
        part: LoraLayer(whole.down, piece, whole.alpha) for part, piece in zip(row.parts, pieces, strict=True)
    }


def _fits(key: str, layer: str) -> bool:
    """Whether a key of PEFT's patterns means a layer: its whole name (after ^), or where its name ends."""
    # PEFT takes keys for regular expressions; those of a stranger's file are not run here.
    name = key.removeprefix("^").replace("\\.", ".")
    return layer == name or (not key.startswith("^") and layer.endswith(f".{name}"))


@dataclass(frozen=True)
class _Alphas:
    """What PEFT's configuration says of alpha."""

    common: float | None
    pattern: Mapping[str, float]
    rank_stabilised: bool

    def of(self, layer: str, rank: int) -> float:
        """Alpha of a layer, such that the scale is alpha / rank."""
        alpha = next((value for key, value in self.pattern.items() if _fits(key, layer)), self.common)
        if alpha is None:
            return rank
        # Rank-stabilised LoRA (arXiv 2312.03732) divides by the root of the rank.
        return alpha * rank**0.5 if self.rank_stabilised else alpha


def _alphas(path: Path, metadata: Mapping[str, str]) -> _Alphas:
    config: dict[str, Any] = {}
    beside = path.with_name("adapter_config.json")
    if _METADATA in metadata:
        try:
            said = json.loads(metadata[_METADATA])
        except ValueError as error:
            raise InputError(f"{path} has damaged metadata ({error}); fetch it again") from None
        config = {name.removeprefix(_PREFIX): value for name, value in said.items()}
    elif path.name == FILE_NAMES[1] and beside.exists():
        config = read_json(beside)
    if config.get("use_dora") or config.get("lora_bias"):
        raise InputError(f"{path} is a LoRA with magnitudes or biases (DoRA), which is not read")
    return _Alphas(
        config.get("lora_alpha"), config.get("alpha_pattern") or {}, bool(config.get("use_rslora"))
    )
