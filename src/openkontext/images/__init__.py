"""Pictures: what a user hands in -> an RGB array, its fit to a model's size and back, and the way to a file.

Pixels are uint8 [H, W, 3] in sRGB, masks float32 [H, W] in 0..1; sizes are (width, height) in pixels.
"""

from openkontext.images.fitting import FITS, Fit, blend, from_model, side_by_side, to_model
from openkontext.images.masks import MaskInput, has_hole, load_mask, marks_by_alpha
from openkontext.images.opening import MAX_PIXELS, MEDIA_TYPES, identify, media_type, open_picture, read_bytes
from openkontext.images.reading import (
    MAX_ASPECT,
    MIN_SIDE,
    ImageInput,
    Picture,
    load,
    read_metadata,
)
from openkontext.images.writing import check_output, encode, file_format, save, write

__all__ = [
    "FITS",
    "MAX_ASPECT",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "MIN_SIDE",
    "Fit",
    "ImageInput",
    "MaskInput",
    "Picture",
    "blend",
    "check_output",
    "encode",
    "file_format",
    "from_model",
    "has_hole",
    "identify",
    "load",
    "load_mask",
    "marks_by_alpha",
    "media_type",
    "open_picture",
    "read_bytes",
    "read_metadata",
    "save",
    "side_by_side",
    "to_model",
    "write",
]
