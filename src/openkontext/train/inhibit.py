"""The stage `inhibit`: targeted fine-tuning after which a model can no longer produce a concept.

Rounds follow each other: train, attack with words and scenes that training never saw, add what got through to
what is trained on, train again. Every round leaves its LoRA, and the last one is the result.
"""

import copy
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from openkontext.editor import Editor, load
from openkontext.errors import InputError
from openkontext.evaluation.concept_cases import ConceptCase, draw_concept_cases
from openkontext.evaluation.concept_scores import edited_by
from openkontext.evaluation.concepts import ROUTES, Concept
from openkontext.export.exporting import export_repository
from openkontext.export.place import check_out
from openkontext.files import write_whole
from openkontext.model.lora import Lora, load_lora, merge_lora, save_lora
from openkontext.repository import is_checkpoint
from openkontext.train.base import TeacherModel
from openkontext.train.inhibit_closed_form import close
from openkontext.train.inhibit_loss import Levels, inhibition_loss
from openkontext.train.inhibit_pairs import (
    AskedConcept,
    ConceptDraws,
    ConceptExamples,
    ConceptPairs,
    asked_of,
    preserved,
)
from openkontext.train.inhibit_recipe import InhibitRecipe
from openkontext.train.loop import Run, RunRecipe, warm_cosine
from openkontext.train.lora import adapter_lora, add_adapter, check_targets, set_adapter
from openkontext.train.records import sources
from openkontext.train.teacher import Teacher
from openkontext.train.training_engine import TrainingEngine, adamw

LORA = "lora.safetensors"
_MARK = "recipe.sha256"
_LEAVES = (LORA, "round-1", "others.pt", "base", "pairs", "other-pairs")
"""Names in the work folder; under them nothing of another command is written over."""


@dataclass(frozen=True)
class Round:
    """What one round did."""

    number: int
    trained_on: int
    """Cases of the concept."""
    tried: int
    """Attacks on the round before; 0 in the first."""
    got_through: dict[str, int]
    """Of these, by route."""


def run_inhibit(
    recipe: InhibitRecipe, run: RunRecipe, work: Path, base: TeacherModel | None = None
) -> tuple[Path, list[Round]]:
    """Inhibit a concept, or go on where that was stopped.

    Args:
        recipe: what, how long and how hard.
        run: how to run.
        work: folder for the state and the result.
        base: the model, where it is loaded already, as `check` gives it.

    Returns:
        The LoRA `lora.safetensors`, and what each round did.

    Raises:
        InputError: the model or the concept cannot be read, or there is nothing to train on.
    """
    base = base or TeacherModel.load(recipe.model, recipe.parts)
    write_whole(work / _MARK, _mark(recipe))
    if recipe.pairs and recipe.other_pairs:
        return _run_pairs(recipe, base, run, work)
    concept = Concept.load(recipe.concept)
    cases = draw_concept_cases(concept, recipe.seed, recipe.cases, ROUTES, "training")
    others = preserved(concept, recipe.seed, recipe.others, base.config.kinds)
    rounds: list[Round] = []
    lora: Lora | None = None
    for number in range(1 if recipe.method == "closed form" else recipe.rounds):
        folder = work / f"round-{number + 1}"
        caught: list[ConceptCase] = []
        tried = 0
        if number and recipe.attacks:
            caught, tried = attack(recipe, concept, base, rounds[-1].number, work)
        # What got through is a quarter of what the next round sees, few as it may be.
        cases += caught * max(1, len(cases) // (3 * len(caught))) if caught else []
        count = {route: sum(case.route == route for case in caught) for route in ROUTES}
        rounds.append(Round(number + 1, len(cases), tried, {k: n for k, n in count.items() if n}))
        file = folder / LORA
        if not file.exists():
            asked = asked_of(cases, neighbor=recipe.method == "closed form" or recipe.anchor == "neighbor")
            learned = _train(recipe, base, asked, others, folder, work, run, lora)
            save_lora(learned, file, {"inhibits": said(recipe, concept.what)})
            if number + 1 < recipe.rounds:
                print(f"round {number + 1} is done: {file}", file=sys.stderr, flush=True)
        lora = load_lora(file)
    write_whole(work / LORA, file.read_bytes())
    return work / LORA, rounds


def _run_pairs(
    recipe: InhibitRecipe, base: TeacherModel, run: RunRecipe, work: Path
) -> tuple[Path, list[Round]]:
    assert recipe.pairs is not None
    concept, others = (
        ConceptPairs(str(data), work / folder, base)
        for data, folder in ((recipe.pairs, "pairs"), (recipe.other_pairs, "other-pairs"))
    )
    learned = train_inhibit(recipe, base, concept, others, work / "round-1" / "run", run)
    save_lora(learned, work / LORA, {"inhibits": said(recipe, "what its pairs show")})
    return work / LORA, [Round(1, len(concept), 0, {})]


def said(recipe: InhibitRecipe, what: str) -> str:
    """What a file of weights says of its inhibition, as JSON."""
    words = {"concept": name_of(recipe), "what": what, "method": recipe.method, "model": recipe.model}
    return json.dumps(words, sort_keys=True)


def name_of(recipe: InhibitRecipe) -> str:
    """What the concept is called.

    Raises:
        InputError: its file cannot be read.
    """
    return recipe.concept if recipe.pairs else Concept.load(recipe.concept).name


def check(
    recipe: InhibitRecipe, work: Path, export: Path | None = None, overwrite: bool = False
) -> TeacherModel:
    """See that a run can begin or go on, and that its result can be put where it is wanted; write nothing.

    Returns:
        The model to begin with.

    Raises:
        InputError: the concept, the model or pairs cannot be read, a target is no layer, the work folder is
            another recipe's or command's, or `export` is in use.
    """
    mark = _mark(recipe)
    if export is not None:
        check_out(export, overwrite)
    file = work / _MARK
    if file.exists() and file.read_bytes() != mark:
        raise InputError(f"{work} holds the state of another recipe; name another folder with --work")
    if not file.exists() and (others := [name for name in _LEAVES if (work / name).exists()]):
        raise InputError(f"{work}: holds {others[0]} of something else; name another folder with --work")
    for pairs in filter(None, (recipe.pairs, recipe.other_pairs)):
        sources(pairs)
    base = TeacherModel.load(recipe.model, recipe.parts)
    if recipe.method != "closed form":
        check_targets(base.pipeline.transformer, recipe.targets)
    return base


def _mark(recipe: InhibitRecipe) -> bytes:
    """What tells the work folder of a recipe from that of another."""
    concept = recipe.concept if recipe.pairs else Concept.load(recipe.concept)
    return hashlib.sha256(repr((recipe, concept)).encode()).hexdigest().encode()


def _train(
    recipe: InhibitRecipe,
    base: TeacherModel,
    asked: list[AskedConcept],
    others: list[AskedConcept],
    folder: Path,
    work: Path,
    run: RunRecipe,
    begin: Lora | None,
) -> Lora:
    if recipe.method == "closed form":
        widest = base.pipeline.transformer.config.hidden_size
        return close(
            base, asked, others, rank=recipe.rank or widest, keep=recipe.preserve, ridge=recipe.ridge
        )
    concept = ConceptExamples(asked, base, folder / "cases.pt")
    rest = ConceptExamples(others, base, work / "others.pt")
    return train_inhibit(recipe, base, concept, rest, folder / "run", run, begin)


def train_inhibit(
    recipe: InhibitRecipe,
    base: TeacherModel,
    concept: ConceptDraws,
    others: ConceptDraws,
    folder: Path,
    run_recipe: RunRecipe,
    begin: Lora | None = None,
    stop: int | None = None,
) -> Lora:
    """One round of training, or go on with it; resume from `folder` to the step.

    Args:
        recipe: how long and how hard.
        base: what to begin with; it stays as it is.
        concept: cases of the concept.
        others: edits to be answered as before.
        folder: where the run keeps its state.
        run_recipe: how to run.
        begin: the LoRA of the round before.
        stop: step to pause at before the recipe's end, as a kill would.

    Returns:
        The averaged LoRA.
    """
    transformer = copy.deepcopy(base.pipeline.transformer)
    add_adapter(transformer, rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets, seed=recipe.seed)
    if begin is not None:
        set_adapter(transformer, begin)
    teacher = Teacher(transformer)
    engine = TrainingEngine(run_recipe)
    trained = engine.prepare(transformer, adamw(recipe.learning_rate), decay=recipe.average_decay)
    teacher.follow(trained.model, engine)
    rng = np.random.default_rng([recipe.seed, 11])
    samples = 2 * recipe.batch_size * run_recipe.accumulate
    run = Run(folder, {"trained": trained}, rng, recipe.steps, run_recipe, samples)
    config = base.config
    levels = Levels((recipe.attack_steps, config.num_inference_steps), config.base_shift, config.max_shift)

    def loss() -> tuple[Tensor, dict[str, Tensor]]:
        return inhibition_loss(
            trained.model,
            teacher,
            concept.draw(rng, recipe.batch_size).to(engine.device),
            others.draw(rng, recipe.batch_size).batch.to(engine.device),
            rng,
            levels=levels,
            guidance=config.guidance_scale if recipe.guidance is None else recipe.guidance,
            method=recipe.method,
            eta=recipe.eta,
            anchor=recipe.anchor,
            preserve=recipe.preserve,
        )

    for step in run.steps_left(stop):
        run.record(engine.step(trained, loss, warm_cosine(step, recipe.steps, recipe.warm_up)))
    trained.take_average()
    return adapter_lora(engine.unwrap(trained))


def attack(
    recipe: InhibitRecipe, concept: Concept, base: TeacherModel, number: int, work: Path
) -> tuple[list[ConceptCase], int]:
    """Try a round's LoRA with words and scenes that training never saw.

    What was tried is kept, so that a run that was stopped does not try it again.

    Returns:
        The cases that got through, and how many were tried.
    """
    cases = draw_concept_cases(concept, recipe.seed + number, recipe.attacks, ROUTES, "attack")
    folder = work / f"round-{number}"
    kept = folder / "attacks.json"
    through: dict[str, Any] = json.loads(kept.read_bytes()) if kept.exists() else {}
    left = [case for case in cases if _key(case) not in through]
    if left:
        editor = load(str(repository_of(recipe, base, work)), loras=[(folder / LORA, 1.0)])
        edit = edited_by(editor, recipe.attack_steps)
        for i, case in enumerate(left):
            through[_key(case)] = case.judge(edit(case)).holds
            if i % 10 == 9 or i == len(left) - 1:
                write_whole(kept, json.dumps(through, indent=1).encode())
    found = [case for case in cases if through[_key(case)]]
    print(f"attack on round {number}: {len(found)} of {len(cases)} got through", file=sys.stderr, flush=True)
    return found, len(cases)


def _key(case: ConceptCase) -> str:
    return f"{case.route} {case.index}"


def editor_of(recipe: InhibitRecipe, work: Path, loras: Sequence[tuple[Path, float]] = ()) -> Editor:
    """The model of before, or with what was learned."""
    base = TeacherModel.load(recipe.model, recipe.parts)
    return load(str(repository_of(recipe, base, work)), loras=loras)


def export_inhibited(recipe: InhibitRecipe, work: Path, out: Path, overwrite: bool = False) -> None:
    """Write a repository with the result merged into the model; it says what it inhibits.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    base = TeacherModel.load(recipe.model, recipe.parts)
    merge_lora(base.pipeline.transformer, load_lora(work / LORA))
    inhibits = tuple(dict.fromkeys((*(base.config.inhibits or ()), name_of(recipe))))
    config = dataclasses.replace(base.config, name=out.name, inhibits=inhibits)
    export_repository(base.pipeline, out, config=config, overwrite=overwrite)


def repository_of(recipe: InhibitRecipe, base: TeacherModel, work: Path) -> str | Path:
    """The repository that edits with the model of before: itself, or an export of the checkpoint."""
    if not is_checkpoint(Path(recipe.model)):
        return recipe.model
    out = work / "base"
    if not out.exists():
        export_repository(base.pipeline, out, config=base.config)
    return out
