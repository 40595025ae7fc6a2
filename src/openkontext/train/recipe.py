"""Recipes: one TOML file a stage, all stages of a model in one work folder.

    stage = "flow"
    preset = "nano"

    [flow]
    steps = 4000

    [run]
    save_minutes = 3

A stage reads what earlier ones left in the work folder: `text` the tokenizers and encoders, `autoencoder` the
autoencoder, `latents` the cached pairs, `flow` the transformer, `checkpoint` the whole model in diffusers'
layout. A work folder may also begin with the weights of a repository (`openkontext.train.start`). The
stages `finetune`, `guidance` and `ladd` begin with a whole model, see `openkontext.train.adapt`.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from openkontext import latents
from openkontext.data.scenes import SIZES
from openkontext.errors import InputError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import load_autoencoder, save_autoencoder
from openkontext.model.config import PRESETS, ModelConfig
from openkontext.model.pipeline import Pipeline, save_pipeline
from openkontext.repository import RepositoryConfig
from openkontext.train.autoencoder import AutoencoderRecipe, channels_last, train_autoencoder
from openkontext.train.finetune import FinetuneRecipe
from openkontext.train.flow import FlowRecipe, Kontext, train_flow
from openkontext.train.guidance import GuidanceRecipe
from openkontext.train.ladd import LaddRecipe
from openkontext.train.latents import FAMILIES, PairCache, write_chunk
from openkontext.train.loop import Average, RunRecipe
from openkontext.train.parallel import launch
from openkontext.train.start import Start
from openkontext.train.text import TextEncoders, TextRecipe, train_text
from openkontext.train.vocabulary import Taught, train_tokenizers


@dataclass(frozen=True)
class LatentsRecipe:
    """How many families of pairs to draw and encode, and where among all families to begin."""

    families: int = 2000
    first: int = 0
    #: One kind that these families hold alone, for more pairs of it than all families give; "" for all kinds.
    only: str = ""


_STAGES: dict[str, type] = {
    "text": TextRecipe,
    "autoencoder": AutoencoderRecipe,
    "latents": LatentsRecipe,
    "flow": FlowRecipe,
    "finetune": FinetuneRecipe,
    "guidance": GuidanceRecipe,
    "ladd": LaddRecipe,
}
COMMANDS = {
    "train": ("text", "autoencoder", "latents", "flow"),
    "finetune": ("finetune",),
    "distill": ("guidance", "ladd"),
}
"""Commands, and the stages that each runs."""


@dataclass(frozen=True)
class Recipe:
    """One stage: its name, the model's preset, the stage's own settings, and how it runs."""

    stage: str
    preset: str
    settings: Any
    run: RunRecipe = RunRecipe()  # noqa: RUF009 - frozen

    @property
    def config(self) -> ModelConfig:
        """Shapes of the model's networks."""
        return PRESETS[self.preset]


def read_recipe(path: str | Path, command: str | None = None) -> Recipe:
    """Reads a recipe. Paths in it are relative to its folder.

    Args:
        path: The file.
        command: Of `COMMANDS`, that is to run it; None for any.

    Raises:
        InputError: the file is missing or no TOML, a name or value in it is not known, or its stage is
            another command's.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}") from None
    stage, preset = table.pop("stage", None), table.pop("preset", "nano")
    if stage not in _STAGES:
        raise InputError(f"{path}: stage = {stage!r} is not known; it is one of {', '.join(_STAGES)}")
    owner = next(name for name, stages in COMMANDS.items() if stage in stages)
    if command not in (None, owner):
        raise InputError(f"{path}: the stage {stage} is run by `openkontext {owner} {path}`")
    if preset not in PRESETS:
        raise InputError(f"{path}: preset = {preset!r} is not known; it is one of {', '.join(PRESETS)}")
    run: RunRecipe = _settings(path, "run", RunRecipe, table.pop("run", {}))
    settings = _settings(path, stage, _STAGES[stage], table.pop(stage, {}))
    for name in table:
        raise InputError(f"{path}: {name} is not a setting; this stage's tables are {stage} and run")
    return Recipe(stage, preset, settings, run)


def _settings(path: Path, name: str, kind: type, values: dict[str, Any]) -> Any:
    """One table of a recipe as its dataclass."""
    known = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise InputError(f"{path}: {name}.{key} is not a setting; there are {', '.join(sorted(known))}")
    try:
        settings: Any = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise InputError(f"{path}: {place} = {first['input']!r}: {first['msg']}") from None
    found = {
        key: str(path.parent / value)
        for key in ("pairs", "model")
        if isinstance(value := getattr(settings, key, None), str) and (path.parent / value).exists()
    }
    return dataclasses.replace(settings, **found)


def run_recipe(recipe: Recipe, work: Path, processes: int = 1) -> None:
    """Runs a stage, or goes on with it where it was stopped.

    Args:
        recipe: What to run.
        work: Folder of all stages of this model.
        processes: How many share each step of the stage flow.

    Raises:
        InputError: an earlier stage has not been run in this folder.
    """
    config = recipe.config
    settings = recipe.settings
    if isinstance(settings, TextRecipe):
        if not (work / "text" / "taught.json").exists():
            train_tokenizers(
                work / "text",
                settings.kinds,
                lengths=(config.clip.length, config.t5.length),
                vocab_sizes=(config.clip.vocab_size, config.t5.vocab_size),
                seed=settings.seed,
            )
        start = Start.load(work)
        begin, known = (start.into_text, start.kinds) if start else (None, ())
        train_text(settings, config, work / "text", work / "text" / "run", recipe.run, begin, known)
    elif isinstance(settings, AutoencoderRecipe):
        kinds = Taught.load(_need(work / "text", "text")).kinds
        # `start_from` has left one to begin with.
        begin = _autoencoder(work) if Start.load(work) else None
        run = work / "autoencoder" / "run"
        model = train_autoencoder(settings, config.autoencoder, kinds, run, recipe.run, begin)
        save_autoencoder(model, work / "autoencoder")
    elif isinstance(settings, LatentsRecipe):
        autoencoder = _autoencoder(work)
        kinds = Taught.load(_need(work / "text", "text")).kinds
        first = settings.first // FAMILIES
        half = recipe.run.half()
        encoder = functools.partial(encode, autoencoder, half=half)
        if settings.only and settings.only not in kinds:
            raise InputError(f"only = {settings.only!r}: must be one of {', '.join(kinds)}")
        for chunk in range(first, first + -(-settings.families // FAMILIES)):
            write_chunk(work / "latents", chunk, encoder, kinds, only=settings.only)
    else:
        _need(work / "text" / "taught.json", "text")
        _need(work / "latents", "latents")
        launch(_flow, processes, settings, config, work, recipe.run)
        save_checkpoint(recipe.preset, config, work)


def _flow(settings: FlowRecipe, config: ModelConfig, work: Path, run: RunRecipe) -> None:
    start = Start.load(work)
    train_flow(
        settings,
        config,
        load_text_encoders(work, config),
        PairCache(work / "latents", Taught.load(work / "text").kinds),
        work / "flow" / "run",
        begin=start.into_transformer if start else None,
        run_recipe=run,
    )


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Tensor, *, half: bool = False) -> np.ndarray:
    """Pictures [B, 3, H, W] in -1..1 -> the transformer's tokens [B, H/16 * W/16, 64] float32.

    `half` computes in bfloat16, which moves the latents by 0.4% of their spread.
    """
    config = autoencoder.config
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        # A few at a time stay within the processor's caches.
        parts = images.to(memory_format=torch.channels_last).split(8)
        mean = torch.cat([autoencoder.encode(part)[0].float() for part in parts])
    return latents.pack(((mean - config.shift_factor) * config.scaling_factor).numpy())


def save_checkpoint(name: str, config: ModelConfig, work: Path) -> Path:
    """Writes the averaged weights of all stages as a diffusers folder, `checkpoint`.

    Beside them lie the settings that the export takes over: name, sizes and the words that were taught.

    Returns:
        The folder.
    """
    model = Kontext(config, TextEncoders(config, work / "text"))
    average = Average(model, 0.0)
    state = torch.load(_need(work / "flow" / "run" / "state.pt", "flow"), weights_only=False)
    average.load_state_dict(state["parts"]["average"])
    model.load_state_dict(average.values, strict=False)  # buffers are no parameters
    autoencoder = _autoencoder(work)
    transformer = model.transformer
    pipeline = Pipeline(
        transformer=transformer,
        autoencoder=autoencoder,
        clip=model.text.clip,
        t5=model.text.t5,
        tokenizer=work / "text" / "tokenizer",
        tokenizer_2=work / "text" / "tokenizer_2",
    )
    save_pipeline(pipeline, work / "checkpoint")
    taught = Taught.load(work / "text")
    RepositoryConfig(
        name=name,
        licence="Apache-2.0",
        sizes=SIZES,
        # No pixel that an edit should change differs less: tests/nano holds that.
        keep_below=0.15,
        min_area=0.5,
        words=taught.words,
        kinds=taught.kinds,
    ).save(work / "checkpoint")
    return work / "checkpoint"


def _need(path: Path, stage: str) -> Path:
    if not path.exists():
        raise InputError(f"{path} is missing: run the stage {stage} in this work folder first")
    return path


def _autoencoder(work: Path) -> Autoencoder:
    _need(work / "autoencoder" / "config.json", "autoencoder")
    return channels_last(load_autoencoder(work / "autoencoder").eval())


def load_text_encoders(work: Path, config: ModelConfig) -> TextEncoders:
    """The text encoders that the stage flow begins with: of the stage text, or of `start_from`."""
    encoders = TextEncoders(config, work / "text")
    start, path = Start.load(work), work / "text" / "run" / "state.pt"
    if start is not None and not path.exists():
        start.into_text(encoders)
        return encoders
    weights = torch.load(_need(path, "text"), weights_only=False)["parts"]["model"]
    encoders.load_state_dict(
        {k.removeprefix("encoders."): v for k, v in weights.items() if k.startswith("encoders.")}
    )
    return encoders
