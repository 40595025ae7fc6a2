"""Folders that `optimum-cli export onnx` makes of a FLUX pipeline (`ORTFluxPipeline`), read as a repository.

Its graphs compute the same as the published ones under other names, one folder each; the image encoder gives
mean and logarithm of the variance together. Names: optimum-onnx `exporters/onnx/model_configs.py`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, helper

from openkontext.runtime.model_file import graph_inputs

FOLDERS: Mapping[str, str] = {
    "clip": "text_encoder",
    "t5": "text_encoder_2",
    "transformer": "transformer",
    "vae": "vae_decoder",
    "vae_encoder": "vae_encoder",
}
"""Role of a graph -> its folder."""

_INPUTS = {"vae": {"latent_sample": "latent"}, "vae_encoder": {"sample": "images"}}
_OUTPUTS = {
    "clip": {"pooler_output": "pooled_embeddings"},
    "t5": {"last_hidden_state": "text_embeddings"},
    "transformer": {"out_hidden_states": "latent"},
    "vae": {"sample": "images"},
    "vae_encoder": {"latent_sample": "latent"},
}
_MOMENTS = "latent_parameters"
_TYPES: dict[int, str] = {
    int(TensorProto.BFLOAT16): "bf16",
    int(TensorProto.FLOAT16): "fp16",
    int(TensorProto.FLOAT): "fp32",
}
_SCHEDULER = ("scheduler", "scheduler_config.json")
_LONGEST = 4096  # tokenizers without a length say a very large number


def graph_file(folder: Path, role: str) -> Path:
    """Where such a folder has a graph."""
    return folder / FOLDERS[role] / "model.onnx"


def precision_of(model: ModelProto) -> str | None:
    """What the weights of a transformer are in: "bf16", "fp16" or "fp32"; None where it has none of these."""
    sizes: dict[int, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in _TYPES:
            sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + math.prod(tensor.dims)
    return _TYPES[max(sizes, key=lambda dtype: sizes[dtype])] if sizes else None


def published_names(model: ModelProto, role: str | None) -> ModelProto | None:
    """The graph under the published names of inputs and outputs; None where it has these already."""
    inputs = {value.name for value in graph_inputs(model)}
    outputs = {value.name for value in model.graph.output}
    taken = {o: n for o, n in _INPUTS.get(role or "", {}).items() if o in inputs and n not in inputs}
    given = {o: n for o, n in _OUTPUTS.get(role or "", {}).items() if o in outputs and n not in outputs}
    moments = role == "vae_encoder" and _MOMENTS in outputs and "latent" not in outputs
    if not (taken or given or moments):
        return None
    renamed = ModelProto()
    renamed.CopyFrom(model)
    graph = renamed.graph
    for value in graph.input:
        if new := taken.get(value.name):
            graph.node.insert(
                0, helper.make_node("Identity", [new], [value.name], name=f"{new}/as_published")
            )
            value.name = new
    for value in graph.output:
        if new := given.get(value.name):
            graph.node.append(helper.make_node("Identity", [value.name], [new], name=f"{new}/as_published"))
            value.name = new
        elif moments and value.name == _MOMENTS:
            graph.node.append(_first_half(renamed))
            value.name = "latent"
            axis = value.type.tensor_type.shape.dim[1]
            if axis.HasField("dim_value"):
                axis.dim_value //= 2
            elif axis.HasField("dim_param"):
                axis.dim_param = "latent_channels"
    return renamed


def numbers(folder: Path) -> dict[str, Any]:
    """What such a folder says of its model, as fields of a `RepositoryConfig`."""
    autoencoder = _json(folder / FOLDERS["vae"] / "config.json")
    scheduler = _json(folder.joinpath(*_SCHEDULER))
    clip = _json(folder / FOLDERS["clip"] / "config.json")
    tokenizer = _json(folder / "tokenizer_2" / "tokenizer_config.json")
    length = tokenizer.get("model_max_length")
    found = {
        **{key: autoencoder.get(key) for key in ("scaling_factor", "shift_factor", "latent_channels")},
        **{key: scheduler.get(key) for key in ("base_shift", "max_shift")},
        "clip_length": clip.get("max_position_embeddings"),
        "text_length": length if isinstance(length, int) and length <= _LONGEST else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def is_flux_dev(folder: Path) -> bool:
    """Whether the transformer has the shape of FLUX.1 [dev], or does not say its shape."""
    said = _json(folder / FOLDERS["transformer"] / "config.json")
    dev = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "guidance_embeds": True}
    return all(said.get(key, value) == value for key, value in dev.items())


def _first_half(model: ModelProto) -> Any:
    """The mean, of mean and logarithm of the variance one behind the other."""
    version = max((each.version for each in model.opset_import if each.domain == ""), default=18)
    attributes: dict[str, Any] = {"num_outputs": 2} if version >= 18 else {}
    outputs = ["latent", "latent/log_variance"]
    return helper.make_node("Split", [_MOMENTS], outputs, name="latent/as_published", axis=1, **attributes)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
