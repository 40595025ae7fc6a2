"""A picture to a file, which appears whole or not at all, with metadata inside."""

import io
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from openkontext.errors import InputError
from openkontext.files import whole
from openkontext.images.fitting import Pixels
from openkontext.images.opening import reason
from openkontext.images.reading import METADATA_KEY, UTF16_COMMENT

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Formats by suffix. BMP is not among them, since it can hold no record of what made a picture, nor is GIF,
whose 256 colors would spoil one."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {},  # compressed, it could not carry an EXIF block
}


def check_output(
    path: str | os.PathLike[str], overwrite: bool = False, suffixes: Collection[str] = tuple(FORMATS)
) -> None:
    """Say before the work begins what `save` would say after it.

    Args:
        path: where to write.
        overwrite: whether a file that exists may be replaced.
        suffixes: that its name may have.

    Raises:
        InputError: the suffix names no format, the file exists, or its directory is missing or not writable.
    """
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        fault = f"cannot write {target.suffix} files" if target.suffix else "has no suffix"
        good = ".png, .jpg, .webp or .tiff" if ".png" in suffixes else " or ".join(suffixes)
        raise InputError(f"{target}: {fault}; use {good}")
    try:
        folder = target.resolve().parent
        if target.is_dir():
            raise InputError(f"{target}: is a directory; name a file in it")
        if target.exists() and not overwrite:
            raise InputError(f"{target}: exists already; name another file, or overwrite it")
        if not folder.is_dir():
            raise InputError(f"{target}: there is no directory {target.parent}; make it first")
    except (OSError, ValueError, RuntimeError) as error:  # also for a NUL in the name, and links in a ring
        raise InputError(f"{target}: cannot be written ({reason(error)})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: the directory {target.parent} is not writable; name another")


def file_format(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix names, as Pillow calls it; `check_output` says whether it names one."""
    return FORMATS[Path(path).suffix.lower()]


def save(
    path: str | os.PathLike[str],
    pixels: Pixels,
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a picture to a file. What a model made is written by `EditResult.save`, which signs it.

    Args:
        path: its suffix names the format. PNG and TIFF keep every pixel, JPEG and WebP almost.
        pixels: uint8 [H, W, 3].
        metadata: goes into the file for `read_metadata`, as PNG text or EXIF user comment.
        overwrite: replace a file that exists.

    Raises:
        InputError: as for `check_output`, `encode` and `write`.
    """
    check_output(path, overwrite)
    write(path, encode(pixels, file_format(path), metadata), overwrite=overwrite)


def encode(
    pixels: Pixels, kind: str, metadata: Mapping[str, str] | None = None, *, quality: int | None = None
) -> bytes:
    """A picture as the bytes of a file.

    Args:
        pixels: uint8 [H, W, 3].
        kind: "PNG", "JPEG", "WEBP" or "TIFF".
        metadata: as for `save`.
        quality: of JPEG and WebP, 0 to 100; None for 95.

    Raises:
        InputError: the format cannot hold so large a picture or so much metadata.
    """
    try:
        return _encode(pixels, kind, metadata or {}, quality)
    except (ValueError, OSError) as error:
        raise InputError(f"the picture does not fit into {kind} ({reason(error)}); write a .png") from error


def write(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    overwrite: bool = False,
    suffixes: Collection[str] = tuple(FORMATS),
) -> None:
    """Write a file's bytes: beside its place first, then in it, whole or not at all.

    Raises:
        InputError: as for `check_output`; or the disk is full.
    """
    check_output(path, overwrite, suffixes)
    target = Path(path).resolve()  # what a link points to is replaced, not the link
    try:
        with whole(target) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            check_output(path, overwrite, suffixes)  # the file may have come into being meanwhile
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({reason(error)})") from error


def _encode(pixels: Pixels, kind: str, metadata: Mapping[str, str], quality: int | None) -> bytes:
    # Words from a command line may hold bytes that are no text; they become question marks.
    metadata = {key: value.encode("utf-8", "replace").decode() for key, value in metadata.items()}
    options = dict(_OPTIONS[kind])
    if quality is not None and "quality" in options:
        options["quality"] = quality
    if metadata and kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
    elif metadata:
        comment = json.dumps({METADATA_KEY: metadata}, ensure_ascii=False).encode("utf-16-le")
        exif = Image.Exif()
        exif.endian = "<"
        exif[ExifTags.Base.Software] = METADATA_KEY
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UTF16_COMMENT + comment
        options["exif"] = exif.tobytes()  # as an object, TIFF would lose the comment
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
