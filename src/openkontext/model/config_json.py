"""Between our configurations and diffusers' `config.json`."""

import json
from collections.abc import Mapping
from typing import Any

from openkontext.errors import InputError
from openkontext.model.config import AutoencoderConfig, TransformerConfig

# What diffusers' classes take where a configuration file is silent.
_TRANSFORMER_DEFAULTS: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
    "theta": 10000,  # our own: diffusers has no such setting
}
_AUTOENCODER_DEFAULTS: dict[str, Any] = {
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
}
# Settings that this architecture has only one value for: (value, diffusers' default).
_TRANSFORMER_FIXED: dict[str, tuple[Any, Any]] = {"patch_size": (1, 1)}
_AUTOENCODER_FIXED: dict[str, tuple[Any, Any]] = {
    "in_channels": (3, 3),
    "out_channels": (3, 3),
    "act_fn": ("silu", "silu"),
    "mid_block_add_attention": (True, True),
    "use_quant_conv": (False, True),
    "use_post_quant_conv": (False, True),
}
_PACKING = "quantization_config"
_PACKERS = ("bitsandbytes",)  # whose packing the tensors' own names tell
_AUTOENCODER_IGNORED = {"sample_size", "force_upcast"}  # hints to pipelines; the function is the same


def transformer_to_json(config: TransformerConfig) -> dict[str, Any]:
    """The configuration of diffusers' `FluxTransformer2DModel`, and our `theta` where it is not 10000."""
    values = {name: getattr(config, name) for name in _TRANSFORMER_DEFAULTS}
    values["axes_dims_rope"] = list(config.axes_dims_rope)
    if config.theta == _TRANSFORMER_DEFAULTS["theta"]:
        del values["theta"]
    return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, "out_channels": None, **values}


def transformer_from_json(values: Mapping[str, Any], where: str) -> TransformerConfig:
    """The configuration that a `config.json` says; `where` is its name in messages.

    Raises:
        InputError: it is another architecture's, or has a setting that this one lacks.
    """
    rest = _settings(values, "FluxTransformer2DModel", where)
    read = _take(rest, _TRANSFORMER_DEFAULTS, where)
    _check_fixed(rest, _TRANSFORMER_FIXED, where)
    out_channels = rest.pop("out_channels", None)
    if out_channels not in (None, read["in_channels"]):
        raise InputError(f"{where}: out_channels {out_channels} is not in_channels {read['in_channels']}")
    _refuse_rest(rest, where)
    read["axes_dims_rope"] = tuple(read["axes_dims_rope"])
    return TransformerConfig(**read)


def autoencoder_to_json(config: AutoencoderConfig) -> dict[str, Any]:
    """The configuration of diffusers' `AutoencoderKL`."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        **{name: value for name, (value, _) in _AUTOENCODER_FIXED.items()},
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **{name: getattr(config, name) for name in _AUTOENCODER_DEFAULTS},
        "block_out_channels": list(config.block_out_channels),
    }


def autoencoder_from_json(values: Mapping[str, Any], where: str) -> AutoencoderConfig:
    """The configuration that a `config.json` says; `where` is its name in messages.

    Raises:
        InputError: it is another architecture's, or has a setting that this one lacks.
    """
    rest = _settings(values, "AutoencoderKL", where)
    read = _take(rest, _AUTOENCODER_DEFAULTS, where)
    _check_fixed(rest, _AUTOENCODER_FIXED, where)
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        levels = len(read["block_out_channels"])
        if rest.pop(name, [kind]) != [kind] * levels:
            raise InputError(
                f"{where}: {name} must be {levels} times {kind}, one for each of block_out_channels"
            )
    _refuse_rest({name: value for name, value in rest.items() if name not in _AUTOENCODER_IGNORED}, where)
    read["block_out_channels"] = tuple(read["block_out_channels"])
    read["shift_factor"] = read["shift_factor"] or 0.0
    return AutoencoderConfig(**read)


def _settings(values: Mapping[str, Any], class_name: str, where: str) -> dict[str, Any]:
    """The entries without diffusers' notes: `_class_name` and the like, and how the weights are packed."""
    found = values.get("_class_name", class_name)
    if found != class_name:
        raise InputError(f"{where} belongs to another network: it is of class {found}, not {class_name}")
    rest = {name: value for name, value in values.items() if not name.startswith("_")}
    packing = rest.get(_PACKING)
    if isinstance(packing, dict) and packing.get("quant_method") in _PACKERS:
        del rest[_PACKING]
    return rest


def _take(rest: dict[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Remove and return the settings that `defaults` lists, which must be of their defaults' types."""
    read = {name: rest.pop(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        if isinstance(default, list):
            good = isinstance(read[name], list) and all(_is_count(each) for each in read[name])
        elif isinstance(default, bool):
            good = isinstance(read[name], bool)
        elif isinstance(default, int):
            good = _is_count(read[name])
        else:
            good = isinstance(read[name], int | float) or read[name] is default
        if not good:
            raise InputError(f"{where}: {name} cannot be {json.dumps(read[name])}")
    return read


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _check_fixed(rest: dict[str, Any], fixed: Mapping[str, tuple[Any, Any]], where: str) -> None:
    for name, (value, default) in fixed.items():
        found = rest.pop(name, default)
        if found != value:
            raise InputError(
                f"{where}: {name} is {json.dumps(found)}; this architecture has {json.dumps(value)}"
            )


def _refuse_rest(rest: Mapping[str, Any], where: str) -> None:
    """A setting that we do not know may change the function, unless it is empty."""
    for name, value in rest.items():
        if value is not None:
            raise InputError(f"{where}: unknown setting {name}; this architecture has no such thing")
