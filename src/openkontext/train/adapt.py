"""Stages that begin with a whole model: from a recipe to what is left in the work folder."""

import dataclasses
import re
from pathlib import Path

from accelerate import PartialState

from openkontext.errors import InputError
from openkontext.export.exporting import export_repository
from openkontext.export.loading import load_checkpoint
from openkontext.export.source import Source
from openkontext.model.lora import load_lora, merge_lora, save_lora
from openkontext.model.pipeline import Pipeline, save_pipeline
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import RepositoryConfig
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Examples
from openkontext.train.distill import train_guidance, train_ladd
from openkontext.train.finetune import FinetuneRecipe, train_finetune
from openkontext.train.guidance import GuidanceRecipe
from openkontext.train.ladd import LaddRecipe
from openkontext.train.latent_cache import PairCache
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import adapter_lora
from openkontext.train.pairs import PairExamples, build_cache, report
from openkontext.train.parallel import launch, rank
from openkontext.train.rendered import RenderedExamples
from openkontext.train.vocabulary import Taught

LORA = "lora.safetensors"
CHECKPOINT = "checkpoint"

Recipe = FinetuneRecipe | GuidanceRecipe | LaddRecipe


def run_stage(recipe: Recipe, run: RunRecipe, work: Path, processes: int = 1) -> Path:
    """Run a stage, or go on where it was stopped.

    Returns:
        What was made: `lora.safetensors`, or the folder `checkpoint` where all weights were trained.

    Raises:
        InputError: the model or the pairs cannot be read.
    """
    folder = folder_of(recipe, work)
    if recipe.pairs is not None:
        with PartialState().main_process_first():  # the others find it made
            counted = build_cache(recipe.pairs, folder / "pairs", _base(recipe, work))
        if rank() == 0:
            report(*counted)
    launch(_run, processes, recipe, run, work)
    return folder / (LORA if recipe.rank else CHECKPOINT)


def folder_of(recipe: Recipe, work: Path) -> Path:
    """Where a stage keeps its files."""
    return work / {GuidanceRecipe: "guidance", LaddRecipe: "ladd"}.get(type(recipe), "")


def begins_with(recipe: Recipe, work: Path) -> str | Path:
    """The model that a stage begins with.

    Raises:
        InputError: it is an earlier stage's, which has not been run in this work folder.
    """
    if recipe.model is not None:
        return recipe.model
    path = work / CHECKPOINT
    if isinstance(recipe, LaddRecipe) and (work / "guidance").exists():
        path = work / "guidance" / CHECKPOINT
    if not path.exists():
        raise InputError(f"{path} is missing: run the stage before in this work folder, or name a model")
    return path


def _base(recipe: Recipe, work: Path) -> TeacherModel:
    return TeacherModel.load(begins_with(recipe, work), recipe.parts)


def _run(recipe: Recipe, run: RunRecipe, work: Path) -> None:
    """What each process does."""
    base, folder = _base(recipe, work), folder_of(recipe, work)
    if isinstance(recipe, FinetuneRecipe):
        model = train_finetune(recipe, base, PairExamples(folder / "pairs"), folder / "run", run)
    else:
        examples: Examples
        if recipe.pairs is None:
            examples = RenderedExamples(PairCache(work / "latents", Taught.load(work / "text").kinds), base)
        else:
            examples = PairExamples(folder / "pairs")
        if isinstance(recipe, GuidanceRecipe):
            model = train_guidance(recipe, base, examples, folder / "run", run)
        else:
            model = train_ladd(recipe, base, examples, folder / "run", run)
    _leave(recipe, base, model, folder)


def _leave(recipe: Recipe, base: TeacherModel, model: FluxTransformer, folder: Path) -> None:
    """Write what was trained: the adapter, or the whole model."""
    lora = adapter_lora(model)
    if rank() != 0:
        return
    if lora:
        save_lora(lora, folder / LORA)
    else:
        save_pipeline(dataclasses.replace(base.pipeline, transformer=model), folder / CHECKPOINT)
        _said(recipe, base.config, set()).save(folder / CHECKPOINT)


def export_stage(recipe: Recipe, work: Path, out: Path, overwrite: bool = False) -> None:
    """Write a repository of what a stage has made, an adapter merged into its model, ready to edit with.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    base, folder = _base(recipe, work), folder_of(recipe, work)
    pipeline: Pipeline = base.pipeline
    if recipe.rank:
        merge_lora(pipeline.transformer, load_lora(folder / LORA))
    else:
        pipeline = load_checkpoint(folder / CHECKPOINT)
    said = set[str]()
    if recipe.pairs is not None:
        said = {pair.instruction for pair in PairExamples(folder / "pairs").pairs}
    config = dataclasses.replace(_said(recipe, base.config, said), name=out.name)
    source = dataclasses.replace(Source.of(pipeline), folder=base.folder)  # whose license and policy stay
    export_repository(source, out, config=config, overwrite=overwrite)


def _said(recipe: Recipe, config: RepositoryConfig, instructions: set[str]) -> RepositoryConfig:
    """A model's settings after a stage: new words where words are listed, fewer steps after LADD."""
    words = config.words
    if words is not None:
        new = {word for text in instructions for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())}
        words = (*words, *sorted(new - set(words)))
    steps = recipe.student_steps if isinstance(recipe, LaddRecipe) else config.num_inference_steps
    return dataclasses.replace(config, words=words, num_inference_steps=steps)
