"""Runs every stage at toy size in a folder, or goes on with it: what the test of kills starts and kills."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from openkontext.data.edits import FIRST_KINDS
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import PRESETS, AutoencoderConfig
from openkontext.model.transformer import FluxTransformer
from openkontext.repository import Repository
from openkontext.train.autoencoder import AutoencoderRecipe, train_autoencoder
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, TextFeatures, ids_of
from openkontext.train.distill import train_guidance, train_ladd
from openkontext.train.finetune import FinetuneRecipe, train_finetune
from openkontext.train.flow import FlowRecipe, train_flow
from openkontext.train.guidance import GuidanceRecipe
from openkontext.train.ladd import LaddRecipe
from openkontext.train.latent_cache import PairCache, encode, write_chunk
from openkontext.train.loop import RunRecipe
from openkontext.train.text_encoders import TextEncoders, TextRecipe, train_text

STEPS = 24
# A state every few steps, a row at odd ones: a kill finds means that are half made.
RUN = RunRecipe(log_steps=3, save_minutes=0)
NANO = PRESETS["nano"]
# Shipped ones: what the library learns from the same words differs from one process to the next.
WORDS = Repository.open("nano").path
TINY = dataclasses.replace(
    NANO,
    transformer=dataclasses.replace(
        NANO.transformer, num_layers=1, num_single_layers=1, num_attention_heads=1
    ),
    autoencoder=AutoencoderConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
)


class Random:
    """Examples without meaning, all drawn from the run's own chance."""

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        def normal(*shape: int) -> torch.Tensor:
            return torch.from_numpy(rng.standard_normal(shape, np.float32))

        width, pooled = TINY.transformer.joint_attention_dim, TINY.transformer.pooled_projection_dim
        text = TextFeatures(normal(count, 3, width), normal(count, pooled))
        empty = TextFeatures(torch.zeros(1, 3, width), torch.zeros(1, pooled))
        return Batch(normal(count, 4, 64), normal(count, 4, 64), ids_of((2, 2), (2, 2)), (2, 2), text, empty)

    def split(self, held_out: int) -> tuple["Random", "Random"]:
        return self, self

    pairs = ()


def main(folder: Path, stages: list[str]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nano = TeacherModel.load("nano")
    transformer = FluxTransformer(TINY.transformer)
    base = TeacherModel(dataclasses.replace(nano.pipeline, transformer=transformer), nano.config)
    few = {"steps": STEPS, "batch_size": 2, "warm_up": 4}
    for stage in stages:
        run = folder / stage
        if stage == "autoencoder":
            recipe = AutoencoderRecipe(steps=STEPS, batch_size=2, crop=16, pictures=2, warm_up=4)
            train_autoencoder(recipe, TINY.autoencoder, FIRST_KINDS, run, RUN)
        elif stage == "text":
            recipe = TextRecipe(steps=STEPS, batch_size=8, kinds=FIRST_KINDS, warm_up=4)
            train_text(recipe, TINY, WORDS, run, RUN)
        elif stage == "flow":
            write_chunk(folder / "latents", 0, lambda images: encode(_autoencoder(), images), FIRST_KINDS)
            torch.manual_seed(0)  # whether or not the chunk was drawn just now
            cache, text = PairCache(folder / "latents", FIRST_KINDS), TextEncoders(TINY, WORDS)
            train_flow(FlowRecipe(**few), TINY, text, cache, run, run_recipe=RUN)
        elif stage == "finetune":
            train_finetune(FinetuneRecipe(pairs="", rank=2, **few), base, Random(), run, RUN)
        elif stage == "guidance":
            train_guidance(GuidanceRecipe(**few), base, Random(), run, RUN)
        else:
            train_ladd(LaddRecipe(width=4, teacher_steps=2, **few), base, Random(), run, RUN)


def _autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TINY.autoencoder).eval()
