"""What an export starts from: the weights of the four networks, each read when its turn comes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from openkontext.errors import InputError
from openkontext.lora import read_lora
from openkontext.lora.fitting import Fitted, fit
from openkontext.lora.names import CLIP, T5, TRANSFORMER
from openkontext.model.checkpoints import Checkpoint, load_autoencoder, open_transformer
from openkontext.model.config import (
    AutoencoderConfig,
    ClipTextConfig,
    ModelConfig,
    T5EncoderConfig,
    TransformerConfig,
)
from openkontext.model.lora import merged_weight
from openkontext.model.pipeline import Pipeline, load_clip, read_pipeline_index, read_shifts
from openkontext.model.text_encoders import clip_config, t5_config
from openkontext.model.weights import Weights, read_json

ConfigT = TypeVar("ConfigT")

_T5_WEIGHTS = "model.safetensors"
_T5_ALIAS = "encoder.embed_tokens.weight"  # the same tensor as shared.weight, in some files stored twice


@dataclass(frozen=True)
class Source:
    """A model to export."""

    transformer: Checkpoint[TransformerConfig]
    autoencoder: Checkpoint[AutoencoderConfig]
    clip: Checkpoint[ClipTextConfig]
    t5: Checkpoint[T5EncoderConfig]
    tokenizer: Path
    """Folder of CLIP's tokenizer."""
    tokenizer_2: Path
    """Folder of T5's tokenizer."""
    base_shift: float
    """Shift mu of the schedule for 256 target tokens."""
    max_shift: float
    """Shift mu of the schedule for 4096 target tokens."""
    identity: str | None = None
    """Tells the files that all this is read from, and their state; None for a model in memory."""
    warnings: tuple[str, ...] = ()
    """What of adapters has no effect on this model."""

    @property
    def config(self) -> ModelConfig:
        """The numbers of the four networks."""
        return ModelConfig(self.transformer.config, self.autoencoder.config, self.t5.config, self.clip.config)

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Source":
        """A model in memory."""
        numbers = pipeline.config
        return cls(
            transformer=Checkpoint.of(numbers.transformer, pipeline.transformer),
            autoencoder=Checkpoint.of(numbers.autoencoder, pipeline.autoencoder),
            clip=Checkpoint.of(numbers.clip, pipeline.clip),
            t5=Checkpoint.of(numbers.t5, pipeline.t5),
            tokenizer=pipeline.tokenizer,
            tokenizer_2=pipeline.tokenizer_2,
            base_shift=pipeline.base_shift,
            max_shift=pipeline.max_shift,
        )

    def with_loras(self, loras: Sequence[tuple[Path, float]]) -> "Source":
        """The model with adapters merged into its transformer and text encoders as they are read.

        Raises:
            InputError: a file is no adapter, or one for another model; the message names file and layer.
        """
        shapes = {TRANSFORMER: self.transformer.shapes, CLIP: self.clip.shapes, T5: self.t5.shapes}
        fitted = [(fit(read_lora(file), shapes), strength) for file, strength in loras]
        return replace(
            self,
            transformer=_merged(self.transformer, fitted, TRANSFORMER),
            clip=_merged(self.clip, fitted, CLIP),
            t5=_merged(self.t5, fitted, T5),
            warnings=tuple(warning for each, _ in fitted for warning in each.warnings),
        )


def open_source(
    path: str | Path, parts: str | Path | None = None, loras: Sequence[tuple[Path, float]] = ()
) -> Source:
    """Open a checkpoint; the transformer's and T5's weights stay on disk until they are asked for.

    Args:
        path: a diffusers pipeline folder; or a transformer in one `.safetensors` file of either format, with
            an `ae.safetensors` beside it that is taken too.
        parts: the pipeline folder with whatever a single file does not hold; None for the folder it is in.
        loras: LoRA files to merge, each with its strength.

    Raises:
        InputError: a part is missing, damaged or not of this architecture, or a LoRA does not fit.
    """
    path = Path(path)
    folder, transformer, autoencoder = path, path / "transformer", path / "vae"
    if path.suffix == ".safetensors":
        folder = path.parent if parts is None else Path(parts)
        transformer, autoencoder = path, folder / "vae"
        if (beside := path.with_name("ae.safetensors")).exists():
            autoencoder = beside
    read_pipeline_index(folder)
    vae, clip = load_autoencoder(autoencoder), load_clip(folder / "text_encoder")
    base_shift, max_shift = read_shifts(folder)
    source = Source(
        transformer=open_transformer(transformer),
        autoencoder=Checkpoint.of(vae.config, vae),
        clip=Checkpoint.of(clip_config(clip), clip),
        t5=open_t5(folder / "text_encoder_2"),
        tokenizer=folder / "tokenizer",
        tokenizer_2=folder / "tokenizer_2",
        base_shift=base_shift,
        max_shift=max_shift,
        identity="\n".join(
            [
                *(_stamp(each) for each in (folder / "text_encoder", folder / "text_encoder_2")),
                *(_stamp(each) for each in (transformer, autoencoder)),
                *(f"{_stamp(file)} {strength}" for file, strength in loras),
            ]
        ),
    )
    return source.with_loras(loras)


def open_t5(path: Path) -> Checkpoint[T5EncoderConfig]:
    """Open a T5 encoder as transformers saves it, in one safetensors file or in shards.

    Raises:
        InputError: the files are not whole, or not of a T5 encoder.
    """
    said = read_json(path / "config.json")
    try:
        with torch.device("meta"):
            model = T5EncoderModel(T5Config(**said))
    except (TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path / 'config.json'} is no configuration of a T5 encoder: {reason}") from None
    index = path / f"{_T5_WEIGHTS}.index.json"
    weights = Weights(index if index.exists() else path / _T5_WEIGHTS)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != _T5_ALIAS}
    for name, shape in shapes.items():
        if weights.shapes.get(name) != shape:
            found = list(weights.shapes.get(name, ())) or "missing"
            raise InputError(f"{weights.path}: {name} is {found}, where this T5 encoder has {list(shape)}")
    if unknown := sorted(weights.shapes.keys() - shapes.keys() - {_T5_ALIAS}):
        raise InputError(f"{weights.path}: unknown tensor {unknown[0]}; a T5 encoder has no such thing")

    def read(name: str) -> Tensor:
        return weights.read(name, 0, shapes[name][0])

    return Checkpoint(t5_config(model), shapes, read)


def _merged(
    network: Checkpoint[ConfigT], loras: Sequence[tuple[Fitted, float]], role: str
) -> Checkpoint[ConfigT]:
    """A network with adapters merged into each weight as it is read."""
    found = [(fitted.changes[role], strength) for fitted, strength in loras if role in fitted.changes]
    if not found:
        return network

    def merged(name: str) -> Tensor:
        weight = network.read(name)
        mine = [(changes[name], strength) for changes, strength in found if name in changes]
        if not mine:
            return weight
        wide = weight.float()
        # Each is taken of the weight as it was, so that the order of the files does not matter.
        total = wide
        for change, strength in mine:
            total = total + (merged_weight(wide, change, name, strength, network.read) - wide)
        return total

    return replace(network, read=merged)


def _stamp(path: Path) -> str:
    """Name, size and time of change of a file, or of all in a folder."""
    files: list[Any] = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.is_file()]
    return " ".join(f"{file.absolute()} {state.st_size} {state.st_mtime_ns}" for file, state in states)
