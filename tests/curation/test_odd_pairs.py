"""Pairs that nobody writes and every set holds: odd pictures, odd fields, files that go meanwhile."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curated_pairs import outcomes, scene, write_pairs
from light_filters import light_guard
from PIL import Image
from pyarrow import parquet

from openkontext.curation import comparing, curate
from openkontext.curation.runner import Watched
from openkontext.errors import InputError

ODD = {
    "a\nb": "value",
    "nothing": float("nan"),
    "nested": {"deep": [1, {"x": float("inf")}]},
    "half \udc00": "half \ud800 of a pair",
    "": "no name",
    "\u0645\u0635\u062f\u0631": "\u7d75",
}


def write_odd(folder: Path) -> Path:
    source = write_pairs(folder, 7, at0=ODD, at6={"instruction": "half \ud800 of a pair"})
    image = [Image.fromarray(scene(100 + at)) for at in range(8)]
    alpha = np.dstack([scene(100), np.full((80, 96), 128, np.uint8)])
    Image.fromarray(alpha).save(folder / "1-before.png")
    image[1].convert("CMYK").save(folder / "1-after.png", "JPEG", quality=95)
    Image.fromarray(scene(102)[..., 0].astype(np.uint16) * 257).save(folder / "2-before.png")
    image[3].save(folder / "2-after.png", "GIF", save_all=True, append_images=image[4:6])
    image[4].convert("P").save(folder / "3-before.png")
    image[5].convert("L").save(folder / "3-after.png", "WEBP", lossless=True)
    image[6].save(folder / "4-before.png", "TIFF")
    image[7].save(folder / "4-after.png", "BMP")
    return source.rename(folder / os.fsdecode(b"p\xff \n.jsonl"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_odd_pictures_and_fields_come_through(tmp_path: Path, kind: str) -> None:
    source, out = write_odd(tmp_path / "in"), tmp_path / "out"
    card = curate(source, out, "pre-training", guard=light_guard, kind=kind)
    assert outcomes(out) == [("kept", "")] * 6 + [("instruction", "not decodable")]
    assert card["output"]["format"] == kind

    def refused(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    if kind == "jsonl":
        lines = (out / "pairs.jsonl").read_text().splitlines()
        pairs = [json.loads(line, parse_constant=refused) for line in lines]
        assert pairs[0]["a\nb"] == "value"
        assert pairs[0]["nested"] == {"deep": [1, {"x": None}]}
        assert {Path(each["after"]).suffix for each in pairs} == {".png", ".jpg", ".gif", ".webp", ".bmp"}
        after = [(out / each["after"]).read_bytes() for each in pairs]
    else:
        pairs = parquet.read_table(out / "pairs-000000.parquet").to_pylist()
        assert pairs[0]["a b"] == "value"
        assert pairs[0]["nothing"] is None
        after = [each["after"] for each in pairs]
    assert after == [(tmp_path / "in" / f"{at}-after.png").read_bytes() for at in range(6)]


def test_what_goes_or_fills_up_while_it_runs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_pairs(tmp_path / "in", 2), tmp_path / "out"
    connect = sqlite3.connect

    def small(*given: Any, **named: Any) -> sqlite3.Connection:
        base = connect(*given, **named)
        base.execute("PRAGMA max_page_count = 2")
        return base

    with monkeypatch.context() as patched:
        patched.setattr(comparing.sqlite3, "connect", small)
        with pytest.raises(InputError, match="disk is full"):
            curate(source, out, "pre-training", guard=light_guard)

    def watch(seen: Watched) -> None:
        if seen.phase == "comparing":
            (tmp_path / "in" / "1-after.png").unlink(missing_ok=True)

    with pytest.raises(InputError, match="line 2 was changed after it was looked at"):
        curate(source, out, "pre-training", guard=light_guard, watch=watch)
    assert not (out / "report.json").exists()


@pytest.mark.parametrize(
    "said", [{"workers": 0}, {"block": 0}, {"seconds": float("nan")}, {"seconds": float("inf")}]
)
def test_settings_that_are_none_are_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    source = write_pairs(tmp_path / "in", 1)
    with pytest.raises(InputError, match=next(iter(said))):
        curate(source, tmp_path / "out", "pre-training", guard=light_guard, **said)
    assert not (tmp_path / "out").exists()
