"""A file's bytes -> a picture whose format and size are known, and nothing is decoded yet."""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError

from openkontext.errors import InputError
from openkontext.images import kinds

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
"""What Pillow reads for us; HEIC is read by pi-heif."""
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
"""Media types of the formats that are read, by Pillow's names."""
MAX_FILE = 512 * 2**20
"""Bytes above which a file is not read."""
MAX_PIXELS = 120_000_000
"""Pixels above which a picture is not decoded; so many take 360 MB as RGB."""

_BRANDS = {b"avi": "AVIF", b"hei": "HEIC", b"hev": "HEIC"}
"""Formats that say at bytes 8..11 what they are, by the first three of these."""
_HEIF = (b"hei", b"hev", b"mif1", b"msf1")
"""How the brand of a HEIC file begins; "mif1" and "msf1" may be AVIF, too."""
_DNG_VERSION, _SUB_IFDS, _REDUCED = 0xC612, 0x014A, 1
"""A tag of raw files (DNG); the tag of further pictures; the bit of `NewSubfileType` for a small copy."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture's file, which is opened once and never trusted to be as large as it says.

    Raises:
        InputError: there is no such file, it is no regular file or larger than `MAX_FILE`, or cannot be read.
    """
    name = os.fspath(path)
    try:
        with _open_file(name) as file:
            pieces = iter(lambda: file.read(2**20), b"")
            data = b"".join(islice(pieces, MAX_FILE // 2**20 + 1))
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({reason(error)})") from error
    if len(data) > MAX_FILE:
        raise InputError(f"{name}: is too large; at most {MAX_FILE >> 20} MiB can be read")
    return data


def open_picture(data: bytes, name: str) -> Image.Image:
    """Read the head of a file: its format and size.

    Args:
        data: the file's bytes.
        name: what to call it in a message.

    Raises:
        InputError: it is empty, too large, damaged, or no picture that can be read.
    """
    if not data:
        raise InputError(f"{name}: is empty")
    try:
        with quiet_pillow():
            image = _open(data)
            raw = image.format == "TIFF" and _is_raw(image)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: is too large; at most {megapixels()} can be read") from error
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and (kind := _BRANDS.get(data[8:11])):
            raise damaged(name, f"its {kind} data cannot be read") from error
        raise InputError(f"{name}: {kinds.refusal(data[: kinds.HEAD])}") from error
    except Exception as error:  # on damaged data, parsers raise errors of all kinds
        raise damaged(name, reason(error)) from error
    if raw:
        raise InputError(f"{name}: {kinds.RAW_TIFF}")
    return image


def identify(data: bytes) -> str | None:
    """The format of a file's bytes as Pillow names it; None where they are no picture that can be read."""
    try:
        return open_picture(data, "the picture").format
    except InputError:
        return None


def media_type(data: bytes) -> str | None:
    """The media type of a file's bytes; None where they are no picture that can be read."""
    return MEDIA_TYPES.get(identify(data) or "")


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data[4:8] != b"ftyp" or not data[8:].startswith(_HEIF):
            raise
        from pi_heif.as_plugin import HeifImageFile  # not before a HEIC file comes: it loads its libraries

        try:
            # Itself, and not through Pillow's registry, where a program may have its own reader of HEIC.
            return HeifImageFile(io.BytesIO(data))
        except SyntaxError as error:
            raise UnidentifiedImageError(str(error)) from error


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF file is a camera's raw file, of which Pillow would give the small preview."""
    tags = image.getexif()
    reduced = int(tags.get(ExifTags.Base.NewSubfileType, 0)) & _REDUCED
    return _DNG_VERSION in tags or bool(reduced and _SUB_IFDS in tags)


def _open_file(path: str) -> IO[bytes]:
    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would keep us waiting

    try:
        file = open(path, "rb", opener=at_once)  # noqa: SIM115 (a path's own has no opener)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory; name a picture") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({reason(error)})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"{path}: is not a regular file; name a picture")
    return file


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: sizes are checked here, and damage it can read past is not worth one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def megapixels() -> str:
    """How many pixels can be read, in words."""
    return f"{MAX_PIXELS // 10**6} million pixels"


def damaged(name: str, why: str) -> InputError:
    """What to raise where decoding a picture fails."""
    return InputError(f"{name}: the picture is damaged or cut short ({why})")


def reason(error: Exception) -> str:
    """What an error of the system or of Pillow says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
