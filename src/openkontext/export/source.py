"""What an export starts from: the weights of the four networks, each read when its turn comes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from openkontext.export.parts import Parts, find_parts
from openkontext.lora import read_lora
from openkontext.lora.matching import Fitted, fit
from openkontext.lora.names import CLIP, T5, TRANSFORMER
from openkontext.model.checkpoints import Checkpoint, load_autoencoder, open_transformer
from openkontext.model.config import (
    AutoencoderConfig,
    ClipTextConfig,
    ModelConfig,
    T5EncoderConfig,
    TransformerConfig,
)
from openkontext.model.encoder_files import open_clip, open_t5
from openkontext.model.lora import merged_weight
from openkontext.model.pipeline import Pipeline, read_shifts

ConfigT = TypeVar("ConfigT")


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
    name: str = ""
    """What it is called where it comes from; empty for a model in memory."""
    folder: Path | None = None
    """Where its license and model card lie, if it has any; None for a model in memory."""
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
    path: str | Path,
    parts: Parts | str | Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    *,
    mapped: bool = False,
) -> Source:
    """Open a checkpoint; the weights of transformer and text encoders stay on disk until they are asked for.

    Args:
        path: a diffusers pipeline folder; or a transformer in one file of any kind that `model.floats` reads,
            with whatever else lies in that file.
        parts: where the rest is: what a single file does not hold is looked for beside it (`ae.safetensors`,
            `clip_l.safetensors`), and in the pipeline folder that is named, or that the file is in.
        loras: LoRA files to merge, each with its strength.
        mapped: give views of the files, where they hold plain numbers, in place of copies.

    Raises:
        InputError: a part is missing, damaged or not of this architecture, or a LoRA does not fit.
    """
    given = parts if isinstance(parts, Parts) else Parts(folder=None if parts is None else Path(parts))
    places = find_parts(Path(path), given)
    vae = load_autoencoder(places.vae)
    base_shift, max_shift = read_shifts(places.folder)
    source = Source(
        transformer=open_transformer(places.transformer, mapped=mapped),
        autoencoder=Checkpoint.of(vae.config, vae),
        clip=open_clip(places.clip, places.folder / "text_encoder", mapped=mapped),
        t5=open_t5(places.t5, mapped=mapped),
        tokenizer=places.tokenizer,
        tokenizer_2=places.tokenizer_2,
        base_shift=base_shift,
        max_shift=max_shift,
        name=Path(path).absolute().stem if Path(path).is_file() else Path(path).absolute().name,
        folder=places.folder,
        identity="\n".join(
            [*(stamp(each) for each in places), *(f"{stamp(file)} {strength}" for file, strength in loras)]
        ),
    )
    return source.with_loras(loras)


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


def stamp(path: Path) -> str:
    """Name, size and time of change of a file, or of all in a folder."""
    files: list[Any] = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files if file.is_file()]
    return " ".join(f"{file.absolute()} {state.st_size} {state.st_mtime_ns}" for file, state in states)
