"""The pictures of a request, read and brought to the model's size."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openkontext import images
from openkontext.errors import InputError
from openkontext.images import Fit
from openkontext.latents import nearest_size
from openkontext.provenance.record import Ingredient
from openkontext.regions import Frame, around, extended
from openkontext.repository import RepositoryConfig
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
    """The picture and the references at the sizes the model sees them in; all in one where `stitched`."""
    stitched: bool
    """Whether the context is one picture that several were joined to."""
    fit: Fit
    """Between the picture's size and the model's."""
    output_size: Size
    """Of the result."""
    shown: tuple[Shown, ...]
    """The picture and the references as they were handed in, for the filters."""
    ingredients: tuple[Ingredient, ...]
    """The same, for the record of what the result is made from."""
    frame: Frame | None
    """The whole picture, where `pixels` are a part of it; None where they are all."""
    notes: tuple[str, ...]
    """What was done to the pictures."""
    warnings: tuple[str, ...]
    """What of them is lost."""


@dataclass(frozen=True)
class Sizes:
    """How a picture comes to the asked shape, from there to the model's size, and how large the result is."""

    shaping: Fit
    """From the picture's size to that of `fit.input_size`."""
    fit: Fit
    """From there to the model's size."""
    output: Size
    """Of the result."""


def read_inputs(request: EditRequest, config: RepositoryConfig) -> Inputs:
    """Read the pictures of a request and settle all sizes.

    Args:
        request: what is asked.
        config: the numbers of the model.

    Raises:
        InputError: a picture cannot be used.
    """
    picture = None if request.image is None else images.load(request.image)
    pixels = picture.pixels if picture else None
    notes = list(picture.notes) if picture else []
    mask = None
    if picture and request.mask_image is not None:
        mask = images.load_mask(request.mask_image, picture.size, notes)

    frame = None
    if pixels is not None and mask is not None and request.crop_to_mask:
        frame = Frame(pixels, around(mask, config.sizes))
        pixels, mask = frame.cut(pixels), frame.cut(mask)
    if pixels is not None and request.extend:
        pixels, mask = extended(pixels, mask, request.extend)
    own = None if pixels is None else (pixels.shape[1], pixels.shape[0])
    if frame is not None:
        request = replace(request, size="original", fit="stretch")  # the part has the model's aspect already
    elif request.extend and request.asked_shape is None:
        request = replace(request, size="original")
    settled = settle_sizes(request, own, config)
    shaping, fit = settled.shaping, settled.fit
    pixels = None if pixels is None else shaping.apply(pixels)
    if mask is not None:
        mask = shaping.apply(mask)
        if not fit.apply(mask).any():
            raise InputError("the mask lies outside of what fit crop leaves of the picture; use another fit")
    warnings = [note for note in (shaping.note, fit.note) if note]
    if picture and request.size == "auto" and not request.width and settled.output != picture.size:
        notes.append(
            _returned(picture.size, settled.output, config.name, keeps_aspect=not request.asked_shape)
        )

    shown = [] if picture is None else [Shown.of(picture, request.image)]
    ingredients = [] if picture is None else [Ingredient.of(picture)]
    parts = [] if pixels is None else [pixels]
    context = [] if pixels is None else [fit.apply(pixels)]
    for index, source in enumerate(request.reference_images, 1):
        reference = images.load(source)
        shown.append(Shown.of(reference, source))
        ingredients.append(Ingredient.of(reference, "inputTo"))
        parts.append(reference.pixels)
        context.append(_at_trained_size(reference.pixels, config))
        notes += [f"reference {index}: {note}" for note in reference.notes]
    stitched = request.stitch and len(parts) > 1
    if stitched:
        context = [_at_trained_size(images.side_by_side(parts), config)]
    if frame is not None:  # enlarged to the model's size, it shows more than the whole did
        shown.append(Shown(np.ascontiguousarray(frame.cut(frame.pixels))))
    return Inputs(
        pixels=pixels,
        mask=mask,
        context=context,
        stitched=stitched,
        fit=fit,
        frame=frame,
        output_size=settled.output,
        shown=tuple(shown),
        ingredients=tuple(ingredients),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _at_trained_size(pixels: Pixels, config: RepositoryConfig) -> Pixels:
    """A picture at the size, of those that the model was trained on, that is nearest to its aspect."""
    size = (pixels.shape[1], pixels.shape[0])
    return Fit(size, nearest_size(*size, config.sizes)).apply(pixels)


def settle_sizes(request: EditRequest, picture: Size | None, config: RepositoryConfig) -> Sizes:
    """Decide at which size the model works, and how large the result is.

    Args:
        request: what is asked.
        picture: (width, height) of the picture to edit; None where there is none.
        config: the numbers of the model.
    """
    shape = request.asked_shape or picture or (1, 1)
    trained = nearest_size(*shape, config.sizes)
    if request.asked_shape is not None:
        # The picture first comes to the asked shape, which then stands in its place.
        output, size = Fit(shape, trained).output_size, trained
        if request.width and request.height:
            output = (request.width, request.height)
            size = model_size(output, trained, config.min_area)
        return Sizes(Fit(picture or output, output, request.fit), Fit(output, size), output)
    own = picture or trained
    whole, fit = Fit(own, own), Fit(own, trained, request.fit)
    if request.size == "auto":
        return Sizes(whole, fit, fit.output_size)
    if request.fit == "crop":
        left, top, right, bottom = fit.source_box
        middle = (right - left, bottom - top)
        return Sizes(Fit(own, middle, "crop"), Fit(middle, trained), middle)
    return Sizes(whole, fit, own)


def model_size(asked: Size, trained: Size, min_area: float) -> Size:
    """The size to work at for a result of so many pixels.

    It is the asked one in whole tokens, where that has `min_area` to twice the pixels of the trained one.
    Else it is the trained one, whose result is then scaled.

    Args:
        asked: (width, height) of the result.
        trained: (width, height) that the model was trained on, of about this aspect.
        min_area: see `RepositoryConfig`.
    """
    if not min_area <= (asked[0] * asked[1]) / (trained[0] * trained[1]) <= 2:
        return trained
    width, height = (TOKEN * -(-side // TOKEN) for side in asked)  # up: shrinking a little loses nothing
    return width, height


def _returned(picture: Size, output: Size, model: str, *, keeps_aspect: bool) -> str:
    """That a result comes back in another size than its picture, and what to do about it."""
    (width, height), (made_width, made_height) = picture, output
    note = f"the picture of {width}x{height} comes back as {made_width}x{made_height}: "
    note += f"{model} works at that size"
    return f"{note}; size=original keeps its own" if keeps_aspect else note
