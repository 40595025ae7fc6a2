"""Pairs as users keep them: three pictures before and after, in each of the formats that are read."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from openkontext.data.sampler import random_scene
from openkontext.data.scenes import render

WORDS = ("make it night", "make it winter", "remove the house")


def picture(seed: int) -> np.ndarray:
    return render(random_scene(np.random.default_rng(seed), (128, 128)))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, format="PNG")
    return stream.getvalue()


def write_jsonl(folder: Path) -> Path:
    lines = []
    for i, words in enumerate(WORDS):
        for role in ("before", "after"):
            (folder / f"{i}-{role}.png").write_bytes(png(2 * i + (role == "after")))
        lines.append({"before": f"{i}-before.png", "after": f"{i}-after.png", "instruction": words})
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def write_parquet(folder: Path) -> Path:
    rows = [
        {
            "before": {"bytes": png(2 * i), "path": None},
            "after": {"bytes": png(2 * i + 1), "path": None},
            "instruction": words,
        }
        for i, words in enumerate(WORDS)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def write_shards(folder: Path) -> Path:
    for number, indices in enumerate(((0, 1), (2,))):
        with tarfile.open(folder / f"pairs-{number}.tar", "w") as shard:
            for i in indices:
                add(shard, f"x/{i:03d}.before.png", png(2 * i))
                add(shard, f"x/{i:03d}.after.png", png(2 * i + 1))
                if i == 0:
                    add(shard, f"x/{i:03d}.json", json.dumps({"instruction": WORDS[i]}).encode())
                else:
                    add(shard, f"x/{i:03d}.txt", WORDS[i].encode())
    return folder
