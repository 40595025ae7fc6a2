"""Steps of a small finetuning, in however many processes; what the tests of spreading start."""

import dataclasses
from pathlib import Path

import torch
from stages_to_kill import TINY, Random
from torch.distributed.tensor import DTensor

from openkontext.model.transformer import FluxTransformer
from openkontext.train import finetune
from openkontext.train.base import TeacherModel
from openkontext.train.finetune import FinetuneRecipe, train_finetune
from openkontext.train.loop import RunRecipe
from openkontext.train.parallel import rank, world_size


def main(folder: Path, lora_rank: int, steps: int, shard: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = FluxTransformer(TINY.transformer)
    nano = TeacherModel.load("nano")
    base = TeacherModel(dataclasses.replace(nano.pipeline, transformer=transformer), nano.config)
    recipe = FinetuneRecipe(pairs="", rank=lora_rank, steps=6, batch_size=4, warm_up=2, learning_rate=1e-2)
    shares: list[float] = []
    prepare = finetune.Engine.prepare

    def watched(self, model, optimizer, **settings):
        whole = sum(p.numel() for p in model.parameters())
        trained = prepare(self, model, optimizer, **settings)
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in trained.model.parameters()]
        shares.append(sum(p.numel() for p in parts) / whole)
        return trained

    finetune.Engine.prepare = watched
    run = RunRecipe(
        precision="no",
        log_steps=1,
        save_minutes=60,
        gradient_checkpointing=True,
        accumulate=2,
        shard=shard,
    )
    train_finetune(recipe, base, Random(), folder, run, stop=steps)
    torch.save({"share": shares[0], "processes": world_size()}, folder / f"process-{rank()}.pt")
