"""The kept pairs, written down: JSONL with files, Parquet, or WebDataset shards; a file for each block.

A block's files appear whole or not at all, and hold what the stages looked at, byte for byte.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from openkontext import images
from openkontext.curation.opened import contents, digest, one_line
from openkontext.curation.outcomes import CurationRow
from openkontext.errors import InputError
from openkontext.files import whole, write_whole
from openkontext.train.records import PairRecord, Span, read_span

FORMATS = ("jsonl", "parquet", "webdataset")
TABLE, PICTURES, PARTS = "pairs.jsonl", "pictures", "parts"
WORK, SUMS, OUTCOMES = ".curation", "SHA256SUMS", "outcomes.jsonl"
"""In the output's folder: what is not finished, the digests of the set, what became of each record."""
MAX_COLUMNS = 256
"""Of Parquet: a field of any record becomes one."""
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "AVIF": "avif"}
_SUFFIXES |= {"HEIF": "heic", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}


@dataclass(frozen=True)
class KeptPair:
    """A pair to write."""

    number: int
    record: PairRecord
    files: Mapping[str, bytes]
    """By role."""

    @property
    def said(self) -> dict[str, Any]:
        """Its words and what else it says, as JSON can hold it; bytes are left out."""
        others = {name: value for name, value in self.record.others.items() if not _holds_bytes(value)}
        plain = json.loads(json.dumps(others, default=str), parse_constant=lambda _: None)  # JSON has no NaN
        return {"instruction": self.record.instruction, **plain}

    def file_name(self, role: str) -> str:
        """What a picture of it is called."""
        suffix = _SUFFIXES[images.identify(self.files[role]) or "PNG"]
        return f"{self.number:09d}.{role}.{suffix}"


def kept_pairs(span: Span, first: int, rows: Sequence[CurationRow], kept: set[int]) -> Iterator[KeptPair]:
    """The pairs of a block that are kept, read again.

    Args:
        span: of the block.
        first: number of its first record.
        rows: of the block.
        kept: numbers of the records to keep.

    Raises:
        InputError: a record is not what the stages looked at.
    """
    records = read_span(span)
    for at, row in enumerate(rows):
        record = next(records, None)
        if first + at not in kept:
            continue
        files = contents(record) if isinstance(record, PairRecord) else {}
        if record is None or digest(record, files) != row.digest:
            raise InputError(f"{row.name} was changed after it was looked at; begin anew with --overwrite")
        assert isinstance(record, PairRecord)  # its digest is that of one
        yield KeptPair(first + at, record, {role: data or b"" for role, data in files.items()})


def write_block(folder: Path, kind: str, index: int, pairs: Sequence[KeptPair], fields: list[str]) -> None:
    """Write the pairs of a block; nothing for none.

    Args:
        folder: of the output.
        kind: one of `FORMATS`.
        index: of the block.
        pairs: to write.
        fields: names of all that any record says besides its words, which become columns.

    Raises:
        OSError: it cannot be written.
    """
    if not pairs:
        return
    {"jsonl": _as_files, "parquet": _as_rows, "webdataset": _as_members}[kind](folder, index, pairs, fields)


def finish(folder: Path, kind: str) -> str:
    """Join what belongs to one file, and write down the digests of all.

    Args:
        folder: of the output.
        kind: one of `FORMATS`.

    Returns:
        The digest of the set: the SHA-256 of the file `SUMS`, which `sha256sum -c` reads.
    """
    if kind == "jsonl":
        with whole(folder / TABLE) as table:
            for part in sorted((folder / WORK / PARTS).glob("*.jsonl")):
                table.write(part.read_bytes())
    sums = hashlib.sha256()
    with whole(folder / SUMS) as file:
        for path in set_files(folder):
            with path.open("rb") as content:
                line = f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.relative_to(folder)}\n"
            file.write(line.encode())
            sums.update(line.encode())
    return sums.hexdigest()


def set_files(folder: Path) -> Iterator[Path]:
    """The files of the kept set, in their order."""
    yield from (path for path in [folder / TABLE] if path.exists())
    yield from sorted(folder.glob("pairs-*.*"))
    for block in sorted((folder / PICTURES).glob("*")):
        yield from sorted(path for path in block.iterdir() if not path.name.startswith("."))


def _as_files(folder: Path, index: int, pairs: Sequence[KeptPair], _: list[str]) -> None:
    lines = []
    for pair in pairs:
        named = {role: f"{PICTURES}/{index:06d}/{pair.file_name(role)}" for role in pair.files}
        for role, data in pair.files.items():
            write_whole(folder / named[role], data)
        lines.append(json.dumps({**named, **pair.said}, ensure_ascii=False) + "\n")
    write_whole(folder / WORK / PARTS / f"{index:06d}.jsonl", _encoded("".join(lines)))


def _as_rows(folder: Path, index: int, pairs: Sequence[KeptPair], fields: list[str]) -> None:
    text = pyarrow.string()
    kinds = {"before": pyarrow.binary(), "after": pyarrow.binary(), "instruction": text}
    schema = pyarrow.schema([*kinds.items(), *((name, text) for name in fields)])
    rows = []
    for pair in pairs:
        said = {one_line(name): value for name, value in pair.said.items()}
        words = {name: None if said.get(name) is None else _text(said[name]) for name in fields}
        rows.append({**words, "instruction": said["instruction"], "before": None, **pair.files})
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file, row_group_size=100)
    write_whole(folder / f"pairs-{index:06d}.parquet", file.getvalue())


def _as_members(folder: Path, index: int, pairs: Sequence[KeptPair], _: list[str]) -> None:
    with (
        whole(folder / f"pairs-{index:06d}.tar") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard,
    ):
        for pair in pairs:
            said = _encoded(json.dumps(pair.said, ensure_ascii=False))
            members = {pair.file_name(role): data for role, data in pair.files.items()}
            for name, data in {**members, f"{pair.number:09d}.json": said}.items():
                member = tarfile.TarInfo(name)  # its time is 0, so that the bytes are always the same
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _encoded(text: str) -> bytes:
    """JSON as UTF-8; half a surrogate pair, which UTF-8 cannot hold, as JSON writes it."""
    return text.encode("utf-8", "backslashreplace")


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    if isinstance(value, list):
        return any(map(_holds_bytes, value))
    return isinstance(value, bytes | bytearray | memoryview)
