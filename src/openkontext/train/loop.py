"""What every training stage shares: the state that survives a kill, and the log."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openkontext.files import whole
from openkontext.train.metrics_log import Metrics
from openkontext.train.parallel import gather, rank


@dataclass(frozen=True)
class RunRecipe:
    """How a stage runs, whatever it trains: the table `[run]` of a recipe."""

    log_steps: int = 50
    """Steps between two rows of the metrics, which are means over these steps."""
    save_minutes: float = 3.0
    """Time between two saves of the state, in minutes."""
    sample_steps: int = 0
    """Steps between two sheets of samples; 0 makes one at the end."""
    precision: str = "auto"
    """Type of the arithmetic: "bf16" (the weights that train stay float32), "no" for float32, or "auto" for
    the faster one here: see `computes_in_half`."""
    compile: bool = False
    """Whether the stage flow compiles the transformer's blocks: a minute or two at the start, then a fifth
    more samples/s on a CPU. It needs a C++ compiler."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes each block again instead of keeping what it needs."""
    shard: bool = False
    """Whether the weights are spread over all processes (FSDP2) instead of each having its own copy."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bf16", "no"):
            raise ValueError(f"precision is auto, bf16 or no, not {self.precision}")
        if min(self.log_steps, self.accumulate) < 1 or self.sample_steps < 0:
            raise ValueError("log_steps and accumulate are 1 or more, sample_steps is 0 or more")

    def half(self, device: str = "cpu") -> bool:
        """Whether a type of device computes the steps in bfloat16."""
        return self.precision == "bf16" or (self.precision == "auto" and computes_in_half(device))


def computes_in_half(device: str) -> bool:
    """Whether bfloat16 is the faster arithmetic of this machine's "cpu" or "cuda".

    It is on a GPU that has it, and on a CPU with AMX. Other CPUs take longer for it than for float32: twice
    as long with AVX-512, ten times and more with AVX2.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


class Run:
    """One stage's folder: `state.pt`, written whole or not at all, `metrics.csv` and TensorBoard's events.

    A run that was killed at any moment goes on from its last state with the same numbers as one that was not:
    weights, averages, optimizer, chance, and the sums of the metrics are in the state, and rows that were
    written after it are taken back.

    Args:
        folder: where the stage keeps its files; made if missing.
        parts: what has a `state_dict` and `load_state_dict`: model, optimizer, average.
        rng: the stage's source of chance, saved and restored with the parts.
        steps: steps of the whole stage.
        recipe: how often to log and to save.
        samples: examples in a step of all processes, for the rate that is shown.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        rng: np.random.Generator,
        steps: int,
        recipe: RunRecipe = RunRecipe(),
        samples: int = 0,
    ) -> None:
        self.folder, self.parts, self.rng, self.steps = folder, parts, rng, steps
        self.recipe, self.samples = recipe, samples
        self.step = 0
        self.seconds = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._started = 0.0, 0  # seconds and step when this process began
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._restore(torch.load(folder / "state.pt", weights_only=False))
        if rank() == 0:
            self._metrics = Metrics(folder, self.step)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self._started = self.seconds, self.step
        self._sums, self._counts = state.get("means", ({}, {}))
        # A process that did not take part before goes on with the chance it was given.
        if rank() < len(state["chance"]):
            self.rng.bit_generator.state, torch_state, *cuda = state["chance"][rank()]
            torch.set_rng_state(torch_state)
            if cuda and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(cuda[0])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])

    def save(self) -> None:
        """Write the state beside the old one, then replace it; all processes of a step together."""
        cuda = (torch.cuda.get_rng_state_all(),) if torch.cuda.is_available() else ()
        chance = gather((self.rng.bit_generator.state, torch.get_rng_state(), *cuda))
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "chance": chance,
            "means": (self._sums, self._counts),
            # Of all processes: a part that is spread over them gathers itself.
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        if rank() != 0:
            return
        with whole(self.folder / "state.pt") as file:
            torch.save(state, file)

    def record(self, values: Mapping[str, float | Tensor]) -> bool:
        """Add a step's metrics to their means, which become a row every `log_steps`.

        Returns:
            Whether a row was written.
        """
        for name, value in values.items():
            number = float(value.detach() if isinstance(value, Tensor) else value)
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1
        if (self.step + 1) % self.recipe.log_steps:
            return False
        self.log({name: total / self._counts[name] for name, total in self._sums.items()})
        self._sums, self._counts = {}, {}
        return True

    def log(self, values: dict[str, float]) -> None:
        """Add a row to `metrics.csv` and TensorBoard, and a line to stderr."""
        if rank() != 0:
            return
        self._metrics.add(self.step, {"seconds": round(self.seconds), **values})
        seconds, steps = self.seconds - self._started[0], self.step - self._started[1]
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if steps > 0 and seconds > 0:
            if self.samples:
                text += f"  {self.samples * steps / seconds:.3g} samples/s"
            text += f"  {duration((self.steps - self.step) * seconds / steps)} left"
        print(f"step {self.step}/{self.steps}  {text}", file=sys.stderr, flush=True)

    def picture(self, pixels: np.ndarray) -> None:
        """Keep a sheet of samples as `samples/step-000500.png`, and in TensorBoard: uint8 [H, W, 3]."""
        if rank() == 0:
            self._metrics.picture(self.step, pixels)

    def steps_left(self, stop: int | None = None) -> Iterator[int]:
        """Yield the number of each step still to do (before `stop`); save in between and at the end."""
        last_save = mark = time.monotonic()
        while self.step < (self.steps if stop is None else min(stop, self.steps)):
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.seconds += now - mark
            mark = now
            # Asked every few steps only, since the processes must agree on it.
            if self.step % 10 == 0 and gather(now - last_save > 60 * self.recipe.save_minutes)[0]:
                self.save()
                last_save = now
        self.save()


def duration(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3 h 5 min", "9 d 16 h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Factor on the learning rate: a linear warm-up, then half a cosine down to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))
