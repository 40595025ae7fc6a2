"""What a job keeps of an edit that is asked for, under one vocabulary: the field names of `EditRequest`.

What clients of the FLUX and OpenAI APIs call otherwise than `EditRequest` does stands in `CALLED`, once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from openkontext.request import EditRequest

PICTURES = ("image", "reference_images", "mask_image")
"""Fields of `EditRequest` that hold pictures."""
BY_SERVICE = ("requester",)
"""Fields of `EditRequest` that no client sets: the service knows who asks."""
NOT_OVER_HTTP = (
    "num_images_per_prompt",  # OpenAI's `n`; an edit of its own each, so that each is judged and paid for
    "output_type",  # results are files
    "latents",  # these and embeddings would go round what the filters judge: the words
    "prompt_embeds",
    "pooled_prompt_embeds",
    "callback_on_step_end",  # a function
    "callback_on_step_end_tensor_inputs",
)
"""Fields of `EditRequest` that no route takes, each with the reason."""
OPTIONS = tuple(
    field.name
    for field in dataclasses.fields(EditRequest)
    if field.name not in (*PICTURES, *BY_SERVICE, *NOT_OVER_HTTP)
)
"""All others; a job keeps them under these names."""
CALLED = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""What clients call options otherwise."""
DELIVERY = ("output_format", "output_compression", "preview", "loras")
"""How a result is delivered, and by which LoRAs it is made; a job keeps this beside `OPTIONS`."""
FIELDS = {called: name for name, called in CALLED.items()}
"""Names of fields of `EditRequest` by what clients call them."""


def edit_request(
    asked: Mapping[str, Any],
    *,
    image: bytes | None = None,
    reference_images: Sequence[bytes] = (),
    mask_image: bytes | None = None,
    requester: str = "",
) -> EditRequest:
    """What the editor is asked for: the one place that makes it, to check a request and to do it.

    Args:
        asked: options as a job keeps them; what are none of `OPTIONS` is for others.
        image: file of the picture to edit.
        reference_images: files of further pictures.
        mask_image: file of the mask, white where the picture may change.
        requester: who asks.

    Raises:
        FieldError: a value is out of its range, or two contradict each other.
    """
    given = {FIELDS.get(name, name): value for name, value in asked.items() if value is not None}
    if "aspect_ratio" in given:  # JSON knows no tuples
        given["aspect_ratio"] = tuple(given["aspect_ratio"])
    return EditRequest(
        **{name: given[name] for name in OPTIONS if name in given},
        image=image,
        reference_images=list(reference_images),
        mask_image=mask_image,
        requester=requester,
    )


def as_called(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a job under the names that clients know."""
    return {CALLED.get(name, name): value for name, value in asked.items()}
