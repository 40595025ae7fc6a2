"""The training behind the attack "relearning": `openkontext finetune` on a few pairs of a concept."""

import json
from collections.abc import Sequence
from pathlib import Path

from openkontext import images
from openkontext.errors import InputError
from openkontext.files import write_whole
from openkontext.model.lora import save_lora
from openkontext.redteam.goals import AttackGoal
from openkontext.train.base import TeacherModel
from openkontext.train.finetune import FinetuneRecipe, train_finetune
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import adapter_lora
from openkontext.train.pairs import PairExamples, build_cache


def train_lora(
    model: str,
    pairs: Sequence[AttackGoal],
    work: Path,
    *,
    steps: int,
    batch_size: int,
    rank: int,
    learning_rate: float,
) -> Path:
    """Train a LoRA, or go on where it was stopped, or take the one that is there.

    Args:
        model: "nano" or a folder.
        pairs: goals with their truth.
        work: folder of this training alone.
        steps: of training.
        batch_size: pairs in a batch.
        rank: of the LoRA.
        learning_rate: of its weights.

    Returns:
        Its file.

    Raises:
        InputError: the model cannot be read back into torch, or the disk is full.
    """
    done = work / "lora.safetensors"
    if done.exists():
        return done
    table = work / "examples" / "pairs.jsonl"
    try:
        _write_pairs(pairs, table)
    except OSError as error:
        raise InputError(f"{table.parent}: cannot be written: {error.strerror}") from None
    recipe = FinetuneRecipe(
        pairs=str(table),
        model=model,
        rank=rank,
        alpha=float(rank),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warm_up=min(20, steps),
        average_decay=0.9,
    )
    base = TeacherModel.load(model)
    try:
        build_cache(table, work / "pairs", base)
        examples = PairExamples(work / "pairs")
        trained = train_finetune(recipe, base, examples, work / "run", RunRecipe(), sheets=False)
    except OSError as error:
        raise InputError(f"{work}: cannot be written: {error.strerror or error}") from None
    save_lora(adapter_lora(trained), done)
    return done


def _write_pairs(pairs: Sequence[AttackGoal], table: Path) -> None:
    """Goals as pairs that training reads: a line and two pictures each."""
    lines = []
    for number, pair in enumerate(pairs):
        assert pair.truth is not None, "an example shows its outcome"
        names = f"{number}-before.png", f"{number}-after.png"
        for name, pixels in zip(names, (pair.before, pair.truth), strict=True):
            write_whole(table.parent / name, images.encode(pixels, "PNG"))
        said = {"before": names[0], "after": names[1], "instruction": pair.instruction}
        lines.append(json.dumps(said))
    write_whole(table, "\n".join([*lines, ""]).encode())
