"""Benchmarks of others as they are published: their rows, and the names that each one's judge gives its outputs.

| benchmark | read from | an output |
|---|---|---|
| GEdit-Bench | .arrow or .parquet with `key`, `task_type`, `instruction_language` | `fullset/TASK/LANGUAGE/KEY.png`, `KEY_SRCIMG.png` |
| ImgEdit | `singleturn.json` or `basic_edit.json`: `{KEY: {id, prompt, edit_type}}` | `KEY.png` |
| MagicBrush | .parquet with `img_id`, `turn_index`; or `edit_sessions.json` beside `images` | `ID/ID_1.png`, `ID/ID_inde_N.png`, `ID/ID_iter_N.png` |
| EMU-Edit | .parquet with `idx`, `task`, `hash` | `IDX.png` |

Sources: Step1X-Edit `GEdit-Bench/generate_image_example.py`, ImgEdit `Benchmark/Basic/basic_bench.py`, MagicBrush
`evaluation/image_eval.py`; EMU-Edit has no judge of its own, and those of others look for `idx`.
"""  # noqa: E501 - a table

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from openkontext.errors import InputError, how_to_install

TABLES = (".parquet", ".arrow")
"""Ends of the names of tables: the Hub's own, and those of Hugging Face's datasets."""
JSON_FILES = ("singleturn.json", "basic_edit.json", "edit_sessions.json")
"""Names of JSON files of cases, in a benchmark's folder."""


@dataclass(frozen=True)
class Cell:
    """A picture inside a table; it is read each time."""

    file: Path
    row: int
    column: str

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            InputError: there are none.
        """
        value = _chunk(self.file, self.row // _CHUNK)[self.column][self.row % _CHUNK].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"{self.file} row {self.row + 1}: holds no picture in {self.column!r}")
        return data


@dataclass(frozen=True)
class CaseRow:
    """One case of a benchmark, before its pictures are opened."""

    where: str
    name: str
    instruction: str
    task: str
    before: Path | Cell
    output: str
    """Where its judge looks for the output, relative."""
    after: Path | Cell | None = None
    mask: Path | Cell | None = None
    source: Path | Cell | None = None
    """A picture that the judge wants beside the output."""
    source_output: str = ""
    follows: str = ""
    """The output that is edited on, in place of `before`."""


def tables(folder: Path) -> list[Path]:
    """The tables of a folder and of those in it."""
    return sorted(file for file in folder.rglob("*") if file.suffix in TABLES)


def rows_of_table(file: Path) -> Iterator[CaseRow]:
    """The rows of a benchmark's table.

    Raises:
        InputError: it cannot be read, or its columns are of no benchmark that is known.
    """
    names = set(_names(file))
    for columns, read in _BENCHMARKS:
        if columns <= names:
            plain = sorted(names & _PLAIN)
            for at, fields in enumerate(_plain_rows(file, plain)):
                yield from read(f"{file} row {at + 1}", fields, file, at, names)
            return
    raise InputError(f"{file}: its columns are of no benchmark that is read: {', '.join(sorted(names))}")


def rows_of_json(file: Path) -> Iterator[CaseRow]:
    """The cases of ImgEdit's or MagicBrush's JSON.

    Raises:
        InputError: it cannot be read, or is of neither.
    """
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from None
    first = next(iter(said.values()), None) if isinstance(said, dict) else None
    if isinstance(first, list):
        yield from _magic_brush_sessions(file, said)
    elif isinstance(first, dict) and {"id", "prompt"} <= first.keys():
        yield from _imgedit(file, said)
    else:
        raise InputError(
            f"{file}: is neither ImgEdit's JSON ({{KEY: {{id, prompt}}}}) nor MagicBrush's sessions"
        )


def _imgedit(file: Path, said: dict[str, Any]) -> Iterator[CaseRow]:
    first = next(iter(said.values()))["id"]
    folders = (file.parent, file.parent / "singleturn", file.parent / "Benchmark" / "singleturn")
    root = next((each for each in folders if (each / str(first)).is_file()), file.parent)
    for key, each in said.items():
        where = f"{file} {key!r}"
        path = _inside(root, each.get("id"), where)
        name = _safe(key, where)
        yield CaseRow(where, name, each.get("prompt") or "", each.get("edit_type") or "", path, f"{name}.png")


def _magic_brush_sessions(file: Path, said: dict[str, Any]) -> Iterator[CaseRow]:
    for key, turns in said.items():
        for number, turn in enumerate(turns, 1):
            where = f"{file} {key!r} turn {number}"
            folder = file.parent / "images" / _safe(key, where)
            pictures = {
                ours: _inside(folder, turn[theirs], where)
                for ours, theirs in (("before", "input"), ("after", "output"), ("mask", "mask"))
                if turn.get(theirs)
            }
            if "before" not in pictures:
                raise InputError(f"{where}: names no 'input'")
            yield from _turns(where, key, number, turn.get("instruction") or "", pictures)


def _turns(
    where: str, key: str, number: int, instruction: str, pictures: dict[str, Any]
) -> Iterator[CaseRow]:
    """A turn of MagicBrush: on the true picture of the turn before, and on the model's own."""
    name = _safe(key, where)
    if number == 1:
        yield CaseRow(
            where, f"{name}_1", instruction, "single turn", output=f"{name}/{name}_1.png", **pictures
        )
        return
    output = f"{name}/{name}_inde_{number}.png"
    yield CaseRow(where, f"{name}_{number}", instruction, "single turn", output=output, **pictures)
    before = f"{name}/{name}_1.png" if number == 2 else f"{name}/{name}_iter_{number - 1}.png"
    output = f"{name}/{name}_iter_{number}.png"
    yield CaseRow(
        where, f"{name}_iter_{number}", instruction, "several turns", output=output, follows=before,
        before=pictures["before"], after=pictures.get("after"),
    )  # fmt: skip


def _gedit_row(where: str, fields: dict[str, Any], file: Path, at: int, names: set[str]) -> Iterator[CaseRow]:
    task, language = _safe(fields["task_type"], where), _safe(fields["instruction_language"], where)
    key = _safe(fields["key"], where)
    stem = f"fullset/{task}/{language}/{key}"
    shown = Cell(file, at, "input_image")
    before = Cell(file, at, "input_image_raw") if "input_image_raw" in names else shown
    yield CaseRow(
        where, key, fields["instruction"], task, before, f"{stem}.png",
        source=shown, source_output=f"{stem}_SRCIMG.png",
    )  # fmt: skip


def _magic_brush_row(
    where: str, fields: dict[str, Any], file: Path, at: int, names: set[str]
) -> Iterator[CaseRow]:
    columns = (("before", "source_img"), ("after", "target_img"), ("mask", "mask_img"))
    pictures = {ours: Cell(file, at, theirs) for ours, theirs in columns if theirs in names}
    yield from _turns(
        where, str(fields["img_id"]), int(fields["turn_index"]), fields["instruction"], pictures
    )


def _emu_row(where: str, fields: dict[str, Any], file: Path, at: int, names: set[str]) -> Iterator[CaseRow]:
    index = int(fields["idx"])
    yield CaseRow(
        where, str(index), fields["instruction"], fields["task"], Cell(file, at, "image"), f"{index}.png"
    )


_PLAIN = {"key", "task_type", "instruction_language", "instruction", "img_id", "turn_index", "idx", "task"}
_BENCHMARKS = (
    ({"key", "task_type", "instruction_language", "instruction", "input_image"}, _gedit_row),
    ({"img_id", "turn_index", "source_img", "instruction"}, _magic_brush_row),
    ({"idx", "task", "instruction", "image"}, _emu_row),
)
"""Columns of a benchmark's table, and what reads a row of it."""
_CHUNK = 16
"""Rows that are read from a table at a time."""


def _safe(part: Any, where: str) -> str:
    """A name that is to be part of a path."""
    text = str(part)
    if not text or text.startswith(".") or "/" in text or "\\" in text:
        raise InputError(f"{where}: {text!r} cannot be the name of a file")
    return text


def _inside(folder: Path, name: Any, where: str) -> Path:
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"{where}: {name!r} is no picture within {folder}")
    return folder / name


def _dataset(file: Path) -> Any:
    try:
        from pyarrow import dataset
    except ModuleNotFoundError:
        raise InputError(f"{file}: needs pyarrow; {how_to_install('train')}") from None
    kind = "parquet" if file.suffix == ".parquet" else _arrow_format(file)
    return dataset.dataset(file, format=kind)


def _arrow_format(file: Path) -> str:
    with file.open("rb") as head:
        return "ipc" if head.read(6) == b"ARROW1" else "stream"


def _table(file: Path) -> Any:
    """What can be asked for `schema`, `to_batches` and `take`."""
    import pyarrow

    try:
        if file.suffix == ".arrow" and _arrow_format(file) == "stream":
            with pyarrow.memory_map(str(file)) as mapped:
                return pyarrow.ipc.open_stream(mapped).read_all()
        return _dataset(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None


def _names(file: Path) -> list[str]:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(f"{file}: needs pyarrow; {how_to_install('train')}") from None
    return list(_table(file).schema.names)


def _plain_rows(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    table = _table(file)
    chosen = table.select(columns) if hasattr(table, "select") else table.to_table(columns=columns)
    for batch in chosen.to_batches():
        yield from batch.to_pylist()


@lru_cache(maxsize=2)
def _chunk(file: Path, number: int) -> Any:
    """Rows `_CHUNK * number` and on of a table, with all of its columns."""
    table = _table(file)
    rows = list(range(_CHUNK * number, min(_CHUNK * (number + 1), _count(file))))
    return table.take(rows)


@lru_cache(maxsize=64)
def _count(file: Path) -> int:
    table = _table(file)
    return int(table.num_rows if hasattr(table, "num_rows") else table.count_rows())
