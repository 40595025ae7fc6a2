"""Cases from elsewhere: benchmarks as they are published, or a JSONL of cases.

- KontextBench (`black-forest-labs/kontext-bench`) as it is downloaded: the folder with `test/metadata.jsonl`,
  or `test` itself, with lines such as
  `{"file_name": "images/0000.jpg", "instruction": "...", "category": "Text Editing", "key": "0000_00"}`.
- GEdit-Bench, ImgEdit, MagicBrush and EMU-Edit as they are published: see `published`.
- `*.jsonl` with lines such as `{"before": "a.png", "instruction": "..."}`, and where there is more to say
  `after`, `mask`, `task`, `measure` and `name`.

Pictures are named relative to the file. Nobody described what these pictures show, so that no judge can say
whether an edit succeeded: `similarity.measure` says what can be measured.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext import images
from openkontext.errors import InputError
from openkontext.evaluation.published import (
    JSON_FILES,
    TABLES,
    CaseRow,
    Cell,
    rows_of_json,
    rows_of_table,
    tables,
)
from openkontext.evaluation.similarity import MEASURES
from openkontext.images.fitting import Pixels

METADATA = "metadata.jsonl"
"""Where the Hugging Face Hub's `imagefolder` format says what belongs to a picture."""
CATEGORIES = {
    "Instruction Editing - Local": "local",
    "Instruction Editing - Global": "global",
    "Text Editing": "text",
    "Style Reference": "style reference",
    "Character Reference": "character reference",
}
"""KontextBench's names of its five tasks -> ours."""
NO_TASK = "cases"
"""Task of a case that names none."""
_NEEDS = {"psnr": "after", "ssim": "after", "clip_reference": "after"}
"""Measures that need a further picture, and its field."""


@dataclass(frozen=True)
class PictureCase:
    """One instruction on one picture."""

    index: int
    """Place in the file; the noise is seeded by it."""
    name: str
    """Its key or name, or the line where it stands."""
    instruction: str
    """What is asked."""
    task: str
    """Task of KontextBench, or what the file says."""
    before_path: Path | Cell
    after_path: Path | Cell | None = None
    mask_path: Path | Cell | None = None
    """White where the picture may change."""
    wanted: Collection[str] | None = None
    """Measures to take, of `similarity.MEASURES`; None for all that can be."""

    output: str = ""
    """Where the benchmark's judge looks for the output, relative; empty for a number."""
    source: Path | Cell | None = None
    """A picture that the judge wants beside the output."""
    source_output: str = ""
    """Where."""
    follows: str = ""
    """The output, relative, that is edited on in place of the picture."""
    outputs: Path | None = None
    """Folder of all outputs, for a case that follows one."""

    # Pictures are read each time: a whole benchmark of them would fill the memory.

    @property
    def kind(self) -> str:
        """Kinds are not told: the task."""
        return self.task

    @property
    def unseen(self) -> None:
        """Whether training saw the like is not known."""
        return

    @property
    def held_out_phrasing(self) -> None:
        """Whether training used the phrasing is not known."""
        return

    @property
    def before(self) -> Pixels:
        """The picture to edit, [height, width, 3]."""
        return images.load(self._followed or _source(self.before_path)).pixels

    @property
    def reference(self) -> Pixels | None:
        """The picture as asked, where it is known."""
        return None if self.after_path is None else images.load(_source(self.after_path)).pixels

    @property
    def may_change(self) -> NDArray[np.bool_] | None:
        """Where the picture may change, [height, width]; None where that is not said."""
        if self.mask_path is None:
            return None
        height, width = self.before.shape[:2]
        return images.load_mask(_source(self.mask_path), (width, height)) > 0

    @property
    def _followed(self) -> Path | None:
        """The output that is edited on; None where there is none, as after a refusal."""
        path = self.outputs / self.follows if self.outputs and self.follows else None
        return path if path and path.is_file() else None

    def judge(self, output: Pixels) -> None:
        """No judge knows what the picture shows."""
        return


def read_cases(path: str | Path) -> list[PictureCase]:
    """Read all cases of a folder or a file, and open every picture once, so that none fails later.

    Raises:
        InputError: there is no such file, a line says no case, or a picture is missing or damaged; the
            message names the line.
    """
    path = Path(path)
    if (rows := _published(path)) is not None:
        return [_of_row(row, index) for index, row in enumerate(rows)]
    file = _table(path)
    cases: list[PictureCase] = []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    cases.append(_case(line, len(cases), f"{file} line {number}", file.parent))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    if not cases:
        raise InputError(f"{file}: holds no case")
    return cases


def spread(cases: Sequence[PictureCase], count: int | None) -> list[PictureCase]:
    """So many of the cases, evenly spread over all; None for all."""
    if count is None or count >= len(cases):
        return list(cases)
    return [cases[place * len(cases) // count] for place in range(count)]


def _published(path: Path) -> list[CaseRow] | None:
    """The rows of a benchmark that `published` reads; None where the path holds none."""
    files = [path]
    if path.is_dir():
        if any((path / name).is_file() for name in (METADATA, f"test/{METADATA}")):
            return None
        files = [path / name for name in JSON_FILES if (path / name).is_file()][:1] or tables(path)
    rows: list[CaseRow] = []
    for file in files:
        if file.is_file() and file.suffix == ".json":
            rows += rows_of_json(file)
        elif file.is_file() and file.suffix in TABLES:
            rows += rows_of_table(file)
    outputs = [row.output for row in rows]
    if len(set(outputs)) < len(outputs):
        twice = next(name for name in outputs if outputs.count(name) > 1)
        raise InputError(f"{path}: two cases have the output {twice}; give one split alone")
    return rows or None


def _of_row(row: CaseRow, index: int) -> PictureCase:
    if not isinstance(row.instruction, str) or not row.instruction.strip():
        raise InputError(f"{row.where}: there is no instruction")
    case = PictureCase(
        index=index,
        name=row.name,
        instruction=row.instruction.strip(),
        task=row.task or NO_TASK,
        before_path=row.before,
        after_path=row.after,
        mask_path=row.mask,
        output=row.output,
        source=row.source,
        source_output=row.source_output,
        follows=row.follows,
    )
    try:
        _ = case.before, case.reference, case.may_change
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from None
    return case


def _source(picture: Path | Cell) -> Path | bytes:
    return picture.read() if isinstance(picture, Cell) else picture


def _table(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of cases")
    for file in (path / METADATA, path / "test" / METADATA):
        if file.is_file():
            return file
    raise InputError(
        f"{path}: holds neither {METADATA} nor test/{METADATA}: give KontextBench's folder (`hf download "
        f"--repo-type dataset black-forest-labs/kontext-bench --local-dir {path}`) or a .jsonl of cases"
    )


def _case(line: bytes, index: int, where: str, folder: Path) -> PictureCase:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: no JSON object")
    if "file_name" in fields:
        fields = _from_kontext_bench(fields)
    for field in ("instruction", "task", "name"):
        if not isinstance(fields.get(field, ""), str):
            raise InputError(f"{where}: {field!r} must be text")
    if not fields.get("instruction", "").strip():
        raise InputError(f"{where}: there is no 'instruction'")
    pictures = dict(_pictures(fields, where, folder))
    if "before" not in pictures:
        raise InputError(f'{where}: names no picture: give "before", as KontextBench gives "file_name"')
    wanted = fields.get("measure")
    if wanted is not None:
        _check_measures(wanted, pictures, where)
    case = PictureCase(
        index=index,
        name=fields.get("name") or f"line {where.rpartition(' ')[2]}",
        instruction=fields["instruction"].strip(),
        task=fields.get("task") or NO_TASK,
        before_path=pictures["before"],
        after_path=pictures.get("after"),
        mask_path=pictures.get("mask"),
        wanted=wanted,
    )
    try:
        _ = case.before, case.reference, case.may_change
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return case


def _from_kontext_bench(fields: dict[str, Any]) -> dict[str, Any]:
    """A line of KontextBench in our words."""
    category = fields.get("category") or ""
    return {
        "before": fields["file_name"],
        "instruction": fields.get("instruction"),
        "task": CATEGORIES.get(category, category) if isinstance(category, str) else category,
        "name": fields.get("key") or "",
    }


def _pictures(fields: dict[str, Any], where: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for field in ("before", "after", "mask"):
        value = fields.get(field)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}: {field!r} must be the path of a picture")
        path = (folder / value).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise InputError(f"{where}: {field!r} lies outside of the file's folder: {value}")
        if not path.is_file():
            raise InputError(f"{where}: {field!r}: no such file: {value}")
        yield field, path


def _check_measures(wanted: Any, pictures: Collection[str], where: str) -> None:
    if not isinstance(wanted, list) or not set(wanted) <= set(MEASURES):
        raise InputError(f"{where}: 'measure' must be a list of {', '.join(MEASURES)}")
    for name in wanted:
        if (field := _NEEDS.get(name)) and field not in pictures:
            raise InputError(f"{where}: to measure {name} there must be {field!r}")
    if "outside" in wanted and not {"after", "mask"} & set(pictures):
        raise InputError(f"{where}: to measure outside there must be 'mask' or 'after'")
