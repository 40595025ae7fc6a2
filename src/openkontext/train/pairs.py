"""A user's pairs, encoded once: latents and text features in files of a few records each.

Chunk k holds what could be used of records CHUNK * k and on. It appears whole or not at all, so that a build
that was killed goes on with the next one.
"""

import hashlib
import itertools
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.images import Fit, load, to_model
from openkontext.latents import nearest_size
from openkontext.model.weights import WeightEntry, Weights, read_json, write_json, write_weights
from openkontext.train.base import TeacherModel
from openkontext.train.batch import Batch, Grid, TextFeatures, ids_of
from openkontext.train.records import PairRecord, Skipped, read_records, sources

CHUNK = 32
_DONE, _EMPTY, _TOKEN = "done.json", "empty.safetensors", 16


@dataclass(frozen=True)
class Pair:
    """A cached record: what it says, and where its tensors are."""

    name: str
    instruction: str
    chunk: str
    index: int
    target: Grid
    context: Grid | None


def build_cache(data: str | Path, folder: Path, base: TeacherModel) -> tuple[int, list[Skipped]]:
    """Encode all pairs of a source, or go on where that was stopped; what is encoded already stays.

    Args:
        data: a file or folder, see `openkontext.train.records`.
        folder: of the cache; made anew where it belongs to other data or another model.
        base: encodes.

    Returns:
        How many pairs there are, and what was skipped.

    Raises:
        InputError: there is no such source, or not one usable pair in it.
    """
    files = sources(data)
    mark = _mark(files, base)
    if (folder / "mark").exists() and (folder / "mark").read_text() != mark:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _DONE).exists():
        (folder / "mark").write_text(mark)
        _write_empty(folder / _EMPTY, base)
        records = read_records(files)
        for number in itertools.count():
            chunk = list(itertools.islice(records, CHUNK))
            if not chunk:
                break
            path = folder / f"pairs-{number:05d}.safetensors"
            if not path.exists():
                _write_chunk(path, chunk, base)
        write_json(folder / _DONE, {"chunks": number})
    chunks = [Weights(path) for path in _chunks(folder)]
    said = [json.loads(chunk.metadata["openkontext.records"]) for chunk in chunks]
    count = sum(len(each["pairs"]) for each in said)
    skipped = [Skipped(**entry) for each in said for entry in each["skipped"]]
    if count == 0:
        first = f", first {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"{data} has no usable pair ({len(skipped)} skipped{first})")
    return count, skipped


def report(count: int, skipped: list[Skipped]) -> None:
    """Say on stderr how many pairs there are, and name every record that was skipped."""
    for each in skipped:
        print(f"skipped {each.name}: {each.reason}", file=sys.stderr)
    print(f"{count} pairs, {len(skipped)} skipped", file=sys.stderr)


class PairExamples:
    """The cached pairs, drawn at random."""

    def __init__(self, folder: Path, pairs: Sequence[Pair] | None = None) -> None:
        self._folder = folder
        self._open = {path.name: Weights(path) for path in _chunks(folder)}
        empty = Weights(folder / _EMPTY)
        self._empty = TextFeatures(*(_tensor(empty, name) for name in ("text", "pooled")))
        self.pairs = [
            Pair(
                entry["name"],
                entry["instruction"],
                name,
                entry["index"],
                tuple(entry["target"]),
                entry["context"] and tuple(entry["context"]),
            )
            for name, chunk in self._open.items()
            for entry in json.loads(chunk.metadata["openkontext.records"])["pairs"]
        ]
        if pairs is not None:
            self.pairs = list(pairs)
        groups: defaultdict[Any, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            groups[pair.target, pair.context].append(pair)
        self._groups = list(groups.values())

    def split(self, held_out: int) -> tuple["PairExamples", "PairExamples"]:
        """All but the last ones, to train on, and these, to show; where none is held out, all are both.

        Raises:
            InputError: nothing would be left to train on.
        """
        if held_out >= len(self.pairs):
            raise InputError(
                f"held_out = {held_out} leaves nothing to train on: there are {len(self.pairs)} pairs"
            )
        if not held_out:
            return self, self
        return (
            PairExamples(self._folder, self.pairs[:-held_out]),
            PairExamples(self._folder, self.pairs[-held_out:]),
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """Pairs of one size; sizes by their share."""
        shares = np.array([len(group) for group in self._groups], float)
        group = self._groups[int(rng.choice(len(shares), p=shares / shares.sum()))]
        return self.batch([group[int(i)] for i in rng.integers(len(group), size=count)])

    def batch(self, pairs: list[Pair]) -> Batch:
        """These pairs, which are of one size."""

        def stacked(name: str) -> Tensor:
            return torch.stack([_tensor(self._open[p.chunk], f"{p.index}.{name}") for p in pairs])

        target, context = pairs[0].target, pairs[0].context
        after = stacked("after")
        return Batch(
            after,
            stacked("before") if context else after[:, :0],
            ids_of(target, context),
            target,
            TextFeatures(stacked("text"), stacked("pooled")),
            self._empty,
        )


def _chunks(folder: Path) -> list[Path]:
    count: int = read_json(folder / _DONE)["chunks"]
    return [folder / f"pairs-{number:05d}.safetensors" for number in range(count)]


def _tensor(weights: Weights, name: str) -> Tensor:
    return weights.rows(name, 0, weights.shapes[name][0]).float()


def _mark(files: list[Path], base: TeacherModel) -> str:
    """What tells the cache of this data and model from another: sizes and times of files, a few weights."""
    said = [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    pipeline = base.pipeline
    for part in (pipeline.autoencoder, pipeline.clip, pipeline.t5):
        said += [f"{name} {value.double().sum().item()}" for name, value in _some(part)]
    said.append(str(base.config.sizes))
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _some(part: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.islice(((n, p.detach()) for n, p in part.named_parameters()), 0, None, 7)


def _write_empty(path: Path, base: TeacherModel) -> None:
    pooled, text = base.encode_text([""])
    _write(path, {"pooled": pooled.bfloat16(), "text": text.bfloat16()}, {})


def _write_chunk(path: Path, records: list[PairRecord | Skipped], base: TeacherModel) -> None:
    tensors: dict[str, Tensor] = {}
    pairs: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for index, record in enumerate(records):
        bad = record if isinstance(record, Skipped) else _encode(index, record, base, tensors, pairs)
        if bad is not None:
            skipped.append({"name": bad.name, "reason": bad.reason})
    said = json.dumps({"pairs": pairs, "skipped": skipped})
    _write(path, tensors, {"openkontext.records": said})


def _encode(
    index: int,
    record: PairRecord,
    base: TeacherModel,
    tensors: dict[str, Tensor],
    pairs: list[dict[str, Any]],
) -> Skipped | None:
    """Add a record to a chunk, or say why it cannot."""
    grids: dict[str, Grid | None] = {"before": None}
    encoded: dict[str, Tensor] = {}
    for role, source in (("before", record.before), ("after", record.after)):
        if source is None:
            continue
        try:
            picture = load(source)
        except InputError as error:
            return Skipped(record.name, f"{role}: {error}")
        size = nearest_size(*picture.size, base.config.sizes)
        pixels = Fit(picture.size, size, "crop").apply(picture.pixels)
        encoded[role] = base.encode_picture(to_model(pixels)).half()
        grids[role] = size[1] // _TOKEN, size[0] // _TOKEN
    pooled, text = base.encode_text([record.instruction])
    encoded |= {"pooled": pooled[0].bfloat16(), "text": text[0].bfloat16()}
    tensors |= {f"{index}.{name}": value for name, value in encoded.items()}
    pairs.append(
        {
            "name": record.name,
            "instruction": record.instruction,
            "index": index,
            "target": grids["after"],
            "context": grids["before"],
        }
    )
    return None


def _write(path: Path, tensors: dict[str, Tensor], said: dict[str, str]) -> None:
    entries = [WeightEntry(n, tuple(t.shape), t.dtype, t.clone) for n, t in tensors.items()]
    write_weights(path, entries, {"format": "pt", **said})
