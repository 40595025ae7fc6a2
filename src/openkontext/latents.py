"""Geometry of latents: picture sizes, packing into tokens, position ids, masks.

Shape suffixes: B batch, C latent channels, H W rows and columns (latent pixels unless said otherwise),
L tokens.

Sources: black-forest-labs/flux `sampling.py` (`prepare`, `unpack`, `get_noise`, `prepare_kontext`) and
diffusers `FluxKontextPipeline` (`_pack_latents`, `_prepare_latent_image_ids`); both compute the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from openkontext.errors import InputError

PATCH = 2
"""Latent pixels along one side of a token."""

POSITION_RULES = ("offset", "index")
"""How several context images are told apart; see `context_positions`."""

PREFERRED_SIZES: tuple[tuple[int, int], ...] = (
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
)
"""Sizes (width, height) in pixels that FLUX.1 Kontext was trained on; other models carry their own list."""


def nearest_size(
    width: int, height: int, sizes: Sequence[tuple[int, int]] = PREFERRED_SIZES
) -> tuple[int, int]:
    """The size whose width / height is nearest to that of a picture (`prepare_kontext` in the reference).

    Args:
        width: of the picture, in any unit.
        height: of the picture, in the same unit.
        sizes: (width, height) to choose from; of two equally near ones the smaller is taken.

    Returns:
        One of `sizes`.
    """
    return min(sizes, key=lambda size: (abs(width / height - size[0] / size[1]), *size))


def latent_shape(
    width: int, height: int, channels: int = 16, downsampling: int = 8
) -> tuple[int, int, int, int]:
    """Shape [1, C, H, W] of the latent of a picture; rows and columns are rounded up to whole tokens.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        channels: of the latent.
        downsampling: pixels per latent pixel along one side.

    Raises:
        InputError: width or height is not positive.
    """
    if width < 1 or height < 1:
        raise InputError(f"size {width}x{height}: width and height must be at least 1 pixel")
    token = PATCH * downsampling
    return (1, channels, PATCH * -(-height // token), PATCH * -(-width // token))


def pack(latents_BCHW: NDArray[Any]) -> NDArray[Any]:
    """Cut latents into 2x2 patches, one token each, channel-major: [B, C, H, W] -> [B, H/2 * W/2, 4C].

    Args:
        latents_BCHW: latents; H and W must be even.
    """
    B, C, H, W = latents_BCHW.shape
    patches = latents_BCHW.reshape(B, C, H // PATCH, PATCH, W // PATCH, PATCH)
    return patches.transpose(0, 2, 4, 1, 3, 5).reshape(B, (H // PATCH) * (W // PATCH), C * PATCH * PATCH)


def unpack(tokens_BLC: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Put tokens back in their places; the inverse of `pack`.

    Args:
        tokens_BLC: [B, height/2 * width/2, 4C].
        height: rows of the latents (latent pixels), even.
        width: columns of the latents (latent pixels), even.

    Returns:
        Latents [B, C, height, width].
    """
    B, _, channels = tokens_BLC.shape
    C = channels // (PATCH * PATCH)
    patches = tokens_BLC.reshape(B, height // PATCH, width // PATCH, C, PATCH, PATCH)
    return patches.transpose(0, 3, 1, 4, 2, 5).reshape(B, C, height, width)


def position_ids(height: int, width: int, image: int = 0) -> NDArray[np.float32]:
    """Position of every token of an image: (which image, row, column).

    Args:
        height: rows of the latents (latent pixels), even.
        width: columns of the latents (latent pixels), even.
        image: 0 for the picture being made, 1, 2, ... for the context images.

    Returns:
        float32 [height/2 * width/2, 3], in the order of `pack`.
    """
    ids = np.empty((height // PATCH, width // PATCH, 3), np.float32)
    ids[..., 0] = image
    ids[..., 1] = np.arange(height // PATCH)[:, None]
    ids[..., 2] = np.arange(width // PATCH)
    return ids.reshape(-1, 3)


def context_positions(shapes: Sequence[tuple[int, int]], rule: str) -> list[NDArray[np.float32]]:
    """Positions of the tokens of several context images.

    "index" numbers the images: 1, 2, 3 on the first axis. "offset" has 1 for all, as a model needs that was
    trained on one context image, and lays them side by side on the other two: each is put to the right of all
    before it or below them, whichever keeps the whole nearer to a square (ComfyUI `ldm/flux/model.py`,
    reference latents "offset"; stable-diffusion.cpp and InvokeAI do likewise). One image has the same
    positions by either.

    Args:
        shapes: rows and columns of each image's latents (latent pixels), even.
        rule: one of `POSITION_RULES`.

    Returns:
        Of each image float32 [tokens, 3], as from `position_ids`.

    Raises:
        InputError: there is no such rule.
    """
    if rule == "index":
        return [position_ids(height, width, index) for index, (height, width) in enumerate(shapes, 1)]
    if rule != "offset":
        raise InputError(f"unknown rule for positions '{rule}': choose one of {', '.join(POSITION_RULES)}")
    found = []
    rows = columns = 0  # that are taken
    for height, width in shapes:
        below = height + rows <= width + columns
        top, left = (rows, 0) if below else (0, columns)
        ids = position_ids(height, width, 1)
        found.append(ids + np.array([0, top // PATCH, left // PATCH], np.float32))
        rows, columns = max(rows, top + height), max(columns, left + width)
    return found


def latent_mask(mask_HW: NDArray[np.float32], downsampling: int = 8) -> NDArray[np.float32]:
    """Bring a mask from pixels to latent pixels.

    A latent pixel takes the largest value among its pixels: whatever the user marked can change. What lies
    outside the mark within such a pixel is the caller's to restore in the finished picture.

    Args:
        mask_HW: float32 in 0..1 in picture pixels, 1 where the picture may change; sides are multiples of
            `downsampling`.
        downsampling: pixels per latent pixel along one side.

    Returns:
        float32 [1, 1, H / downsampling, W / downsampling].
    """
    H, W = mask_HW.shape
    blocks = mask_HW.reshape(H // downsampling, downsampling, W // downsampling, downsampling)
    return blocks.max(axis=(1, 3))[None, None]


def changed_area(
    latents_BCHW: NDArray[np.float32],
    before_BCHW: NDArray[np.float32],
    keep_below: float,
    downsampling: int = 8,
) -> NDArray[np.float32]:
    """Where a result differs from its input, as a mask in picture pixels with soft edges.

    The mask is 1 in every latent pixel that differs, and falls to 0 over the next one, so that no seam shows
    and nothing that reaches a little beyond a latent pixel is cut off.

    Args:
        latents_BCHW: of the result, B = 1.
        before_BCHW: of the input, of the same shape.
        keep_below: mean difference over the channels from which a latent pixel is another one.
        downsampling: pixels per latent pixel along one side.

    Returns:
        float32 [H * downsampling, W * downsampling] in 0..1.
    """
    return soft_area(np.abs(latents_BCHW - before_BCHW).mean(axis=1)[0] >= keep_below, downsampling)


def soft_area(differs_HW: NDArray[np.bool_], downsampling: int = 8) -> NDArray[np.float32]:
    """Latent pixels as a mask in picture pixels: 1 in each, falling to 0 over the next one.

    Args:
        differs_HW: which ones.
        downsampling: pixels per latent pixel along one side.

    Returns:
        float32 [H * downsampling, W * downsampling] in 0..1.
    """
    pixels = np.kron(differs_HW, np.ones((downsampling, downsampling), bool)).astype(np.uint8) * 255
    half = downsampling // 2
    soft = (
        Image.fromarray(pixels).filter(ImageFilter.MaxFilter(2 * half + 1)).filter(ImageFilter.BoxBlur(half))
    )
    return np.asarray(soft, np.float32) / np.float32(255)
