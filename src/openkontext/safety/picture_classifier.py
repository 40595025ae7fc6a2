"""A classifier of pictures that somebody brings as an ONNX file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import InputError
from openkontext.onnx_runtime import onnxruntime
from openkontext.safety.packaged_models import planar, session_options

Activation = Literal["none", "sigmoid", "softmax"]
"""What makes a classifier's output a probability."""


class PictureClassifier:
    """A classifier in ONNX: one picture [1, 3, H, W] float32 in, scores [1, classes] out.

    Args:
        what: it is, for messages, such as "the judge bright.onnx".
        file: of the graph.
        classes: name -> place in its output.
        mean: taken off the values in 0..1.
        scale: divides what is left.
        activation: makes its output a probability.

    Raises:
        InputError: the file cannot be opened, or has other inputs and outputs.
    """

    def __init__(
        self,
        what: str,
        file: Path,
        classes: Mapping[str, int],
        *,
        mean: float,
        scale: float,
        activation: Activation,
    ) -> None:
        self.classes, self._mean, self._scale, self._activation = dict(classes), mean, scale, activation
        try:
            with file.open("rb") as opened:
                self.digest = hashlib.file_digest(opened, "sha256").hexdigest()
                """SHA-256 of the file."""
            self._session: Any = onnxruntime.InferenceSession(
                str(file), session_options(), providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise InputError(f"{what} cannot be loaded: {error.strerror}") from None
        except Exception as error:  # the library raises kinds of its own
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{what} cannot be loaded: {reason}") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or shape[1] != 3 or not outputs:
            raise InputError(f"{what} cannot be used: it must take one picture [1, 3, H, W], not {shape}")
        self._input = inputs[0].name
        self._size = tuple(side if isinstance(side, int) else None for side in shape[2:])
        count = outputs[0].shape[-1] if outputs[0].shape else None
        for name, place in self.classes.items():
            if place < 0 or (isinstance(count, int) and place >= count):
                raise InputError(f"{what} has {count} classes, and none {place} ({name})")

    def scores(self, pixels: NDArray[np.uint8]) -> dict[str, float]:
        """The score of each class.

        Args:
            pixels: uint8 [H, W, 3]; resized to what the classifier takes.

        Raises:
            ValueError: a class is not in its output, or a score is no number.
        """
        height, width = self._size
        image = Image.fromarray(pixels)
        if height and width:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        planes = planar(np.asarray(image), self._mean, self._scale)
        raw = np.asarray(self._session.run(None, {self._input: planes})[0], np.float64).reshape(-1)
        values = _activated(raw, self._activation)
        if missing := [name for name, place in self.classes.items() if place >= len(values)]:
            raise ValueError(f"it gives {len(values)} scores, and none for {missing[0]}")
        if not np.isfinite(values).all():
            raise ValueError("it gives scores that are no numbers")
        return {name: float(values[place]) for name, place in self.classes.items()}


def _activated(scores: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
    if activation == "softmax":
        powers = np.exp(scores - scores.max())
        return np.asarray(powers / powers.sum())
    return scores
