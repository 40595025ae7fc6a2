"""A checkpoint -> a model repository of ONNX graphs in the published layout, and back."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from openkontext.errors import InputError
from openkontext.export.autoencoder import decoder_graph, encoder_graph
from openkontext.export.graph import CONFIG_KEY
from openkontext.export.text_encoders import clip_graph, t5_graph
from openkontext.export.transformer import transformer_graph
from openkontext.export.weights import lazy_tensors, read_weights
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import (
    AutoencoderConfig,
    ClipTextConfig,
    ModelConfig,
    T5EncoderConfig,
    TransformerConfig,
)
from openkontext.model.pipeline import Pipeline, load_pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import SETTINGS, Repository, RepositoryConfig

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Precision of a graph -> the type of its weights and activations."""

_GRAPH_FILE = "model.onnx"
_DATA_FILE = "backbone.onnx_data"


@dataclass(frozen=True)
class _Part:
    """One graph to write."""

    folder: str
    precision: str
    build: Callable[..., ir.Model]  # from (config, weights, type)
    config: Any
    module: nn.Module
    external: bool = False  # weights in a file beside the graph


def export_repository(
    source: Pipeline | str | Path,
    out: str | Path,
    precisions: Sequence[str] = ("bf16",),
    config: RepositoryConfig | None = None,
    overwrite: bool = False,
) -> Repository:
    """Write a model repository: five graphs in the published layout, the tokenizers and `openkontext.json`.

    The repository is made in a folder beside `out` and takes its name at the very end: `out` holds a whole
    one, or what it held before. Weights are converted one at a time, so that a model mapped from its files
    need not fit in memory.

    Args:
        source: the model, or its checkpoint as in `load_checkpoint`.
        out: folder of the repository.
        precisions: of the transformer, "bf16" or "fp32"; the other graphs come in the first of them.
        config: name, licence, sizes, steps and the like; what the checkpoint knows is taken from it. None
            takes the checkpoint's own `openkontext.json`, if there is one beside its tokenizers.
        overwrite: replace the repository that `out` holds.

    Raises:
        InputError: a precision is unknown; the checkpoint cannot be read, or a weight is not finite; `out`
            exists or cannot be written.
    """
    out = Path(out)
    _check_precisions(precisions)
    _check_out(out, overwrite)
    pipeline = source if isinstance(source, Pipeline) else load_checkpoint(source)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as beside:
            made = Path(beside, "new")
            for part in _parts(pipeline, precisions):
                _write_graph(part, made / part.folder)
            for tokenizer, name in ((pipeline.tokenizer, "tokenizer"), (pipeline.tokenizer_2, "tokenizer_2")):
                shutil.copytree(tokenizer, made / name)
            _completed(config or _said_config(pipeline, out.name), pipeline).save(made)
            for precision in precisions:
                Repository.open(made).verify(precision)
            _put_in_place(made, out, Path(beside, "old"))
    except (OSError, shutil.Error) as error:
        raise InputError(f"cannot write the repository {out}: {error}") from None
    return Repository.open(out)


def load_checkpoint(path: str | Path, parts: str | Path | None = None) -> Pipeline:
    """Load what there is to export, mapped from its files.

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


def _check_precisions(precisions: Sequence[str]) -> None:
    if not precisions:
        raise InputError(f"no precision to export; choose from {', '.join(PRECISIONS)}")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"cannot export in {precision!r}; choose from {', '.join(PRECISIONS)}")


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / SETTINGS).exists()):
        raise InputError(f"{out} exists and is no model repository; give another folder")
    if not overwrite and any(out.iterdir()):
        raise InputError(f"{out} exists; add --overwrite to replace it")


def _parts(pipeline: Pipeline, precisions: Sequence[str]) -> Iterator[_Part]:
    """What to write."""
    numbers, first = pipeline.config, precisions[0]
    yield _Part("clip.opt", first, clip_graph, numbers.clip, pipeline.clip)
    yield _Part("t5.opt", first, t5_graph, numbers.t5, pipeline.t5, external=True)
    yield _Part("vae.opt", first, decoder_graph, numbers.autoencoder, pipeline.autoencoder)
    yield _Part("vae_encoder.opt", first, encoder_graph, numbers.autoencoder, pipeline.autoencoder)
    build = partial(transformer_graph, text_length=numbers.t5.length)
    for precision in dict.fromkeys(precisions):
        folder = f"transformer.opt/{precision}"
        yield _Part(folder, precision, build, numbers.transformer, pipeline.transformer, external=True)


def _write_graph(part: _Part, folder: Path) -> None:
    dtype = PRECISIONS[part.precision]
    weights = lazy_tensors(part.module.state_dict(), dtype)
    model = part.build(part.config, weights, ir.tensor_adapters.from_torch_dtype(dtype))
    folder.mkdir(parents=True)
    file = folder / _GRAPH_FILE
    if part.external:
        ir.save(model, file, external_data=_DATA_FILE, size_threshold_bytes=0)
    else:
        ir.save(model, file)
    onnx.checker.check_model(file, full_check=True)


def _said_config(pipeline: Pipeline, name: str) -> RepositoryConfig:
    """The settings beside a checkpoint on disk, or new ones."""
    folder = pipeline.tokenizer.parent
    if (folder / SETTINGS).exists():
        return RepositoryConfig.load(folder)
    return RepositoryConfig(name=name, licence="not stated")


def _completed(config: RepositoryConfig, pipeline: Pipeline) -> RepositoryConfig:
    """The settings with those numbers that the checkpoint knows."""
    numbers: ModelConfig = pipeline.config
    return dataclasses.replace(
        config,
        scaling_factor=numbers.autoencoder.scaling_factor,
        shift_factor=numbers.autoencoder.shift_factor,
        latent_channels=numbers.autoencoder.latent_channels,
        text_length=numbers.t5.length,
        clip_length=numbers.clip.length,
        base_shift=pipeline.base_shift,
        max_shift=pipeline.max_shift,
    )


def _put_in_place(made: Path, out: Path, old: Path) -> None:
    """Rename a new folder to its place, and the one that was there to `old`, or leave all as it was."""
    if not out.exists():
        made.rename(out)
        return
    out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        old.rename(out)
        raise


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
