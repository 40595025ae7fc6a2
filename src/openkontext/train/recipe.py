"""Recipes: one TOML file a stage, all stages of a model in one work folder.

    stage = "flow"
    preset = "nano"

    [flow]
    steps = 4000

    [run]
    save_minutes = 3

`STAGES` lists the stages, with what each can be told. `openkontext.train.scratch` runs those that train a
model from nothing, `openkontext.train.adapt` those that begin with a whole model.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openkontext.errors import InputError
from openkontext.model.config import PRESETS, ModelConfig
from openkontext.toml_file import checked_table, read_toml
from openkontext.train.autoencoder import AutoencoderRecipe
from openkontext.train.finetune import FinetuneRecipe
from openkontext.train.flow import FlowRecipe
from openkontext.train.guidance import GuidanceRecipe
from openkontext.train.inhibit_recipe import InhibitRecipe
from openkontext.train.ladd import LaddRecipe
from openkontext.train.latent_cache import LatentsRecipe
from openkontext.train.loop import RunRecipe
from openkontext.train.text_encoders import TextRecipe

_STEPS = frozenset({"log_steps", "save_minutes", "precision", "accumulate"})
_WHOLE_MODEL = _STEPS | {"gradient_checkpointing", "shard"}


@dataclass(frozen=True)
class StageKind:
    """What a stage can be told."""

    command: str
    """Of openkontext, that runs it."""
    settings: type
    """Its own table."""
    run: frozenset[str]
    """Fields of `RunRecipe` that have an effect in it."""
    processes: bool
    """Whether several can share its steps."""


STAGES = {
    "text": StageKind("train", TextRecipe, _STEPS, processes=False),
    "autoencoder": StageKind("train", AutoencoderRecipe, _STEPS, processes=False),
    "latents": StageKind("train", LatentsRecipe, frozenset({"precision"}), processes=False),
    "flow": StageKind("train", FlowRecipe, _STEPS | {"compile"}, processes=True),
    "finetune": StageKind("finetune", FinetuneRecipe, _WHOLE_MODEL | {"sample_steps"}, processes=True),
    "guidance": StageKind("distill", GuidanceRecipe, _WHOLE_MODEL, processes=True),
    "ladd": StageKind("distill", LaddRecipe, _WHOLE_MODEL, processes=True),
    "inhibit": StageKind("inhibit", InhibitRecipe, _STEPS | {"gradient_checkpointing"}, processes=False),
}
"""All stages, in the order in which they build on each other."""

_RESPELLED = {"colour_weight": "color_weight"}


@dataclass(frozen=True)
class Recipe:
    """One stage: its name, the model's preset, the stage's own settings, and how it runs."""

    stage: str
    preset: str
    settings: Any
    run: RunRecipe = RunRecipe()  # noqa: RUF009 - frozen
    warnings: tuple[str, ...] = ()
    """What the file should say otherwise, a line each."""

    def check_processes(self, processes: int) -> None:
        """Raise InputError where several processes cannot share this stage's steps."""
        if processes > 1 and not STAGES[self.stage].processes:
            raise InputError(f"the stage {self.stage} runs in one process; leave out --processes")

    @property
    def config(self) -> ModelConfig:
        """Shapes of the model's networks."""
        return PRESETS[self.preset]


def read_recipe(path: str | Path, command: str | None = None) -> Recipe:
    """Read a recipe. Paths in it are relative to its folder.

    Args:
        path: the file.
        command: of openkontext, that is to run it; None for any.

    Raises:
        InputError: the file is missing or no TOML, a name or value in it is not known, or its stage is
            another command's.
    """
    path = Path(path)
    table = read_toml(path, "recipe", f"cannot read the recipe {path}: there is no such file")
    stage, preset = table.pop("stage", None), table.pop("preset", "nano")
    if not isinstance(stage, str) or stage not in STAGES:
        raise InputError(f"{path}: stage = {stage!r} is not known; it is one of {', '.join(STAGES)}")
    kind = STAGES[stage]
    if command not in (None, kind.command):
        raise InputError(f"{path}: the stage {stage} is run by `openkontext {kind.command} {path}`")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"{path}: preset = {preset!r} is not known; it is one of {', '.join(PRESETS)}")
    for name in (stage, "run"):
        if not isinstance(table.get(name, {}), dict):
            raise InputError(f"{path}: {name} = {table[name]!r}: it must be a table, [{name}]")
    warnings = tuple(_respelled(path, stage, table.get(stage, {})))
    run: RunRecipe = _settings(path, "run", RunRecipe, table.pop("run", {}), kind.run)
    settings = _settings(path, stage, kind.settings, table.pop(stage, {}))
    for name in table:
        raise InputError(f"{path}: {name} is not a setting; this stage's tables are {stage} and run")
    return Recipe(stage, preset, settings, run, warnings)


def _respelled(path: Path, stage: str, values: dict[str, Any]) -> Iterator[str]:
    """Settings under the old spelling, which holds for one more version: they get the new one."""
    for old in _RESPELLED.keys() & values.keys():
        new = _RESPELLED[old]
        values.setdefault(new, values.pop(old))
        yield f"{path}: {stage}.{old} is now spelled {new}; the old spelling goes with the next version"


def _settings(
    path: Path, name: str, kind: type, values: dict[str, Any], known: frozenset[str] | None = None
) -> Any:
    """One table of a recipe as its dataclass, of which only the `known` fields may be set."""
    known = known or frozenset(field.name for field in dataclasses.fields(kind))
    for key in values:
        if key not in known:
            names = ", ".join(sorted(known))
            raise InputError(f"{path}: {name}.{key} is not a setting of this stage; there are {names}")
    settings: Any = checked_table(path, kind, values, name)
    for key, value in values.items():
        if isinstance(value, int | float) and value < 0 and not key.endswith("_mean"):
            raise InputError(f"{path}: {name}.{key} = {value}: it must be 0 or more")
    found = {
        key: str(path.parent / value)
        for key in ("pairs", "other_pairs", "model", "parts", "concept")
        if isinstance(value := getattr(settings, key, None), str) and (path.parent / value).exists()
    }
    return dataclasses.replace(settings, **found)
