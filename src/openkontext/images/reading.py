"""What a user hands in -> an RGB array: files, bytes, PIL images, arrays.

Nothing is decoded before its size is known to be sane, and whatever is wrong becomes one line.
"""

import io
import json
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from openkontext.errors import InputError
from openkontext.images.fitting import Pixels, Size, resize

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A path; the bytes of a file; a PIL image; or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] that is
uint8, uint16, bool, or float in 0..1."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MIN_SIDE = 16
"""Pixels of the shorter side below which there is nothing to edit: one token of the model."""
MAX_ASPECT = 20
"""Longer side / shorter side above which a picture would be squeezed beyond recognition."""
MAX_FILE = 512 * 2**20
"""Bytes above which a file is not kept beside its pixels."""
MAX_PIXELS = 120_000_000
"""Pixels above which a picture is not decoded; so many take 360 MB as RGB."""

METADATA_KEY = "openkontext"
"""The PNG text, or the one entry of the JSON in the EXIF user comment, that holds our metadata."""
UTF16_COMMENT = b"UNICODE\0"
"""How an EXIF user comment says that UTF-16 follows."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation."""

_UNREAD = {b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIC", b"ftypavif": "AVIF"}
"""Formats that people do hand in, by what bytes 4..12 say, so that the refusal can name them."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model will see it, but for its size."""

    pixels: Pixels
    """uint8 [H, W, 3], sRGB, upright, opaque."""
    notes: tuple[str, ...] = ()
    """What was done to make it so, for the user to know; empty where nothing was."""
    file: bytes | None = None
    """The bytes of the file that it was read from; None where there was none, or one above `MAX_FILE`."""
    format: str | None = None
    """That file's format as Pillow names it, such as "JPEG"."""

    @property
    def size(self) -> Size:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def load(source: ImageInput) -> Picture:
    """Read a picture and make it upright, sRGB, opaque (on white) and 8 bits per channel.

    Args:
        source: files are JPEG, PNG, WebP, GIF, BMP or TIFF; of several frames or pages, the first.

    Raises:
        InputError: there is no such file, or it cannot be opened, is not such a picture, or is damaged
            or cut short; or its size is outside of `MIN_SIDE`, `MAX_ASPECT` and `MAX_PIXELS`.
    """
    notes: list[str] = []
    with _opened(source) as (image, name, file):
        _check_size(image.size, name)
        try:
            data = None if file is None else _whole(file)
            kind = image.format
            rgb = _to_rgb(image, notes)
        except Exception as error:  # on damaged data, decoders raise errors of all kinds
            raise _damaged(name, error) from error
    return Picture(np.asarray(rgb), tuple(notes), data, kind if data else None)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture's file.

    Raises:
        InputError: there is no such file, it is no regular file or larger than `MAX_FILE`, or cannot be read.
    """
    with _open_file(Path(path)) as file:
        try:
            data = _whole(file)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({reason(error)})") from error
    if data is None:
        raise InputError(f"{path}: is too large; at most {MAX_FILE >> 20} MiB can be read")
    return data


def load_mask(source: ImageInput, size: Size) -> NDArray[np.float32]:
    """Read a mask: white (or transparent) where the picture may change, black where it stays.

    Args:
        source: as for `load`.
        size: of the picture that it belongs to; a mask of another resolution is resized.

    Returns:
        float32 [H, W] in 0..1, of that size.

    Raises:
        InputError: as for `load`; or the mask has another shape than the picture, or is black everywhere.
    """
    picture = load(source)
    (width, height), (mask_width, mask_height) = size, picture.size
    # Either may have been scaled and rounded: a pixel along the shorter of both is no other shape.
    if abs(mask_width * height - mask_height * width) > max(*size, *picture.size):
        raise InputError(
            f"the mask is {mask_width}x{mask_height} and the picture {width}x{height}; give both one shape"
        )
    grey = Image.fromarray(picture.pixels).convert("L")
    mask = resize(np.asarray(grey, np.float32) / 255, size)
    if not mask.any():
        raise InputError("the mask is black everywhere; paint white what may change")
    return mask


def identify(data: bytes) -> str | None:
    """The format of a file's bytes as Pillow names it; None where they are no picture that can be read."""
    with _quiet_pillow():
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.format
        except Exception:  # on damaged data, parsers raise errors of all kinds
            return None


def read_metadata(path: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """What `save` put into a file besides the picture; empty where there is none of ours.

    Args:
        path: of the file, or its bytes.

    Raises:
        InputError: the file cannot be opened or is not a picture.
    """
    with _opened(path) as (image, _, _), _quiet_pillow():
        try:
            if isinstance(image, PngImagePlugin.PngImageFile):
                found = json.loads(image.info[METADATA_KEY])
            else:
                comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
                found = json.loads(comment.removeprefix(UTF16_COMMENT).decode("utf-16-le"))[METADATA_KEY]
            return {str(key): str(value) for key, value in found.items()}
        except Exception:  # there is none, or it is damaged or another program's
            return {}


@contextmanager
def _opened(source: ImageInput) -> Iterator[tuple[Image.Image, str, IO[bytes] | None]]:
    """The source as a PIL image that is not decoded yet, what to call it in a message, and its file."""
    if isinstance(source, Image.Image):
        yield source, str(getattr(source, "filename", "") or "the image"), None
    elif isinstance(source, np.ndarray):
        yield _from_array(source), "the image", None
    elif isinstance(source, bytes):
        memory = io.BytesIO(source)
        yield _identify(memory, "the image"), "the image", memory
    elif isinstance(source, str | os.PathLike):
        with _open_file(Path(source)) as file:
            yield _identify(file, str(source)), str(source), file
    else:
        kind = type(source).__name__
        raise InputError(f"an image must be a path, bytes, a PIL image or a numpy array, not {kind}")


def _whole(file: IO[bytes]) -> bytes | None:
    """All bytes of a file, which stays where it is; None where they are too many to keep."""
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read() if size <= MAX_FILE else None
    file.seek(at)
    return data


def _open_file(path: Path) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({reason(error)})") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"  # a pipe would keep us waiting
    raise InputError(f"{path}: is {kind}; name a picture")


def _identify(file: IO[bytes], name: str) -> Image.Image:
    """Read the head of a file: its format and size."""
    try:
        head = file.read(12)
        file.seek(0)
        if not head:
            raise InputError(f"{name}: is empty")
        with _quiet_pillow():
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: is too large; at most {_megapixels()} can be read") from error
    except UnidentifiedImageError as error:
        kind = f"is {_UNREAD[head[4:]]}" if head[4:] in _UNREAD else "is not a picture that can be read"
        raise InputError(f"{name}: {kind}; hand in JPEG, PNG, WebP, GIF, BMP or TIFF") from error
    except InputError:
        raise
    except Exception as error:  # on damaged data, parsers raise errors of all kinds
        raise _damaged(name, error) from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = array.shape[:2] if array.shape[2:] == (1,) else array.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or array.size == 0:
        raise InputError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4], not {list(array.shape)}")
    array = array.reshape(shape)
    if array.dtype == bool:
        array = _scaled(array, 1)
    elif array.dtype == np.uint16:
        array = _scaled(array, 65535)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
            raise InputError("an image array of floats must lie in 0..1; one in 0..255 must be uint8")
        array = _scaled(array, 1)
    elif array.dtype != np.uint8:
        raise InputError(f"an image array must be uint8, or float in 0..1, not {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(size: Size, name: str) -> None:
    dimensions = f"{size[0]}x{size[1]} pixels"
    if min(size) < MIN_SIDE:
        raise InputError(f"{name}: {dimensions} is too small; each side must be at least {MIN_SIDE}")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{name}: {dimensions} is too large; at most {_megapixels()} can be read")
    if max(size) > MAX_ASPECT * min(size):
        raise InputError(
            f"{name}: {dimensions} is too narrow; one side can be at most {MAX_ASPECT} times the other"
        )


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Decode, and undo what makes a file's numbers differ from the colours that people see."""
    with _quiet_pillow():
        if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras add previews as MPO
            notes.append("only its first frame or page is used")
        turned = image.format == "TIFF" and _orientation(image) in _UPRIGHT  # by Pillow, while it loads
        image.load()
        if (orientation := _orientation(image)) in _UPRIGHT:
            image, turned = image.transpose(_UPRIGHT[orientation]), True
        if turned:
            notes.append("turned upright as its EXIF orientation says")
        profile = image.info.get("icc_profile")
        image = _to_8_bits(image, notes)
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        image = _to_srgb(image, profile, notes)
        if alpha is not None and alpha.getextrema() != (255, 255):
            notes.append("transparency laid on white")
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return 1


def _to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scale grey of 16 or 32 bits or floats, which Pillow would clip; colour it scales itself."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    top = 1.0 if image.mode == "F" else 65535.0
    if low >= 0 and high <= top:
        notes.append("reduced to 8 bits per channel")
        return Image.fromarray(_scaled(values, top))
    notes.append(f"its values {low:g} to {high:g} scaled to black to white")
    return Image.fromarray(_scaled(np.nan_to_num(values.astype(np.float64), nan=low) - low, high - low))


def _to_srgb(image: Image.Image, profile_data: bytes | None, notes: list[str]) -> Image.Image:
    """The colours as sRGB, without alpha; where a profile cannot be used they are taken as sRGB."""
    image = image.convert("L") if image.mode in ("1", "LA") else image
    if not profile_data:
        if image.mode == "CMYK":
            notes.append("CMYK without a colour profile converted to RGB by rule of thumb")
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_data))
        name = ImageCms.getProfileDescription(profile).strip() or "its colour profile"
        mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[profile.profile.xcolor_space]
        if mode not in {"L": ("L", "RGB"), "CMYK": ("CMYK",)}.get(image.mode, ("RGB",)):
            raise ImageCms.PyCMSError("the profile is for other colours than the picture's")
        if "sRGB" in name:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, KeyError):
        notes.append("its colour profile cannot be used, so its colours are taken as sRGB")
        return image.convert("RGB")
    assert converted is not None  # None is for a conversion in place
    notes.append(f"colours converted from {name} to sRGB")
    return converted


def _scaled(values: NDArray[Any], top: float) -> Pixels:
    """Bring 0..top to 0..255."""
    return np.rint(values * (255 / top)).astype(np.uint8)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: sizes are checked here, and damage it can read past is not worth one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _megapixels() -> str:
    return f"{MAX_PIXELS // 10**6} million pixels"


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"{name}: the picture is damaged or cut short ({reason(error)})")


def reason(error: Exception) -> str:
    """What an error of the system or of Pillow says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
