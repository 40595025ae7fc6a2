"""Callbacks of diffusers' form, which may change the latents between two steps."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.latents import pack, unpack
from openkontext.sampling import DenoisingStep, TextEmbeds

Float = NDArray[np.float32]
Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""Called with the editor, the step from 0, its timestep (1000 times the noise level it began at) and the
arrays that were asked for; returns those that it changes."""

TENSORS = ("latents", "prompt_embeds")
"""Arrays that a callback can ask for: packed latents [1, L, 4C], and the text tokens [1, L, D]."""


def watched(
    steps: Generator[DenoisingStep, Float | None, None],
    callback: Callback | None,
    pipe: object,
    text: TextEmbeds,
    sigmas: Float,
    names: Sequence[str] = ("latents",),
) -> Iterator[DenoisingStep]:
    """The steps of a loop, with a callback after each, whose latents the loop goes on with.

    Args:
        steps: of `sampling.denoise`.
        callback: None for none.
        pipe: its first argument.
        text: the prompt.
        sigmas: noise levels [N + 1] of the loop.
        names: arrays that it asks for, of `TENSORS`.

    Yields:
        Each step, as the callback leaves it.

    Raises:
        InputError: the callback returns something else than a dictionary, latents of another shape, or other
            embeddings: nobody would have judged their words.
    """
    changed: Float | None = None
    while True:
        try:
            step = next(steps) if changed is None else steps.send(changed)
        except StopIteration:
            return
        changed = None
        if callback is not None:
            arrays = {"latents": pack(step.latents), "prompt_embeds": text.encoder_hidden_states}
            given = {name: arrays[name].copy() for name in names}
            timestep = np.float32(1000) * sigmas[step.index]
            returned = callback(pipe, step.index, timestep, given)
            changed = _latents(returned, step.latents, text)
            step = step if changed is None else replace(step, latents=changed)
        yield step


def _latents(returned: Any, before: Float, text: TextEmbeds) -> Float | None:
    """The latents that a callback returns, [1, C, H, W]; None where it returns none."""
    if returned is None:
        return None
    if not isinstance(returned, dict):
        raise InputError(f"callback_on_step_end must return a dictionary, not {type(returned).__name__}")
    embeds = returned.get("prompt_embeds")
    if embeds is not None and not np.array_equal(np.asarray(embeds), text.encoder_hidden_states):
        raise InputError(
            "callback_on_step_end changed prompt_embeds, whose words no filter could judge; "
            "change latents alone, or give another prompt"
        )
    if returned.get("latents") is None:
        return None
    return as_latents(returned["latents"], before.shape, "the latents of callback_on_step_end")


def as_latents(values: Any, shape: tuple[int, ...], what: str) -> Float:
    """Latents as users hand them in, packed as diffusers does or not.

    Args:
        values: [B, L, 4C] or [B, C, H, W], as an array or a tensor that numpy can read.
        shape: (B, C, H, W) that they must have.
        what: to call them in a message.

    Returns:
        float32 of `shape`.

    Raises:
        InputError: they are of another shape, or no finite numbers.
    """
    B, C, H, W = shape
    packed = (B, H * W // 4, 4 * C)
    array = as_floats(values, what)
    if array.shape not in (shape, packed):
        raise InputError(
            f"{what} must have the shape {list(packed)} or {list(shape)}, not {list(array.shape)}"
        )
    return array if array.shape == shape else unpack(array, H, W)


def as_floats(values: Any, what: str) -> Float:
    """An array or tensor as float32.

    Raises:
        InputError: it cannot be read as an array, or holds what is no finite number.
    """
    try:
        array = np.asarray(values.float() if hasattr(values, "float") else values, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on a GPU
        raise InputError(f"{what} cannot be read as an array ({error}); hand in numpy's") from error
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds numbers that are not finite")
    return array
