"""What a user hands in -> an RGB array: files, bytes, PIL images, arrays.

Nothing is decoded before its size is known to be sane, and whatever is wrong becomes one line.
"""

import io
import json
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from openkontext.errors import InputError
from openkontext.images.fitting import Pixels, Size
from openkontext.images.opening import (
    MAX_PIXELS,
    damaged,
    megapixels,
    open_picture,
    quiet_pillow,
    read_bytes,
    reason,
)

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A path; the bytes of a file; a PIL image; or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] that is
uint8, uint16, bool, or float in 0..1."""

MIN_SIDE = 16
"""Pixels of the shorter side below which there is nothing to edit: one token of the model."""
MAX_ASPECT = 20
"""Longer side / shorter side above which a picture would be squeezed beyond recognition."""

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

_STEPS = {"L;2": 85, "L;4": 17}
"""Between two neighboring grays of a PNG of 2 or 4 bits, once Pillow has brought them to 8."""
_HDR = {16: "PQ", 18: "HLG"}
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Transfer characteristics and color primaries of ITU-T H.273 that sRGB cannot hold."""
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colors are multiplied by their alpha, and the same without."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model will see it, but for its size."""

    pixels: Pixels
    """uint8 [H, W, 3], sRGB, upright, opaque."""
    notes: tuple[str, ...] = ()
    """What was done to make it so, for the user to know; empty where nothing was."""
    file: bytes | None = None
    """The bytes that it was read from; None where it came as pixels."""
    format: str | None = None
    """That file's format as Pillow names it, such as "JPEG"."""

    @property
    def size(self) -> Size:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def load(source: ImageInput) -> Picture:
    """Read a picture and make it upright, sRGB, opaque (on white) and 8 bits per channel.

    Args:
        source: files are JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF; of several frames or pages, the
            first. A file is read once: what is decoded is what `Picture.file` holds.

    Raises:
        InputError: there is no such file, or it cannot be opened, is not such a picture, or is damaged
            or cut short; or its size is outside of `MIN_SIDE`, `MAX_ASPECT` and `MAX_PIXELS`.
    """
    image, name, data = _opened(source)
    notes: list[str] = []
    check_size(image.size, name)
    try:
        kind = image.format
        rgb = _to_rgb(image, notes)
    except Exception as error:  # on damaged data, decoders raise errors of all kinds
        raise damaged(name, reason(error)) from error
    notes += [note for note in [_coded_colors(image, data)] if note]
    check_size(rgb.size, name)  # a file may say one size and hold another
    return Picture(np.asarray(rgb), tuple(notes), data, kind if data else None)


def load_as_stored(source: ImageInput, name: str = "the image") -> Image.Image:
    """Read a picture upright, and else as it is stored: its mode, alpha and bits.

    Args:
        source: as for `load`.
        name: what to call in a message what has no name of its own.

    Raises:
        InputError: as for `load`.
    """
    image, own_name, _ = _opened(source)
    name = name if own_name == "the image" else own_name
    check_size(image.size, name)
    try:
        with quiet_pillow():
            upright = _upright(image, [])
    except Exception as error:  # on damaged data, decoders raise errors of all kinds
        raise damaged(name, reason(error)) from error
    check_size(upright.size, name)
    if upright.mode in _PREMULTIPLIED:
        upright = upright.convert(_PREMULTIPLIED[upright.mode])
    upright.format = image.format  # which turning loses
    return upright


def read_metadata(path: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """What `save` put into a file besides the picture; empty where there is none of ours.

    Args:
        path: of the file, or its bytes.

    Raises:
        InputError: the file cannot be opened or is not a picture.
    """
    image, _, _ = _opened(path)
    with quiet_pillow():
        try:
            if isinstance(image, PngImagePlugin.PngImageFile):
                found = json.loads(image.info[METADATA_KEY])
            else:
                comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
                found = json.loads(comment.removeprefix(UTF16_COMMENT).decode("utf-16-le"))[METADATA_KEY]
            return {str(key): str(value) for key, value in found.items()}
        except Exception:  # there is none, or it is damaged or another program's
            return {}


def _opened(source: ImageInput) -> tuple[Image.Image, str, bytes | None]:
    """The source as a PIL image, not decoded yet; what to call it in a message; and its file's bytes."""
    if isinstance(source, Image.Image):
        return source, str(getattr(source, "filename", "") or "the image"), None
    if isinstance(source, np.ndarray):
        return _from_array(source), "the image", None
    if isinstance(source, bytes):
        return open_picture(source, "the image"), "the image", source
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        data = read_bytes(name)
        return open_picture(data, name), name, data
    kind = type(source).__name__
    raise InputError(f"an image must be a path, bytes, a PIL image or a numpy array, not {kind}")


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


def check_size(size: Size, name: str) -> None:
    """Refuse sizes outside of `MIN_SIDE`, `MAX_ASPECT` and `MAX_PIXELS`.

    Raises:
        InputError: the size is one.
    """
    dimensions = f"{size[0]}x{size[1]} pixels"
    if min(size) < MIN_SIDE:
        raise InputError(f"{name}: {dimensions} is too small; each side must be at least {MIN_SIDE}")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{name}: {dimensions} is too large; at most {megapixels()} can be read")
    if max(size) > MAX_ASPECT * min(size):
        raise InputError(
            f"{name}: {dimensions} is too narrow; one side can be at most {MAX_ASPECT} times the other"
        )


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Decode, and undo what makes a file's numbers differ from the colors that people see."""
    with quiet_pillow():
        image = _upright(image, notes)
        profile = image.info.get("icc_profile")
        if image.mode in _PREMULTIPLIED:
            image = image.convert(_PREMULTIPLIED[image.mode])
        alpha = alpha_channel(image)
        image = _to_8_bits(image, notes)
        image = _to_srgb(image, profile, notes)
        if alpha is not None and alpha.getextrema() != (255, 255):
            notes.append("transparency laid on white")
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        return image


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Decode, and turn as the EXIF orientation says."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras add previews as MPO
        other = image.format == "HEIF" and image.tell() > 0  # a HEIC says which is its main picture
        notes.append(f"only its {'main picture' if other else 'first frame or page'} is used")
    # A TIFF is turned by Pillow while it loads, a HEIC by its decoder, which tells what it turned.
    told = _orientation(image) if image.format == "TIFF" else image.info.get("original_orientation")
    turned = told in _UPRIGHT
    _scale_transparent_color(image)
    image.load()
    if (orientation := _orientation(image)) in _UPRIGHT:
        image, turned = image.transpose(_UPRIGHT[orientation]), True
    if turned:
        notes.append("turned upright as its EXIF orientation says")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return 1


def _scale_transparent_color(image: Image.Image) -> None:
    """Bring the color that a PNG makes transparent to 8 bits; Pillow does so with the pixels alone.

    Of 16-bit color, only the upper halves of the pixels are there to be compared.
    """
    color = image.info.get("transparency")
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return
    stored = str(image.tile[0].args)  # how the file's samples are stored; known until they are read
    if isinstance(color, int) and stored in _STEPS:
        image.info["transparency"] = color * _STEPS[stored]
    elif isinstance(color, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in color)


def alpha_channel(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, in mode L; None where all are."""
    if image.mode.startswith("I"):  # Pillow knows no transparent color in these
        color = image.info.get("transparency")
        if color is None:
            return None
        return Image.fromarray(np.where(np.asarray(image) == color, 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def _to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scale gray of 16 or 32 bits or floats, which Pillow would clip; color it scales itself."""
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
    """The colors as sRGB, without alpha; where a profile cannot be used they are taken as sRGB."""
    image = image.convert("L") if image.mode in ("1", "LA") else image
    if not profile_data:
        if image.mode == "CMYK":
            notes.append("CMYK without a color profile converted to RGB by rule of thumb")
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_data))
        name = ImageCms.getProfileDescription(profile).strip() or "its color profile"
        mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[profile.profile.xcolor_space]
        if mode not in {"L": ("L", "RGB"), "CMYK": ("CMYK",)}.get(image.mode, ("RGB",)):
            raise ImageCms.PyCMSError("the profile is for other colors than the picture's")
        if "sRGB" in name:
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, KeyError):
        notes.append("its color profile cannot be used, so its colors are taken as sRGB")
        return image.convert("RGB")
    assert converted is not None  # None is for a conversion in place
    notes.append(f"colors converted from {name} to sRGB")
    return converted


def _coded_colors(image: Image.Image, data: bytes | None) -> str | None:
    """What to say of an AVIF or HEIC file that names its colors by code points, if they are not sRGB's.

    The box is that of ISO/IEC 23008-12, 6.5.5; the code points are those of ITU-T H.273.
    """
    if not data or image.format not in ("AVIF", "HEIF") or image.info.get("icc_profile"):
        return None
    at = data.find(b"colrnclx")
    primaries, transfer = struct.unpack_from(">HH", data, at + 8) if 0 <= at <= len(data) - 12 else (1, 13)
    if transfer in _HDR:
        return f"its light is HDR ({_HDR[transfer]}) and is taken as sRGB, so it may look dull"
    if primaries in _WIDE:
        return f"its colors are {_WIDE[primaries]} and are taken as sRGB, so they may look pale"
    return None


def _scaled(values: NDArray[Any], top: float) -> Pixels:
    """Bring 0..top to 0..255."""
    return np.rint(values * (255 / top)).astype(np.uint8)
