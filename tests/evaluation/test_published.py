"""Benchmarks as they are published, in little: all are read, and their judges find the outputs."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from openkontext import InputError, images
from openkontext.evaluation.benchmarks import read_cases
from openkontext.evaluation.editing import edited_by, evaluate
from openkontext.evaluation.runs import foreign_cases


class Kept:
    """A picture that an editor gave back as it was."""

    unchanged = True

    def __init__(self, pixels: np.ndarray) -> None:
        self.image = Image.fromarray(pixels)

    def save(self, path: Path, *, metadata: dict[str, str]) -> None:
        images.save(path, np.asarray(self.image), metadata)


class Keeping:
    """An editor that gives every picture back."""

    digest = "0"

    def edit(self, image: np.ndarray, prompt: str, **options: Any) -> Kept:
        return Kept(image)


def png(color: tuple[int, int, int], size: tuple[int, int] = (48, 32)) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def half() -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(np.repeat([[0], [255]], 16, axis=0).astype(np.uint8).repeat(48, 1)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


GEDIT = [
    {
        "task_type": task,
        "key": f"{language}{number}",
        "instruction": f"prompt {number}",
        "instruction_language": language,
        "input_image": png((number, 2, 3)),
        "input_image_raw": png((number, 2, 3), (96, 64)),
        "Intersection_exist": True,
    }
    for number, (task, language) in enumerate([("color_alter", "en"), ("ps_human", "cn")] * 10)
]
MAGIC = [
    {
        "img_id": image,
        "turn_index": turn,
        "source_img": png((50 * turn, 2, 3)),
        "mask_img": half(),
        "instruction": f"turn {turn}",
        "target_img": png((50 * turn + 50, 2, 3)),
    }
    for image, turns in (("139", 3), ("30", 1))
    for turn in range(1, turns + 1)
]
EMU = [
    {
        "instruction": "add a hat",
        "image": png((9, 9, 9)),
        "task": "add",
        "split": "test",
        "idx": index,
        "hash": "x",
        "input_caption": "a man",
        "output_caption": "a man with a hat",
    }
    for index in (4, 17)
]


def as_parquet(rows: list[dict[str, Any]], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=7)
    return file


def as_arrow(rows: list[dict[str, Any]], file: Path) -> Path:
    """As `save_to_disk` of Hugging Face's datasets writes it: a stream."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
    return file


def outputs_of(path: Path, outputs: Path) -> list[str]:
    cases = foreign_cases(str(path), None, None, False, outputs)
    assert all(not outcome.refused for outcome in evaluate(cases, edited_by(Keeping(), outputs=outputs)))
    return sorted(file.relative_to(outputs).as_posix() for file in outputs.rglob("*") if file.is_file())


@pytest.mark.parametrize("write", [as_parquet, as_arrow])
def test_gedit_bench(write: Any, tmp_path: Path) -> None:
    file = write(GEDIT, tmp_path / "gedit" / f"data-00000{'.parquet' if write is as_parquet else '.arrow'}")
    cases = read_cases(tmp_path / "gedit")
    assert [case.name for case in cases] == [row["key"] for row in GEDIT]
    assert cases[17].before.shape == (64, 96, 3)
    assert cases[17].before[0, 0].tolist() == [17, 2, 3]
    assert (cases[1].task, cases[1].instruction) == ("ps_human", "prompt 1")
    found = outputs_of(file, tmp_path / "out")
    assert len(found) == 2 * len(GEDIT)
    assert {"fullset/color_alter/en/en0.png", "fullset/ps_human/cn/cn1_SRCIMG.png"} <= set(found)
    assert Image.open(tmp_path / "out/fullset/color_alter/en/en0_SRCIMG.png").size == (48, 32)
    assert outputs_of(file, tmp_path / "out") == found  # gone on with


@pytest.mark.parametrize("name", ["singleturn.json", "basic_edit.json", "other.json"])
def test_imgedit(name: str, tmp_path: Path) -> None:
    (tmp_path / "animal").mkdir()
    (tmp_path / "animal" / "1.jpg").write_bytes(png((1, 2, 3))["bytes"])
    said = {"1082": {"id": "animal/1.jpg", "prompt": "make it smooth", "edit_type": "adjust"}}
    (tmp_path / name).write_text(json.dumps(said))
    path = tmp_path / name if name == "other.json" else tmp_path
    (case,) = read_cases(path)
    assert (case.name, case.task, case.instruction) == ("1082", "adjust", "make it smooth")
    assert outputs_of(path, tmp_path / "out") == ["1082.png"]
    said["1082"]["id"] = "../secret.jpg"
    (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(InputError, match=r"is no picture within"):
        read_cases(path)


def sessions(folder: Path) -> Path:
    said: dict[str, Any] = {}
    for row in MAGIC:
        key, turn = row["img_id"], row["turn_index"]
        names = {
            "input": f"{key}-input{turn}.png",
            "output": f"{key}-output{turn}.png",
            "mask": f"{key}-mask{turn}.png",
        }
        (folder / "images" / key).mkdir(parents=True, exist_ok=True)
        for name, column in zip(names.values(), ("source_img", "target_img", "mask_img"), strict=True):
            (folder / "images" / key / name).write_bytes(row[column]["bytes"])
        said.setdefault(key, []).append({**names, "instruction": row["instruction"]})
    (folder / "edit_sessions.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("form", ["table", "sessions"])
def test_magic_brush(form: str, tmp_path: Path) -> None:
    path = as_parquet(MAGIC, tmp_path / "dev.parquet") if form == "table" else sessions(tmp_path / "test")
    single = foreign_cases(str(path), None, None, False)
    assert [case.name for case in single] == ["139_1", "139_2", "139_3", "30_1"]
    assert single[1].reference is not None
    assert single[1].reference[0, 0].tolist() == [150, 2, 3]
    assert single[1].may_change is not None
    assert single[1].may_change.mean() == 0.5
    found = outputs_of(path, tmp_path / "out")
    expected = ["139_1", "139_inde_2", "139_inde_3", "139_iter_2", "139_iter_3"]
    assert found == [*(f"139/{name}.png" for name in expected), "30/30_1.png"]
    # An editor that copies: a turn on its own output shows the first picture, one on the true one does not.
    colors = {name: Image.open(tmp_path / f"out/139/{name}.png").getpixel((0, 0)) for name in expected}
    assert colors["139_iter_3"] == colors["139_iter_2"] == colors["139_1"] == (50, 2, 3)
    assert (colors["139_inde_2"], colors["139_inde_3"]) == ((100, 2, 3), (150, 2, 3))
    last = [name for name in found if "iter_" in name]  # as its judge sorts the final turn
    assert sorted(last, key=lambda name: int("".join(re.findall(r"\d", name))))[-1] == "139/139_iter_3.png"


def test_emu_edit(tmp_path: Path) -> None:
    as_parquet(EMU, tmp_path / "emu" / "data" / "test-00000-of-00001.parquet")
    cases = read_cases(tmp_path / "emu")
    assert [(case.name, case.task) for case in cases] == [("4", "add"), ("17", "add")]
    assert outputs_of(tmp_path / "emu", tmp_path / "out") == ["17.png", "4.png"]
    as_parquet(EMU, tmp_path / "emu" / "data" / "validation-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"two cases have the output 4.png; give one split"):
        read_cases(tmp_path / "emu")


def test_what_is_of_no_benchmark_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"columns are of no benchmark that is read: a, b"):
        read_cases(as_parquet([{"a": 1, "b": 2}], tmp_path / "x.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"bad.parquet: cannot be read"):
        read_cases(tmp_path / "bad.parquet")
    bad = [{**GEDIT[0], "key": "../../x"}]
    with pytest.raises(InputError, match=r"row 1: '../../x' cannot be the name of a file"):
        read_cases(as_parquet(bad, tmp_path / "y.parquet"))
    broken = [{**EMU[0], "image": {"bytes": b"none", "path": None}}]
    with pytest.raises(InputError, match=r"z.parquet row 1: .*not a picture"):
        read_cases(as_parquet(broken, tmp_path / "z.parquet"))
