"""Cached pairs: families of edited scenes, encoded once.

A chunk holds the latents of `FAMILIES` families. Which scenes they belong to is not stored: a family follows
from its number, and is drawn again when the chunk is opened. Families of one kind alone have their chunks in
a folder with the kind's name, beside those of all kinds.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openkontext.data.edits import Edit
from openkontext.data.families import family
from openkontext.data.scenes import Scene, render
from openkontext.files import whole
from openkontext.latents import pack
from openkontext.model.autoencoder import Autoencoder

FAMILIES = 50

Encode = Callable[[Tensor], np.ndarray]
"""Pictures [B, 3, H, W] in -1..1 -> packed, scaled latents [B, tokens, 64] float32."""


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Tensor, *, half: bool = False) -> np.ndarray:
    """Pictures [B, 3, H, W] in -1..1 -> the transformer's tokens [B, H/16 * W/16, 64] float32.

    `half` computes in bfloat16, which moves the latents by 0.4% of their spread.
    """
    config = autoencoder.config
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        # A few at a time stay within the processor's caches.
        parts = images.to(memory_format=torch.channels_last).split(8)
        mean = torch.cat([autoencoder.encode(part)[0].float() for part in parts])
    return pack(((mean - config.shift_factor) * config.scaling_factor).numpy())


def _family(seed: int, number: int, kinds: Collection[str]) -> tuple[list[Edit], list[Scene]]:
    edits = family(np.random.default_rng([seed, 5, number]), kinds)
    return edits, list(dict.fromkeys(scene for edit in edits for scene in (edit.before, edit.after)))


def write_chunk(
    folder: Path, chunk: int, encode: Encode, kinds: Collection[str], seed: int = 0, only: str = ""
) -> None:
    """Draw and encode a chunk of families, of these kinds or one alone; do nothing where it is there."""
    path = folder / only / f"latents-{chunk:05d}.npy"
    if path.exists():
        return
    kinds = (only,) if only else kinds
    rows: list[np.ndarray] = []
    for number in range(chunk * FAMILIES, (chunk + 1) * FAMILIES):
        _, scenes = _family(seed, number, kinds)
        if not scenes:
            continue
        images = (
            torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2).float()
            / 127.5
            - 1
        )
        rows.append(encode(images).astype(np.float16).reshape(-1))
    with whole(path) as file:
        np.save(file, np.concatenate(rows))


@dataclass(frozen=True)
class LatentsRecipe:
    """How many families of pairs to draw and encode, and where among all families to begin."""

    families: int = 2000
    first: int = 0
    only: str = ""
    """One kind that these families hold alone, for more of its pairs than all families give; "" for all."""


@dataclass(frozen=True)
class LatentPair:
    """An edit and where its latents are: offsets into the chunk, in values."""

    edit: Edit
    latents: np.ndarray
    before: int
    after: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.edit.before.height // 16, self.edit.before.width // 16

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Latents before and after, float16 [tokens, 64] each."""
        rows, columns = self.grid
        size = rows * columns * 64
        before, after = (self.latents[i : i + size].reshape(-1, 64) for i in (self.before, self.after))
        return before, after


class PairCache:
    """All pairs of the chunks in a folder, by picture size and kind of edit.

    New chunks are taken up as they come.
    """

    def __init__(self, folder: Path, kinds: Collection[str], seed: int = 0) -> None:
        self.folder, self.kinds, self.seed = folder, kinds, seed
        self.pairs: dict[tuple[int, int], dict[str, list[LatentPair]]] = {}
        self._opened: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Open the chunks that are new."""
        folders: list[tuple[Path, Collection[str]]] = [(self.folder, self.kinds)]
        folders += [(self.folder / kind, (kind,)) for kind in self.kinds]
        for folder, kinds in folders:
            for path in sorted(folder.glob("latents-*.npy")):
                if path not in self._opened:
                    self._open(path, kinds)
                    self._opened.add(path)

    def _open(self, path: Path, kinds: Collection[str]) -> None:
        latents = np.load(path, mmap_mode="r")
        chunk, offset = int(path.stem.split("-")[1]), 0
        for number in range(chunk * FAMILIES, (chunk + 1) * FAMILIES):
            edits, scenes = _family(self.seed, number, kinds)
            if not scenes:
                continue
            size = scenes[0].height // 16 * (scenes[0].width // 16) * 64
            place = {scene: offset + i * size for i, scene in enumerate(scenes)}
            offset += len(scenes) * size
            for edit in edits:
                pair = LatentPair(edit, latents, place[edit.before], place[edit.after])
                self.pairs.setdefault(pair.grid, {}).setdefault(edit.kind, []).append(pair)
        if offset != len(latents):
            raise ValueError(f"{path} does not belong to these scenes: delete the cache and encode it again")

    def draw(self, rng: np.random.Generator, count: int, weights: dict[str, float]) -> list[LatentPair]:
        """Pairs of one picture size, their kinds by weight."""
        grids = sorted(self.pairs)
        shares = np.array([sum(map(len, self.pairs[grid].values())) for grid in grids], float)
        kinds = self.pairs[grids[int(rng.choice(len(grids), p=shares / shares.sum()))]]
        names = sorted(kinds)
        chances = np.array([weights[name] for name in names])
        drawn = rng.choice(len(names), count, p=chances / chances.sum())
        return [kinds[names[k]][int(rng.integers(len(kinds[names[k]])))] for k in drawn]
