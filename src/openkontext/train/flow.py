"""The transformer's stage: rectified flow from noise to the edited picture, given the input and the words.

x_t = (1 - t) x_0 + t noise, and the transformer predicts the velocity noise - x_0 (arXiv 2209.03003;
2403.03206 for the logit-normal timesteps).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from openkontext.data.instructions import describe, phrase, slip
from openkontext.latents import PATCH, position_ids
from openkontext.model.config import ModelConfig
from openkontext.model.transformer import FluxTransformer, Modulation
from openkontext.train.latent_cache import LatentPair, PairCache
from openkontext.train.loop import Run, RunRecipe
from openkontext.train.parallel import rank, world_size
from openkontext.train.readout import Readout
from openkontext.train.spelling import sign_text
from openkontext.train.text_encoders import TextEncoders
from openkontext.train.training_engine import TrainingEngine, muon_adamw


@dataclass(frozen=True)
class FlowRecipe:
    """How long and how hard; defaults as for nano."""

    steps: int = 4000
    batch_size: int = 32
    muon_rate: float = 0.02
    """Learning rate of Muon, for the matrices inside the blocks."""
    adam_rate: float = 1.2e-3
    """Learning rate of AdamW, for everything else."""
    warm_up: int = 100
    decay: float = 0.25
    """Share of the steps, at the end, over which the learning rates fall to 0."""
    timestep_mean: float = 0.8
    """Timesteps are sigmoid(mean + normal): above 0 shifts them to noise."""
    changed_weight: float = 7.0
    """Loss weight of tokens that the edit changes, against 1 elsewhere."""
    changed_from: float = 0.25
    """Mean difference of a token's latents from which it counts as changed."""
    readout_weight: float = 0.1
    """Weight of what is read out of the transformer's middle, see `openkontext.train.readout`."""
    slips: float = 0.05
    """Share of the instructions that have a spelling slip."""
    text_dropout: float = 0.08
    """Share of the examples that see no instruction, for classifier-free guidance."""
    guidance_scale: float = 4.0
    """Guidance scales are drawn from 1 up to this and mean nothing yet: the stage `guidance` teaches them."""
    average_decay: float = 0.999
    text_to_image: float = 0.06
    """Share of the steps that train text to image: no input picture, and a description as the prompt."""
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "recolour": 0.14,
            "replace": 0.24,
            "remove": 0.08,
            "add": 0.11,
            "move": 0.1,
            "resize": 0.16,
            "count": 0.16,
            "background": 0.09,
            "season": 0.06,
            "time": 0.05,
            "look": 0.08,
            "style": 0.36,
            "two parts": 0.22,
            "text": 1.6,
            "style reference": 0.22,
            "character reference": 0.9,
            "impossible": 0.1,
        }
    )
    """Weight of each kind of edit, among those that the model is taught."""
    seed: int = 0


class Kontext(nn.Module):
    """The transformer with its text encoders, and the head that reads in its middle."""

    def __init__(self, config: ModelConfig, text: TextEncoders) -> None:
        super().__init__()
        self.text = text
        self.transformer = FluxTransformer(config.transformer)
        for module in self.transformer.modules():
            # Blocks begin as near-identities (adaLN-Zero, arXiv 2212.09748).
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
                nn.init.zeros_(module.linear.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        self.readout = Readout(self.transformer, block=config.transformer.num_single_layers // 3)


def _inside_blocks(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix of a block, its modulation left out."""
    return "transformer_blocks." in name and ".norm" not in name and parameter.ndim == 2


def _loss(
    model: Kontext,
    pairs: list[LatentPair],
    recipe: FlowRecipe,
    rng: np.random.Generator,
    engine: TrainingEngine,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss, and what to log of it."""
    with_context = rng.random() >= recipe.text_to_image
    say = (
        (lambda pair: phrase(pair.edit, rng))
        if with_context
        else (lambda pair: describe(pair.edit.before, rng))
    )
    texts = ["" if rng.random() < recipe.text_dropout else say(pair) for pair in pairs]
    texts = [slip(text, rng) if rng.random() < recipe.slips else text for text in texts]
    tokens = [pair.tokens() for pair in pairs]
    before, after = (
        torch.from_numpy(np.stack([t[i] for t in tokens])).float().to(engine.device) for i in (0, 1)
    )
    changed = (after - before).abs().mean(-1) > recipe.changed_from
    if not with_context:
        after, changed = before, torch.ones_like(changed)
    count, length = len(pairs), after.shape[1]
    noise = torch.randn_like(after)
    # The published graph takes bfloat16 timesteps; these have no other.
    t = torch.sigmoid(torch.randn(count, device=after.device) + recipe.timestep_mean).bfloat16().float()
    noised = torch.lerp(after, noise, t[:, None, None])
    rows, columns = pairs[0].grid
    ids = [position_ids(PATCH * rows, PATCH * columns, image) for image in range(1 + with_context)]
    scale = torch.from_numpy(rng.uniform(1, recipe.guidance_scale, count).astype(np.float32))

    with engine.precision():
        pooled, text = model.text(texts)
        velocity: Tensor = model.transformer(
            hidden_states=torch.cat((noised, before), dim=1) if with_context else noised,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=t,
            img_ids=torch.from_numpy(np.concatenate(ids)).to(after.device),
            txt_ids=torch.zeros(text.shape[1], 3, device=after.device),
            guidance=scale.to(after.device),
        )
    velocity = velocity[:, :length].float()
    scenes = [[p.edit.after, p.edit.before] if with_context else [p.edit.before] for p in pairs]
    weight = torch.where(changed, recipe.changed_weight, 1.0)
    weight = weight / weight.mean(dim=1, keepdim=True)
    read = model.readout.loss(scenes, changed, weight)
    signs = [sign_text(pair.edit) for pair in pairs]
    read["spelling"] = model.readout.spelling.loss(text, texts, signs, model.text.tokenizers[1])
    error = (velocity - (noise - after)).square().mean(-1)
    flow = (weight * error).mean()
    parts = {"loss": flow, "changed": error[changed].mean()}
    parts |= {f"read {name}": part for name, part in read.items()}
    total = flow + recipe.readout_weight * torch.stack(list(read.values())).sum()
    return total, {name: part.detach() for name, part in parts.items()}


def rate_factor(step: int, recipe: FlowRecipe) -> float:
    """Factor on the learning rates: a linear warm-up, level, a linear fall to 0."""
    fall = (recipe.steps - step) / max(recipe.decay * recipe.steps, 1)
    return min((step + 1) / recipe.warm_up, 1.0, fall)


def train_flow(
    recipe: FlowRecipe,
    config: ModelConfig,
    text: TextEncoders,
    cache: PairCache,
    folder: Path,
    stop: int | None = None,
    begin: Callable[[FluxTransformer], None] | None = None,
    run_recipe: RunRecipe = RunRecipe(),  # noqa: B008 - frozen
) -> Kontext:
    """Train or go on training transformer and text encoders; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        config: shapes of the networks.
        text: the text encoders to begin with.
        cache: the pairs.
        folder: where the run keeps its state.
        stop: step to pause at before the recipe's end, as a kill would.
        begin: gives the new transformer the weights to begin with; None leaves them random.
        run_recipe: how often to log and save; how a step is computed.

    Returns:
        The present weights; the averaged ones are in the run's state.
    """
    torch.manual_seed(recipe.seed)
    model = Kontext(config, text)
    if begin is not None:
        begin(model.transformer)
    if run_recipe.compile:
        if rank() == 0:
            print("compiling the transformer's blocks: the first steps take minutes", file=sys.stderr)
        model.transformer.compile_blocks()
    engine = TrainingEngine(run_recipe)
    optimizer = muon_adamw(_inside_blocks, muon_rate=recipe.muon_rate, adam_rate=recipe.adam_rate)
    trained = engine.prepare(model, optimizer, decay=recipe.average_decay)
    # All processes begin with the same weights, and go on with chance of their own.
    rng = np.random.default_rng([recipe.seed, 6, rank()])
    torch.manual_seed(int(rng.integers(1 << 62)))
    samples = recipe.batch_size * run_recipe.accumulate
    run = Run(folder, {"trained": trained}, rng, recipe.steps, run_recipe, samples)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        pairs = cache.draw(rng, recipe.batch_size // world_size(), recipe.kinds)
        return _loss(model, pairs, recipe, rng, engine)

    for step in run.steps_left(stop):
        if run.record(engine.step(trained, loss, rate_factor(step, recipe))):
            cache.refresh()
    return model
