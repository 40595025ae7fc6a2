"""The model that a stage begins with, and what its frozen parts make of pictures and words."""

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openkontext import latents
from openkontext.errors import InputError
from openkontext.export.loading import in_torch, open_model
from openkontext.export.origin import said_config
from openkontext.export.parts import MissingPartsError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import ModelConfig
from openkontext.model.pipeline import Pipeline
from openkontext.model.text_encoders import encode_text
from openkontext.repository import Repository, RepositoryConfig
from openkontext.sampling import shift
from openkontext.text import Tokenizers


@dataclass(frozen=True, eq=False)
class TeacherModel:
    """A whole model and its settings."""

    pipeline: Pipeline
    config: RepositoryConfig
    folder: Path | None = None
    """Where its license and model card lie, if it has any."""

    @classmethod
    def load(cls, name: str | Path, parts: str | Path | None = None) -> "TeacherModel":
        """Load a model.

        Args:
            name: "nano", a repository (fetched, exported here or by another tool, in any precision), or a
                checkpoint of any kind that `openkontext export` takes.
            parts: a pipeline folder with whatever a single file does not hold; None for the one it is in.

        Raises:
            InputError: there is no such model, it cannot be read back, or its parts do not fit.
        """
        try:
            source = open_model(name, parts, mapped=True)
        except MissingPartsError as error:
            raise InputError(f'{error}, or `parts = "FOLDER"` in a recipe') from None
        pipeline, config = in_torch(source), said_config(source, Path(name).stem)
        numbers = pipeline.config
        check_fit(name, numbers)
        config = dataclasses.replace(
            config,
            clip_length=numbers.clip.length,
            text_length=numbers.t5.length,
            scaling_factor=numbers.autoencoder.scaling_factor,
            shift_factor=numbers.autoencoder.shift_factor,
            base_shift=source.base_shift,
            max_shift=source.max_shift,
        )
        return cls(pipeline, config, source.folder)

    def shift(self, tokens: int) -> float:
        """The schedule's shift mu for a picture of so many tokens."""
        return shift(tokens, self.config.base_shift, self.config.max_shift)

    @cached_property
    def _autoencoder(self) -> Autoencoder:
        """In float32: in bfloat16 its convolutions take a CPU with AVX2 alone tens of times as long."""
        return copy.deepcopy(self.pipeline.autoencoder).float()

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Pooled embeddings [B, width] and text tokens [B, length, width], float32."""
        tokenizers = Tokenizers(Repository(self.pipeline.tokenizer.parent, self.config))
        encoded = [tokenizers.encode(text) for text in texts]
        clip_ids, t5_ids = (
            torch.from_numpy(np.concatenate([getattr(each, name) for each in encoded]))
            for name in ("clip_ids", "t5_ids")
        )
        pooled, text = encode_text(self.pipeline.clip, self.pipeline.t5, clip_ids, t5_ids)
        return pooled.float(), text.float()

    @torch.no_grad()
    def encode_picture(self, images: np.ndarray) -> Tensor:
        """A picture [1, 3, H, W] in -1..1 -> packed, scaled latents [tokens, 64] float32."""
        mean = self._autoencoder.encode(torch.from_numpy(images))[0].numpy()
        scaled = (mean - self.config.shift_factor) * self.config.scaling_factor
        return torch.from_numpy(latents.pack(scaled)[0].astype(np.float32))

    @torch.no_grad()
    def decode_latents(self, scaled: np.ndarray) -> np.ndarray:
        """Latents in the transformer's scale [1, C, H, W] -> a picture [1, 3, 8H, 8W] in about -1..1."""
        values = scaled / self.config.scaling_factor + self.config.shift_factor
        return self._autoencoder.decode(torch.from_numpy(values.astype(np.float32))).numpy()


def check_fit(name: str | Path, numbers: ModelConfig) -> None:
    """See that the transformer takes what the other networks give.

    Raises:
        InputError: it does not; a part is another model's.
    """
    transformer, given = numbers.transformer, 4 * numbers.autoencoder.latent_channels
    for what, taken, had in (
        ("T5's tokens", transformer.joint_attention_dim, numbers.t5.d_model),
        ("CLIP's pooled embedding", transformer.pooled_projection_dim, numbers.clip.hidden_size),
        ("the autoencoder's packed tokens", transformer.in_channels, given),
    ):
        if taken != had:
            raise InputError(
                f"{name}: its transformer takes {taken} numbers where {what} have {had}; its parts are of "
                "different models"
            )
