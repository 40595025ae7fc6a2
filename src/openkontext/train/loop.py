"""What every training stage shares: the state that survives a kill, the log and the averaged weights."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from openkontext.train.parallel import gather, rank


class Average:
    """Exponential moving average of a module's parameters, with a warm-up of its decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's present parameters."""
        self.step += 1
        share = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        names = list(self.values)
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_([self.values[n] for n in names], [parameters[n].detach() for n in names], share)

    def state_dict(self) -> dict[str, Any]:
        """The averaged parameters and the number of updates."""
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.step = state["step"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)


class Run:
    """One stage's folder: `state.pt`, written whole or not at all, and `metrics.csv`.

    Args:
        folder: Where the stage keeps its files; made if missing.
        parts: What has a `state_dict` and `load_state_dict`: model, optimiser, average.
        rng: The stage's source of chance, saved and restored with the parts.
        steps: Steps of the whole stage.
        save_minutes: Time between two saves.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        rng: np.random.Generator,
        steps: int,
        save_minutes: float = 3,
    ) -> None:
        self.folder, self.parts, self.rng, self.steps = folder, parts, rng, steps
        self.save_seconds = save_minutes * 60
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", weights_only=False)
            self.step, self.seconds = state["step"], state["seconds"]
            # A process that did not take part before goes on with the chance it was given.
            if rank() < len(state["chance"]):
                rng.bit_generator.state, torch_state = state["chance"][rank()]
                torch.set_rng_state(torch_state)
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])

    def save(self) -> None:
        """Writes the state beside the old one, then replaces it; all processes of a step together."""
        chance = gather((self.rng.bit_generator.state, torch.get_rng_state()))
        if rank() != 0:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "chance": chance,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        new = self.folder / "state.pt.new"
        torch.save(state, new)
        new.replace(self.folder / "state.pt")

    def log(self, values: dict[str, float]) -> None:
        """Adds a row to `metrics.csv` and a line to stderr."""
        if rank() != 0:
            return
        row = {"step": self.step, "seconds": round(self.seconds), **values}
        path = self.folder / "metrics.csv"
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        left = (self.steps - self.step) * self.seconds / max(self.step, 1)
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {self.step}/{self.steps}  {text}  {left / 60:.0f} min left", file=sys.stderr, flush=True)

    def steps_left(self, stop: int | None = None) -> Iterator[int]:
        """Yields the number of each step still to do (before `stop`); saves in between and at the end."""
        last_save = mark = time.monotonic()
        while self.step < (self.steps if stop is None else min(stop, self.steps)):
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.seconds += now - mark
            mark = now
            # Asked every few steps only, since the processes must agree on it.
            if self.step % 10 == 0 and gather(now - last_save > self.save_seconds)[0]:
                self.save()
                last_save = now
        self.save()


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Factor on the learning rate: a linear warm-up, then half a cosine down to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))
