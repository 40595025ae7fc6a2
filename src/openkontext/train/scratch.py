"""The stages that train a model from nothing, and what each leaves in the work folder.

`text` leaves the tokenizers and encoders, `autoencoder` the autoencoder, `latents` the cached pairs, `flow`
the transformer and `checkpoint`, the whole model in diffusers' layout. A work folder may also begin with the
weights of a repository (`openkontext.train.start`).
"""

import functools
import sys
from pathlib import Path

import torch

from openkontext.data.scenes import SIZES
from openkontext.errors import InputError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import load_autoencoder, save_autoencoder
from openkontext.model.config import ModelConfig
from openkontext.model.pipeline import Pipeline, save_pipeline
from openkontext.repository import RepositoryConfig
from openkontext.train.autoencoder import channels_last, train_autoencoder
from openkontext.train.flow import FlowRecipe, Kontext, train_flow
from openkontext.train.latent_cache import FAMILIES, PairCache, encode, write_chunk
from openkontext.train.loop import RunRecipe
from openkontext.train.parallel import launch
from openkontext.train.recipe import Recipe
from openkontext.train.start import Start
from openkontext.train.text_encoders import TextEncoders, train_text
from openkontext.train.vocabulary import Taught, train_tokenizers


def run_recipe(recipe: Recipe, work: Path, processes: int = 1) -> None:
    """Run a stage, or go on with it where it was stopped.

    Args:
        recipe: what to run.
        work: folder of all stages of this model.
        processes: how many share each step.

    Raises:
        InputError: an earlier stage has not been run in this folder.
    """
    if recipe.stage == "flow":
        _need(work / "text" / "taught.json", "text")
        _need(work / "latents", "latents")
        launch(_flow, processes, recipe.settings, recipe.config, work, recipe.run)
        save_checkpoint(recipe.preset, recipe.config, work)
    else:
        {"text": _text, "autoencoder": _autoencoder, "latents": _latents}[recipe.stage](recipe, work)


def _text(recipe: Recipe, work: Path) -> None:
    config, settings = recipe.config, recipe.settings
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


def _autoencoder(recipe: Recipe, work: Path) -> None:
    kinds = Taught.load(_need(work / "text", "text")).kinds
    # `start_from` has left one to begin with.
    begin = _load_autoencoder(work) if Start.load(work) else None
    run = work / "autoencoder" / "run"
    model = train_autoencoder(recipe.settings, recipe.config.autoencoder, kinds, run, recipe.run, begin)
    save_autoencoder(model, work / "autoencoder")


def _latents(recipe: Recipe, work: Path) -> None:
    settings = recipe.settings
    encoder = functools.partial(encode, _load_autoencoder(work), half=recipe.run.half())
    kinds = Taught.load(_need(work / "text", "text")).kinds
    if settings.only and settings.only not in kinds:
        raise InputError(f"only = {settings.only!r}: must be one of {', '.join(kinds)}")
    first, count = settings.first // FAMILIES, -(-settings.families // FAMILIES)
    for number in range(count):
        write_chunk(work / "latents", first + number, encoder, kinds, only=settings.only)
        done = min((number + 1) * FAMILIES, settings.families)
        print(f"{done}/{settings.families} families encoded", file=sys.stderr, flush=True)


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


def save_checkpoint(name: str, config: ModelConfig, work: Path) -> Path:
    """Write the averaged weights of all stages as a diffusers folder, `checkpoint`.

    Beside them lie the settings that the export takes over: name, sizes and the words that were taught.

    Returns:
        The folder.
    """
    model = Kontext(config, TextEncoders(config, work / "text"))
    state = torch.load(_need(work / "flow" / "run" / "state.pt", "flow"), weights_only=False)
    model.load_state_dict(state["parts"]["trained"]["average"], strict=False)  # buffers are no parameters
    pipeline = Pipeline(
        transformer=model.transformer,
        autoencoder=_load_autoencoder(work),
        clip=model.text.clip,
        t5=model.text.t5,
        tokenizer=work / "text" / "tokenizer",
        tokenizer_2=work / "text" / "tokenizer_2",
    )
    save_pipeline(pipeline, work / "checkpoint")
    taught = Taught.load(work / "text")
    RepositoryConfig(
        name=name,
        license="Apache-2.0",
        sizes=SIZES,
        # No pixel that an edit should change differs less: tests/nano holds that.
        keep_below=0.15,
        min_area=0.5,
        num_inference_steps=8,  # as good as 28 on nano: docs/nano.md
        words=taught.words,
        kinds=taught.kinds,
    ).save(work / "checkpoint")
    return work / "checkpoint"


def _need(path: Path, stage: str) -> Path:
    if not path.exists():
        raise InputError(f"{path} is missing: run the stage {stage} in this work folder first")
    return path


def _load_autoencoder(work: Path) -> Autoencoder:
    _need(work / "autoencoder" / "config.json", "autoencoder")
    return channels_last(load_autoencoder(work / "autoencoder").eval())


def load_text_encoders(work: Path, config: ModelConfig) -> TextEncoders:
    """The text encoders that the stage flow begins with: of the stage text, or of `start_from`."""
    encoders = TextEncoders(config, work / "text")
    start, path = Start.load(work), work / "text" / "run" / "state.pt"
    if start is not None and not path.exists():
        start.into_text(encoders)
        return encoders
    weights = torch.load(_need(path, "text"), weights_only=False)["parts"]["trained"]["model"]
    encoders.load_state_dict(
        {k.removeprefix("encoders."): v for k, v in weights.items() if k.startswith("encoders.")}
    )
    return encoders
