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
    rank_stabilised: bool
    decomposed: bool
    """Whether it says that it is a DoRA."""

    def of(self, layer: str, rank: int) -> float:
        """Alpha of a layer, such that the scale is alpha / rank."""
        alpha = next((value for key, value in self.pattern.items() if _fits(key, layer)), self.common)
        if alpha is None:
            return float(rank)
        # Rank-stabilised LoRA (arXiv 2312.03732) divides by the root of the rank.
        return float(alpha * rank**0.5 if self.rank_stabilised else alpha)


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
    alpha, pattern = config.get("lora_alpha"), config.get("alpha_pattern")
    return Alphas(
        float(alpha) if isinstance(alpha, int | float) else None,
        pattern if isinstance(pattern, dict) else {},
        bool(config.get("use_rslora")),
        bool(config.get("use_dora")),
    )


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
