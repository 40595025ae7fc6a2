"""What a model made, laid onto the picture it was made of.

Where nothing changed, the picture's own pixels stay, to the bit: no edit blurs what it need not change.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from openkontext import images
from openkontext.images import Fit
from openkontext.inputs import Inputs
from openkontext.latents import changed_area, pack, soft_area
from openkontext.request import EditRequest

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Size = tuple[int, int]

Changes = Callable[[Float, Pixels], Float]
"""Where a result, as latents and as pixels, differs from the picture: float32 [H, W] of the model's size."""

CELL = 8
"""Pixels along one side of a cell of `changed_cells`: those of a latent pixel."""
SAME_COLOR = 8
"""Mean difference of a cell's colors, of 255, below which `changed_cells` takes it as unchanged.

Where a picture only passed through an autoencoder, both sides of the comparison did, so that its loss cancels
out; this is the room for what the transformer adds to what it repeats."""
MOSTLY = 0.6
"""Share of the picture from which on a change is one of all of it: sharp islands of the original in an
enlarged result would look torn."""
NEARLY_ALL = 0.9
"""Share of pixels that differ from which on a note does not speak of those that happen to be equal."""
UNCHANGED = "nothing was changed: the instruction does not apply to this picture, or it shows that already"
"""What is noted where an edit left the picture as it was."""
_SAME = 0.25
"""Mean difference of a token's latents below which it is the same: a quarter of their deviation.

The smallest of 160 asked changes of one thing makes 0.39 in its token; where nano leaves a picture alone, its
worst token is off by 0.11 (median of nine edits, outside of what they change)."""


def comparison(
    request: EditRequest, keep_below: float, context: Sequence[Float], decode: Callable[[Float], Pixels]
) -> Changes | None:
    """What tells where a result differs from the picture that it was made of.

    Args:
        request: what is asked.
        keep_below: see `RepositoryConfig`.
        context: latents [1, C, H, W] of the picture, then of its references.
        decode: latents to pixels.

    Returns:
        The comparison; None where nothing of the picture is to be kept.
    """
    if request.image is None or not request.keep_unchanged or request.extend:
        return None  # an extended picture keeps what the mask says; its room has no pixels of its own
    before = context[0]
    if keep_below > 0:
        return lambda latents, _: changed_area(latents, before, keep_below)
    if request.size == "original" or request.crop_to_mask:
        pixels = cache(lambda: decode(before))
        return lambda _, made: changed_cells(made, pixels())
    return None


def changed_cells(made: Pixels, before: Pixels) -> Float:
    """Where a picture differs from what it was before, for models whose latents do not tell.

    Args:
        made: the decoded result, uint8 [H, W, 3]; sides are multiples of `CELL`.
        before: the picture encoded and decoded by the same autoencoder, of that shape.

    Returns:
        float32 [H, W] in 0..1 with soft edges, as `latents.changed_area`.
    """
    height, width, _ = made.shape
    difference = np.abs(made.astype(np.float32) - before).mean(axis=2)
    cells = difference.reshape(height // CELL, CELL, width // CELL, CELL).mean(axis=(1, 3))
    return soft_area(cells >= SAME_COLOR, CELL)


def compose(made: Pixels, latents: Float, inputs: Inputs, changes: Changes | None) -> Pixels:
    """Lay what a model made onto its picture, through the mask and where it changed something.

    Args:
        made: what the model made, uint8 [H, W, 3] of its size.
        latents: the same before it was decoded.
        inputs: the picture that it was made of, the mask, and the size of the result.
        changes: tells where it differs from the picture; None for everywhere.

    Returns:
        The finished picture, uint8 [H, W, 3]; the part that was edited, where that is a part alone.
    """
    pixels = inputs.fit.undo(made, inputs.output_size)
    to_output = _to_output(inputs)
    masks = [] if inputs.mask is None else [to_output.apply(inputs.mask)]
    if changes is not None:
        area = changes(latents, made)
        if not (_is_enlarged(inputs) and _share(area, inputs) >= MOSTLY):
            masks.append(inputs.fit.undo(area, inputs.output_size))
    if inputs.pixels is None or not masks:
        return pixels
    return images.blend(pixels, to_output.apply(inputs.pixels), *masks)


def whole(part: Pixels, inputs: Inputs) -> Pixels:
    """What `compose` gave, within the picture that it is a part of.

    Args:
        part: uint8 [H, W, 3].
        inputs: the picture, of which all or a part was edited.
    """
    return part if inputs.frame is None else inputs.frame.paste(part)


def size_note(pixels: Pixels, inputs: Inputs, *, keeps: bool) -> str | None:
    """How a result came to its size, for the user to know; None where it was made at that size.

    Args:
        pixels: of the result, uint8 [H, W, 3].
        inputs: the picture that it was made of, the mask, and the size of the result.
        keeps: whether `compose` was told where something changed.
    """
    (width, height), output = inputs.fit.size, inputs.output_size
    if inputs.frame is not None:
        part = f"the {output[0]}x{output[1]} around the mask made at {width}x{height}"
        return f"{part}; the rest is the picture's own"
    if output == inputs.fit.output_size:
        return None
    made, scaled = f"made at {width}x{height}", f"scaled to {output[0]}x{output[1]}"
    if inputs.pixels is None or not (keeps or inputs.mask is not None):
        return f"{made} and {scaled}"
    changed = float((pixels != _to_output(inputs).apply(inputs.pixels)).any(axis=2).mean())
    if changed == 0:
        return None
    if changed > NEARLY_ALL:
        return f"{made} and {scaled} as a whole, since most of it changed"
    return f"{made}; the changed {changed:.0%} is {scaled}, the rest is the picture's own"


def no_larger(inputs: Inputs) -> Inputs:
    """For a result no larger than the model makes it, as a preview is."""
    if inputs.frame is not None or not _is_enlarged(inputs):
        return inputs
    return replace(inputs, output_size=inputs.fit.output_size)


def _to_output(inputs: Inputs) -> Fit:
    """From the picture to the size of the result."""
    return Fit(inputs.fit.input_size, inputs.output_size, inputs.fit.mode)


def _is_enlarged(inputs: Inputs) -> bool:
    """Whether the result is clearly larger than what the model makes."""
    (width, height), (made_width, made_height) = inputs.output_size, inputs.fit.output_size
    return width * height > 1.2 * made_width * made_height


def _share(area: Float, inputs: Inputs) -> float:
    """How much of the picture changed, 0 to 1: of what the mask lets change, where there is one."""
    if inputs.mask is None:
        return float(area.mean())
    mask = inputs.fit.apply(inputs.mask)
    return float((area * mask).sum() / max(float(mask.sum()), 1.0))


def is_unchanged(latents: Float, before: Float) -> bool:
    """Whether no token of the result [1, C, H, W] differs from the picture that was handed in."""
    if latents.shape != before.shape:
        return False
    return bool(pack(np.abs(latents - before)).mean(axis=2).max() < _SAME)
