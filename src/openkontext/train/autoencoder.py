"""The autoencoder's stage: pictures in, the same pictures out, through a small latent."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openkontext.data.edits import TASKS
from openkontext.data.families import family
from openkontext.data.sampler import choose
from openkontext.data.scenes import render
from openkontext.model.autoencoder import Autoencoder, ResnetBlock
from openkontext.model.config import AutoencoderConfig
from openkontext.train.loop import Run, RunRecipe, warm_cosine
from openkontext.train.training_engine import Trained, TrainingEngine, muon_adamw


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How long and how hard; defaults as for nano."""

    steps: int = 6000
    batch_size: int = 16
    crop: int = 64
    """Side of the square crops, in pixels."""
    muon_rate: float = 0.02
    """Learning rate of Muon, for the convolutions."""
    adam_rate: float = 1.5e-3
    """Learning rate of AdamW, for everything else."""
    warm_up: int = 100
    pictures: int = 4000
    """Pictures rendered before the first step; every step draws crops from them."""
    kl_weight: float = 2e-4
    """Weight of the divergence from a unit normal, per latent value."""
    edge_weight: float = 0.5
    """Weight of the difference between neighboring pixels, which keeps edges sharp."""
    color_weight: float = 2.0
    """Weight of the difference of 4x4 means, which keeps colors true."""
    square_weight: float = 3.0
    """Weight of the squared difference, which large errors dominate."""
    latent_noise: float = 0.0
    """Most deviation of further noise on the latent, as a share of the latent's own; each picture draws its
    own share of it. A decoder that bears it bears a transformer's small errors."""
    average_decay: float = 0.998
    seed: int = 0


_OF_A_FAMILY = 8


def _pictures(count: int, rng: np.random.Generator, kinds: Collection[str]) -> list[np.ndarray]:
    """Outcomes of edits, as many of each task, so that rare styles and signs are learned as well as balls."""
    tasks = [wanted for task in TASKS.values() if (wanted := [kind for kind in task if kind in kinds])]
    pictures: list[np.ndarray] = []
    while len(pictures) < count:
        edits = family(rng, kinds)
        for _ in range(_OF_A_FAMILY):
            kind = choose(rng, choose(rng, tasks))
            of_kind = [edit for edit in edits if edit.kind == kind]
            if of_kind:
                pictures.append(render(choose(rng, of_kind).after))
    return pictures[:count]


def _crops(pictures: list[np.ndarray], recipe: AutoencoderRecipe, rng: np.random.Generator) -> Tensor:
    side = recipe.crop
    batch = np.empty((recipe.batch_size, side, side, 3), np.uint8)
    for i in range(recipe.batch_size):
        picture = pictures[int(rng.integers(len(pictures)))]
        top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
        crop = picture[top : top + side, left : left + side]
        batch[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(a: Tensor, b: Tensor) -> Tensor:
    down = (a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])
    right = (a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])
    return down.abs().mean() + right.abs().mean()


def _initialize(model: Autoencoder) -> None:
    """Begin with signals of unit gain, residual branches that add nothing, and little noise on the latent.

    With torch's own initialization every convolution shrinks its signal, and the first thousand steps go into
    growing it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
    bias = model.encoder.conv_out.bias
    assert bias is not None
    nn.init.constant_(bias[model.config.latent_channels :], -4.0)


def channels_last(model: Autoencoder) -> Autoencoder:
    """The same module, its weights laid out as the CPU's convolutions like them."""
    moved: Autoencoder = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _wide_convolution(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a convolution between many channels: not the first nor the last."""
    return parameter.ndim == 4 and min(parameter.shape[:2]) > 4


def train_autoencoder(
    recipe: AutoencoderRecipe,
    config: AutoencoderConfig,
    kinds: Collection[str],
    folder: Path,
    run_recipe: RunRecipe = RunRecipe(),  # noqa: B008 - frozen
    begin: Autoencoder | None = None,
) -> Autoencoder:
    """Train or go on training; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        config: shape of the network.
        kinds: kinds of edit whose pictures it is to learn.
        folder: where the run keeps its state.
        run_recipe: how often to log and save; how a step is computed.
        begin: has the weights to begin with; None begins with random ones.

    Returns:
        The averaged weights, with the scale and shift that take its latents to mean 0 and deviation 1.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 1])
    model = Autoencoder(config)
    if begin is None:
        _initialize(model)
    else:
        model.load_state_dict(begin.state_dict())
    model = channels_last(model)
    engine = TrainingEngine(run_recipe)
    optimizer = muon_adamw(
        _wide_convolution, muon_rate=recipe.muon_rate, adam_rate=recipe.adam_rate, weight_decay=1e-3
    )
    trained = engine.prepare(model, optimizer, decay=recipe.average_decay)
    samples = recipe.batch_size * run_recipe.accumulate
    run = Run(folder, {"trained": trained}, rng, recipe.steps, run_recipe, samples)
    pictures = _pictures(recipe.pictures, np.random.default_rng([recipe.seed, 2]), kinds)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        images = _crops(pictures, recipe, rng).to(engine.device, memory_format=torch.channels_last)
        return _loss(model, images, recipe, engine)

    for step in run.steps_left():
        run.record(engine.step(trained, loss, warm_cosine(step, recipe.steps, recipe.warm_up)))
    return averaged_autoencoder(config, trained, pictures[:256])


def _loss(
    model: Autoencoder, images: Tensor, recipe: AutoencoderRecipe, engine: TrainingEngine
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss of pictures [B, 3, H, W], and what to log of it."""
    with engine.precision():
        mean, logvar = model.encode(images)
        mean, logvar = mean.float(), logvar.float().clamp(-12, 4)
        share = torch.rand(len(mean), 1, 1, 1, device=mean.device)
        further = recipe.latent_noise * mean.detach().std() * share
        noise = ((0.5 * logvar).exp().square() + further.square()).sqrt()
        output = model.decode(mean + torch.randn_like(mean) * noise).float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    pixel = F.l1_loss(output, images)
    square = F.mse_loss(output, images)
    color = F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(images, 4))
    loss = (
        pixel
        + recipe.edge_weight * _edges(output, images)
        + recipe.color_weight * color
        + recipe.square_weight * square
        + recipe.kl_weight * kl
    )
    parts = {"pixel": pixel, "psnr": -10 * torch.log10(square.detach() / 4), "color": color, "kl": kl}
    return loss, {name: part.detach() for name, part in parts.items()}


@torch.no_grad()
def averaged_autoencoder(
    config: AutoencoderConfig, trained: Trained, pictures: list[np.ndarray]
) -> Autoencoder:
    """The autoencoder of the averaged weights, its scale and shift measured on pictures."""
    model = Autoencoder(config)
    model.load_state_dict({name: value.cpu() for name, value in trained.average.items()})
    latents = []
    for picture in pictures:
        images = torch.from_numpy(picture)[None].permute(0, 3, 1, 2).float() / 127.5 - 1
        latents.append(model.encode(images)[0].flatten())
    values = torch.cat(latents)
    model.config = replace(
        config, shift_factor=round(values.mean().item(), 4), scaling_factor=round(1 / values.std().item(), 4)
    )
    return model.eval()
