"""A work folder that begins with the weights of a finished model, of the same shape or of a smaller one.

A smaller one grows: blocks that it lacks begin as identities, so that the transformer computes what it
computed before (as in Net2Net, arXiv 1511.05641), and words that both vocabularies have keep their embedding.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from openkontext.data.edits import KINDS
from openkontext.errors import InputError
from openkontext.export.loading import import_repository
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import save_autoencoder
from openkontext.model.config import ModelConfig
from openkontext.repository import Repository
from openkontext.train.flow import Kontext
from openkontext.train.text_encoders import TextEncoders
from openkontext.train.vocabulary import Taught

_FOLDER = "start"
_EMBEDDINGS = {
    "clip": ("tokenizer", "embeddings.token_embedding.weight"),
    "t5": ("tokenizer_2", "shared.weight"),
}
"""Which tokenizer numbers the rows of each encoder's embedding, and how the parameter's name ends."""


def start_from(path: str | Path, work: Path, config: ModelConfig) -> None:
    """Begin a work folder with the weights of a repository.

    Where the vocabularies are as large as the model's, the words are taken over too, and no stage has to be
    run before `latents`. Otherwise the stage `text` comes first.

    Args:
        path: the repository.
        work: an empty folder, or none.
        config: the model to be trained.

    Raises:
        InputError: the repository cannot be read back, the work folder holds something already, or the model
            cannot grow out of the repository's.
    """
    if work.exists() and any(work.iterdir()):
        raise InputError(f"{work} is in use: leave out --start to go on with it, or name another folder")
    pipeline = import_repository(path)
    parts = {"transformer": pipeline.transformer, "clip": pipeline.clip, "t5": pipeline.t5}
    start = Start({name: part.float().state_dict() for name, part in parts.items()}, work)
    with torch.device("meta"):
        autoencoder = Autoencoder(config.autoencoder).state_dict()
    if _shapes(autoencoder) != _shapes(pipeline.autoencoder.state_dict()):
        raise InputError(f"{path}: its autoencoder has another shape than this model's: leave out --start")
    start.check(config, path)
    for folder in (pipeline.tokenizer, pipeline.tokenizer_2):
        shutil.copytree(folder, work / _FOLDER / folder.name)
    settings = Repository.open(path).config
    taught = Taught(settings.kinds or KINDS, settings.words or ())
    taught.save(work / _FOLDER)
    ours, theirs = ((c.clip.vocab_size, c.t5.vocab_size) for c in (config, pipeline.config))
    if ours == theirs:
        for folder in (pipeline.tokenizer, pipeline.tokenizer_2):
            shutil.copytree(folder, work / "text" / folder.name)
        taught.save(work / "text")
    save_autoencoder(pipeline.autoencoder.float(), work / "autoencoder")
    torch.save(start.weights, work / _FOLDER / "weights.pt")


@dataclass(frozen=True, eq=False)
class Start:
    """What `start_from` left in a work folder."""

    weights: dict[str, dict[str, Tensor]]
    """By part: transformer, clip, t5."""
    work: Path

    @classmethod
    def load(cls, work: Path) -> "Start | None":
        """None where the work folder began empty."""
        path = work / _FOLDER / "weights.pt"
        return cls(torch.load(path), work) if path.exists() else None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of edit that the repository's model was taught."""
        return Taught.load(self.work / _FOLDER).kinds

    def check(self, config: ModelConfig, name: str | Path) -> None:
        """Raise InputError where the model cannot grow out of these weights."""
        with torch.device("meta"):
            model = Kontext(config, TextEncoders(config))
        parts = {"transformer": model.transformer, "clip": model.text.clip, "t5": model.text.t5}
        for part, module in parts.items():
            ours = module.state_dict()
            for key, value in self.weights[part].items():
                rows = slice(1 if _is_embedding(part, key) else 0, None)
                if key not in ours or ours[key].shape[rows] != value.shape[rows]:
                    raise InputError(
                        f"{name}: {part}.{key} {tuple(value.shape)} has no place in this model: only blocks "
                        "and words can be added; choose another preset, or leave out --start"
                    )

    def into_transformer(self, transformer: nn.Module) -> None:
        """Set the weights there are; blocks beyond them stay as they begin."""
        transformer.load_state_dict({**transformer.state_dict(), **self.weights["transformer"]})

    def into_text(self, text: TextEncoders) -> None:
        """Set the weights there are; a word's embedding follows the word to its new number."""
        for (part, (folder, _)), module, tokenizer in zip(
            _EMBEDDINGS.items(), (text.clip, text.t5), text.tokenizers, strict=True
        ):
            before = Tokenizer.from_file(str(self.work / _FOLDER / folder / "tokenizer.json")).get_vocab()
            both = [(new, before[word]) for word, new in tokenizer.get_vocab().items() if word in before]
            to, came = (list(numbers) for numbers in zip(*both, strict=True))
            state = module.state_dict()
            for key, value in self.weights[part].items():
                if _is_embedding(part, key):
                    state[key][to] = value[came]
                else:
                    state[key] = value
            module.load_state_dict(state)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def _is_embedding(part: str, key: str) -> bool:
    """Whether the rows of a weight are words. T5 has its embedding under two names."""
    return part in _EMBEDDINGS and key.endswith((_EMBEDDINGS[part][1], "embed_tokens.weight"))
