"""Inputs of the transformer to calibrate a quantized export with: recorded from edits, or made up.

A calibration is a list of batches, each a set of the transformer's inputs under the names of the published
graph, over timesteps from noise to picture. As a file it is an `.npz` with `{batch}/{input name}`.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openkontext.data.draws import random_edit
from openkontext.data.edits import KINDS
from openkontext.data.instructions import phrase
from openkontext.data.scenes import render
from openkontext.editor import Editor
from openkontext.errors import InputError, RefusedError
from openkontext.model.config import TransformerConfig
from openkontext.model.weights import whole_file

INPUTS = (
    "hidden_states",
    "encoder_hidden_states",
    "pooled_projections",
    "timestep",
    "img_ids",
    "txt_ids",
    "guidance",
)
"""Names of the transformer's inputs; `guidance` only where the model has it."""

EDITS = 18
"""Edits that a calibration of a model of drawn scenes records: two of each kind that nano knows."""

_STREAM = 0xCA11B  # first word of the random state of the recorded edits: no other stream is the same
_STEPS = 14
_BATCH = 16

_SYNTHETIC_TIMESTEPS = 8
_SYNTHETIC_TEXT = 32
_SYNTHETIC_GRID = (4, 4)  # of target tokens, and again of context tokens
_SYNTHETIC_TEXT_SIZE = 0.2

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Calibration:
    """Inputs of a transformer."""

    batches: tuple[Batch, ...]
    """Each has float32 tensors under the names of `INPUTS`, first axis B but for the two ids."""
    origin: str
    """What they are, for the record."""

    def __post_init__(self) -> None:
        for batch in self.batches:
            for name, tensor in batch.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise InputError(f"the calibration's {name} holds values that are no numbers")

    def check(self, config: TransformerConfig) -> None:
        """See that the inputs are those of a transformer of this shape.

        Raises:
            InputError: there are none, or one is missing or of another size.
        """
        widths = {
            "hidden_states": config.in_channels,
            "encoder_hidden_states": config.joint_attention_dim,
            "pooled_projections": config.pooled_projection_dim,
            "img_ids": 3,
            "txt_ids": 3,
        }
        needed = [name for name in INPUTS if name != "guidance" or config.guidance_embeds]
        if not self.batches:
            raise InputError("the calibration holds no inputs")
        for batch in self.batches:
            for name in needed:
                if name not in batch:
                    raise InputError(f"the calibration lacks the input {name}")
                if name in widths and batch[name].shape[-1] != widths[name]:
                    raise InputError(
                        f"the calibration's {name} is {batch[name].shape[-1]} wide, where this transformer "
                        f"takes {widths[name]}: record it with this model"
                    )

    def digest(self) -> str:
        """SHA-256 of the inputs."""
        found = hashlib.sha256()
        for batch in self.batches:
            for name in sorted(batch):
                found.update(name.encode() + batch[name].numpy().tobytes())
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Write the inputs to an `.npz` file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        arrays = {
            f"{i}/{name}": t.numpy() for i, batch in enumerate(self.batches) for name, t in batch.items()
        }
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, origin=np.array(self.origin), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it is damaged or something else.
        """
        batches: dict[int, dict[str, Tensor]] = {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                origin = str(stored["origin"])
                for key in stored.files:
                    number, _, name = key.partition("/")
                    if name:
                        tensor = torch.from_numpy(stored[key].astype(np.float32))
                        batches.setdefault(int(number), {})[name] = tensor
        except FileNotFoundError:
            raise InputError(f"{path}: no such calibration file") from None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is no calibration file, or damaged ({error}); record it again"
            ) from None
        return cls(tuple(batches[i] for i in sorted(batches)), origin)


def synthetic(config: TransformerConfig, text_length: int, seed: int = 0) -> Calibration:
    """Made-up inputs for a model without pictures at hand.

    Image tokens are what rectified flow mixes of two unit normals: (1 - t) x + t n, with t from noise to
    picture in equal steps; the context's are a third. Text tokens are normal with a standard deviation of
    0.2, and so is the pooled embedding with 1. The model's own activations follow from its weights; outliers
    that only real words and pictures cause are missing, so that a model that is to be used wants a recording.
    """
    generator = torch.Generator().manual_seed(seed)
    count, (height, width) = _SYNTHETIC_TIMESTEPS, _SYNTHETIC_GRID
    text = min(text_length, _SYNTHETIC_TEXT)
    t = (torch.arange(count) + 0.5).flip(0) / count

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    tokens = (height * width, config.in_channels)
    target = (1 - t)[:, None, None] * normal(*tokens) + t[:, None, None] * normal(*tokens)
    grid = torch.cartesian_prod(torch.arange(2.0), torch.arange(float(height)), torch.arange(float(width)))
    batch = {
        "hidden_states": torch.cat((target, normal(*tokens)), dim=1),
        "encoder_hidden_states": _SYNTHETIC_TEXT_SIZE * normal(text, config.joint_attention_dim),
        "pooled_projections": normal(config.pooled_projection_dim),
        "timestep": t,
        "img_ids": grid,
        "txt_ids": torch.zeros(text, 3),
    }
    if config.guidance_embeds:
        batch["guidance"] = torch.full((count,), 2.5)
    return Calibration((batch,), f"synthetic: unit normals at {count} timesteps, seed {seed}")


def record(editor: Editor, edits: int = EDITS, seed: int = 0) -> Calibration:
    """What the transformer of a model of drawn scenes is given in its own edits.

    The scenes are drawn as for training, by a stream of random numbers of their own: none is a case of the
    evaluation.

    Args:
        editor: opened in the precision to record, the 16-bit or 32-bit one.
        edits: how many; the kinds take turns.
        seed: of scenes, instructions and noise.
    """
    recorded: list[dict[str, NDArray[Any]]] = []
    components = editor.components
    run: Callable[..., NDArray[np.float32]] = components.transformer

    def transformer(**arrays: NDArray[Any]) -> NDArray[np.float32]:
        recorded.append(arrays)
        return run(**arrays)

    kinds = editor.repository.config.kinds or KINDS
    vars(components)["transformer"] = transformer
    try:
        for index in range(edits):
            rng = np.random.default_rng([_STREAM, seed, index])
            edit = random_edit(rng, kinds[index % len(kinds)], unseen=False)
            with suppress(RefusedError):  # of a result, which nobody sees here: its steps were taken
                editor.edit(render(edit.before), phrase(edit, rng), num_inference_steps=_STEPS, seed=index)
    finally:
        del vars(components)["transformer"]
    return Calibration(
        batched(recorded), f"recorded: {edits} edits of drawn scenes, {_STEPS} steps each, seed {seed}"
    )


def batched(calls: list[dict[str, NDArray[Any]]]) -> tuple[Batch, ...]:
    """Calls of a transformer's graph, those with the same positions put together."""
    groups: dict[bytes, list[dict[str, Tensor]]] = {}
    for call in calls:
        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in call.items()}
        groups.setdefault(call["img_ids"].tobytes(), []).append(tensors)
    batches = []
    for group in groups.values():
        for start in range(0, len(group), _BATCH):
            part = group[start : start + _BATCH]
            ids = {name: part[0][name] for name in ("img_ids", "txt_ids")}
            others = {name: torch.cat([each[name] for each in part]) for name in part[0] if name not in ids}
            batches.append(others | ids)
    return tuple(batches)
