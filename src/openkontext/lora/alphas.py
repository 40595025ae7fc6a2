"""What PEFT's configuration says of alpha, in the file's metadata or beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openkontext.errors import InputError
from openkontext.lora.names import CLIP, T5, TRANSFORMER

METADATA = "lora_adapter_metadata"
"""Entry of a file's metadata: PEFT's `LoraConfig` of each network, as diffusers writes it."""

_PREFIXES = {TRANSFORMER: "transformer.", CLIP: "text_encoder.", T5: "text_encoder_2."}


@dataclass(frozen=True)
class Alphas:
    """The alphas of one network's layers."""

    common: float | None
    pattern: Mapping[str, float]
    rank_stabilized: bool
    decomposed: bool
    """Whether it says that it is a DoRA."""
    ranks: Mapping[str, float] | None = None
    """Of PEFT's LoHa and LoKr, whose scale is alpha by the rank that was asked for, not by the matrices':
    that rank by the ends of layers' names; the common one under the empty name."""

    def of(self, layer: str, rank: int) -> float:
        """Alpha of a layer, such that the scale is alpha / rank."""
        alpha = _of_layer(self.pattern, layer, self.common)
        if alpha is None:
            return float(rank)
        if self.ranks is not None:
            return float(alpha * rank / (_of_layer(self.ranks, layer, self.ranks.get("")) or rank))
        # Rank-stabilized LoRA (arXiv 2312.03732) divides by the root of the rank.
        return float(alpha * rank**0.5 if self.rank_stabilized else alpha)


def read_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, Alphas]:
    """The alphas of each network.

    Raises:
        InputError: the configuration is damaged.
    """
    beside = path.with_name("adapter_config.json")
    if METADATA in metadata:
        said = _object(metadata[METADATA], path)
        named = any(name.startswith(tuple(_PREFIXES.values())) for name in said)
        return {network: _alphas(said, prefix if named else "") for network, prefix in _PREFIXES.items()}
    said = {}
    if path.name == "adapter_model.safetensors" and beside.exists():
        try:
            said = _object(beside.read_text(encoding="utf-8"), beside)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{beside} cannot be read ({error}); fetch it again") from None
    return dict.fromkeys(_PREFIXES, _alphas(said, ""))


def _alphas(said: Mapping[str, Any], prefix: str) -> Alphas:
    config = {name.removeprefix(prefix): value for name, value in said.items() if name.startswith(prefix)}
    of_rank = config.get("peft_type") in ("LOHA", "LOKR")
    return Alphas(
        _number(config.get("alpha" if of_rank else "lora_alpha")),
        _numbers(config.get("alpha_pattern")),
        bool(config.get("use_rslora")),
        bool(config.get("use_dora")),
        {**_numbers(config.get("rank_pattern")), **_numbers({"": config.get("r")})} if of_rank else None,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _numbers(values: Any) -> dict[str, float]:
    items = values.items() if isinstance(values, dict) else ()
    return {str(key): float(value) for key, value in items if isinstance(value, int | float)}


def _of_layer(pattern: Mapping[str, float], layer: str, common: float | None) -> float | None:
    """What a pattern says of a layer."""
    return next((value for key, value in pattern.items() if key and _fits(key, layer)), common)


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} has damaged metadata ({error}); fetch it again") from None
    if not isinstance(said, dict):
        raise InputError(f"{path} has metadata that are no JSON object; fetch it again")
    return said


def _fits(key: str, layer: str) -> bool:
    """Whether a key of PEFT's patterns means a layer: its whole name (after ^), or where its name ends."""
    # PEFT takes keys for regular expressions; those of a stranger's file are not run here.
    name = key.removeprefix("^").replace("\\.", ".")
    return layer == name or (not key.startswith("^") and layer.endswith(f".{name}"))
