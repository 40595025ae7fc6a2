"""A whole model in diffusers' folder layout: four networks, two tokenizers, the schedule, and an index."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import CLIPTextModel, PreTrainedModel, T5EncoderModel
from transformers.utils import logging

from openkontext.errors import InputError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import (
    load_autoencoder,
    load_transformer,
    save_autoencoder,
    save_transformer,
)
from openkontext.model.config import ModelConfig
from openkontext.model.text_encoders import clip_config, t5_config
from openkontext.model.transformer import FluxTransformer
from openkontext.model.weights import read_json, write_json

PretrainedT = TypeVar("PretrainedT", bound=PreTrainedModel)

_INDEX = "model_index.json"
_SCHEDULER = Path("scheduler", "scheduler_config.json")


@dataclass(frozen=True)
class Pipeline:
    """The parts of one model."""

    transformer: FluxTransformer
    autoencoder: Autoencoder
    clip: CLIPTextModel
    t5: T5EncoderModel
    tokenizer: Path
    """Folder of CLIP's tokenizer."""
    tokenizer_2: Path
    """Folder of T5's tokenizer."""
    base_shift: float = 0.5
    """Shift mu of the schedule for 256 target tokens."""
    max_shift: float = 1.15
    """Shift mu of the schedule for 4096 target tokens."""

    @property
    def config(self) -> ModelConfig:
        """The numbers of the four networks."""
        return ModelConfig(
            self.transformer.config, self.autoencoder.config, t5_config(self.t5), clip_config(self.clip)
        )


def load_pipeline(
    path: str | Path,
    *,
    transformer: Path | None = None,
    autoencoder: Path | None = None,
    dtype: torch.dtype | None = None,
) -> Pipeline:
    """Load a FLUX pipeline folder, as diffusers and `save_pipeline` write it.

    Args:
        path: the folder with `model_index.json`.
        transformer: checkpoint to take in place of the pipeline's own, such as a single file.
        autoencoder: the same for the autoencoder.
        dtype: converts the weights; None keeps the stored types.

    Raises:
        InputError: a part is missing, damaged or not of this architecture.
    """
    path = Path(path)
    read_pipeline_index(path)
    base_shift, max_shift = read_shifts(path)
    return Pipeline(
        transformer=load_transformer(transformer or path / "transformer", dtype=dtype),
        autoencoder=load_autoencoder(autoencoder or path / "vae", dtype=dtype),
        clip=load_clip(path / "text_encoder", dtype),
        t5=_load_encoder(T5EncoderModel, path / "text_encoder_2", dtype),
        tokenizer=path / "tokenizer",
        tokenizer_2=path / "tokenizer_2",
        base_shift=base_shift,
        max_shift=max_shift,
    )


def read_pipeline_index(path: Path) -> None:
    """See that a folder is a FLUX pipeline with its tokenizers.

    Raises:
        InputError: it is not.
    """
    found = read_json(path / _INDEX).get("_class_name", "")
    if not found.startswith("Flux"):
        raise InputError(f"{path / _INDEX} describes a {found or 'nameless pipeline'}, not a Flux pipeline")
    for name in ("tokenizer", "tokenizer_2"):
        if not (path / name).is_dir():
            raise InputError(f"{path / name}: no such folder; the pipeline is not complete")


def read_shifts(path: Path) -> tuple[float, float]:
    """The schedule's shifts (base, max) of a pipeline folder; FLUX.1's for a folder that is none."""
    is_pipeline = (path / _INDEX).exists() or (path / _SCHEDULER).exists()
    scheduler = read_json(path / _SCHEDULER) if is_pipeline else {}
    return (
        scheduler.get("base_shift", Pipeline.base_shift),
        scheduler.get("max_shift", Pipeline.max_shift),
    )


def load_clip(path: Path, dtype: torch.dtype | None = None) -> CLIPTextModel:
    """CLIP's text encoder as transformers saves it; `dtype` converts it, None keeps the stored type.

    Raises:
        InputError: it is incomplete, damaged or something else.
    """
    return _load_encoder(CLIPTextModel, path, dtype)


def save_pipeline(pipeline: Pipeline, path: str | Path) -> None:
    """Save a pipeline folder that diffusers reads too, replacing the parts of one that is there.

    `model_index.json` is written last: without it a folder is no pipeline, so that none is taken for whole
    that is not. diffusers knows no `theta`; set `transformer.pos_embed.theta` there if the model has its own.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(path)
    try:
        (path / _INDEX).unlink(missing_ok=True)
        save_transformer(pipeline.transformer, path / "transformer")
        save_autoencoder(pipeline.autoencoder, path / "vae")
        _save_encoder(pipeline.clip, path / "text_encoder")
        _save_encoder(pipeline.t5, path / "text_encoder_2")
        for source, name in ((pipeline.tokenizer, "tokenizer"), (pipeline.tokenizer_2, "tokenizer_2")):
            if source.resolve() != (path / name).resolve():
                shutil.copytree(source, path / name, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise InputError(f"cannot write the pipeline {path}: {error}") from None
    write_json(
        path / _SCHEDULER,
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,  # unused: use_dynamic_shifting
            "use_dynamic_shifting": True,
            "base_shift": pipeline.base_shift,
            "max_shift": pipeline.max_shift,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    )
    write_json(
        path / _INDEX,
        {
            "_class_name": "FluxKontextPipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", _tokenizer_class(path / "tokenizer")],
            "tokenizer_2": ["transformers", _tokenizer_class(path / "tokenizer_2")],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _load_encoder(encoder: type[PretrainedT], path: Path, dtype: torch.dtype | None) -> PretrainedT:
    """Load a text encoder; what transformers would only warn of, a missing tensor, is an error here."""
    read_json(path / "config.json")  # transformers would look for it elsewhere
    logging.disable_progress_bar()  # the command shows its own
    load: Any = encoder.from_pretrained
    try:
        model, report = load(
            path,
            dtype=dtype or "auto",
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that they are reported
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path} cannot be loaded as a {encoder.__name__}: {reason}") from None
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report[problem]:
            tensor = sorted(report[problem])[0]
            raise InputError(
                f"{path}: {problem.removesuffix('_keys')} tensor {tensor} in a {encoder.__name__}"
            )
    loaded: PretrainedT = model
    return loaded


def _save_encoder(model: PreTrainedModel, path: Path) -> None:
    """Save beside, then move: the weights may be mapped from the very files that are replaced."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".") as beside:
        model.save_pretrained(beside)
        for file in Path(beside).iterdir():
            file.replace(path / file.name)


def _tokenizer_class(folder: Path) -> str:
    """The class that the tokenizer's own configuration names; a bare `tokenizer.json` suits the general."""
    config = folder / "tokenizer_config.json"
    name = read_json(config).get("tokenizer_class") if config.exists() else None
    return name or "PreTrainedTokenizerFast"
