"""Pairs that a user brings, read from where they lie: a table beside pictures, or WebDataset shards.

| source | a record |
|---|---|
| `*.jsonl` | a line `{"before": "a.png", "after": "b.png", "instruction": "make it night"}` |
| `*.parquet` | a row with these columns; a picture is a path, its bytes, or Hugging Face's `{bytes, path}` |
| `*.tar` | members `KEY.before.png`, `KEY.after.png` and `KEY.txt` (or `KEY.json` with `instruction`) |

The columns of MagicBrush and of InstructPix2Pix are read too.
Paths are relative to the table. A record without `before` teaches text to image.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
from pyarrow import parquet

from openkontext.errors import InputError

FORMATS = (".jsonl", ".parquet", ".tar")
"""Ends of the names of the files that are read."""
COLUMNS = (
    {"before": "before", "after": "after", "instruction": "instruction"},
    {"before": "source_img", "after": "target_img", "instruction": "instruction"},
    {"before": "original_image", "after": "edited_image", "instruction": "edit_prompt"},
    {"before": "input_image", "after": "edited_image", "instruction": "edit_prompt"},
)
"""Columns of a table of pairs: ours, MagicBrush's, and the two that InstructPix2Pix is published with."""
MAX_MEMBER = 256 << 20
"""Bytes above which a shard's member is not read."""


@dataclass(frozen=True, eq=False)
class PairRecord:
    """One pair, not yet decoded."""

    name: str
    """Where it stands, for the user to find it: "pairs.jsonl line 3"."""
    before: Path | bytes | None
    """The picture to edit; None for text to image."""
    after: Path | bytes
    """The edited picture."""
    instruction: str
    """What was asked."""


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used."""

    name: str
    """Where it stands."""
    reason: str
    """What is wrong with it, in a few words."""


def sources(path: str | Path) -> list[Path]:
    """The files that hold the records: one that is named, or all of a kind in a folder, in their order.

    Raises:
        InputError: there is nothing of the kind, or a folder holds files of several kinds.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise InputError(f"{path} is no table or shard of pairs; give {', '.join(FORMATS)}, or a folder")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of pairs")
    found = {end: sorted(path.glob(f"*{end}")) for end in FORMATS}
    kinds = [end for end, files in found.items() if files]
    if len(kinds) != 1:
        what = " and ".join(kinds) if kinds else f"neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}"
        raise InputError(f"the folder {path} holds {what} files; name the one with the pairs")
    return found[kinds[0]]


def read_records(files: list[Path]) -> Iterator[PairRecord | Skipped]:
    """All records of these files, in their order; those that cannot be used say why.

    Raises:
        InputError: a whole file cannot be opened.
    """
    readers = {".jsonl": _from_jsonl, ".parquet": _from_parquet, ".tar": _from_tar}
    for file in files:
        try:
            yield from readers[file.suffix](file)
        except (OSError, pyarrow.ArrowException, tarfile.TarError) as error:
            raise InputError(f"cannot read {file}: {error}") from None


def _from_jsonl(file: Path) -> Iterator[PairRecord | Skipped]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            name = f"{file.name} line {number}"
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                yield Skipped(name, f"no JSON: {error}")
                continue
            if isinstance(fields, dict):
                yield _record(name, fields, file.parent)
            else:
                yield Skipped(name, "no JSON object")


def _from_parquet(file: Path) -> Iterator[PairRecord | Skipped]:
    table = parquet.ParquetFile(file)
    found = set(table.schema_arrow.names)
    fitting = [names for names in COLUMNS if {names["after"], names["instruction"]} <= found]
    if not fitting:
        missing = sorted({"after", "instruction"} - found)[0]
        raise InputError(f"{file} has no column {missing!r}; it needs before, after and instruction")
    ours = max(fitting, key=lambda names: names["before"] in found)
    columns = [name for name in ours.values() if name in found]
    number = 0
    for rows in table.iter_batches(batch_size=16, columns=columns):
        for fields in rows.to_pylist():
            number += 1
            named = {role: fields.get(column) for role, column in ours.items()}
            yield _record(f"{file.name} row {number}", named, file.parent)


def _from_tar(file: Path) -> Iterator[PairRecord | Skipped]:
    """WebDataset's convention: members whose names agree up to the first dot are one record, side by side."""
    key, members = "", dict[str, Any]()
    with tarfile.open(file, "r|") as shard:
        try:
            for member in shard:
                if not member.isfile():
                    continue
                path = PurePosixPath(member.name)
                stem, _, end = path.name.partition(".")
                this = str(path.parent / stem)
                if this != key and members:
                    yield _from_members(f"{file.name} {key}", members)
                    members = {}
                key = this
                stream = shard.extractfile(member)
                assert stream is not None  # it is a file
                too_large = member.size > MAX_MEMBER
                members[end.lower()] = None if too_large else stream.read()
        except (tarfile.TarError, OSError, EOFError) as error:
            yield Skipped(f"{file.name} after {key or 'its start'}", f"the shard is damaged: {error}")
            return
    if members:
        yield _from_members(f"{file.name} {key}", members)


def _from_members(name: str, members: dict[str, bytes | None]) -> PairRecord | Skipped:
    fields: dict[str, Any] = {}
    for end, content in members.items():
        if content is None:
            return Skipped(name, f"{end} is larger than {MAX_MEMBER >> 20} MiB")
        role = end.split(".")[0]
        try:
            if role in ("before", "after"):
                fields[role] = content
            elif end in ("txt", "instruction.txt"):
                fields["instruction"] = content.decode("utf-8").strip()
            elif end == "json":
                fields.setdefault("instruction", json.loads(content)["instruction"])
        except (ValueError, KeyError, TypeError) as error:
            return Skipped(name, f"{end} holds no instruction: {error!r}")
    return _record(name, fields, None)


def _record(name: str, fields: dict[str, Any], folder: Path | None) -> PairRecord | Skipped:
    instruction = fields.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        return Skipped(name, "no instruction")
    pictures: dict[str, Path | bytes | None] = {}
    for role in ("before", "after"):
        value = fields.get(role)
        if isinstance(value, dict):  # Hugging Face's Image feature
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and folder is not None:
            path = (folder / value).resolve()
            if not path.is_relative_to(folder.resolve()):
                return Skipped(name, f"{role} lies outside of the table's folder: {value}")
            if not path.is_file():
                return Skipped(name, f"{role}: no such file: {value}")
            pictures[role] = path
        elif isinstance(value, bytes) or (value is None and role == "before"):
            pictures[role] = value
        else:
            return Skipped(name, f"no picture {role!r}")
    after = pictures["after"]
    assert after is not None  # refused above
    return PairRecord(name, pictures["before"], after, instruction.strip())
