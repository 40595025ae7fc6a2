"""What an export starts from: the weights of the four networks, each read when its turn comes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from openkontext.errors import InputError
from openkontext.model.checkpoints import Checkpoint, load_autoencoder, open_transformer
from openkontext.model.config import (
    AutoencoderConfig,
    ClipTextConfig,
    ModelConfig,
    T5EncoderConfig,
    TransformerConfig,
)
from openkontext.model.lora import Lora, load_lora
from openkontext.model.pipeline import Pipeline, load_clip, read_pipeline_index, read_shifts
from openkontext.model.text_encoders import clip_config, t5_config
from openkontext.model.weights import Weights, read_json

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


def open_source(
    path: str | Path, parts: str | Path | None = None, loras: Sequence[tuple[Path, float]] = ()
) -> Source:
    """Open a checkpoint; the transformer's and T5's weights stay on disk until they are asked for.

    Args:
        path: a diffusers pipeline folder; or a transformer in one `.safetensors` file of either format, with
            an `ae.safetensors` beside it that is taken too.
        parts: the pipeline folder with whatever a single file does not hold; None for the folder it is in.
        loras: LoRA files to merge into the transformer, each with its strength.

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
    return Source(
        transformer=with_loras(open_transformer(transformer), loras),
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


def with_loras(
    transformer: Checkpoint[TransformerConfig], loras: Sequence[tuple[Path, float]]
) -> Checkpoint[TransformerConfig]:
    """The transformer with LoRAs merged into each weight as it is read.

    Raises:
        InputError: a file is no LoRA, or one for another transformer; the message names the file.
    """
    read = [(load_lora(file), strength, file) for file, strength in loras]
    for lora, _, file in read:
        _check(lora, transformer.shapes, file)

    def merged(name: str) -> Tensor:
        weight = transformer.read(name)
        layer = name.removesuffix(".weight")
        deltas = [strength * lora[layer].delta for lora, strength, _ in read if layer in lora]
        if name == layer or not deltas:
            return weight
        return sum(deltas, weight.float())

    return replace(transformer, read=merged)


def _check(lora: Lora, shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    for layer, each in lora.items():
        shape = shapes.get(f"{layer}.weight")
        if shape is None or len(shape) != 2:
            raise InputError(f"{file} changes the layer {layer}, which this transformer does not have")
        made_for = (each.up.shape[0], each.down.shape[1])
        if made_for != shape:
            raise InputError(
                f"{file}: its layer {layer} is for a weight of {list(made_for)}, where this transformer has "
                f"{list(shape)}; it was made for a model of another size"
            )


def _stamp(path: Path) -> str:
    """Name, size and time of change of a file, or of all in a folder."""
    files: list[Any] = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.is_file()]
    return " ".join(f"{file.absolute()} {state.st_size} {state.st_mtime_ns}" for file, state in states)
