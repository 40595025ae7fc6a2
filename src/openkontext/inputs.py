"""The pictures of a request, read and brought to the model's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openkontext import images
from openkontext.images import Fit
from openkontext.latents import nearest_size
from openkontext.provenance.record import Ingredient
from openkontext.request import EditRequest
from openkontext.safety.guard import Shown

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Size = tuple[int, int]

TOKEN = 16
"""Pixels along one side of a token: the autoencoder's 8 times the packing's 2."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The pictures of a request, read, and how they come to the model's size and back."""

    pixels: Pixels | None
    """The picture to edit, uint8 [H, W, 3] of `fit.input_size`."""
    mask: Float | None
    """Where it may change, float32 [H, W] in 0..1 of the same size."""
    context: list[Pixels]
    """The picture and the references at the sizes the model sees them in."""
    fit: Fit
    """Between the picture's size and the model's."""
    output_size: Size
    """Of the result."""
    shown: tuple[Shown, ...]
    """The picture and the references as they were handed in, for the filters."""
    ingredients: tuple[Ingredient, ...]
    """The same, for the record of what the result is made from."""
    notes: tuple[str, ...]
    """What was done to the pictures."""
    warnings: tuple[str, ...]
    """What of them is lost."""


def read_inputs(request: EditRequest, sizes: Sequence[Size]) -> Inputs:
    """Read the pictures of a request and settle all sizes.

    Args:
        request: what is asked.
        sizes: (width, height) that the model was trained on, in pixels.

    Raises:
        InputError: a picture cannot be used.
    """
    picture = None if request.image is None else images.load(request.image)
    mask = None
    if picture and request.mask_image is not None:
        mask = images.load_mask(request.mask_image, picture.size)
    pixels = picture.pixels if picture else None
    notes = list(picture.notes) if picture else []
    warnings = []

    shape = request.asked_shape or (picture.size if picture else (1, 1))
    size = nearest_size(*shape, sizes)
    if request.asked_shape is None:
        fit = Fit(picture.size if picture else size, size, request.fit)
        output_size = fit.output_size
        crop = fit
    else:
        # The picture first comes to the asked shape, which then stands in its place.
        output_size = Fit(shape, size).output_size
        if request.width and request.height:
            output_size = (request.width, request.height)
            size = _model_size(output_size, size)
        fit = Fit(output_size, size)
        crop = Fit(picture.size if picture else output_size, output_size, request.fit)
        pixels = None if pixels is None else crop.apply(pixels)
        mask = None if mask is None else crop.apply(mask)
        if output_size[0] > size[0] or output_size[1] > size[1]:
            notes.append(f"made at {size[0]}x{size[1]} and scaled to {output_size[0]}x{output_size[1]}")
    if crop.note:
        warnings.append(crop.note)

    shown = [] if picture is None else [Shown.of(picture, request.image)]
    ingredients = [] if picture is None else [Ingredient.of(picture)]
    context = [] if pixels is None else [fit.apply(pixels)]
    for index, source in enumerate(request.reference_images, 1):
        reference = images.load(source)
        shown.append(Shown.of(reference, source))
        ingredients.append(Ingredient.of(reference, "inputTo"))
        context.append(Fit(reference.size, nearest_size(*reference.size, sizes)).apply(reference.pixels))
        notes += [f"reference {index}: {note}" for note in reference.notes]
    return Inputs(
        pixels=pixels,
        mask=mask,
        context=context,
        fit=fit,
        output_size=output_size,
        shown=tuple(shown),
        ingredients=tuple(ingredients),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _model_size(asked: Size, preferred: Size) -> Size:
    """The size to work at for a result of so many pixels.

    It is the asked one in whole tokens where the model knows pictures about as large, else the preferred one.
    """
    if not 0.5 <= (asked[0] * asked[1]) / (preferred[0] * preferred[1]) <= 2:
        return preferred
    width, height = (TOKEN * round(side / TOKEN) for side in asked)
    return width, height
