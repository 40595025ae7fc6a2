"""Reading what an export or a training begins with: a checkpoint, or a repository and its graphs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor, nn

from openkontext.errors import InputError
from openkontext.export.graph_builder import CONFIG_KEY
from openkontext.export.parts import Parts
from openkontext.export.source import Source, open_source
from openkontext.export.weights import read_weights
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import AutoencoderConfig, ClipTextConfig, T5EncoderConfig, TransformerConfig
from openkontext.model.pipeline import Pipeline, load_pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def open_model(
    path: str | Path,
    parts: Parts | str | Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Source:
    """Open what an export can start from: a checkpoint as in `open_source`, or a repository.

    Raises:
        InputError: it is neither, or not whole; see `open_source` and `import_repository`.
    """
    if not Path(path, "transformer.opt").is_dir():
        return open_source(path, parts, loras)
    source = Source.of(import_repository(path))
    return replace(source, folder=Path(path)).with_loras(loras)


def load_checkpoint(path: str | Path, parts: str | Path | None = None) -> Pipeline:
    """Load a checkpoint into torch, mapped from its files.

    Args:
        path: a diffusers pipeline folder; or a transformer in one `.safetensors` file of either format, with
            an `ae.safetensors` beside it that is taken too.
        parts: the pipeline folder with whatever a single file does not hold; None for the folder it is in.

    Raises:
        InputError: a part is missing, damaged or not of this architecture.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return load_pipeline(path)
    autoencoder = path.with_name("ae.safetensors")
    return load_pipeline(
        path.parent if parts is None else parts,
        transformer=path,
        autoencoder=autoencoder if autoencoder.exists() else None,
    )


def import_repository(path: str | Path, precision: str | None = None) -> Pipeline:
    """Read a repository back into torch, weight for weight in the stored type: the start of a finetuning.

    Args:
        path: folder of a repository that `export_repository` made.
        precision: which transformer, "bf16" or "fp32"; None for the repository's first.

    Raises:
        InputError: the repository is not whole, or another tool's, whose graphs do not say their numbers.
    """
    repository = Repository.open(path)
    precision = repository.precision(precision)
    repository.verify(precision)
    read = partial(_read_graph, repository)
    transformer_config, transformer = read("transformer", precision, TransformerConfig)
    autoencoder_config, decoder = read("vae", precision, AutoencoderConfig)
    _, encoder = read("vae_encoder", precision, AutoencoderConfig)
    clip_config, clip = read("clip", precision, ClipTextConfig)
    t5_config, t5 = read("t5", precision, T5EncoderConfig)
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"]
    t5_encoder = _with_weights(_on_meta(build_t5, t5_config), t5)
    t5_encoder.tie_weights()
    return Pipeline(
        transformer=_with_weights(_on_meta(FluxTransformer, transformer_config), transformer),
        autoencoder=_with_weights(_on_meta(Autoencoder, autoencoder_config), decoder | encoder),
        clip=_with_weights(build_clip(clip_config), clip),  # not on meta: it has a buffer that no file holds
        t5=t5_encoder,
        tokenizer=repository.path / "tokenizer",
        tokenizer_2=repository.path / "tokenizer_2",
        base_shift=repository.config.base_shift,
        max_shift=repository.config.max_shift,
    )


def _read_graph(
    repository: Repository, role: str, precision: str, config_type: Callable[..., ConfigT]
) -> tuple[ConfigT, dict[str, Tensor]]:
    path = repository.graph(role, precision)
    model = ir.load(path)
    said = model.metadata_props.get(CONFIG_KEY)
    if said is None:
        raise InputError(
            f"{path} does not say the numbers of its network; start from the model's checkpoint instead"
        )
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(said).items()}
    return config_type(**values), read_weights(model, path)


def _on_meta(build: Callable[[Any], ModuleT], config: Any) -> ModuleT:
    with torch.device("meta"):
        return build(config)


def _with_weights(module: ModuleT, state: dict[str, Tensor]) -> ModuleT:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"the repository's weights do not suit its numbers: {error}") from None
    return module.eval()
