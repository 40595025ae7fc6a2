"""What came of each record, as rows; and the tables in which a block's rows lie on the disk."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow
from pyarrow import parquet

from openkontext.files import write_whole


@dataclass(frozen=True)
class CurationRow:
    """A record, after all stages that look at it alone."""

    name: str
    """Where it stands in the source."""
    digest: bytes
    """SHA-256 of the whole record."""
    stage: str = ""
    """Which stage dropped it; empty where none did."""
    reason: str = ""
    """Why, in words that many records share."""
    detail: str = ""
    """Why, in its own; empty where that may say what nobody should see."""
    words: bytes = b""
    """16 bytes of the instruction, see `opened.same_words`."""
    before: bytes | None = None
    """SHA-256 of the picture's pixels; None without one."""
    after: bytes | None = None
    before_pdq: bytes | None = None
    """Perceptual hash; None where it says nothing about the picture."""
    after_pdq: bytes | None = None
    license: str = ""
    group: str = ""
    """What the balance counts it for."""
    width: int = 0
    """Pixels of the picture after."""
    height: int = 0
    size: int = 0
    """Bytes of its files."""
    fields: str = ""
    """Names of what it says besides its words, one a line."""
    sealed: int = 0
    """Pictures of it that went into the quarantine."""


@dataclass(frozen=True)
class PairDecision:
    """What stages that compare records said of one that the others had passed."""

    number: int
    """Of the record, from 0."""
    stage: str = ""
    """Which one dropped it; empty where it is kept."""
    reason: str = ""
    of: int = -1
    """Record that it repeats."""


_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), bytes: pyarrow.binary()}
_ROW = pyarrow.schema(
    [(name, _TYPES.get(kind, pyarrow.binary())) for name, kind in get_type_hints(CurationRow).items()]
)
_DECISION = pyarrow.schema([(name, _TYPES[kind]) for name, kind in get_type_hints(PairDecision).items()])


def row_bytes(rows: Sequence[CurationRow]) -> bytes:
    """Rows as a Parquet file."""
    return _bytes(rows, _ROW)


def write_rows(path: Path, rows: Sequence[CurationRow]) -> None:
    """Write a block's rows, whole or not at all."""
    write_whole(path, row_bytes(rows))


def read_rows(path: Path) -> list[CurationRow]:
    """The rows of a block."""
    return rows_of(path.read_bytes())


def rows_of(content: bytes) -> list[CurationRow]:
    """The rows of a Parquet file."""
    return [CurationRow(*values) for values in _values(content, _ROW)]


def write_decisions(path: Path, decisions: Sequence[PairDecision]) -> None:
    """Write decisions, whole or not at all."""
    write_whole(path, _bytes(decisions, _DECISION))


def read_decisions(path: Path) -> list[PairDecision]:
    """Decisions, as they were written."""
    return [PairDecision(*values) for values in _values(path.read_bytes(), _DECISION)]


def _bytes(rows: Sequence[Any], schema: pyarrow.Schema) -> bytes:
    columns = []
    for field in schema:
        values = [getattr(row, field.name) for row in rows]
        text = field.type == pyarrow.string()
        columns.append(pyarrow.array(map(_encodable, values) if text else values, field.type))
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(columns, schema=schema), file)
    return file.getvalue()


def _values(content: bytes, schema: pyarrow.Schema) -> Iterator[tuple[Any, ...]]:
    """The rows of a table, each in the order of the schema's fields."""
    table = parquet.read_table(io.BytesIO(content), columns=schema.names)
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _encodable(text: str) -> str:
    """A text that any file can hold: a name of a file may be none."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
