"""Distillation: losses worked by hand, and toys that show what a student learns."""

import copy
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from openkontext.model.config import TransformerConfig
from openkontext.model.transformer import FluxTransformer
from openkontext.sampling import schedule
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, TextFeatures, ids_of, velocity
from openkontext.train.distill import train_guidance, train_ladd
from openkontext.train.finetune import flow_loss
from openkontext.train.guidance import GuidanceRecipe, guidance_loss, guided_velocity
from openkontext.train.ladd import (
    Discriminator,
    Judged,
    LaddRecipe,
    discriminator_loss,
    generator_loss,
    judge,
    noise_levels,
)
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import add_adapter
from openkontext.train.teacher import Teacher, endpoint
from openkontext.train.training_engine import TrainingEngine, adamw

pytestmark = pytest.mark.usefixtures("one_thread")

TOY = TransformerConfig(
    in_channels=4,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=4,
    pooled_projection_dim=4,
    axes_dims_rope=(4, 6, 6),
)
MODE = 0.5
RUN = RunRecipe(precision="no", log_steps=1000, save_minutes=60)


class Toy:
    """One token of four channels, all MODE or all -MODE; the words say which, or nothing."""

    def __init__(self, said: bool) -> None:
        self.said = said

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], count).astype(np.float32))
        target = (MODE * signs)[:, None, None].expand(-1, 1, 4).contiguous()
        words = signs if self.said else torch.zeros_like(signs)
        text = TextFeatures(words[:, None, None].expand(-1, 1, 4), words[:, None].expand(-1, 4))
        empty = TextFeatures(torch.zeros(1, 1, 4), torch.zeros(1, 4))
        return Batch(target, target[:, :0], ids_of((1, 1), None), (1, 1), text, empty)


def base_of(transformer: FluxTransformer) -> TeacherModel:
    """nano with another transformer, of which the stages only use that and the schedule."""
    nano = TeacherModel.load("nano")
    return TeacherModel(dataclasses.replace(nano.pipeline, transformer=transformer), nano.config)


def a_teacher(toy: Toy, steps: int, dropout: float = 0.0) -> FluxTransformer:
    torch.manual_seed(0)
    transformer = FluxTransformer(TOY)
    engine = TrainingEngine(RUN)
    trained = engine.prepare(transformer, adamw(3e-3), decay=0.98)
    rng = np.random.default_rng(0)
    for step in range(steps):
        engine.step(
            trained,
            lambda: flow_loss(
                trained.model, toy.draw(rng, 64), rng, timestep_mean=0.3, guidance=1.0, text_dropout=dropout
            ),
            min(1.0, 2 * (1 - step / steps)),
        )
    trained.take_average()
    return engine.unwrap(trained)


@torch.no_grad()
def samples(model: FluxTransformer, steps: int, count: int = 512) -> Tensor:
    """By Euler's method over the sampler's schedule: [count, 1, 4]."""
    batch = Toy(said=False).draw(np.random.default_rng(5), count)
    x = torch.randn(count, 1, 4, generator=torch.Generator().manual_seed(6))
    sigmas = schedule(steps, 1)
    for sigma, after in itertools.pairwise(sigmas):
        v = velocity(model, batch, x, torch.full((count,), float(sigma)), torch.ones(count))
        x = x + float(after - sigma) * v
    return x


def off(x: Tensor) -> float:
    """Mean squared distance from the nearer mode."""
    return torch.minimum((x - MODE).square().mean((1, 2)), (x + MODE).square().mean((1, 2))).mean().item()


def test_guided_velocities_by_hand() -> None:
    with_text, without = torch.tensor([[[3.0]], [[3.0]]]), torch.tensor([[[1.0]], [[1.0]]])
    # 1 + 1 * (3 - 1) and 1 + 2.5 * (3 - 1)
    assert guided_velocity(with_text, without, torch.tensor([1.0, 2.5])).flatten().tolist() == [3.0, 6.0]


def test_the_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # relu(1 - real) = 0, 0.5, 2 and relu(1 + fake) = 0, 1, 2
    assert discriminator_loss(real, fake).item() == pytest.approx(2.5 / 3 + 1.0)
    assert generator_loss(fake).item() == pytest.approx(2 / 3)


def test_the_penalty_is_the_squared_slope_at_real_pictures() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(2, 8, 4, 4)
    real = [torch.randn(3, 6, 8) for _ in range(2)]
    judged = Judged([torch.randn(3, 6, 8) for _ in range(2)], real, (2, 3), torch.rand(3), torch.randn(3, 4))
    discriminator.eval()  # spectral normalization stays as it is
    plain, _ = judge(discriminator, judged, 0.0)
    value, _ = judge(discriminator, judged, 2.0)

    def total(features: list[Tensor]) -> Tensor:
        return discriminator(features, judged.grid, judged.timestep, judged.pooled).double().sum()

    slopes = []
    for block in range(2):  # by differences, one value at a time
        for index in np.ndindex(3, 6, 8):
            ends = []
            for step in (1e-3, -1e-3):
                moved = [f.clone() for f in real]
                moved[block][index] += step
                ends.append(total(moved).item())
            slopes.append((ends[0] - ends[1]) / 2e-3)
    expected = np.square(slopes).sum() / (2 * 3)  # the mean over blocks and examples
    assert (value - plain).item() == pytest.approx(2.0 * expected, rel=0.02)


def test_the_noise_levels_are_those_of_the_sampler() -> None:
    levels = noise_levels(LaddRecipe(student_steps=4), 256, (0.5, 1.15))
    # t = 1, 3/4, 1/2, 1/4 shifted by mu = 0.5: exp(0.5) / (exp(0.5) + 1/t - 1)
    np.testing.assert_allclose(levels, [1.0, 0.83182, 0.62246, 0.35466], atol=1e-5)


def test_an_adapted_student_is_its_own_teacher() -> None:
    torch.manual_seed(0)
    student = FluxTransformer(TOY)
    frozen = copy.deepcopy(student)
    batch = Toy(said=True).draw(np.random.default_rng(0), 4)
    add_adapter(student, rank=2, alpha=2.0, seed=0)
    teacher = Teacher(student)
    with torch.no_grad():
        for name, value in student.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    inputs = batch, torch.randn(4, 1, 4), torch.rand(4), torch.ones(4)
    with torch.no_grad():
        before, after = velocity(frozen, *inputs), velocity(student, *inputs)
        torch.testing.assert_close(velocity(teacher, *inputs), before, rtol=1e-5, atol=1e-6)
        assert (after - before).abs().max() > 1e-3
        torch.testing.assert_close(velocity(student, *inputs), after, rtol=0, atol=0)
        # The last block's tokens are what the transformer's own output is read from.
        tokens = teacher.features(*inputs)
    assert [tuple(t.shape) for t in tokens] == [(4, 1, 32)] * 2


def test_the_endpoint_is_exact_where_the_flow_is_straight() -> None:
    torch.manual_seed(0)
    batch = Toy(said=True).draw(np.random.default_rng(0), 3)
    noise, timestep = torch.randn(3, 1, 4), torch.tensor([1.0, 0.5, 0.25])

    class Straight:
        def __call__(self, **inputs: Tensor) -> Tensor:
            return noise - batch.target

    tokens = torch.lerp(batch.target, noise, timestep[:, None, None])
    for steps in (1, 5):
        torch.testing.assert_close(
            endpoint(Straight(), batch, tokens, timestep, torch.ones(3), steps), batch.target
        )


def test_a_student_learns_guidance_in_one_pass(tmp_path: Path) -> None:
    toy = Toy(said=True)
    teacher = a_teacher(toy, 150, dropout=0.2)
    base = base_of(teacher)
    recipe = GuidanceRecipe(
        steps=120, batch_size=64, learning_rate=3e-3, warm_up=5, scales=(1.0, 3.0), average_decay=0.9
    )
    student = train_guidance(recipe, base, toy, tmp_path, RUN)
    batch, frozen = toy.draw(np.random.default_rng(1), 256), Teacher(teacher)

    def distance(model: FluxTransformer, scale: float, untold: float = 0.0) -> float:
        rng, scales = np.random.default_rng(2), (scale, scale)
        return guidance_loss(
            model,
            frozen,
            batch,
            rng,
            timestep_mean=0.3,
            scales=scales,
            teacher_guidance=1.0,
            text_dropout=untold,
        )[0].item()

    for scale in (2.0, 3.0):
        assert distance(student, scale) < 0.2 * distance(teacher, scale)
        # Without words there is nothing to be guided to: it is held to what its teacher says. A student that
        # learns from no such example drifts there, by 0.28 of what guidance of 2 is about.
        assert distance(student, scale, untold=1.0) < 0.05 * distance(teacher, scale)


def test_four_steps_after_distillation_beat_four_before(tmp_path: Path) -> None:
    """The teacher's four steps often end between the modes; it takes it ten times as many to end at one."""
    toy = Toy(said=False)
    teacher = a_teacher(toy, 250)
    many, four = off(samples(teacher, 40)), off(samples(teacher, 4))
    assert many < 0.3 * four
    recipe = LaddRecipe(
        steps=100,
        batch_size=64,
        learning_rate=1e-3,
        warm_up=10,
        adversarial_weight=0.02,
        guidance=1.0,
        width=16,
        average_decay=0.9,
    )
    made = samples(train_ladd(recipe, base_of(teacher), toy, tmp_path, RUN), 4)
    assert off(made) < 0.5 * four
    assert 0.3 < (made.mean((1, 2)) > 0).float().mean() < 0.7  # both modes are still there
