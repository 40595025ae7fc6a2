"""The stages `guidance` and `ladd`: a student learns from a teacher, step by step."""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.model.transformer import FluxTransformer
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Examples
from openkontext.train.guidance import GuidanceRecipe, guidance_loss
from openkontext.train.ladd import Discriminator, Judged, LaddRecipe, judge, noise_levels, student_loss
from openkontext.train.loop import Run, RunRecipe, warm_cosine
from openkontext.train.lora import add_adapter
from openkontext.train.parallel import rank, world_size
from openkontext.train.teacher import Teacher
from openkontext.train.training_engine import Trained, TrainingEngine, adamw


def train_guidance(
    recipe: GuidanceRecipe,
    base: TeacherModel,
    examples: Examples,
    folder: Path,
    run_recipe: RunRecipe,
    stop: int | None = None,
) -> FluxTransformer:
    """Distil guidance, or go on with it; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        base: the teacher, and what the student begins as; it stays as it is.
        examples: the pairs.
        folder: where the run keeps its state.
        run_recipe: how to run.
        stop: step to pause at before the recipe's end, as a kill would.

    Returns:
        The student with averaged weights, its adapter in place where it has one.
    """
    engine, student, teacher = _begin(recipe, base, run_recipe)
    rng = np.random.default_rng([recipe.seed, 8, rank()])
    run = Run(folder, {"student": student}, rng, recipe.steps, run_recipe, _samples(recipe, run_recipe))

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        batch = examples.draw(rng, max(recipe.batch_size // world_size(), 1)).to(engine.device)
        mean = recipe.timestep_mean
        return guidance_loss(
            student.model,
            teacher,
            batch,
            rng,
            timestep_mean=base.shift(batch.target.shape[1]) if mean is None else mean,
            scales=recipe.scales,
            teacher_guidance=recipe.teacher_guidance,
            text_dropout=recipe.text_dropout,
        )

    for step in run.steps_left(stop):
        run.record(engine.step(student, loss, warm_cosine(step, recipe.steps, recipe.warm_up)))
    return _finished(engine, student)


def train_ladd(
    recipe: LaddRecipe,
    base: TeacherModel,
    examples: Examples,
    folder: Path,
    run_recipe: RunRecipe,
    stop: int | None = None,
) -> FluxTransformer:
    """Distil many steps into few, or go on with it; resume from `folder` to the step.

    Args and result as for `train_guidance`.
    """
    engine, student, teacher = _begin(recipe, base, run_recipe)
    config = base.pipeline.transformer.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        blocks = config.num_layers + config.num_single_layers
        heads = Discriminator(blocks, config.hidden_size, config.pooled_projection_dim, recipe.width)
    heads.to(engine.device)
    # Small, so that every process keeps its own copy and only gradients meet.
    optimizer = adamw(recipe.discriminator_rate, betas=(0.5, 0.99))(heads)
    discriminator = Trained(heads, optimizer, decay=0.0, max_norm=math.inf)
    rng = np.random.default_rng([recipe.seed, 9, rank()])
    parts = {"student": student, "discriminator": discriminator}
    run = Run(folder, parts, rng, recipe.steps, run_recipe, _samples(recipe, run_recipe))
    guidance = base.config.guidance_scale if recipe.guidance is None else recipe.guidance
    shifts = base.config.base_shift, base.config.max_shift
    seen: list[Judged] = []

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        batch = examples.draw(rng, max(recipe.batch_size // world_size(), 1)).to(engine.device)
        levels = noise_levels(recipe, batch.target.shape[1], shifts)
        value, metrics, judged = student_loss(
            student.model, teacher, heads, batch, rng, recipe, levels, guidance
        )
        seen.append(judged)
        return value, metrics

    def verdict() -> tuple[Tensor, dict[str, Tensor]]:
        return judge(heads, seen.pop(0), recipe.penalty)

    for step in run.steps_left(stop):
        metrics = engine.step(student, loss, warm_cosine(step, recipe.steps, recipe.warm_up))
        discriminator.optimizer.zero_grad()  # of the student's loss
        warm = min((step + 1) / recipe.warm_up, 1.0)
        run.record(engine.step(discriminator, verdict, warm) | metrics)
    return _finished(engine, student)


def _begin(
    recipe: GuidanceRecipe | LaddRecipe, base: TeacherModel, run_recipe: RunRecipe
) -> tuple[TrainingEngine, Trained, Teacher]:
    """The student where it trains, and its teacher."""
    transformer = copy.deepcopy(base.pipeline.transformer)
    if recipe.rank:
        add_adapter(transformer, rank=recipe.rank, alpha=recipe.alpha, seed=recipe.seed)
    else:
        transformer.float().requires_grad_(True)
    if run_recipe.shard and not recipe.rank:
        raise InputError("shard = true needs rank above 0: a teacher of its own would be whole on every GPU")
    teacher = Teacher(transformer)
    engine = TrainingEngine(run_recipe)
    student = engine.prepare(transformer, adamw(recipe.learning_rate), decay=recipe.average_decay)
    teacher.follow(student.model, engine)
    return engine, student, teacher


def _samples(recipe: GuidanceRecipe | LaddRecipe, run_recipe: RunRecipe) -> int:
    return recipe.batch_size * run_recipe.accumulate


def _finished(engine: TrainingEngine, student: Trained) -> FluxTransformer:
    student.take_average()
    return engine.unwrap(student)
