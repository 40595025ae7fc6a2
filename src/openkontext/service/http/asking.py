"""What clients ask for: an edit, and the fields that routes take.

A route has an own model of its fields (`RouteInputs`). A job keeps them under the names of
`queue.job_options`;
answers and errors use the client's names.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from openkontext.lora.file import MAX_STRENGTH
from openkontext.request import MAX_SIDE, MAX_STEPS, MAX_TOKENS
from openkontext.service.people.end_users import MAX_NAME, chosen
from openkontext.service.queue.job_options import CALLED, DELIVERY, FIELDS, OPTIONS
from openkontext.service.rejections import WrongInputError
from openkontext.step_cache import THRESHOLDS, threshold

MAX_RATIO = 21 / 9
MAX_PICTURES = 4
"""Pictures of one edit: the one to edit, and those it speaks of."""


@dataclass(frozen=True)
class HandedPicture:
    """A picture as a client hands it in."""

    name: str
    """Of the field that it came in."""
    content: bytes | str
    """Its file, or text: base64, a data URI or an address."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An edit as a client asks for it."""

    model: str
    options: Mapping[str, Any]
    """`OPTIONS` and `DELIVERY` that were given."""
    called: Mapping[str, str]
    """What the client calls fields of `EditRequest`, where that is another name."""
    pictures: Sequence[HandedPicture] = ()
    """The one to edit first."""
    mask: HandedPicture | None = None
    mask_is_alpha: bool = False
    """`mask` is the picture to edit, whose transparent part may change; it must have one."""
    alpha_may_mask: bool = False
    """Without a mask, the picture to edit is its own, where it is transparent in a part."""
    warnings: Sequence[str] = ()
    """What was asked and has no effect."""
    end_user: str | None = None
    """Whom it is for, by the account's own name for them."""
    parent_id: str | None = None
    edits_parent: bool = False
    """The picture to edit is the parent's result; `pictures` are the further ones."""
    webhook_url: str | None = None
    webhook_secret: str | None = None
    idempotency_key: str | None = None


def parse_ratio(text: Any) -> list[int]:
    """Width and height of an aspect ratio such as "16:9".

    Raises:
        ValueError: it is none, or not between 21:9 and 9:21.
    """
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", str(text), re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (width and height and 1 / MAX_RATIO <= width / height <= MAX_RATIO):
        raise ValueError(f"{str(text)[:20]!r} is none between 21:9 and 9:21; give one such as 16:9")
    return [width, height]


Ratio = Annotated[
    list[int],
    BeforeValidator(parse_ratio, json_schema_input_type=Annotated[str, Field(pattern=r"^\d{1,4}:\d{1,4}$")]),
]
"""An aspect ratio, as "16:9"."""


def _from_form(given: Any) -> Any:
    """An object or a list that a form sends as JSON."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError("must be JSON") from None


def _parse_threshold(given: Any) -> Any:
    found = threshold(given)
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(found, bool) and 0 <= float(found) <= 1:
            return found
    said = f"{given!r:.20}".lower() if isinstance(given, bool) else f"{given!r:.20}"
    raise ValueError(f"is {said}; it must be a number from 0 to 1, or one of {', '.join(THRESHOLDS)}")


Threshold = Annotated[
    float,
    BeforeValidator(
        _parse_threshold,
        json_schema_input_type=Annotated[float, Field(ge=0, le=1)] | Literal["off", "close", "quick"],
    ),
]
"""How far steps may be foreseen: a number, or a name of `step_cache.THRESHOLDS`."""
Strengths = dict[str, Annotated[float, Field(strict=True, ge=-MAX_STRENGTH, le=MAX_STRENGTH)]]
Loras = Annotated[Strengths, BeforeValidator(_from_form, json_schema_input_type=Strengths)]
"""LoRAs by their names in the service's settings, each with its strength."""
Pixels = dict[
    Literal["left", "top", "right", "bottom"], Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]
]
Sides = Annotated[Pixels, BeforeValidator(_from_form, json_schema_input_type=Pixels)]
"""Pixels to add at the sides of a picture."""
Falling = Annotated[
    list[Annotated[float, Field(strict=True, gt=0, le=1)]], Field(min_length=1, max_length=MAX_STEPS)
]
Levels = Annotated[Falling, BeforeValidator(_from_form, json_schema_input_type=Falling)]
"""Noise levels of the steps."""
Kind = Literal["png", "jpeg", "webp"]
"""Formats that a result can have."""


class RouteInputs(BaseModel):
    """Fields of a route: those that it takes and no others. What is null is as good as left out."""

    model_config = ConfigDict(extra="forbid")
    called: ClassVar[dict[str, str]] = CALLED
    """What this route calls fields of `EditRequest`."""

    prompt: str = Field(description="What to change, or to show.", examples=["make the ball red"])
    seed: int | None = Field(None, ge=0, le=2**64 - 1, description="Same seed, same picture.")
    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Denoising steps; the model's own by default."
    )
    guidance: float | None = Field(None, ge=0, le=100, description="How strictly to follow the prompt.")
    negative_prompt: str | None = Field(
        None, description="What not to show; counts where `true_cfg_scale` is above 1."
    )
    true_cfg_scale: float | None = Field(
        None, ge=1, le=100, description="How far to go away from `negative_prompt`; takes twice the time."
    )
    fit: Literal["stretch", "crop", "pad"] | None = Field(
        None, description="How a picture comes to another aspect; stretch by default."
    )
    keep_unchanged: bool | None = Field(
        None,
        description="Whether the picture's own pixels stay where the model changes nothing; true by default.",
    )
    stitch: bool | None = Field(
        None, description="Whether the model sees the picture and the references side by side, as one."
    )
    cache: Threshold | None = Field(
        None,
        description="How far steps may be foreseen, not computed, or a name for it; 0, off, by default.",
    )
    crop_to_mask: bool | None = Field(
        None,
        description="Whether the part around the mask alone is edited, at the model's full resolution.",
    )
    extend: Sides | None = Field(
        None, description="Pixels to add at the sides, which alone change.", examples=[{"left": 256}]
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="How much noise the picture is under when the steps begin; 1, noise alone, by default.",
    )
    sigmas: Levels | None = Field(
        None, description="Noise levels of the steps, falling from 1 at most, in place of `steps`."
    )
    max_sequence_length: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="T5 tokens after which the prompt is cut."
    )
    loras: Loras | None = Field(
        None, description="LoRAs of this service by name, each with its strength, most often in 0..1."
    )
    safety_tolerance: int | None = Field(
        None, ge=0, le=6, description="0 is most strict, 6 least; never looser than the service's profile."
    )

    safety_identifier: str | None = Field(
        None, max_length=MAX_NAME, description="Whom this is for; misuse counts by it. Send no personal data."
    )
    user: str | None = Field(None, max_length=MAX_NAME, description="Older name of safety_identifier.")
    output_format: Kind | None = "png"
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP, 0 to 100; 95 by default."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what is no number where one is asked for: JSON's true is not 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
            raise ValueError(f"is {str(value).lower()}; it must be a number")
        return value

    @model_validator(mode="after")
    def _no_quality_of_png(self) -> Self:
        if self.output_format == "png" and self.output_compression not in (None, 100):
            raise WrongInputError("output_compression", "PNG keeps every pixel; ask for jpeg or webp")
        return self

    @property
    def end_user(self) -> str | None:
        """Whom this is for."""
        return chosen([self.safety_identifier, self.user])

    def options(self) -> dict[str, Any]:
        """What was given of `OPTIONS` and `DELIVERY`."""
        given = {FIELDS.get(name, name): getattr(self, name) for name in type(self).model_fields}
        return {name: given[name] for name in (*OPTIONS, *DELIVERY) if given.get(name) is not None}


def check_count(pictures: Sequence[HandedPicture]) -> None:
    """Refuse more pictures than an edit takes, by the name of the first one too many.

    Raises:
        WrongInputError: there are too many.
    """
    if len(pictures) > MAX_PICTURES:
        reason = f"an edit takes {MAX_PICTURES} pictures at most; leave it out"
        raise WrongInputError(pictures[MAX_PICTURES].name, reason)
