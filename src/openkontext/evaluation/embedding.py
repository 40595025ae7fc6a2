"""How alike two pictures are and how pleasing one is, by CLIP's picture encoder, in ONNX Runtime.

The weights are not ours to ship, and nothing fetches them by itself. The folder holds

- `model.onnx`: `pixel_values` [B, 3, H, W] -> `image_embeds` [B, D];
- `preprocessor_config.json`, as transformers writes it for a `CLIPImageProcessor`;
- and, for the aesthetic score, `aesthetic.npz` with `weight` [1, D] and `bias` [1]: LAION's linear predictor
  (github.com/LAION-AI/aesthetic-predictor), which reads embeddings of length 1.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import InputError
from openkontext.images.fitting import Pixels
from openkontext.onnx_runtime import onnxruntime

Float = NDArray[np.float32]

MODEL, SETTINGS, PREDICTOR = "model.onnx", "preprocessor_config.json", "aesthetic.npz"
REPOSITORY = "Qdrant/clip-ViT-B-32-vision"
"""An export of OpenAI's CLIP ViT-B/32 on the Hugging Face Hub, in this layout (MIT)."""


class Clip:
    """CLIP's picture encoder.

    Args:
        folder: with its files.

    Raises:
        InputError: a file is missing or cannot be read; the message says how to get it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        for name in (MODEL, SETTINGS):
            if not (folder / name).is_file():
                how = f"`hf download {REPOSITORY} --local-dir {folder}`"
                raise InputError(f"{folder}: holds no {name} of CLIP: fetch it with {how}")
        try:
            settings = json.loads((folder / SETTINGS).read_bytes())
            self._side = _side(settings.get("size", 224))
            self._crop = _side(settings.get("crop_size", self._side))
            self._mean, self._deviation = (
                np.array(settings[key], np.float32) for key in ("image_mean", "image_std")
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(f"{folder / SETTINGS}: sets up no CLIPImageProcessor: {error!r}") from None
        try:
            self._session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a dozen kinds of its own
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{folder / MODEL}: cannot be opened ({reason}): fetch it again") from None
        self._predictor = _predictor(folder / PREDICTOR)

    def embed(self, picture: Pixels) -> Float:
        """A picture [height, width, 3] -> its embedding [D], of length 1."""
        pixels = self._prepared(picture)[None]
        inputs = {self._session.get_inputs()[0].name: pixels}
        names = [output.name for output in self._session.get_outputs()]
        name = "image_embeds" if "image_embeds" in names else names[0]
        (embedding,) = self._session.run([name], inputs)
        vector = np.asarray(embedding, np.float32).reshape(-1)
        return vector / np.float32(np.linalg.norm(vector))

    def aesthetic(self, embedding: Float) -> float | None:
        """The score that people would give, 1 to 10; None where the predictor is not there."""
        if self._predictor is None:
            return None
        weight, bias = self._predictor
        return float(weight @ embedding + bias)

    def _prepared(self, picture: Pixels) -> Float:
        """Shorter side to the size, the middle cut out, colors as CLIP reads them: [3, crop, crop]."""
        image = Image.fromarray(picture)
        scale = self._side / min(image.size)
        size = (int(image.width * scale + 1e-6), int(image.height * scale + 1e-6))
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (image.width - self._crop) // 2, (image.height - self._crop) // 2
        middle = image.crop((left, top, left + self._crop, top + self._crop))
        values = (np.asarray(middle, np.float32) / 255 - self._mean) / self._deviation
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _side(size: Any) -> int:
    """Of a square: transformers writes a number, or a dictionary."""
    if isinstance(size, dict):
        size = size["shortest_edge" if "shortest_edge" in size else "height"]
    return int(size)


def _predictor(file: Path) -> tuple[Float, np.float32] | None:
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            weight, bias = (np.asarray(arrays[key], np.float32).reshape(-1) for key in ("weight", "bias"))
        return weight, bias[0]
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        raise InputError(
            f"{file}: holds no arrays `weight` and `bias`: docs/evaluation.md says how to make it"
        ) from None
