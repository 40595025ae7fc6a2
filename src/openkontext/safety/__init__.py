"""Filters: what may be asked for, handed in and handed out.

from openkontext.safety import check

verdict = check(prompt="make it night", image="photo.jpg")
verdict.allowed, verdict.category, verdict.fixed, verdict.checks
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openkontext.images import ImageInput
    from openkontext.safety.verdict import Verdict

__all__ = ["check"]


def check(
    prompt: str | None = None, image: "ImageInput | None" = None, profile: str | Path | None = None
) -> "Verdict":
    """What the filters say of an instruction, a picture, or one on the other, as before an edit.

    Args:
        prompt: the instruction.
        image: the picture: a path, the bytes of a file, a PIL image or an array.
        profile: "strict", "default", "permissive", or a TOML file; None for what $OPENKONTEXT_PROFILE names,
            else "default".

    Raises:
        InputError: there is neither, or the picture or the profile cannot be used.
    """
    from openkontext import images
    from openkontext.errors import InputError
    from openkontext.safety.guard import ScreeningRequest, Shown
    from openkontext.safety.policy import load_policy
    from openkontext.safety.standard import standard_guard

    if prompt is None and image is None:
        raise InputError("there is nothing to check; give a prompt, an image, or both")
    pictures = () if image is None else (Shown.of(images.load(image), image),)
    guard = standard_guard(load_policy(profile))
    return guard.screen(ScreeningRequest(prompt or "", pictures=pictures)).judge_request()
