"""How soon fine-tuning brings an inhibited concept back.

    python benchmarks/relearning.py OUT.webp "closed form=LORA.safetensors" [--concept star] [--pairs 64]
    python benchmarks/relearning.py OUT.webp "16 pairs=LORA.safetensors" --pairs 16
    python benchmarks/relearning.py OUT.webp "a cross, never seen" --shape cross

Fine-tunes nano with a LoRA in place on pairs that show the concept, and asks for it by name in held-out
words after some numbers of steps. A name alone stands for no LoRA. With --shape, pairs and cases show a shape
that nano was never taught in place of the concept's. Prints one line a point. State and points are kept
beside OUT.webp: a run that was stopped goes on, and the plot has the lines of all runs before.
"""

import argparse
import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openkontext import images, load
from openkontext.data.things import UNSEEN_THINGS
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases, in_shape
from openkontext.evaluation.concept_scores import edited_by
from openkontext.evaluation.concepts import Concept
from openkontext.evaluation.plots import line_plot
from openkontext.files import write_whole
from openkontext.model.lora import load_lora, merge_lora, save_lora
from openkontext.train.base import TeacherModel
from openkontext.train.finetune import flow_loss
from openkontext.train.inhibit_pairs import ConceptExamples, asked_of
from openkontext.train.loop import Run, RunRecipe
from openkontext.train.lora import adapter_lora, add_adapter
from openkontext.train.training_engine import TrainingEngine, adamw

BATCH, RANK, RATE = 4, 16, 1e-3
"""As `openkontext finetune` has them, with half of its batch."""


def relearned(
    lora: str, examples: ConceptExamples, base: TeacherModel, steps: list[int], folder: Path
) -> dict[int, Path]:
    """LoRAs after each number of steps, to be stacked on the inhibiting one, if there is one."""
    transformer = copy.deepcopy(base.pipeline.transformer)
    if lora:
        merge_lora(transformer, load_lora(lora))
    add_adapter(transformer, rank=RANK, alpha=float(RANK))
    recipe = RunRecipe(log_steps=10)
    engine = TrainingEngine(recipe)
    trained = engine.prepare(transformer, adamw(RATE), decay=0.0)
    rng = np.random.default_rng(0)
    run = Run(folder, {"trained": trained}, rng, steps[-1], recipe, BATCH)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        batch = examples.draw(rng, BATCH).batch
        guidance = base.config.guidance_scale
        return flow_loss(trained.model, batch, rng, timestep_mean=base.shift(64), guidance=guidance)

    found = {}
    for stop in steps:
        for _ in run.steps_left(stop):
            run.record(engine.step(trained, loss))
        found[stop] = folder / f"steps-{stop}.safetensors"
        if not found[stop].exists():
            if run.step != stop:
                raise SystemExit(f"{folder} went on beyond step {stop} without its LoRA: delete it")
            save_lora(adapter_lora(trained.model), found[stop])
    return found


def comes(cases: list[ConceptCase], loras: list[str], denoising: int) -> float:
    """How often the concept comes."""
    edit = edited_by(load("nano", loras=[(each, 1.0) for each in loras]), denoising)
    return sum(case.judge(edit(case)).holds for case in cases) / len(cases)


def shown(cases: list[ConceptCase], shape: str | None) -> list[ConceptCase]:
    """The cases, of another shape where one is given."""
    return [in_shape(case, shape) for case in cases] if shape else cases


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="How soon fine-tuning brings an inhibited concept back.")
    parser.add_argument("out", type=Path, metavar="OUT.webp")
    parser.add_argument("models", nargs="+", metavar="NAME[=LORA]")
    parser.add_argument("--concept", default="star")
    parser.add_argument("--shape", choices=tuple(UNSEEN_THINGS), help="shown in place of the concept")
    parser.add_argument("--pairs", type=int, default=64, help="how many pairs that show the concept")
    parser.add_argument("--steps", default="0,10,20,30,40,60", help="where to ask")
    parser.add_argument("--count", type=int, default=20, help="cases at each point")
    parser.add_argument("--denoising", type=int, default=4, help="steps of an edit")
    parser.add_argument("--seed", type=int, default=1, help="of the cases that are asked")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    concept, base = Concept.load(arguments.concept), TeacherModel.load("nano")
    steps = [int(each) for each in arguments.steps.split(",")]
    state = arguments.out.with_suffix("")
    taught = shown(draw_concept_cases(concept, 1, arguments.pairs, ["direct"], "attack"), arguments.shape)
    pairs = [dataclasses.replace(each, anchor=".") for each in asked_of(taught, neighbor=False)]
    asked = shown(draw_concept_cases(concept, arguments.seed, arguments.count, ["direct"]), arguments.shape)
    examples = ConceptExamples(pairs, base, state / f"{arguments.shape or concept.name}-{len(pairs)}.pt")
    kept = arguments.out.with_suffix(".json")
    points: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for model in arguments.models:
        name, _, lora = model.partition("=")
        found = points.setdefault(name, {})
        if all(str(step) in found for step in steps):
            continue
        for step, file in relearned(lora, examples, base, steps, state / name.replace(" ", "-")).items():
            if str(step) not in found:
                loras = [*([lora] if lora else []), str(file)]
                found[str(step)] = comes(asked, loras, arguments.denoising)
                write_whole(kept, json.dumps(points, indent=1).encode())
            share = found[str(step)]
            print(f"{name}: after {step} steps on {arguments.pairs} pairs, {share:.0%}", flush=True)
    lines = {
        name: [100 * found[str(step)] for step in steps]
        for name, found in points.items()
        if all(str(step) in found for step in steps)
    }
    title = "Fine-tuning on pairs that show what is asked for"
    picture = line_plot(lines, title, f"steps of {BATCH} pairs", "edits that show it, %", places=steps)
    images.save(arguments.out, picture, overwrite=True)


if __name__ == "__main__":
    main()
