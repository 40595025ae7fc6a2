"""One edit, readable from top to bottom: check -> encode -> denoise -> decode.

Everything that edits goes through `Editor.steps`: the command line, Python, the evaluation.
"""

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext import images
from openkontext.errors import InputError
from openkontext.images import Fit
from openkontext.latents import latent_mask, latent_shape, nearest_size
from openkontext.provenance.record import Ingredient, Record
from openkontext.repository import Repository
from openkontext.request import EditRequest, EditResult, EditStep
from openkontext.runtime import Components
from openkontext.runtime.lowering import ARITHMETICS, check_arithmetic
from openkontext.runtime.providers import check_provider
from openkontext.sampling import Mask, TextEmbeds, denoise, randn, schedule
from openkontext.text import Tokenizers

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Size = tuple[int, int]

TOKEN = 16
"""Pixels along one side of a token: the autoencoder's 8 times the packing's 2."""


def load(
    model: str | Path = "nano",
    *,
    precision: str | None = None,
    provider: str = "cpu",
    arithmetic: str = ARITHMETICS[0],
    low_memory: bool = False,
) -> "Editor":
    """Open a model repository for editing.

    Args:
        model: a folder, or the name of a shipped or pulled repository.
        precision: of its graphs; None for the repository's first.
        provider: what runs the graphs: "cpu", "cuda", "tensorrt" and others of ONNX Runtime.
        arithmetic: of graphs in FP8 and FP4: "faithful" as their files say, or "fast".
        low_memory: keep one graph in memory at a time.

    Raises:
        InputError: there is no such repository, precision, provider or arithmetic, or something is missing
            from it.
    """
    repository = Repository.open(model)
    return Editor(
        repository, precision=precision, provider=provider, arithmetic=arithmetic, low_memory=low_memory
    )


class Editor:
    """A model repository, ready to edit pictures. See `load` for the arguments."""

    def __init__(
        self,
        repository: Repository,
        *,
        precision: str | None = None,
        provider: str = "cpu",
        arithmetic: str = ARITHMETICS[0],
        low_memory: bool = False,
    ) -> None:
        check_provider(provider)
        check_arithmetic(arithmetic)
        precision = repository.precision(precision)
        repository.verify(precision)
        self.repository = repository
        self.components = Components(
            repository, precision, provider, arithmetic=arithmetic, low_memory=low_memory
        )
        self.tokenizers = Tokenizers(repository)

    @cached_property
    def digest(self) -> str:
        """Digest of the model's files."""
        return self.repository.digest(self.components.precision)

    def edit(
        self,
        image: images.ImageInput,
        prompt: str,
        *,
        reference_images: Sequence[images.ImageInput] = (),
        mask_image: images.ImageInput | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        true_cfg_scale: float = 1.0,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        aspect_ratio: tuple[int, int] | None = None,
        fit: str = "stretch",
        on_step: Callable[[EditStep], None] | None = None,
    ) -> EditResult:
        """Edit a picture as an instruction says.

        Args:
            image: the picture: a path, the bytes of a file, a PIL image or an array.
            prompt: the instruction, such as "make it night".
            reference_images: further pictures that the instruction may speak of.
            mask_image: where the picture may change: white may, black stays as it is.
            negative_prompt: what the picture should not show; it counts where `true_cfg_scale` is above 1.
            num_inference_steps: denoising steps; None for the model's own number.
            guidance_scale: how strictly to follow the instruction; None for the model's own value.
            true_cfg_scale: how far to go away from the negative prompt.
            seed: same seed, same picture; None draws one, which the result tells.
            width: pixels of the result, with `height`; None keeps the aspect of the input.
            height: see width.
            aspect_ratio: width and height of the result in any unit, in place of pixels.
            fit: how the input comes to another aspect: "stretch", "crop" or "pad".
            on_step: called after each step; an exception that it raises stops the edit.

        Raises:
            InputError: an argument, a picture or the model repository cannot be used; the line says why.
        """
        if image is None:
            raise InputError("there is no image to edit; Editor.generate makes one from the prompt alone")
        request = EditRequest(
            prompt=prompt,
            image=image,
            reference_images=reference_images,
            mask_image=mask_image,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            true_cfg_scale=true_cfg_scale,
            seed=seed,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            fit=fit,
        )
        return self.run(request, on_step)

    def generate(
        self, prompt: str, *, on_step: Callable[[EditStep], None] | None = None, **options: Any
    ) -> EditResult:
        """Make a picture from a prompt alone.

        Args:
            prompt: what the picture shows.
            on_step: called after each step; an exception that it raises stops the work.
            **options: further fields of `EditRequest`.

        Raises:
            InputError: as for `edit`.
        """
        return self.run(EditRequest(prompt=prompt, **options), on_step)

    def run(self, request: EditRequest, on_step: Callable[[EditStep], None] | None = None) -> EditResult:
        """Do one edit to its end, as `edit` and `generate` do.

        Args:
            request: what is asked.
            on_step: called after each step; an exception that it raises stops the edit.

        Raises:
            InputError: a picture or the model repository cannot be used.
        """
        steps = self.steps(request)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            if on_step is not None:
                on_step(step)

    def steps(self, request: EditRequest) -> Generator[EditStep, None, EditResult]:
        """Do one edit as a generator of its steps: whoever stops asking has cancelled it.

        Yields:
            One `EditStep` after each denoising step.

        Returns:
            The result, as the value of `yield from` or of `StopIteration`.

        Raises:
            InputError: a picture or the model repository cannot be used.
        """
        started = time.perf_counter()
        config = self.repository.config
        count = int(request.num_inference_steps or config.num_inference_steps)
        guidance = float(config.guidance_scale if request.guidance_scale is None else request.guidance_scale)
        seed = int(secrets.randbelow(2**32) if request.seed is None else request.seed)

        # Check what was handed in, and settle the sizes.
        inputs = _read(request, config.sizes)
        warnings = [*inputs.warnings, *self._warnings(request)]

        # Encode words and pictures to what the transformer reads.
        prompts = [request.prompt]
        if request.negative_prompt is not None and request.true_cfg_scale > 1:
            prompts.append(request.negative_prompt)
        text, *negative = self._encode_text(*prompts)
        context = [self._encode_image(pixels) for pixels in inputs.context]
        mask = None
        if inputs.mask is not None:
            mask = Mask(latent_mask(inputs.fit.apply(inputs.mask)), context[0])
        noise = randn(latent_shape(*inputs.fit.size, config.latent_channels), seed)
        tokens = noise.shape[2] * noise.shape[3] // 4
        record = Record(model=config.name, digest=self.digest, ingredients=inputs.ingredients)

        # Denoise: from noise to the latents of the result.
        for step in denoise(
            self.components.transformer,
            noise,
            text,
            sigmas=schedule(count, tokens, config.base_shift, config.max_shift),
            guidance_scale=guidance,
            context=context,
            negative=negative[0] if negative else None,
            true_cfg_scale=request.true_cfg_scale,
            mask=mask,
        ):
            yield EditStep(
                index=step.index + 1,
                count=step.count,
                sigma=step.sigma,
                preview=partial(self._decode, step.denoised, inputs),
                record=record,
            )

        # Decode the latents to the finished picture.
        return EditResult(
            image=self._decode(step.latents, inputs),
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=seed,
            num_inference_steps=count,
            guidance_scale=guidance,
            true_cfg_scale=float(request.true_cfg_scale),
            model=config.name,
            precision=self.components.precision,
            digest=self.digest,
            seconds=time.perf_counter() - started,
            record=record,
            arithmetic=self.components.arithmetic,
            notes=inputs.notes,
            warnings=tuple(warnings),
        )

    def _warnings(self, request: EditRequest) -> list[str]:
        """What of the words will not have the effect that the user may expect."""
        name = self.repository.config.name
        warnings = []
        if unknown := self.tokenizers.unknown_words(request.prompt):
            words = ", ".join(f"'{word}'" for word in unknown)
            warnings.append(f"{name} was never taught {words}; it may ignore or misread that")
        if cut := self.tokenizers.encode(request.prompt).cut:
            warnings.append(f"the instruction is too long for {name}, which does not see its end: '{cut}'")
        if request.negative_prompt is not None and request.true_cfg_scale == 1:
            warnings.append("the negative prompt has no effect while true_cfg_scale is 1")
        if request.negative_prompt is None and request.true_cfg_scale > 1:
            warnings.append("true_cfg_scale has no effect without a negative prompt")
        return warnings

    def _encode_text(self, *prompts: str) -> list[TextEmbeds]:
        """Prompts as the text encoders give them; each encoder is opened once, also with low memory."""
        tokens = [self.tokenizers.encode(prompt) for prompt in prompts]
        hidden_states = [self.components.t5(ids.t5_ids) for ids in tokens]
        pooled = [self.components.clip(ids.clip_ids) for ids in tokens]
        return [TextEmbeds(*embeds) for embeds in zip(hidden_states, pooled, strict=True)]

    def _encode_image(self, pixels: Pixels) -> Float:
        """Pixels [H, W, 3] -> latents [1, C, H/8, W/8] in the transformer's scale."""
        config = self.repository.config
        latents = self.components.encode(images.to_model(pixels))
        return (latents - np.float32(config.shift_factor)) * np.float32(config.scaling_factor)

    def _decode(self, latents: Float, inputs: "_Inputs") -> Image.Image:
        """Latents [1, C, H, W] in the transformer's scale -> the picture, what the mask keeps put back."""
        config = self.repository.config
        if not np.isfinite(latents).all():
            raise InputError(
                f"{config.name} computed not-a-number values; check its files: openkontext doctor"
            )
        decoded = self.components.decode(
            latents / np.float32(config.scaling_factor) + np.float32(config.shift_factor)
        )
        pixels = inputs.fit.undo(images.from_model(decoded), inputs.output_size)
        if inputs.pixels is not None and inputs.mask is not None:
            to_output = Fit(inputs.fit.input_size, inputs.output_size, inputs.fit.mode)
            pixels = images.blend(pixels, to_output.apply(inputs.pixels), to_output.apply(inputs.mask))
        return Image.fromarray(pixels)


@dataclass(frozen=True, eq=False)
class _Inputs:
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
    notes: tuple[str, ...]
    """What was done to the pictures."""
    warnings: tuple[str, ...]
    """What of them is lost."""
    ingredients: tuple[Ingredient, ...]
    """What the result is made from, as it came."""


def _read(request: EditRequest, sizes: Sequence[Size]) -> _Inputs:
    """Read the pictures of a request and settle all sizes."""
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

    context = [] if pixels is None else [fit.apply(pixels)]
    ingredients = [Ingredient.of(picture)] if picture else []
    for index, source in enumerate(request.reference_images, 1):
        reference = images.load(source)
        ingredients.append(Ingredient.of(reference, "inputTo"))
        context.append(Fit(reference.size, nearest_size(*reference.size, sizes)).apply(reference.pixels))
        notes += [f"reference {index}: {note}" for note in reference.notes]
    return _Inputs(pixels, mask, context, fit, output_size, tuple(notes), tuple(warnings), tuple(ingredients))


def _model_size(asked: Size, preferred: Size) -> Size:
    """The size to work at for a result of so many pixels.

    It is the asked one in whole tokens where the model knows pictures about as large, else the preferred one.
    """
    if not 0.5 <= (asked[0] * asked[1]) / (preferred[0] * preferred[1]) <= 2:
        return preferred
    width, height = (TOKEN * round(side / TOKEN) for side in asked)
    return width, height
