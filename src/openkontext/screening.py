"""What the filters, and reviewers after them, are asked to judge of a request."""

import hashlib
from collections.abc import Sequence

import numpy as np

from openkontext.inputs import Inputs
from openkontext.lora import UsedLora
from openkontext.request import EditRequest
from openkontext.safety.guard import ScreeningRequest
from openkontext.watching import as_floats


def asked(
    request: EditRequest, inputs: Inputs, digest: str, loras: Sequence[UsedLora], **decided: float
) -> ScreeningRequest:
    """Words, pictures, and whatever else a reviewer's approval is bound to.

    Args:
        request: what is asked.
        inputs: its pictures.
        digest: of the model.
        loras: that are in use.
        decided: the seed and other numbers that the request left open.
    """
    mask = None if inputs.mask is None else hashlib.sha256(inputs.mask.tobytes()).hexdigest()
    options = {
        **decided,
        "true_cfg_scale": float(request.true_cfg_scale),
        "negative_prompt": request.negative_prompt,
        "size": [request.size, *inputs.output_size],
        "fit": request.fit,
        "stitch": request.stitch,
        "keep_unchanged": request.keep_unchanged,
        "cache": request.cache_threshold,
        "mask": mask,
        "model": digest,
        "loras": [[lora.digest, lora.strength] for lora in loras],
        **{name: value for name, value in request.settings.items() if name not in ("size", "fit")},
    }
    if inputs.frame is not None:
        options["part"] = [int(side) for side in inputs.frame.box]
    if request.num_images_per_prompt > 1:
        options["num_images_per_prompt"] = int(request.num_images_per_prompt)
    if request.latents is not None:
        noise = np.ascontiguousarray(as_floats(request.latents, "latents"))
        options["latents"] = hashlib.sha256(noise.tobytes()).hexdigest()
    if request.callback_on_step_end is not None:
        options["callback_on_step_end"] = True  # what it does is not known; the result is judged all the same
    return ScreeningRequest(
        request.prompt,
        request.negative_prompt or "",
        inputs.shown,
        request.safety_tolerance,
        request.requester,
        options=options,
    )
