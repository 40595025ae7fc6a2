"""The files of one model: which of its parts lies where, and what is missing.

A pipeline folder has all of them. A single file has the transformer, and in all-in-one files more; what it
does not have is looked for beside it, in the pipeline folder that is named with it, and where options say.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from openkontext.errors import InputError
from openkontext.files import CHECKPOINT_SUFFIXES
from openkontext.model.checkpoints import holds_autoencoder
from openkontext.model.encoder_files import holds_clip, holds_t5
from openkontext.model.floats import open_floats
from openkontext.model.pipeline import read_pipeline_index

_MAIN = "black-forest-labs/FLUX.1-Kontext-dev"
_ENCODERS = "comfyanonymous/flux_text_encoders"
_MISSING = {  # part -> what it is, the option that names it, and an example with where that is
    "clip": f"the CLIP text encoder (--clip clip_l.safetensors, in {_ENCODERS})",
    "t5": f"the T5 encoder (--t5 t5xxl_fp16.safetensors, in {_ENCODERS})",
    "vae": f"the autoencoder (--vae ae.safetensors, in {_MAIN})",
    "tokenizer": f"CLIP's tokenizer (--tokenizer FOLDER, tokenizer/ in {_MAIN})",
    "tokenizer_2": f"T5's tokenizer (--tokenizer-2 FOLDER, tokenizer_2/ in {_MAIN})",
}
_FOLDERS = {
    "clip": "text_encoder",
    "t5": "text_encoder_2",
    "vae": "vae",
    "tokenizer": "tokenizer",
    "tokenizer_2": "tokenizer_2",
}
_BESIDE = {"clip": "clip_l", "vae": "ae"}  # how such files are called wherever they are published
_HOLDS = {"clip": holds_clip, "t5": holds_t5, "vae": holds_autoencoder}


class MissingPartsError(InputError):
    """A checkpoint lacks parts that nothing names."""


@dataclass(frozen=True)
class Parts:
    """Where the parts are that a checkpoint does not hold; None for what is to be found."""

    folder: Path | None = None
    """A pipeline folder with whatever is named nowhere else."""
    clip: Path | None = None
    """CLIP's text encoder: a file or a folder."""
    t5: Path | None = None
    """T5: a file or a folder."""
    vae: Path | None = None
    """The autoencoder: a file or a folder."""
    tokenizer: Path | None = None
    """Folder of CLIP's tokenizer."""
    tokenizer_2: Path | None = None
    """Folder of T5's tokenizer."""


@dataclass(frozen=True)
class Places:
    """Where every part of a model is."""

    transformer: Path
    clip: Path
    t5: Path
    vae: Path
    tokenizer: Path
    tokenizer_2: Path
    folder: Path
    """Of the pipeline, for what is said there of the model: its schedule, settings, license."""

    def __iter__(self) -> Iterator[Path]:
        """All but the folder."""
        return (getattr(self, each.name) for each in fields(self) if each.name != "folder")


def find_parts(path: Path, given: Parts) -> Places:
    """Where the parts of a model are.

    Args:
        path: a pipeline folder; a transformer's folder; or a file with a transformer, or more, in it.
        given: what is named besides.

    Raises:
        InputError: there is no such checkpoint, or it lacks parts; the message says which, where they are to
            be had, and the options that name them.
    """
    if path.is_dir() and not ((path / "config.json").exists() and not (path / "model_index.json").exists()):
        read_pipeline_index(path)
        return _places(path / "transformer", path, given, inside=set())
    if not path.is_dir() and path.suffix not in CHECKPOINT_SUFFIXES:
        raise InputError(
            f"{path}: no such checkpoint; give a pipeline folder or a {', '.join(CHECKPOINT_SUFFIXES)} file"
        )
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint; check the name")
    inside = set()
    if path.is_file():
        floats = open_floats(path)
        inside = {part for part, holds in _HOLDS.items() if holds(floats)}
    return _places(path, given.folder or path.parent, given, inside)


def _places(transformer: Path, folder: Path, given: Parts, inside: set[str]) -> Places:
    found = {part: _place(part, transformer, folder, given, inside) for part in _FOLDERS}
    missing = [part for part, place in found.items() if place is None]
    if missing:
        raise MissingPartsError(
            f"{transformer}: lacks {'; '.join(_MISSING[part] for part in missing)}. "
            f"A folder with all parts of {_MAIN} does as well: --parts FOLDER"
        )
    return Places(transformer, **found, folder=folder)  # type: ignore[arg-type]


def _place(part: str, transformer: Path, folder: Path, given: Parts, inside: set[str]) -> Path | None:
    named: Path | None = getattr(given, part)
    if named is not None:
        if not named.exists():
            raise InputError(f"{named}: no such file or folder, for {_MISSING[part]}")
        return named
    if part in inside:
        return transformer
    beside = [
        transformer.with_name(f"{_BESIDE[part]}{suffix}") for suffix in CHECKPOINT_SUFFIXES if part in _BESIDE
    ]
    candidates = [*beside, folder / _FOLDERS[part]]
    return next((each for each in candidates if each.exists()), None)
