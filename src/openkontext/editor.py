"""One edit, readable from top to bottom: check -> encode -> denoise -> decode -> check.

Everything that edits goes through `Editor.steps`: the command line, Python, the evaluation. So nothing goes
round the filters, which have no switch here.
"""

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext import compositing, images
from openkontext.compositing import UNCHANGED, is_unchanged
from openkontext.encoding import decode_picture, encode_picture, encode_text, of_the_same_words, rehearse
from openkontext.errors import InputError, RefusedError
from openkontext.inputs import Inputs, read_inputs
from openkontext.latents import latent_mask, pack
from openkontext.lora import LoraArgument, UsedLora, open_lora
from openkontext.provenance.record import Record
from openkontext.repository import Repository
from openkontext.request import EditRequest
from openkontext.result import EditResult, EditStep, together
from openkontext.runtime import Components
from openkontext.runtime.providers import check_provider
from openkontext.runtime.tuning import AUTO, check_asked
from openkontext.safety.guard import Screening
from openkontext.safety.policy import load_policy
from openkontext.safety.standard import preload, standard_guard
from openkontext.sampling import Mask, TextEmbeds, denoise
from openkontext.screening import asked
from openkontext.starting import starts
from openkontext.step_cache import StepCache
from openkontext.text import Tokenizers
from openkontext.watching import watched

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def load(
    model: str | Path = "nano",
    *,
    precision: str | None = None,
    provider: str = "cpu",
    arithmetic: str = AUTO,
    low_memory: bool = False,
    offload: bool = False,
    loras: Sequence[LoraArgument] = (),
    profile: str | Path | None = None,
) -> "Editor":
    """Open a model repository for editing.

    Args:
        model: a folder, or the name of a shipped or pulled repository.
        precision: of its graphs; None for the repository's first.
        provider: what runs the graphs: "cpu", "cuda", "tensorrt" and others of ONNX Runtime.
        arithmetic: "faithful" as the files say, "fast" for FP8 and FP4 in weights alone, "int8" for integers
            on a CPU, or "auto" for what suits the model and this machine; see docs/providers.md.
        low_memory: keep one graph in memory at a time.
        offload: leave the text encoders and the autoencoder to the CPU; see `Components`.
        loras: LoRA files to edit with, each a path, or a path and its strength; see `Editor.set_loras`.
        profile: risk profile of the filters, "strict", "default", "permissive" or a TOML file; None for what
            $OPENKONTEXT_PROFILE names, else "default".

    Raises:
        InputError: there is no such repository, precision, provider, arithmetic or profile, something is
            missing from it, or a LoRA is not for this model.
    """
    return Editor(
        Repository.open(model),
        precision=precision,
        provider=provider,
        arithmetic=arithmetic,
        low_memory=low_memory,
        offload=offload,
        loras=loras,
        profile=profile,
    )


class Editor:
    """A model repository, ready to edit pictures. See `load` for the arguments."""

    def __init__(
        self,
        repository: Repository,
        *,
        precision: str | None = None,
        provider: str = "cpu",
        arithmetic: str = AUTO,
        low_memory: bool = False,
        offload: bool = False,
        loras: Sequence[LoraArgument] = (),
        profile: str | Path | None = None,
    ) -> None:
        self.guard = standard_guard(load_policy(profile))
        check_provider(provider)
        check_asked(arithmetic)
        precision = repository.precision(precision)
        repository.verify(precision)
        self.repository = repository
        self.components = Components(
            repository, precision, provider, arithmetic=arithmetic, low_memory=low_memory, offload=offload
        )
        self.tokenizers = Tokenizers(repository)
        self.set_loras(loras)

    @cached_property
    def digest(self) -> str:
        """Digest of the model's files."""
        return self.repository.digest(self.components.precision)

    @property
    def loras(self) -> tuple[UsedLora, ...]:
        """The LoRAs that edits are made with."""
        return tuple(each.used for each in self.components.loras)

    def set_loras(self, loras: Sequence[LoraArgument]) -> None:
        """Edit with these LoRAs from now on, in place of those before.

        Args:
            loras: files of any tool (docs/loras.md), each a path, or a path and its strength: 1 is the LoRA
                as it was trained, 0 nothing of it. None of them takes all away.

        Raises:
            InputError: a file is no LoRA or not for this model; the LoRAs stay those before.
        """
        self.components.set_loras([open_lora(lora) for lora in loras])

    def preload(self) -> None:
        """Open what edits open when they first need it: graphs, tokenizers, filters, the signing key.

        A service does so before it takes work. A small model runs once, too, since every first run is slower.
        The filters look at a picture of our own meanwhile; services elsewhere are not called.

        Raises:
            InputError: the model repository or the signing key cannot be used.
        """
        from openkontext.provenance.signer import default_signer  # late: asking needs no signing library
        from openkontext.provenance.signing import context

        self.components.preload()
        rehearse(self.components, self.tokenizers)
        _ = self.digest
        preload(self.guard)
        default_signer()
        context()

    def edit(
        self,
        image: images.ImageInput,
        prompt: str,
        *,
        reference_images: Sequence[images.ImageInput] = (),
        stitch: bool = False,
        mask_image: images.MaskInput | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        true_cfg_scale: float = 1.0,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        aspect_ratio: tuple[int, int] | None = None,
        size: str = "auto",
        fit: str = "stretch",
        keep_unchanged: bool = True,
        cache: float | str = 0.0,
        safety_tolerance: int | None = None,
        on_step: Callable[[EditStep], None] | None = None,
        **options: Any,
    ) -> EditResult:
        """Edit a picture as an instruction says.

        Args:
            image: the picture: a path, the bytes of a file, a PIL image or an array.
            prompt: the instruction, such as "make it night".
            reference_images: further pictures that the instruction may speak of.
            stitch: whether the model sees them and the picture side by side as one.
            mask_image: where the picture may change: its transparent part, or white where it has none.
            negative_prompt: what the picture should not show; it counts where `true_cfg_scale` is above 1.
            num_inference_steps: denoising steps; None for the model's own number.
            guidance_scale: how strictly to follow the instruction; None for the model's own value.
            true_cfg_scale: how far to go away from the negative prompt.
            seed: same seed, same picture; None draws one, which the result tells.
            width: pixels of the result, with `height`; None keeps the aspect of the input.
            height: see width.
            aspect_ratio: width and height of the result in any unit, in place of pixels.
            size: "original" for a result of the input's own size, with its own pixels where nothing changes.
            fit: how the input comes to another aspect: "stretch", "crop" or "pad".
            keep_unchanged: whether the input's own pixels stay where the model changes nothing.
            cache: 0 to 1, how far steps may be foreseen in place of computed: 0 for none; or "off", "close"
                or "quick".
            safety_tolerance: 0 (most strict) to 6; never looser than the filters' profile. None for that.
            on_step: called after each step; an exception that it raises stops the edit.
            **options: further fields of `EditRequest`, such as `crop_to_mask`, `extend` and `strength`.

        Raises:
            InputError: an argument, a picture or the model repository cannot be used; the line says why.
            RefusedError: a filter refused the request or its result, or a person must look at it first.
        """
        if image is None:
            raise InputError("there is no image to edit; Editor.generate makes one from the prompt alone")
        request = EditRequest(
            prompt=prompt,
            image=image,
            reference_images=reference_images,
            stitch=stitch,
            mask_image=mask_image,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            true_cfg_scale=true_cfg_scale,
            seed=seed,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            size=size,
            fit=fit,
            keep_unchanged=keep_unchanged,
            cache=cache,
            safety_tolerance=safety_tolerance,
            **options,
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
            RefusedError: as for `edit`.
        """
        return self.run(EditRequest(prompt=prompt, **options), on_step)

    def run(self, request: EditRequest, on_step: Callable[[EditStep], None] | None = None) -> EditResult:
        """Do one edit to its end, as `edit` and `generate` do.

        Args:
            request: what is asked.
            on_step: called after each step; an exception that it raises stops the edit.

        Raises:
            InputError: a picture or the model repository cannot be used.
            RefusedError: a filter refused, or a person must look first.
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
            RefusedError: a filter refused, or a person must look first.
        """
        started = time.perf_counter()
        config = self.repository.config
        guidance = float(config.guidance_scale if request.guidance_scale is None else request.guidance_scale)
        seed = int(secrets.randbelow(2**32) if request.seed is None else request.seed)
        count = int(request.num_inference_steps or config.num_inference_steps)
        count = count if request.sigmas is None else len(request.sigmas)

        # Check what was handed in, and settle the sizes.
        inputs = read_inputs(request, config)
        words = self.tokenizers.warnings(request.prompts, config.name, request.max_sequence_length)
        warnings = [*inputs.warnings, *words, *request.warnings]
        screening = self.guard.screen(
            asked(request, inputs, self.digest, self.loras, seed=seed, steps=count, guidance=guidance)
        )
        with self.components.opened_ahead():
            screening.admit()

        # Encode words and pictures to what the transformer reads.
        text, negative = self._encode_text(request)
        context = [encode_picture(self.components, config, pixels) for pixels in inputs.context]
        mask = None
        if inputs.mask is not None:
            mask = Mask(latent_mask(inputs.fit.apply(inputs.mask)), context[0])
        changes = None
        if not inputs.stitched:  # the first is the picture alone
            changes = compositing.comparison(request, config.keep_below, context, self._pixels)
        record = Record(
            model=config.name, digest=self.digest, loras=self.loras, ingredients=inputs.ingredients
        )

        results: list[EditResult] = []
        refused: list[RefusedError] = []
        begun = starts(request, seed, inputs.fit.size, context, config)
        for number, start in enumerate(begun):
            own = screening if number == 0 else screening.of_seed(start.seed)

            # Denoise: from noise to the latents of the result.
            steps = denoise(
                self.components.transformer,
                start.noise,
                text,
                sigmas=start.sigmas,
                guidance_scale=guidance,
                context=context,
                negative=negative,
                true_cfg_scale=request.true_cfg_scale,
                mask=mask,
                cache=StepCache(request.cache_threshold),
                positions=config.position_rule,
                start=start.latents,
            )
            names = request.callback_on_step_end_tensor_inputs
            for step in watched(steps, request.callback_on_step_end, self, text, start.sigmas, names):
                yield EditStep(
                    index=number * step.count + step.index + 1,
                    count=len(begun) * step.count,
                    sigma=step.sigma,
                    preview=partial(self._preview, step.denoised, inputs, changes, own),
                    record=record,
                )

            # Decode the latents to the finished picture, and check it before anyone sees it.
            made = self._pixels(step.latents)
            part = compositing.compose(made, step.latents, inputs, changes)
            pixels = compositing.whole(part, inputs)
            as_latent = request.output_type == "latent"
            shown = [pixels, *([part] if inputs.frame else []), *([made] if as_latent else [])]
            try:
                verdict = own.release(*shown)
            except RefusedError as error:
                refused.append(error)
                continue
            known = inputs.pixels is not None and not inputs.stitched
            unchanged = known and is_unchanged(step.latents, context[0])
            sized = compositing.size_note(pixels, inputs, keeps=changes is not None)
            notes = [*inputs.notes, sized, UNCHANGED if unchanged else None]
            results.append(
                EditResult.of(
                    request,
                    record,
                    image=Image.fromarray(pixels),
                    seed=start.seed,
                    num_inference_steps=count,
                    guidance_scale=guidance,
                    precision=self.components.precision,
                    seconds=time.perf_counter() - started,
                    arithmetic=self.components.arithmetic,
                    notes=tuple(note for note in notes if note),
                    warnings=(*warnings, *self.components.warnings),
                    unchanged=unchanged,
                    verdict=verdict,
                    latents=pack(step.latents) if as_latent else None,
                )
            )
        return together(results, refused)

    def _preview(
        self, latents: Float, inputs: Inputs, changes: compositing.Changes | None, screening: Screening
    ) -> Image.Image:
        """What the model foresees, no larger than it makes it; plain gray where the filters keep that in."""
        part = compositing.compose(self._pixels(latents), latents, compositing.no_larger(inputs), changes)
        pixels = compositing.whole(part, inputs)
        shown = [pixels, *([part] if inputs.frame else [])]
        allowed = all(screening.may_preview(each) for each in shown)
        return Image.fromarray(pixels) if allowed else Image.new("RGB", pixels.shape[1::-1], "gray")

    def _encode_text(self, request: EditRequest) -> tuple[TextEmbeds, TextEmbeds | None]:
        """The prompt as the transformer takes it, and the negative prompt where it counts."""
        length, prompts = request.max_sequence_length, request.prompts
        text, *negative = encode_text(self.components, self.tokenizers, *prompts, max_sequence_length=length)
        if request.prompt_embeds is not None:
            text = of_the_same_words(request.prompt_embeds, request.pooled_prompt_embeds, text)
        return text, negative[0] if negative else None

    def _pixels(self, latents: Float) -> Pixels:
        """Latents [1, C, H, W] in the transformer's scale -> pixels [8H, 8W, 3]."""
        return decode_picture(self.components, self.repository.config, latents)
