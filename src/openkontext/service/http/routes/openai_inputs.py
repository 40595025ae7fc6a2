"""Fields of OpenAI's image requests, in its three forms, and those of `RouteInputs` besides."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile

from openkontext.request import SIZES
from openkontext.service.http.asking import HandedPicture, RouteInputs
from openkontext.service.rejections import Refused, WrongInputError

KNOWN_STEPS = {"low": 0.5, "medium": 1, "high": 2, "hd": 2, "xhigh": 3, "max": 4}
"""What OpenAI's `quality` takes of the model's own number of steps."""


def _size(text: str) -> str:
    if not re.fullmatch(r"auto|original|\d{1,5}x\d{1,5}", text, re.ASCII):
        raise ValueError(f"{text!r} is none; give auto, original or one such as 1024x768")
    return text


class ImageInputs(RouteInputs):
    """Fields that edits and generations have in common."""

    called: ClassVar = RouteInputs.called | {"width": "size", "height": "size", "mask_image": "mask"}

    model: str = Field("flux-kontext-dev", max_length=100, description="All names reach the one model.")
    n: int = Field(1, ge=1, le=10, description="Results: all of them, or none.")
    size: Annotated[str, Field(max_length=20), AfterValidator(_size)] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    quality: Literal["auto", "standard", "low", "medium", "high", "hd", "xhigh", "max"] = Field(
        "auto", description="low takes half the model's own steps, high twice, xhigh three times, max four."
    )
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = Field(
        "auto", description="low is `safety_tolerance` 6: never looser than the service's profile."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(
        0, ge=0, le=3, description="With stream: coarse pictures on the way, at most."
    )

    @model_validator(mode="after")
    def _one_number_of_steps(self) -> Self:
        if self.steps is not None and self.quality in KNOWN_STEPS:
            reason = "is a number of steps, which steps gives already; leave one out"
            raise WrongInputError("quality", reason)
        return self

    def asked_options(self, own_steps: int | None) -> dict[str, Any]:
        """Options as `Asked` has them.

        Args:
            own_steps: of the model; None where it is not known here.

        Raises:
            WrongInputError: `quality` cannot be kept without them.
        """
        options = self.options()
        if self.size not in SIZES:
            del options["size"]
            options["width"], options["height"] = map(int, self.size.split("x"))
        if self.quality in KNOWN_STEPS and KNOWN_STEPS[self.quality] != 1:
            if own_steps is None:
                raise WrongInputError("quality", "the model's number of steps is not known here; give steps")
            options["num_inference_steps"] = max(1, round(own_steps * KNOWN_STEPS[self.quality]))
        if self.moderation == "low":
            options.setdefault("safety_tolerance", 6)
        if self.stream and self.partial_images:
            options["preview"] = True
        return options

    def warnings(self, models: Sequence[str]) -> list[str]:
        """What was asked and has no effect.

        Args:
            models: names that the service knows.
        """
        said = []
        if self.model not in models:
            said.append(f"model: there is no {self.model} here; {models[0]} did it")
        if self.partial_images and not self.stream:
            said.append("partial_images: has no effect without stream")
        return said


class GenerationInputs(ImageInputs):
    """What is asked of `/v1/images/generations`."""


class EditInputs(ImageInputs):
    """What is asked of `/v1/images/edits`, in any form."""

    input_fidelity: Literal["high"] | None = Field(
        None, description="The picture is always kept as closely as the model can."
    )

    def pictures(self) -> list[HandedPicture]:
        """The picture to edit, then further ones."""
        raise NotImplementedError

    def mask_picture(self) -> HandedPicture | None:
        """Transparent where the picture may change."""
        raise NotImplementedError


class ImageReference(BaseModel):
    """A picture by its address, or in a data URI."""

    model_config = ConfigDict(extra="forbid")
    image_url: str | None = Field(None, description="An address, a data URI or base64.")
    file_id: str | None = Field(None, description="Not taken: no files are kept here.")

    def picture(self, name: str) -> HandedPicture:
        """The picture of a field.

        Raises:
            WrongInputError: there is none.
        """
        if self.file_id is not None:
            raise WrongInputError(f"{name}.file_id", "no files are kept here; hand in image_url")
        if not self.image_url:
            raise WrongInputError(f"{name}.image_url", "is missing; give an address or a data URI")
        return HandedPicture(f"{name}.image_url", self.image_url)


class JsonEdit(EditInputs):
    """An edit in JSON."""

    called: ClassVar = EditInputs.called | {"image": "images", "reference_images": "images"}
    images: list[ImageReference] | None = Field(None, description="The picture to edit, then references.")
    image: str | list[str] | None = Field(None, description="The same as text, as some clients send it.")
    mask: ImageReference | str | None = Field(
        None,
        description="Transparent where the picture may change; white, where it has no transparency. Without "
        "it, a picture that is transparent in a part changes there alone.",
    )

    def pictures(self) -> list[HandedPicture]:
        """See `EditInputs`."""
        if self.images:
            return [image.picture(f"images.{index}") for index, image in enumerate(self.images)]
        texts = [self.image] if isinstance(self.image, str) else self.image or []
        return _numbered("image", texts)

    def mask_picture(self) -> HandedPicture | None:
        """See `EditInputs`."""
        if isinstance(self.mask, ImageReference):
            return self.mask.picture("mask")
        return HandedPicture("mask", self.mask) if self.mask else None


class FormEdit(EditInputs):
    """An edit in a form with files."""

    called: ClassVar = EditInputs.called | {"reference_images": "image"}
    image: list[bytes | str] | None = Field(None, description="The picture to edit, then references.")
    image_list: list[bytes | str] | None = Field(None, alias="image[]", description="The same.")
    mask: bytes | str | None = Field(
        None,
        description="Transparent where the picture may change; white, where it has no transparency. Without "
        "it, a picture that is transparent in a part changes there alone.",
    )

    def pictures(self) -> list[HandedPicture]:
        """See `EditInputs`."""
        return [*_numbered("image", self.image or []), *_numbered("image[]", self.image_list or [])]

    def mask_picture(self) -> HandedPicture | None:
        """See `EditInputs`."""
        return HandedPicture("mask", self.mask) if self.mask is not None else None


async def read_edit(request: Request, largest: int) -> EditInputs:
    """An edit from a request's body, in JSON or as a form.

    Args:
        request: of the client.
        largest: bytes of a field.

    Raises:
        Refused: 400: the body is neither.
        RequestValidationError: it does not fit.
    """
    try:
        if "form" in request.headers.get("content-type", ""):
            return FormEdit.model_validate(await _form(request, largest))
        try:
            body = await request.json()
        except ValueError as error:
            raise Refused(400, "the body is neither JSON nor a form") from error
        return JsonEdit.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


async def _form(request: Request, largest: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    async with request.form(max_part_size=largest) as form:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if content == "":  # a field of a page's form that nobody filled in; an empty file is an error
                continue
            if name in ("image", "image[]"):
                fields.setdefault(name, []).append(content)
            else:
                fields[name] = content
    return fields


def _numbered(name: str, contents: Sequence[bytes | str]) -> list[HandedPicture]:
    """Pictures of one field; which of them an error means is said where there are several."""
    several = len(contents) > 1
    return [
        HandedPicture(f"{name} ({index})" if several else name, content)
        for index, content in enumerate(contents, 1)
        if content != ""
    ]


def body_schema() -> Mapping[str, Any]:
    """The two forms of an edit, for the OpenAPI document."""
    forms: dict[str, type[BaseModel]] = {"multipart/form-data": FormEdit, "application/json": JsonEdit}
    content = {kind: {"schema": _inlined(form.model_json_schema())} for kind, form in forms.items()}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> Any:
    """A schema without references into itself, which would not resolve inside a larger document."""
    known = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(each) for each in part]
        if not isinstance(part, dict):
            return part
        if reference := part.get("$ref"):
            return inline(known[reference.rpartition("/")[2]])
        return {name: inline(value) for name, value in part.items()}

    return inline(schema)
