"""Pairs that a user brings, read from where they lie: a table beside pictures, or WebDataset shards.

| source | a record |
|---|---|
| `*.jsonl` | a line `{"before": "a.png", "after": "b.png", "instruction": "make it night"}` |
| `*.parquet` | a row with these columns; a picture is a path, its bytes, or Hugging Face's `{bytes, path}` |
| `*.tar` | members `KEY.before.png`, `KEY.after.png` and `KEY.txt` (or `KEY.json` with `instruction`) |

The columns of MagicBrush and of InstructPix2Pix are read too.
Paths are relative to the table. A record without `before` teaches text to image.

`read_records` reads all of them in their order. `spans` divides them, and `read_span` reads one part alone.
"""

import bisect
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

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
MAX_LINE = 16 << 20
"""Bytes above which a line of a table is not read."""
_ROLES = ("before", "after", "instruction")
_ROW_FAULTS = (ValueError, OverflowError, pyarrow.ArrowException)
"""Of a row of Parquet: text that is no UTF-8, a time that Python does not have."""


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
    others: Mapping[str, Any] = field(default_factory=dict)
    """What else is said of it, such as its license; of Parquet only in a span."""


@dataclass(frozen=True)
class Skipped:
    """A record that could not be used."""

    name: str
    """Where it stands."""
    reason: str
    """What is wrong with it, in a few words."""
    fault: str = ""
    """The same without what is this record's own, so that records can be counted by it."""


@dataclass(frozen=True)
class Span:
    """Records that follow one another in one file."""

    file: Path
    start: int
    """Where they begin: a byte of a table or shard, a row of a Parquet file."""
    number: int
    """Of the first record in its file, as its name gives it: a line or a row, from 1."""
    count: int
    """How many there are."""


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
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be read: {error.strerror}") from None
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
    for file in files:
        yield from _read(Span(file, 0, 1, -1))


def spans(files: list[Path], size: int) -> Iterator[Span]:
    """Divide the records of these files; nothing is read but where each begins.

    Args:
        files: see `sources`.
        size: records of a span; at the end of a file, and of a row group of Parquet, it may be less.

    Raises:
        InputError: a file cannot be opened.
    """
    starts = {".jsonl": _lines_of, ".tar": _keys_of}
    for file in files:
        with _said(file):
            if file.suffix == ".parquet":
                yield from _row_spans(file, size)
                continue
            with file.open("rb") as stream:
                found = ((at, number) for at, number, _ in starts[file.suffix](stream, 1))
                while of_span := list(itertools.islice(found, size)):
                    yield Span(file, *of_span[0], len(of_span))


def read_span(span: Span) -> Iterator[PairRecord | Skipped]:
    """The records of a span, in their order, with all that is said of each.

    Raises:
        InputError: the file cannot be opened.
    """
    yield from _read(span)


def _read(span: Span) -> Iterator[PairRecord | Skipped]:
    readers = {".jsonl": _from_jsonl, ".parquet": _from_parquet, ".tar": _from_tar}
    with _said(span.file):
        records = readers[span.file.suffix](span)
        yield from records if span.count < 0 else itertools.islice(records, span.count)


@contextmanager
def _said(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pyarrow.ArrowException, tarfile.TarError) as error:
        raise InputError(f"cannot read {file}: {error}") from None


def _lines_of(stream: BinaryIO, number: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Where each line that is not empty begins, its number, and its bytes; None where it is too long."""
    for place in itertools.count(number):
        at, line = stream.tell(), stream.readline(MAX_LINE)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while piece := stream.readline(MAX_LINE):
                if piece.endswith(b"\n"):
                    break
            yield at, place, None
        elif line.strip():
            yield at, place, line
        elif not line:
            return


def _from_jsonl(span: Span) -> Iterator[PairRecord | Skipped]:
    beside = _Beside(span.file.parent)
    with span.file.open("rb") as stream:
        stream.seek(span.start)
        for _, number, line in _lines_of(stream, span.number):
            name = f"{span.file.name} line {number}"
            if line is None:
                yield Skipped(name, f"longer than {MAX_LINE >> 20} MiB", "too long")
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skipped(name, f"no JSON: {error}", "no JSON")
                continue
            if isinstance(fields, dict):
                yield _record(name, fields, beside)
            else:
                yield Skipped(name, "no JSON object", "no JSON object")


def _row_spans(file: Path, size: int) -> Iterator[Span]:
    """A row group is decoded from its beginning, so that a span lies in one of them."""
    at = 0
    for rows in _row_groups(parquet.ParquetFile(file)):
        for start in range(0, rows, size):
            yield Span(file, at + start, at + start + 1, min(size, rows - start))
        at += rows


def _row_groups(table: parquet.ParquetFile) -> list[int]:
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _from_parquet(span: Span) -> Iterator[PairRecord | Skipped]:
    table = parquet.ParquetFile(span.file)
    found = set(table.schema_arrow.names)
    fitting = [names for names in COLUMNS if {names["after"], names["instruction"]} <= found]
    if not fitting:
        missing = sorted({"after", "instruction"} - found)[0]
        raise InputError(f"{span.file} has no column {missing!r}; it needs before, after and instruction")
    ours = max(fitting, key=lambda names: names["before"] in found)
    columns = None if span.count >= 0 else [name for name in ours.values() if name in found]
    ends = list(itertools.accumulate(_row_groups(table)))
    begin = bisect.bisect_right(ends, span.start)
    number, beside = ends[begin - 1] if begin else 0, _Beside(span.file.parent)
    for group in range(begin, len(ends)):
        for rows in _rows(table, group, ends[group] - number, columns):
            first = max(0, span.start - number)
            number += len(rows)
            for at, fields in enumerate(rows[first:], number - len(rows) + first + 1):
                name = f"{span.file.name} row {at}"
                if isinstance(fields, str):
                    yield Skipped(name, f"the row is damaged: {fields}", "the row is damaged")
                    continue
                named = {role: fields.pop(column, None) for role, column in ours.items()}
                yield _record(name, fields | named, beside)


def _rows(
    table: parquet.ParquetFile, group: int, count: int, columns: list[str] | None
) -> Iterator[list[dict[str, Any] | str]]:
    """The rows of a group, a few at a time; of one that cannot be read, what is wrong with it."""
    done = 0
    try:
        for rows in table.iter_batches(batch_size=16, row_groups=[group], columns=columns):
            done += len(rows)
            try:
                yield rows.to_pylist()
            except _ROW_FAULTS:
                yield [_row(rows, at) for at in range(len(rows))]
    except (OSError, pyarrow.ArrowException) as error:  # and where the next row begins is not known
        yield [_one_line(error)] * (count - done)


def _row(rows: pyarrow.RecordBatch, at: int) -> dict[str, Any] | str:
    try:
        found: dict[str, Any] = rows.slice(at, 1).to_pylist()[0]
        return found
    except _ROW_FAULTS as error:
        return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _keys_of(stream: BinaryIO, number: int) -> Iterator[tuple[int, int, None]]:
    for at, members, _, damage in _groups(stream, number):
        if members or damage:
            yield at, number, None
            number += 1


def _groups(
    stream: BinaryIO, _: int = 1
) -> Iterator[tuple[int, list[tuple[str, tarfile.TarInfo]], str, str]]:
    """WebDataset's convention: members whose names agree up to the first dot are one record, side by side.

    Yields:
        Where it begins, its members with their endings, its key, and what is wrong with the shard from there
        on; a shard that is damaged ends with that.
    """
    key, members, start = "", list[tuple[str, tarfile.TarInfo]](), stream.tell()
    with tarfile.open(fileobj=stream, mode="r:") as shard:
        try:
            while (member := shard.next()) is not None:
                shard.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if not member.isfile():
                    continue
                path = PurePosixPath(member.name)
                stem, _dot, end = path.name.partition(".")
                this = str(path.parent / stem)
                if this != key and members:
                    yield start, members, key, ""
                    members = []
                if not members:
                    start = member.offset
                key = this
                members.append((end.lower(), member))
            stream.seek(shard.offset)
            if any(stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("what should be the next record is none")
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            yield start, members, key, _one_line(error)
            return
    if members:
        yield start, members, key, ""


def _from_tar(span: Span) -> Iterator[PairRecord | Skipped]:
    with span.file.open("rb") as stream:
        stream.seek(span.start)
        for _, members, key, damage in _groups(stream):
            if damage:
                name = f"{span.file.name} after {key or 'its start'}"
                yield Skipped(name, f"the shard is damaged: {damage}", "the shard is damaged")
                return
            name, content = f"{span.file.name} {key}", dict[str, bytes | None]()
            for end, member in members:
                stream.seek(member.offset_data)
                content[end] = None if member.size > MAX_MEMBER else stream.read(member.size)
            yield _from_members(name, content)


def _from_members(name: str, members: dict[str, bytes | None]) -> PairRecord | Skipped:
    fields: dict[str, Any] = {}
    for end, content in members.items():
        if content is None:
            return Skipped(name, f"{end} is larger than {MAX_MEMBER >> 20} MiB", "too large")
        role = end.split(".")[0]
        try:
            if role in ("before", "after"):
                fields[role] = content
            elif end in ("txt", "instruction.txt"):
                fields["instruction"] = content.decode("utf-8").strip()
            elif end == "json":
                said = json.loads(content)
                if not isinstance(said, dict):
                    return Skipped(name, "json holds no object", "no JSON object")
                fields = {**{each: said[each] for each in said if each not in ("before", "after")}, **fields}
        except (ValueError, RecursionError) as error:
            return Skipped(name, f"{end} holds no instruction: {error!r}", "no instruction")
    return _record(name, fields, None)


def _record(name: str, fields: dict[str, Any], beside: "_Beside | None") -> PairRecord | Skipped:
    instruction = fields.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        return Skipped(name, "no instruction", "no instruction")
    pictures: dict[str, Path | bytes | None] = {}
    for role in ("before", "after"):
        value = fields.get(role)
        if isinstance(value, dict):  # Hugging Face's Image feature
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and beside is not None:
            found = beside.find(value)
            if isinstance(found, str):
                return Skipped(name, f"{role}: {found}: {value}", f"{role}: {found}")
            pictures[role] = found
        elif isinstance(value, bytes) or (value is None and role == "before"):
            pictures[role] = value
        else:
            return Skipped(name, f"no picture {role!r}", f"no picture {role!r}")
    after = pictures["after"]
    assert after is not None  # refused above
    others = {each: value for each, value in fields.items() if each not in _ROLES}
    return PairRecord(name, pictures["before"], after, instruction.strip(), others)


class _Beside:
    """The files that a table may name: those in its folder."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()
        self._resolved = lru_cache(1024)(Path.resolve)  # of folders: it looks at each part of a path

    def find(self, value: str) -> Path | str:
        """The file that a table names, or what is wrong with it."""
        try:
            path = self._root / value
            path = self._resolved(path.parent) / path.name
            if path.name == ".." or path.is_symlink():
                path = path.resolve()
            if not path.is_relative_to(self._root):
                return "lies outside of the table's folder"
            return path if path.is_file() else "no such file"
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a ring
            return "no such file"
