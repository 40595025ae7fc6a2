"""What is known about one picture that was on a list, and who reports it."""

import hashlib
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, IPvAnyAddress, ValidationError

from openkontext.errors import InputError
from openkontext.safety.known.material import Match
from openkontext.safety.known.pdq import pdq


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileHashes(_Record):
    """Hashes of the picture itself, as hexadecimal digits."""

    md5: str
    sha1: str
    sha256: str
    pdq: str
    pdq_quality: int

    @classmethod
    def of(cls, data: bytes, pixels: NDArray[np.uint8]) -> "FileHashes":
        """Hashes of a file and of the picture in it.

        Args:
            data: the file.
            pixels: uint8 [H, W, 3].
        """
        seen = pdq(pixels)
        digests = {
            name: hashlib.new(name, data, usedforsecurity=False).hexdigest()
            for name in ("md5", "sha1", "sha256")
        }
        return cls(**digests, pdq=seen.hex, pdq_quality=seen.quality)


class ListMatch(_Record):
    """Which entry of which list the picture matched."""

    publisher: str
    serial: int
    list_name: str
    entry: int
    kind: str
    category: str
    material: str
    distance: int
    turned: str

    @classmethod
    def of(cls, match: Match) -> "ListMatch":
        """From what the check found.

        Args:
            match: of the picture.
        """
        hit = match.hit
        return cls(
            publisher=match.publisher,
            serial=match.serial,
            list_name=hit.list_name,
            entry=hit.entry,
            kind=hit.kind,
            category=hit.category,
            material=match.material,
            distance=hit.distance,
            turned=hit.turned,
        )


class Requester(_Record):
    """Who handed the picture in, as far as the deployment knows."""

    account: str = ""
    """Unique in the deployment."""
    name: str = ""
    """User name or screen name."""
    email: str = ""
    ip_address: IPvAnyAddress | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class Incident(_Record):
    """One picture that was on a list."""

    id: str
    time: AwareDatetime
    """When it was found."""
    stage: Literal["input", "output"]
    """Whether it was handed in, or made here."""
    file_name: str
    """What it was called, or would have been."""
    size: tuple[int, int]
    """Width and height in pixels."""
    hashes: FileHashes
    match: ListMatch
    prompt: str = ""
    """The instruction that came with it; it stays in the evidence and goes into no report by itself."""
    requester: Requester = Requester()


class Reporter(_Record):
    """Who reports: the deployment, by a person with an address."""

    first_name: str = Field(min_length=1)
    last_name: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    company: str = Field(min_length=1)
    service: str = Field(min_length=1, max_length=100)
    """Name of the product in which it happened."""
    legal_url: str = ""
    """Page that says how the company is served with legal process."""


def load_reporter(path: Path) -> Reporter | None:
    """Read who reports from a TOML file; None where there is none.

    Args:
        path: of the file, with the fields of `Reporter`.

    Raises:
        InputError: it is damaged, or a field is missing or wrong.
    """
    try:
        return Reporter.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {field}: {first['msg']}") from error


def utc(time: datetime) -> str:
    """A time as the reports write it.

    Args:
        time: with its zone.
    """
    return time.isoformat(timespec="seconds")
