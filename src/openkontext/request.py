"""What is asked of one edit.

Making an `EditRequest` checks it: this is the one place that says which values are good.
"""

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from openkontext import images
from openkontext.errors import FieldError, InputError
from openkontext.folding import is_blank
from openkontext.regions import SIDES
from openkontext.step_cache import THRESHOLDS, threshold
from openkontext.watching import TENSORS, Callback

MAX_PROMPT = 4000
"""Characters of the longest instruction taken; T5's 512 tokens hold fewer."""
MAX_STEPS = 1000
"""Denoising steps above which more time buys nothing."""
MAX_SIDE = 4096
"""Pixels of the longest side that may be asked for; a picture's own size may be larger."""
SIZES = ("auto", "original")
"""Sizes of the result by name."""
MAX_PICTURES = 100
"""Pictures of one request."""
MAX_TOKENS = 512
"""T5 tokens that FLUX.1 takes."""
OUTPUT_TYPES = ("pil", "np", "latent")
"""Forms of a result's pictures, by diffusers' names."""

_SETTINGS = (
    "size",
    "width",
    "height",
    "aspect_ratio",
    "fit",
    "stitch",
    "keep_unchanged",
    "crop_to_mask",
    "extend",
    "strength",
    "sigmas",
    "max_sequence_length",
)
"""Fields that decide how a result is made, and go into its metadata where they are set."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EditRequest:
    """What is asked of one edit. Making one checks it.

    Raises:
        InputError: a value is out of its range, or two contradict each other.
    """

    prompt: str
    """The instruction, such as "make it night"."""
    image: images.ImageInput | None = None
    """The picture to edit: a path, bytes, a PIL image or an array; None makes one from the prompt alone."""
    reference_images: Sequence[images.ImageInput] = ()
    """Further pictures that the instruction may speak of."""
    stitch: bool = False
    """Whether the picture and the references are shown to the model as one picture, side by side."""
    mask_image: images.MaskInput | None = None
    """Where the picture may change: the mask's transparent part, or white where it has none."""
    negative_prompt: str | None = None
    """What the picture should not show; it counts where `true_cfg_scale` is above 1."""
    num_inference_steps: int | None = None
    """Denoising steps, 1 to 1000; None for the model's own number."""
    guidance_scale: float | None = None
    """How strictly to follow the instruction, 0 to 100; None for the model's own value."""
    true_cfg_scale: float = 1.0
    """How far to go away from the negative prompt, 1 to 100; above 1 each step runs the transformer twice."""
    seed: int | None = None
    """Same seed, same picture: 0 to 2**64 - 1, of which the low 32 bits count. None draws one."""
    width: int | None = None
    """Pixels of the result, with `height`; None keeps the aspect of the input."""
    height: int | None = None
    """See width."""
    aspect_ratio: tuple[int, int] | None = None
    """Width and height of the result in any unit, in place of pixels."""
    size: str = "auto"
    """"auto" for the size that the model works at, unless another is asked for; "original" for the input's
    own: its pixels stay where nothing changes, and the change is scaled up onto them."""
    fit: str = "stretch"
    """How a picture comes to another aspect: "stretch", "crop" or "pad"; see `images.Fit`."""
    keep_unchanged: bool = True
    """Whether the input's own pixels stay where the model changes nothing; else it paints all of the picture
    anew. For models that say from when on something is changed (`RepositoryConfig.keep_below`), and for any
    with size "original"."""
    cache: float | str = 0.0
    """How far steps may be foreseen in place of computed, 0 to 1: 0 computes every step, 0.1 about a third of
    28; or a name of `step_cache.THRESHOLDS`. See `step_cache.StepCache`."""
    safety_tolerance: int | None = None
    """How much the filters let pass: 0 (most strict) to 6, never more than the deployment's profile. None
    for the profile alone."""
    requester: str = ""
    """Who asks, for reviewers and reports; empty where that is not known."""
    crop_to_mask: bool = False
    """Whether the part around the mask alone is edited, at all of the model's resolution, and laid back. It
    is for a small change in a large picture; the result has the picture's own size."""
    extend: Mapping[str, int] = field(default_factory=dict)
    """Pixels to add at the sides of the picture, such as {"left": 256, "top": 64}. They alone change, but for
    what a mask allows; the result has the picture's own size and these."""

    # What follows has the names and the meaning of diffusers' pipelines: docs/python.md.
    num_images_per_prompt: int = 1
    """Pictures to make, 1 to 100: the first with the seed, each further one with the next."""
    output_type: str = "pil"
    """What `EditResult.images` gives: "pil", "np" or "latent"."""
    strength: float = 1.0
    """Above 0, to 1: how much noise the picture is under when the steps begin; 1 for noise alone."""
    sigmas: Sequence[float] | None = None
    """Noise levels of the steps, falling from 1 at most and above 0, before the picture's size shifts them.
    None for evenly spaced ones."""
    latents: Any = None
    """Noise in place of the seed's: packed [N, L, 4C] or [N, C, H, W], N being `num_images_per_prompt`."""
    prompt_embeds: Any = None
    """T5's text tokens of the prompt, [1, L, D], with `pooled_prompt_embeds`; of no other words."""
    pooled_prompt_embeds: Any = None
    """CLIP's pooled embedding of the prompt, [1, W]."""
    max_sequence_length: int | None = None
    """T5 tokens after which the instruction is cut, 1 to 512; None for as many as the model takes."""
    callback_on_step_end: Callback | None = None
    """Called after each step with (editor, step, timestep, arrays); may return other latents."""
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    """Arrays that it is given: "latents" (packed), "prompt_embeds"."""

    def __post_init__(self) -> None:
        _check_prompt("prompt", self.prompt, "the instruction")
        if is_blank(self.prompt):
            raise FieldError(
                "prompt", 'is empty; say what to change, such as "make it night"', "the instruction"
            )
        if self.negative_prompt is not None:
            _check_prompt("negative_prompt", self.negative_prompt, "the negative prompt")
        _check_number("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS, whole=True)
        _check_number("guidance_scale", self.guidance_scale, 0, 100)
        _check_number("true_cfg_scale", self.true_cfg_scale, 1, 100, needed=True)
        _check_number("cache", threshold(self.cache), 0, 1, needed=True, names=tuple(THRESHOLDS))
        _check_number("seed", self.seed, 0, 2**64 - 1, whole=True)
        _check_number("safety_tolerance", self.safety_tolerance, 0, 6, whole=True)
        self._check_shape()
        self._check_part()
        self._check_sampling()
        if self.fit not in images.FITS:
            known = f"{', '.join(images.FITS[:-1])} or {images.FITS[-1]}"
            raise FieldError("fit", f"{self.fit!r} is unknown; choose {known}")
        if not isinstance(self.reference_images, (list, tuple)):
            raise FieldError("reference_images", "must be a list, also for a single picture")
        if self.stitch and self.reference_images and self.mask_image is not None:
            reason = "is for a picture that stands alone; leave out the mask or stitch"
            raise FieldError("mask_image", reason, "a mask")
        if self.mask_image is not None and self.image is None:
            reason = "needs a picture to keep; give an image, or leave the mask out"
            raise FieldError("mask_image", reason, "a mask")

    def _check_shape(self) -> None:
        _check_number("width", self.width, images.MIN_SIDE, MAX_SIDE, whole=True)
        _check_number("height", self.height, images.MIN_SIDE, MAX_SIDE, whole=True)
        if (self.width is None) != (self.height is None):
            missing = "width" if self.width is None else "height"
            raise FieldError(missing, "needs both width and height; give both or neither", "the size")
        if self.aspect_ratio is not None:
            if self.width is not None:
                reason = "either width and height or aspect_ratio, not both"
                raise FieldError("aspect_ratio", reason, "give")
            if len(self.aspect_ratio) != 2:
                raise FieldError("aspect_ratio", f"{self.aspect_ratio} must be two numbers, such as (4, 3)")
            for side in self.aspect_ratio:
                _check_number(
                    "aspect_ratio", side, 1, 10**6, whole=True, needed=True, subject="a side of aspect_ratio"
                )
        if self.size not in SIZES:
            raise FieldError("size", f"{self.size!r} is unknown; choose {' or '.join(SIZES)}")
        if self.size == "original" and (self.width is not None or self.aspect_ratio is not None):
            reason = "is the input's own; leave out width, height and aspect_ratio"
            raise FieldError("size", reason, 'size "original"')
        if self.size == "original" and self.image is None:
            reason = "needs a picture to edit; give an image, or leave it out"
            raise FieldError("size", reason, 'size "original"')
        shape = self.asked_shape
        if shape and max(shape) > images.MAX_ASPECT * min(shape):
            field = "aspect_ratio" if self.aspect_ratio else "width"
            reason = f"is too narrow; at most {images.MAX_ASPECT}:1"
            raise FieldError(field, reason, f"{shape[0]}:{shape[1]}")

    def _check_part(self) -> None:
        if self.crop_to_mask and self.mask_image is None:
            raise FieldError("crop_to_mask", "needs a mask; give mask_image, or leave it out")
        if self.crop_to_mask and (self.asked_shape or self.extend):
            reason = "keeps the picture's own size; leave out width, height, aspect_ratio and extend"
            raise FieldError("crop_to_mask", reason)
        if not isinstance(self.extend, Mapping):
            raise FieldError("extend", f'is {self.extend!r}; it must be sides with pixels, {{"left": 256}}')
        if self.extend and self.image is None:
            raise FieldError("extend", "needs a picture; give an image, or leave it out")
        for side, pixels in self.extend.items():
            if side not in SIDES:
                raise FieldError("extend", f"has no side {side!r}; choose of {', '.join(SIDES)}")
            _check_number("extend", pixels, 1, MAX_SIDE, whole=True, needed=True, subject=f"extend {side}")

    def _check_sampling(self) -> None:
        _check_number(
            "num_images_per_prompt", self.num_images_per_prompt, 1, MAX_PICTURES, whole=True, needed=True
        )
        _check_number("strength", self.strength, 0, 1, needed=True)
        if not self.strength > 0:
            raise FieldError("strength", "is 0, which changes nothing; it must be above 0, and 1 at most")
        if self.strength < 1 and self.image is None:
            raise FieldError("strength", "needs a picture to begin with; give an image, or leave it out")
        if self.stitch and self.reference_images and (self.extend or self.strength < 1):
            name = "extend" if self.extend else "strength"
            raise FieldError(name, f"is for a picture that stands alone; leave out {name} or stitch")
        _check_number("max_sequence_length", self.max_sequence_length, 1, MAX_TOKENS, whole=True)
        if self.output_type not in OUTPUT_TYPES:
            raise FieldError(
                "output_type", f"{self.output_type!r} is unknown; choose {', '.join(OUTPUT_TYPES)}"
            )
        if (self.prompt_embeds is None) != (self.pooled_prompt_embeds is None):
            raise FieldError("prompt_embeds", "and pooled_prompt_embeds come together; give both or neither")
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            raise FieldError("callback_on_step_end", "must be a function of (editor, step, timestep, arrays)")
        for name in self.callback_on_step_end_tensor_inputs:
            if name not in TENSORS:
                reason = f"has {name!r}; choose of {', '.join(TENSORS)}"
                raise FieldError("callback_on_step_end_tensor_inputs", reason)
        if self.sigmas is not None:
            self._check_sigmas(self.sigmas)

    def _check_sigmas(self, sigmas: Sequence[float]) -> None:
        try:
            levels = np.asarray(sigmas, np.float32)
        except (TypeError, ValueError):
            levels = np.empty((0, 0), np.float32)
        if levels.ndim != 1 or not 1 <= len(levels) <= MAX_STEPS:
            raise FieldError("sigmas", f"must be a list of 1 to {MAX_STEPS} noise levels, such as [1, 0.5]")
        if not ((levels > 0) & (levels <= 1)).all() or not (np.diff(levels) < 0).all():
            raise FieldError("sigmas", "must fall from 1 at most, and stay above 0, such as [1, 0.5]")
        if self.num_inference_steps not in (None, len(levels)):
            reason = (
                f"are {len(levels)} steps, and num_inference_steps is {self.num_inference_steps}; give one"
            )
            raise FieldError("sigmas", reason)

    @property
    def settings(self) -> dict[str, Any]:
        """What else decides the result: the fields of `_SETTINGS` that are set, as JSON has them."""
        values = {name: getattr(self, name) for name in _SETTINGS}
        return {
            name: _plain(value) for name, value in values.items() if _plain(value) != _plain(_DEFAULTS[name])
        }

    @property
    def cache_threshold(self) -> float:
        """`cache` as a number."""
        return float(threshold(self.cache))

    @property
    def warnings(self) -> list[str]:
        """What of it has no effect, for the user."""
        if self.negative_prompt is not None and self.true_cfg_scale == 1:
            return ["the negative prompt has no effect while true_cfg_scale is 1"]
        if self.negative_prompt is None and self.true_cfg_scale > 1:
            return ["true_cfg_scale has no effect without a negative prompt"]
        if self.stitch and not self.reference_images:
            return ["stitch has no effect without reference images"]
        return []

    @property
    def prompts(self) -> list[str]:
        """What the text encoders read: the instruction, and the negative prompt where it counts."""
        counts = self.negative_prompt is not None and self.true_cfg_scale > 1
        return [self.prompt, self.negative_prompt or ""] if counts else [self.prompt]

    @property
    def asked_shape(self) -> tuple[int, int] | None:
        """The aspect (width, height) that was asked for, if any."""
        return (self.width, self.height) if self.width and self.height else self.aspect_ratio


_DEFAULTS: dict[str, Any] = {
    each.name: {} if each.name == "extend" else each.default for each in fields(EditRequest)
}


def of_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a request that makes a picture as another was made; see `EditResult.metadata`.

    Args:
        metadata: as `images.read_metadata` gives it.

    Raises:
        InputError: there is none, or a number in it is none.
    """
    if "prompt" not in metadata:
        raise InputError("holds no settings: it is none of ours, or was written without metadata")
    found: dict[str, Any] = {}
    try:
        for name, value in metadata.items():
            if name in ("prompt", "negative_prompt", "size", "fit"):
                found[name] = value
            elif name in ("seed", "num_inference_steps"):
                found[name] = int(value)
            elif name in ("guidance_scale", "true_cfg_scale", "cache"):
                found[name] = float(value)
            elif name in _SETTINGS:
                found[name] = json.loads(value)
    except ValueError:
        raise InputError(f"holds damaged settings: {name} is {value!r}") from None
    return found


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): int(number) for key, number in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Sequence | np.ndarray):
        return [_plain(each) for each in value]
    return int(value) if float(value).is_integer() else float(value)


def _check_prompt(field: str, text: Any, subject: str) -> None:
    if not isinstance(text, str):
        raise FieldError(field, f"must be text, not {type(text).__name__}", subject)
    if len(text) > MAX_PROMPT:
        raise FieldError(field, f"has {len(text)} characters; shorten it to {MAX_PROMPT} at most", subject)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"has bytes that are no UTF-8 text at character {error.start + 1}"
        raise FieldError(field, reason, subject) from error


def _check_number(
    field: str,
    value: Any,
    low: int,
    high: int,
    *,
    whole: bool = False,
    needed: bool = False,
    subject: str | None = None,
    names: Sequence[str] = (),
) -> None:
    if value is None and not needed:
        return
    kind = "a whole number" if whole else "a number"
    try:
        number = operator.index(value) if whole else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high or isinstance(value, bool):
        others = f", or one of {', '.join(names)}" if names else ""
        raise FieldError(field, f"is {value!r}; it must be {kind} from {low} to {high}{others}", subject)
