"""Lists of known material, as they come: one hash a line, or CSV with quality and category.

A list holds hashes of one kind. A plain list has one hexadecimal hash a line; in a CSV the first line names
the columns, `hash` and, where known, `quality` (0 to 100, of PDQ) and `category` (the publisher's own).
Without such a line the columns are hash, quality, category. Empty lines and lines that begin with # are
passed over.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.safety.known.pdq import MIN_QUALITY

KINDS = {"pdq": 32, "md5": 16, "sha1": 20, "sha256": 32}
"""Kind of hash -> bytes of one."""

_COLUMNS = ("hash", "quality", "category")


@dataclass(frozen=True, eq=False)
class HashList:
    """The hashes of one file."""

    name: str
    """Of the file."""
    kind: str
    """One of `KINDS`."""
    hashes: NDArray[np.uint8]
    """uint8 [N, bytes of the kind]."""
    categories: tuple[str, ...]
    """What the publisher calls the kinds of material in this list; the first is "", for none."""
    category: NDArray[np.uint16]
    """[N]: which of `categories` each hash belongs to."""
    discarded: int = 0
    """PDQ hashes of too low a quality to match anything, left out."""

    def __repr__(self) -> str:  # a log may show a list; it never shows what is in it
        return f"HashList({self.name!r}, {self.kind}, {len(self.hashes)} hashes)"


def read_list(path: Path, kind: str) -> HashList:
    """Read a list.

    Args:
        path: of the file, UTF-8; a name that ends in .csv is read as CSV.
        kind: of its hashes, one of `KINDS`; a PDQ hash and a SHA-256 look alike, so it must be said.

    Raises:
        InputError: the file cannot be read, or a line is none of a hash; the message names the line, never
            what stands in it.
    """
    if kind not in KINDS:
        raise InputError(f"{path.name}: {kind!r} is no kind of hash; one of {', '.join(KINDS)}")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list cannot be read ({type(error).__name__})") from error
    if path.suffix.lower() == ".csv":
        return _read_csv(path.name, kind, text)
    lines = text.split("\n")
    kept = [line for line in (line.strip() for line in lines) if line and not line.startswith("#")]
    size = KINDS[kind]
    try:
        if {len(line) for line in kept} - {2 * size}:
            raise ValueError
        data = bytes.fromhex("".join(kept))
        if len(data) != size * len(kept):  # fromhex passes over blanks inside a line
            raise ValueError
    except ValueError as error:
        raise _bad_line(path.name, kind, lines) from error
    hashes = np.frombuffer(data, np.uint8).reshape(-1, size)
    return HashList(path.name, kind, hashes, ("",), np.zeros(len(hashes), np.uint16))


def _read_csv(name: str, kind: str, text: str) -> HashList:
    size = KINDS[kind]
    columns: dict[str, int] | None = None
    categories: dict[str, int] = {"": 0}
    data, belongs, discarded = bytearray(), [], 0
    reader = csv.reader(line for line in text.split("\n"))
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if columns is None:
            titles = [cell.lower() for cell in cells]
            columns = {title: titles.index(title) for title in _COLUMNS if title in titles}
            if "hash" in columns:
                continue
            columns = dict(zip(_COLUMNS, range(len(cells)), strict=False))
        values = {column: cells[at] for column, at in columns.items() if at < len(cells)}
        try:
            entry = bytes.fromhex(values.get("hash", ""))
            quality = int(values.get("quality") or 100)
        except ValueError:
            entry, quality = b"", 0
        if len(entry) != size or not 0 <= quality <= 100:
            raise InputError(
                f"{name}: line {reader.line_num} is no {kind} hash with a quality; correct or remove it"
            )
        if kind == "pdq" and quality < MIN_QUALITY:
            discarded += 1
            continue
        data += entry
        belongs.append(categories.setdefault(values.get("category", ""), len(categories)))
    hashes = np.frombuffer(bytes(data), np.uint8).reshape(-1, size)
    return HashList(name, kind, hashes, tuple(categories), np.array(belongs, np.uint16), discarded)


def _bad_line(name: str, kind: str, lines: list[str]) -> InputError:
    """Say which line of a plain list is the first that is no hash."""
    size = KINDS[kind]
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            if len(line) == 2 * size and len(bytes.fromhex(line)) == size:
                continue
        except ValueError:
            pass
        return InputError(f"{name}: line {number} is no {kind} hash; correct or remove it")
    return InputError(f"{name}: is no list of {kind} hashes")
