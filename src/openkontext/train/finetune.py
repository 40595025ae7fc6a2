"""Finetuning on a user's pairs: a LoRA, or all of the transformer's weights.

The loss is that of rectified flow with logit-normal timesteps, shifted by the resolution as the sampler's
schedule is (arXiv 2403.03206, 2506.15742). Autoencoder and text encoders stay as they are.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from openkontext.model.transformer import FluxTransformer
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, logit_normal, noised, normal, velocity
from openkontext.train.loop import Run, RunRecipe, warm_cosine
from openkontext.train.lora import TARGETS, add_adapter
from openkontext.train.pairs import PairExamples
from openkontext.train.parallel import rank, world_size
from openkontext.train.sheets import pictures, sample, sheet, tokens_to_latents
from openkontext.train.training_engine import TrainingEngine, adamw

SHOWN = 4
"""Pairs on a sheet of samples."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """What to learn from, how long and how hard."""

    pairs: str
    """The pairs: a table, a shard or a folder of these; see `openkontext.train.records`."""
    model: str = "nano"
    """What to begin with: "nano", a repository, fetched ones too, or a checkpoint of any kind that `export`
    takes."""
    parts: str | None = None
    """A pipeline folder with whatever a single file in `model` does not hold; None for the one it is in."""
    rank: int = 16
    """Rank of the adapter; 0 trains all of the transformer's weights."""
    alpha: float = 16.0
    """The adapter's scale is alpha / rank."""
    targets: tuple[str, ...] = TARGETS
    """Ends of the names of the layers to adapt."""
    steps: int = 500
    batch_size: int = 8
    """Pairs in a batch, over all processes."""
    learning_rate: float = 1e-3
    warm_up: int = 20
    guidance: float | None = None
    """Guidance that the transformer is told; None for the model's own default, at which it will be used."""
    text_dropout: float = 0.0
    """Share of the examples that see no instruction."""
    timestep_mean: float | None = None
    """Mean of the normal number that becomes the timestep; None shifts it as the sampler's schedule."""
    average_decay: float = 0.99
    """Of the weights that are kept in the end."""
    held_out: int = 0
    """Pairs, the last ones, that are only shown on the sheets of samples and never trained on."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0 or self.batch_size < 1 or self.held_out < 0:
            raise ValueError("rank and held_out are 0 or more, batch_size is 1 or more")


def flow_loss(
    transformer: nn.Module,
    batch: Batch,
    rng: np.random.Generator,
    *,
    timestep_mean: float,
    guidance: float,
    text_dropout: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity at random noise levels, and what to log of it."""
    timestep = logit_normal(len(batch), timestep_mean, rng).to(batch.target.device)
    noise = normal(batch.target, rng)
    seen = torch.from_numpy(rng.random(len(batch)) >= text_dropout).to(batch.target.device)
    predicted = velocity(
        transformer,
        batch,
        noised(batch.target, noise, timestep),
        timestep,
        torch.full_like(timestep, guidance),
        batch.text.where(seen, batch.empty),
    )
    loss = (predicted - (noise - batch.target)).square().mean()
    return loss, {"loss": loss.detach()}


def train_finetune(
    recipe: FinetuneRecipe,
    base: TeacherModel,
    examples: PairExamples,
    folder: Path,
    run_recipe: RunRecipe,
    stop: int | None = None,
    sheets: bool = True,
) -> FluxTransformer:
    """Finetune, or go on with it; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        base: what to begin with; it stays as it is.
        examples: the pairs.
        folder: where the run keeps its state.
        run_recipe: how to run.
        stop: step to pause at before the recipe's end, as a kill would.
        sheets: whether to draw samples; nobody looks at those of an attack.

    Returns:
        The transformer with averaged weights, its adapter in place where it has one.
    """
    train, shown = examples.split(recipe.held_out)
    transformer = copy.deepcopy(base.pipeline.transformer)
    if recipe.rank:
        add_adapter(
            transformer, rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets, seed=recipe.seed
        )
    else:
        transformer.float().requires_grad_(True)
    engine = TrainingEngine(run_recipe)
    trained = engine.prepare(transformer, adamw(recipe.learning_rate), decay=recipe.average_decay)
    rng = np.random.default_rng([recipe.seed, 7, rank()])
    samples = recipe.batch_size * run_recipe.accumulate
    run = Run(folder, {"trained": trained}, rng, recipe.steps, run_recipe, samples)
    guidance = base.config.guidance_scale if recipe.guidance is None else recipe.guidance

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        batch = train.draw(rng, max(recipe.batch_size // world_size(), 1)).to(engine.device)
        mean = recipe.timestep_mean
        return flow_loss(
            trained.model,
            batch,
            rng,
            timestep_mean=base.shift(batch.target.shape[1]) if mean is None else mean,
            guidance=guidance,
            text_dropout=recipe.text_dropout,
        )

    for step in run.steps_left(stop):
        run.record(engine.step(trained, loss, warm_cosine(step, recipe.steps, recipe.warm_up)))
        if run_recipe.sample_steps and (step + 1) % run_recipe.sample_steps == 0:
            run.picture(sample_sheet(base, trained.model, shown, guidance, engine.device))
    trained.take_average()
    if sheets and run.step == recipe.steps and shown.pairs:
        run.picture(sample_sheet(base, trained.model, shown, guidance, engine.device))
    return engine.unwrap(trained)


def sample_sheet(
    base: TeacherModel, model: nn.Module, examples: PairExamples, guidance: float, device: torch.device
) -> np.ndarray:
    """Before, output and as asked of the first pairs: uint8 [H, W, 3]."""
    rows = []
    for i, pair in enumerate(examples.pairs[:SHOWN]):
        batch = examples.batch([pair])
        steps = base.config.num_inference_steps
        grids = pair.target, pair.context
        made = sample(base, model, batch, grids, steps=steps, guidance=guidance, device=device, seed=i)
        before = tokens_to_latents(batch.context, pair.context) if pair.context else np.zeros_like(made)
        columns = before, made, tokens_to_latents(batch.target, pair.target)
        rows.append((pair.instruction, [pictures(base, each)[0] for each in columns]))
    return sheet(rows, ("before", "output", "as asked"))
