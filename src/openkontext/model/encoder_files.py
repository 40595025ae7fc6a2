"""The two text encoders as people hold them, opened without loading them: folders, single files, all-in-one.

A folder is transformers' own: `config.json` beside `model.safetensors` or an index of shards. A single file,
such as ComfyUI's `clip_l.safetensors` and `t5xxl_fp8_e4m3fn_scaled.safetensors` or a GGUF of T5, says no
configuration; it is inferred from the tensors' shapes. What no shape tells is taken as in FLUX.1: CLIP's
heads are 64 wide, its end token is the vocabulary's last; T5's prompts have 512 tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

from openkontext.errors import InputError
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.config import ClipTextConfig, T5EncoderConfig
from openkontext.model.floats import Floats, Renamed, open_floats, part_of
from openkontext.model.text_encoders import build_clip, build_t5, clip_config, t5_config
from openkontext.model.weights import read_json

ConfigT = TypeVar("ConfigT", ClipTextConfig, T5EncoderConfig)

_WEIGHTS = "model.safetensors"
_CLIP_PREFIXES = (
    *("", "text_model."),
    *("text_encoders.clip_l.transformer.text_model.", "text_encoders.clip_l.text_model."),
    *("clip_l.transformer.text_model.", "clip_l.text_model.", "cond_stage_model.transformer.text_model."),
)
_CLIP_MARKER = "embeddings.token_embedding.weight"
_T5_PREFIXES = (
    "",
    "text_encoders.t5xxl.transformer.",
    "text_encoders.t5xxl.",
    "t5xxl.transformer.",
    "t5xxl.",
)
_T5_MARKER = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_T5_EMBEDDING, _T5_ALIAS = "shared.weight", "encoder.embed_tokens.weight"  # the same tensor: either, or both

# In files of a whole model, or of a library's older version: no part of the encoder.
_NOT_ENCODER = re.compile(
    r"embeddings\.position_ids|(.*\.)?logit_scale|text_projection(\.weight)?|decoder\..*|lm_head\..*|visual_.*"
    r"|vision_model\..*|text_model\.embeddings\.position_ids"
)
_HEAD_WIDTH = 64


def open_clip(path: Path, like: Path | None = None, *, mapped: bool = False) -> Checkpoint[ClipTextConfig]:
    """Open CLIP's text encoder: a folder, a file of its own, or one that holds it among other networks.

    Args:
        path: where it is.
        like: folder of an encoder of the same shape, whose `config.json` says the number of heads to a file
            that does not.
        mapped: give views of the file, where it holds plain numbers, in place of copies.

    Raises:
        InputError: it is incomplete, damaged or something else.
    """
    floats, config = _opened(path, _CLIP_PREFIXES, _CLIP_MARKER, CLIPTextConfig, CLIPTextModel, clip_config)
    if config is None:
        config = _guarded(floats, _infer_clip, "CLIP text encoder")
        if like is not None and (like / "config.json").exists():
            said = read_json(like / "config.json")
            if said.get("hidden_size") == config.hidden_size and "num_attention_heads" in said:
                config = replace(config, num_heads=said["num_attention_heads"])
    return clip_of(floats, config, mapped=mapped)


def clip_of(
    floats: Floats, config: ClipTextConfig | None = None, *, mapped: bool = False
) -> Checkpoint[ClipTextConfig]:
    """CLIP's text encoder of opened tensors.

    Args:
        floats: of it alone, in transformers' names.
        config: its numbers; None infers them from the shapes.
        mapped: give views of the file, where it holds plain numbers, in place of copies.

    Raises:
        InputError: it is incomplete or something else.
    """
    config = config or _guarded(floats, _infer_clip, "CLIP text encoder")
    return _checkpoint(floats, config, build_clip(config), "CLIP text encoder", mapped)


def open_t5(path: Path, *, mapped: bool = False) -> Checkpoint[T5EncoderConfig]:
    """Open a T5 encoder: a folder, a file of its own, or one that holds it among other networks.

    Args:
        path: where it is.
        mapped: give views of the file, where it holds plain numbers, in place of copies.

    Raises:
        InputError: it is incomplete, damaged or something else.
    """
    floats, config = _opened(path, _T5_PREFIXES, _T5_MARKER, T5Config, T5EncoderModel, t5_config)
    return t5_of(floats, config, mapped=mapped)


def t5_of(
    floats: Floats, config: T5EncoderConfig | None = None, *, length: int | None = None, mapped: bool = False
) -> Checkpoint[T5EncoderConfig]:
    """A T5 encoder of opened tensors.

    Args:
        floats: of it alone, in transformers' names.
        config: its numbers; None infers them from the shapes.
        length: tokens of a prompt, where the configuration is inferred; None for FLUX.1's.
        mapped: give views of the file, where it holds plain numbers, in place of copies.

    Raises:
        InputError: it is incomplete or something else.
    """
    if _T5_EMBEDDING not in floats.shapes and _T5_ALIAS in floats.shapes:
        floats = Renamed(floats, {_T5_EMBEDDING: _T5_ALIAS} | {n: n for n in floats.shapes if n != _T5_ALIAS})
    if config is None:
        config = _guarded(floats, _infer_t5, "T5 encoder")
        config = replace(config, length=length or config.length)
    with torch.device("meta"):
        model = build_t5(config)
    return _checkpoint(floats, config, model, "T5 encoder", mapped)


def holds_clip(floats: Floats) -> bool:
    """Whether an opened file holds CLIP's text encoder, be it among other networks."""
    return part_of(floats, _CLIP_PREFIXES, [_CLIP_MARKER]) is not None


def holds_t5(floats: Floats) -> bool:
    """Whether an opened file holds a T5 encoder, be it among other networks."""
    return part_of(floats, _T5_PREFIXES, [_T5_MARKER]) is not None


def _opened(
    path: Path,
    prefixes: tuple[str, ...],
    marker: str,
    config_type: type[PretrainedConfig],
    model_type: type[PreTrainedModel],
    numbers: Any,
) -> tuple[Floats, Any]:
    """The encoder's tensors, and its numbers where a folder says them."""
    config = None
    if path.is_dir():
        said = read_json(path / "config.json")
        try:
            with torch.device("meta"):
                config = numbers(model_type(config_type(**said)))
        except (TypeError, ValueError, AttributeError, InputError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{path / 'config.json'} is no configuration of a {model_type.__name__}: {reason}"
            ) from None
        index = path / f"{_WEIGHTS}.index.json"
        path = index if index.exists() else path / _WEIGHTS
    floats = open_floats(path)
    part = part_of(floats, prefixes, [marker])
    if part is None:
        raise InputError(f"{path} cannot be loaded as a {model_type.__name__}: it has no tensor {marker}")
    return part, config


def _checkpoint(
    floats: Floats, config: ConfigT, model: PreTrainedModel, what: str, mapped: bool
) -> Checkpoint[ConfigT]:
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name != _T5_ALIAS}
    for name, shape in shapes.items():
        if floats.shapes.get(name) != shape:
            found = list(floats.shapes.get(name, ())) or "missing"
            raise InputError(f"{floats.path}: {name} is {found}, where this {what} has {list(shape)}")
    unknown = floats.shapes.keys() - shapes.keys() - {_T5_ALIAS}
    if unknown := {name for name in unknown if not _NOT_ENCODER.fullmatch(name)}:
        raise InputError(f"{floats.path}: unknown tensor {min(unknown)}; a {what} has no such thing")

    def read(name: str) -> Tensor:
        return (floats.rows if mapped else floats.read)(name, 0, shapes[name][0])

    return Checkpoint(config, shapes, read)


def _guarded(floats: Floats, infer: Any, what: str) -> Any:
    try:
        return infer(floats.shapes)
    except KeyError as error:
        raise InputError(f"{floats.path}: the tensor {error.args[0]} is missing; a {what} has it") from None
    except (ValueError, IndexError, ZeroDivisionError):
        raise InputError(f"{floats.path}: the shapes of its tensors suit no {what}") from None


def _infer_clip(shapes: Mapping[str, tuple[int, ...]]) -> ClipTextConfig:
    vocabulary, width = shapes[_CLIP_MARKER]
    return ClipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_layers=_count(shapes, r"encoder\.layers\.(\d+)\."),
        num_heads=max(1, width // _HEAD_WIDTH),
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        length=shapes["embeddings.position_embedding.weight"][0],
    )


def _infer_t5(shapes: Mapping[str, tuple[int, ...]]) -> T5EncoderConfig:
    vocabulary, width = shapes[_T5_EMBEDDING]
    heads = shapes[_T5_MARKER][1]
    return T5EncoderConfig(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // heads,
        d_ff=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        num_layers=_count(shapes, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
    )


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many different numbers the names have at the group of a pattern that they begin with."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
