"""A pair with its pictures decoded, and what tells it from others."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from openkontext import images
from openkontext.errors import InputError
from openkontext.images import Picture
from openkontext.safety.known.pdq import MIN_QUALITY, PdqHash, pdq
from openkontext.train.records import PairRecord, Skipped

_FAULTS = (
    "is too large",
    "is too small",
    "is too narrow",
    "is empty",
    "cannot be read",
    "damaged or cut short",
)
"""What `images.load` says of a picture, without what is one picture's own."""
_WHOLE = json.JSONEncoder(sort_keys=True, default=str).encode


@dataclass(frozen=True, eq=False)
class OpenPicture:
    """A decoded picture of a pair."""

    role: str
    """"before" or "after"."""
    picture: Picture

    @property
    def data(self) -> bytes:
        """The file."""
        assert self.picture.file is not None  # it was read from one
        return self.picture.file

    @cached_property
    def sha256(self) -> bytes:
        """Of the decoded pixels and their shape, so that the same picture in another file has it, too."""
        pixels = self.picture.pixels
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()

    @cached_property
    def pdq(self) -> PdqHash:
        """The perceptual hash."""
        return pdq(self.picture.pixels)

    @property
    def comparable(self) -> bytes | None:
        """The perceptual hash, where it says anything about the picture."""
        return self.pdq.hash if self.pdq.quality >= MIN_QUALITY else None


@dataclass(frozen=True, eq=False)
class OpenPair:
    """A record whose pictures could be decoded."""

    record: PairRecord
    pictures: tuple[OpenPicture, ...]
    """Before, where there is one, and after."""

    @property
    def before(self) -> OpenPicture | None:
        """The picture to edit."""
        return self.pictures[0] if len(self.pictures) == 2 else None

    @property
    def after(self) -> OpenPicture:
        """What became of it."""
        return self.pictures[-1]

    def __iter__(self) -> Iterator[OpenPicture]:
        return iter(self.pictures)


def contents(record: PairRecord) -> dict[str, bytes | None]:
    """The files of a record by their role, each read once; None for one that cannot be read."""
    read: dict[str, bytes | None] = {}
    for role, source in (("before", record.before), ("after", record.after)):
        if isinstance(source, bytes):
            read[role] = source
        elif source is not None:
            try:
                read[role] = images.read_bytes(source)
            except InputError:
                read[role] = None
    return read


def open_pictures(files: Mapping[str, bytes | None]) -> tuple[list[OpenPicture], tuple[str, str]]:
    """Decode the pictures of a record.

    Args:
        files: see `contents`.

    Returns:
        Those that could be decoded, and what is wrong with the first that could not: in words that many
        records share, and in its own; both empty where all could.
    """
    opened, fault = [], ("", "")
    for role, data in files.items():
        try:
            if data is None:
                raise InputError("the image: cannot be read")
            opened.append(OpenPicture(role, images.load(data)))
        except InputError as error:
            detail = str(error).removeprefix("the image: ")
            said = next((each for each in _FAULTS if each in detail), "no picture that can be read")
            fault = fault if fault[0] else (f"{role}: {said}", detail)
    return opened, fault


def digest(record: PairRecord | Skipped, files: Mapping[str, bytes | None]) -> bytes:
    """SHA-256 of all that a record holds: its files, byte for byte, its words, and what else it says.

    Args:
        record: that was read.
        files: of it, see `contents`.
    """
    if isinstance(record, Skipped):
        said = json.dumps([record.name, record.reason])
    else:
        said = _WHOLE([record.instruction, record.others])
    hashed = hashlib.sha256(said.encode())
    for role, data in files.items():
        hashed.update(role.encode() + hashlib.sha256(data or b"").digest())
    return hashed.digest()


def one_line(text: str) -> str:
    """A text as one line that any file can hold."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def same_words(text: str) -> bytes:
    """What instructions have in common that differ in case and blanks alone: 16 bytes."""
    folded = " ".join(text.casefold().split())
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()[:16]
