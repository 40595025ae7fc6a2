"""Fields of the FLUX API's models, as docs.bfl.ai names them, and a few of our own."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from openkontext.service.http.asking import Asked, HandedPicture, Kind, Ratio, RouteInputs
from openkontext.service.rejections import WrongInputError

SAME_SHAPE = 0.02
"""How far `width` by `height` may lie from `aspect_ratio` and still be of that shape."""


class FluxInputs(RouteInputs):
    """Fields that all models of the FLUX API take."""

    width: int | None = Field(None, description="Pixels of the result, with `height`.")
    height: int | None = Field(None, description="Pixels of the result, with `width`.")
    aspect_ratio: Ratio | None = Field(None, description="Shape of the result, from 21:9 to 9:21.")
    size: Literal["auto", "original"] | None = Field(
        None, description="original: the picture's own size, its own pixels where nothing changes."
    )
    webhook_url: str | None = Field(None, min_length=1, max_length=2083)
    webhook_secret: str | None = Field(None, description="Webhooks are signed with it.", max_length=1000)
    prompt_upsampling: bool = Field(False, description="Without effect; true is answered with a warning.")
    safety_tolerance: int = Field(
        2, ge=0, le=6, description="0 is most strict, 6 least; never looser than the service's profile."
    )
    preview: bool = Field(False, description="Make coarse pictures on the way, as `preview` of the task.")

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        """Clients that turn a size into a ratio send both; what says the same twice is said once."""
        if self.width and self.height and self.aspect_ratio:
            asked = self.aspect_ratio[0] / self.aspect_ratio[1]
            if abs(self.width / self.height / asked - 1) <= SAME_SHAPE:
                self.aspect_ratio = None
        return self

    def asked(self, model: str, idempotency_key: str | None) -> Asked:
        """What is asked for, under the service's own names.

        Args:
            model: the name that the client gives the model.
            idempotency_key: of the request.
        """
        pictures, parent_id = self.pictures(), self.parent()
        return Asked(
            model=model,
            options=self.options(),
            called=self.called,
            pictures=pictures,
            mask=self.mask_picture(),
            mask_is_alpha=self.mask_is_alpha(),
            warnings=self.warnings(),
            end_user=self.end_user,
            parent_id=parent_id,
            edits_parent=parent_id is not None and not any(p.name == "input_image" for p in pictures),
            webhook_url=self.webhook_url,
            webhook_secret=self.webhook_secret,
            idempotency_key=idempotency_key,
        )

    def pictures(self) -> list[HandedPicture]:
        """The picture to edit, then further ones."""
        return []

    def mask_picture(self) -> HandedPicture | None:
        """Where the picture may change."""
        return None

    def mask_is_alpha(self) -> bool:
        """Whether the mask is where that picture is transparent."""
        return False

    def parent(self) -> str | None:
        """The task whose result is edited."""
        return None

    def warnings(self) -> list[str]:
        """What was asked and has no effect."""
        if self.prompt_upsampling:
            return ["prompt_upsampling: has no effect here; the prompt is taken as it is"]
        return []


class KontextInputs(FluxInputs):
    """What is asked of FLUX.1 Kontext: an edit, or a picture where none is handed in."""

    called: ClassVar = RouteInputs.called | {
        "image": "input_image", "reference_images": "input_image_2", "mask_image": "mask"
    }  # fmt: skip
    input_image: str | None = Field(None, description="The picture to edit: base64, a data URI or a URL.")
    input_image_2: str | None = Field(None, description="A further picture to speak of.")
    input_image_3: str | None = Field(None, description="A further picture to speak of.")
    input_image_4: str | None = Field(None, description="A further picture to speak of.")
    mask: str | None = Field(
        None,
        description="As input_image; transparent where the picture may change, or white where nothing is.",
    )
    parent_id: str | None = Field(
        None, max_length=36, description="Own task whose result this edits; input_image may be left out then."
    )

    def pictures(self) -> list[HandedPicture]:
        """See `FluxInputs`."""
        names = ("input_image", "input_image_2", "input_image_3", "input_image_4")
        return [HandedPicture(name, getattr(self, name)) for name in names if getattr(self, name)]

    def mask_picture(self) -> HandedPicture | None:
        """See `FluxInputs`."""
        return HandedPicture("mask", self.mask) if self.mask else None

    def parent(self) -> str | None:
        """See `FluxInputs`."""
        return self.parent_id


class FillInputs(FluxInputs):
    """What is asked of FLUX.1 Fill: an edit inside a mask."""

    called: ClassVar = RouteInputs.called | {"mask_image": "mask"}
    output_format: Kind | None = "jpeg"
    image: str | None = Field(None, description="The picture to edit: base64, a data URI or a URL.")
    input_image: str | None = Field(None, description="As `image`, which some clients call so.")
    mask: str | None = Field(
        None,
        description="White where the picture may change; without it that is where `image` is transparent.",
    )
    guidance: float | None = Field(
        None, ge=0, le=100, description="On FLUX.1 Fill's own scale: without effect, answered with a warning."
    )

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if bool(self.image) == bool(self.input_image):
            raise WrongInputError("image", "hand in one picture to edit, as image or as input_image")
        return self

    def options(self) -> dict[str, object]:
        """See `RouteInputs`."""
        return {name: value for name, value in super().options().items() if name != "guidance_scale"}

    def pictures(self) -> list[HandedPicture]:
        """See `FluxInputs`."""
        return [
            HandedPicture("image", self.image)
            if self.image
            else HandedPicture("input_image", self.input_image or "")
        ]

    def mask_picture(self) -> HandedPicture | None:
        """See `FluxInputs`."""
        return HandedPicture("mask", self.mask) if self.mask else self.pictures()[0]

    def mask_is_alpha(self) -> bool:
        """See `FluxInputs`."""
        return not self.mask

    def warnings(self) -> list[str]:
        """See `FluxInputs`."""
        said = "guidance: is on FLUX.1 Fill's scale and has no effect; the model's own value was used"
        return [*super().warnings(), *([said] if self.guidance is not None else [])]


class DevInputs(FluxInputs):
    """What is asked of FLUX.1 [dev]: a picture from words."""

    output_format: Kind | None = "jpeg"
