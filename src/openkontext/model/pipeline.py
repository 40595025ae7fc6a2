"""A whole model in diffusers' folder layout: four networks, two tokenizers, the schedule, and an index."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTextModel, PreTrainedModel, T5EncoderModel

from openkontext.errors import InputError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import (
    save_autoencoder,
    save_transformer,
)
from openkontext.model.config import ModelConfig
from openkontext.model.text_encoders import clip_config, t5_config
from openkontext.model.transformer import FluxTransformer
from openkontext.model.weights import read_json, write_json

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
