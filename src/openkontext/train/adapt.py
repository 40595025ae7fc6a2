"""Stages that begin with a whole model: from a recipe to what is left in the work folder."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from openkontext.export.repository import export_repository
from openkontext.model.lora import merge_lora, save_lora
from openkontext.model.pipeline import save_pipeline
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import RepositoryConfig
from openkontext.train.base import Base
from openkontext.train.finetune import FinetuneRecipe, train_finetune
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import adapter_lora
from openkontext.train.pairs import PairExamples, build_cache, report
from openkontext.train.parallel import launch, rank

LORA = "lora.safetensors"
CHECKPOINT = "checkpoint"


def run_finetune(recipe: FinetuneRecipe, run: RunRecipe, work: Path, processes: int = 1) -> Path:
    """Finetunes, or goes on where it was stopped.

    Returns:
        What was made: `lora.safetensors`, or the folder `checkpoint` where all weights were trained.

    Raises:
        InputError: the model or the pairs cannot be read.
    """
    report(*build_cache(recipe.pairs, work / "pairs", Base.load(recipe.model)))
    launch(_finetune, processes, recipe, run, work)
    return work / (LORA if recipe.rank else CHECKPOINT)


def _finetune(recipe: FinetuneRecipe, run: RunRecipe, work: Path) -> None:
    base = Base.load(recipe.model)
    model = train_finetune(recipe, base, PairExamples(work / "pairs"), work / "run", run)
    _leave(base, model, work)


def _leave(base: Base, model: FluxTransformer, work: Path) -> None:
    """Writes what was trained: the adapter, or the whole model."""
    lora = adapter_lora(model)
    if rank() != 0:
        return
    if lora:
        save_lora(lora, work / LORA)
    else:
        pipeline = dataclasses.replace(base.pipeline, transformer=model)
        save_pipeline(pipeline, work / CHECKPOINT)
        base.config.save(work / CHECKPOINT)


def export_merged(recipe: FinetuneRecipe, work: Path, out: Path, overwrite: bool = False) -> None:
    """Writes a repository of the finetuned model, ready to edit with.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    from openkontext.model.checkpoints import load_transformer
    from openkontext.model.lora import load_lora

    base = Base.load(recipe.model)
    if recipe.rank:
        merge_lora(base.pipeline.transformer, load_lora(work / LORA))
        pipeline = base.pipeline
    else:
        transformer = load_transformer(work / CHECKPOINT / "transformer")
        pipeline = dataclasses.replace(base.pipeline, transformer=transformer)
    said = {pair.instruction for pair in PairExamples(work / "pairs").pairs}
    export_repository(pipeline, out, config=_taught(base.config, said, out.name), overwrite=overwrite)


def _taught(config: RepositoryConfig, instructions: set[str], name: str) -> RepositoryConfig:
    """The settings of a finetuned model: its own name, and the words of its pairs where words are listed."""
    words = config.words
    if words is not None:
        new = {word for text in instructions for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())}
        words = (*words, *sorted(new - set(words)))
    return dataclasses.replace(config, name=name, words=words)
