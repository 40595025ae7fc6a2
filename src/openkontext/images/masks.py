"""Masks as people make them -> where a picture may change.

One reading of masks for all who edit. A mask whose transparency varies is read by it: the transparent part
may change, as OpenAI's API has it and as an eraser leaves it. Any other is read by its brightness: white may
change.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import InputError
from openkontext.images.fitting import Size, resize
from openkontext.images.reading import ImageInput, alpha_channel, check_size, load_as_stored

Float = NDArray[np.float32]


class ArrayLike(Protocol):
    """What becomes a numpy array, such as a torch tensor."""

    def __array__(self) -> NDArray[Any]:
        """The numbers."""


MaskInput = ImageInput | ArrayLike
"""As `ImageInput`. Arrays may also be integers of any type, and have axes of length 1 or channels first."""

_HALF = 0.5
"""Brightness that a mask must reach somewhere: it is taken as strong enough from here on. A transparency that
stays below is none: some programs write 254 for opaque."""
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
"""Formats whose black and white are only nearly so."""
_NEARLY = 0.05
"""How far their black and white may be off."""
_LUMA = (299, 587, 114)
"""Thousandths of red, green and blue in brightness: ITU-R BT.601, as Pillow's."""


def load_mask(source: MaskInput, size: Size, notes: list[str] | None = None) -> Float:
    """Read a mask: where a picture may change.

    By transparency, where that varies: 1 where the mask is transparent. Else by brightness: 1 where it is
    white. Of a mask with two values (0 and 1, two colors) the brighter is white; one that stays below half
    is brightened until its brightest is white.

    Args:
        source: what holds the mask.
        size: (width, height) of the picture that it belongs to; a mask of another resolution is resized.
        notes: is told which reading was taken, and whether the mask was resized.

    Returns:
        float32 [H, W] in 0..1, of that size.

    Raises:
        InputError: as for `load`; or the mask has another shape than the picture, is the same everywhere, or
            has numbers that are none of a mask.
    """
    notes = [] if notes is None else notes
    brightness, alpha, lossy = _read(source)
    (width, height), (mask_width, mask_height) = size, brightness.shape[::-1]
    # Either may have been scaled and rounded: a pixel along the shorter of both is no other shape.
    if abs(mask_width * height - mask_height * width) > max(*size, mask_width, mask_height):
        raise InputError(
            f"the mask is {mask_width}x{mask_height} and the picture {width}x{height}; give both one shape"
        )
    if alpha is not None and alpha.min() < _HALF:
        if alpha.max() == alpha.min():
            raise InputError(
                "the mask is transparent everywhere; make opaque what must stay, or leave the mask out"
            )
        how, what, advice = "transparency", "transparent", "; save it without transparency to go by its white"
        mask, stretched = _levels(1 - alpha, lossy)
    else:
        how, what, advice = "brightness", "white", ""
        _check_varies(brightness)
        mask, stretched = _levels(brightness, lossy)
    if (mask_width, mask_height) != size:
        notes.append(f"the mask of {mask_width}x{mask_height} was scaled to the picture's {width}x{height}")
        mask = resize(mask, size).clip(0, 1)
    share = f"the {what} {_percent(float(mask.mean()))} of the picture may change"
    notes.append(f"the mask was read by its {how}{stretched}: {share}{advice}")
    return mask


def has_hole(source: MaskInput) -> bool:
    """Whether a mask has a transparent part, by which it is then read.

    Raises:
        InputError: as for `load_mask`.
    """
    _, alpha, _ = _read(source)
    return alpha is not None and bool(alpha.min() < _HALF)


def marks_by_alpha(source: MaskInput) -> bool:
    """Whether a picture is transparent in one part and opaque in another, so that it may be its own mask.

    Raises:
        InputError: as for `load_mask`.
    """
    _, alpha, _ = _read(source)
    return alpha is not None and bool(alpha.min() < _HALF <= alpha.max())


def _read(source: MaskInput) -> tuple[Float, Float | None, bool]:
    """Brightness and opacity [H, W] in 0..1, None where there is none of it; whether they are inexact."""
    if not isinstance(source, Image.Image | np.ndarray) and hasattr(source, "__array__"):
        try:
            source = np.asarray(source)
        except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on a GPU
            raise InputError(f"the mask cannot be read as an array ({error}); hand in numpy's") from error
    if isinstance(source, np.ndarray):
        channels = _channels(source)
        check_size((channels.shape[1], channels.shape[0]), "the mask")
        return *_split(channels), False
    image = load_as_stored(source, "the mask")
    return *_split(_channels(_with_own_numbers(image))), image.format in _LOSSY


def _with_own_numbers(image: Image.Image) -> NDArray[Any]:
    """The channels of an image of any mode: gray or RGB, with opacity last where it has any."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        alpha = alpha_channel(image)
        return values if alpha is None else np.stack([values, np.asarray(alpha)], axis=-1)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    if image.mode == "P" and image.convert("RGB").getcolors(1):  # numbers of classes, without colors for them
        return np.asarray(image)
    return np.asarray(image if image.mode in ("1", "L", "RGB") else image.convert("RGB"))


def _channels(array: NDArray[Any]) -> NDArray[Any]:
    """Any layout of an array -> [H, W, 1 to 4]."""
    found = array.squeeze()  # a side of 1 is none of a picture
    if found.ndim == 3 and found.shape[2] not in (2, 3, 4) and found.shape[0] in (2, 3, 4):
        found = np.moveaxis(found, 0, -1)
    if found.ndim == 2:
        found = found[..., None]
    if found.ndim != 3 or found.shape[2] > 4 or found.size == 0:
        raise InputError(f"a mask array must be [H, W], [H, W, 3] or [H, W, 4], not {list(array.shape)}")
    return found


def _split(channels: NDArray[Any]) -> tuple[Float, Float | None]:
    """Channels [H, W, 1 to 4] -> brightness and opacity [H, W] in 0..1."""
    colors, alpha = channels, None
    if channels.shape[2] in (2, 4):
        opacity = channels[..., -1]
        colors, alpha = channels[..., :-1], _unit(opacity * 1.0 if opacity.max() <= 1 else opacity)
    if colors.shape[2] == 1:
        return _unit(colors[..., 0]), alpha
    colors = _unit(colors)
    return colors @ np.array(_LUMA, np.float32) / np.float32(1000), alpha


def _unit(values: NDArray[Any]) -> Float:
    """Numbers of any type -> float32 in 0..1."""
    kind = values.dtype.kind
    if kind not in "buif":
        raise InputError(f"the mask is an array of {values.dtype}; hand in booleans, integers or floats")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the mask has values that are no numbers (NaN or infinite); use 0 to 1")
    if kind == "f":
        if low < -1e-3 or high > 255 + 1e-3:  # what resizing leaves beyond
            raise InputError(
                f"the mask's floats reach from {low:g} to {high:g}; they must lie in 0..1 or 0..255"
            )
        top = 1 if high <= 1 + 1e-3 else 255
        return (values.astype(np.float32) / np.float32(top)).clip(0, 1)
    if low < 0 or high > 65535:
        raise InputError(f"the mask's values reach from {low} to {high}; they must lie in 0..255 or 0..65535")
    top = 1 if kind == "b" else 255 if high <= 255 else 65535
    return values.astype(np.float32) / np.float32(top)


def _check_varies(brightness: Float) -> None:
    low, high = float(brightness.min()), float(brightness.max())
    if low < high:
        return
    if high == 0:
        raise InputError("the mask is black everywhere; paint white what may change")
    if low == 1:
        raise InputError("the mask is white everywhere; paint black what must stay, or leave the mask out")
    raise InputError("the mask is one gray everywhere; paint white what may change and black what must stay")


def _levels(values: Float, lossy: bool) -> tuple[Float, str]:
    """Values that vary, brought to where black and white are 0 and 1; what was done to them, in words."""
    low, high = values.min(), values.max()
    if bool(((values == low) | (values == high)).all()):
        stretched = "" if (low, high) == (0, 1) else ", the higher of its two values as white"
        return (values == high).astype(np.float32), stretched
    stretched = ""
    if high < _HALF:
        values, stretched = values / high, ", its brightest as white"
    if lossy:
        values = ((values - _NEARLY) / (1 - 2 * _NEARLY)).clip(0, 1).astype(np.float32)
    return values, stretched


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
