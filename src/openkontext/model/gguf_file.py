"""GGUF files, as ComfyUI-GGUF, stable-diffusion.cpp and llama.cpp write them, in every type of `gguf`.

A tensor is dequantized a few rows at a time by the `gguf` package itself, and is float32.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openkontext.errors import InputError, how_to_install
from openkontext.files import mistaken
from openkontext.model.weights import Shape

_NUMBERS_AT_ONCE = 1 << 20
"""Numbers that are dequantized at a time, so that what that takes on the way stays small."""

_SHAPE_FIELD = "comfy.gguf.orig_shape."
_T5_BLOCK = re.compile(r"enc\.blk\.(\d+)\.")


class GgufFile:
    """The tensors of a GGUF file, by torch's order of axes; T5's under transformers' names.

    Args:
        path: the file.

    Raises:
        InputError: it is missing, damaged or cut short, or the package that reads it is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = _opened(path)
        size = path.stat().st_size
        for each in reader.tensors:
            if each.data_offset + each.n_bytes > size:
                raise InputError(f"{path} is cut short: it lacks {each.name}; fetch it again")
        self.shapes: Mapping[str, Shape] = {str(each.name): _shape(reader, each) for each in reader.tensors}
        self.metadata: Mapping[str, str] = {}
        # Only places are kept: the reader maps the whole file.
        self._places = {
            str(each.name): (int(each.data_offset), int(each.n_bytes), each.tensor_type)
            for each in reader.tensors
        }
        if any(_T5_BLOCK.match(name) for name in self.shapes):
            self._rename(_t5_names(self.shapes))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.rows`."""
        return self.read(name, start, stop)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start to stop along the first axis, float32.

        Raises:
            InputError: the file cannot be read any more, or the type is one that is not known.
        """
        offset, size, kind = self._places[name]
        shape = self.shapes[name]
        row_bytes, left = divmod(size, shape[0]) if shape else (size, 0)
        whole = left or len(shape) != 2 or not _rows_are_blocks(kind, shape[1])
        if whole:  # norms, biases, and weights that the file keeps in another shape
            found = _dequantized(self._bytes(offset, size), kind, self.path)
            return torch.from_numpy(found.reshape(shape)[start:stop].copy())
        values = np.empty((stop - start, shape[1]), np.float32)
        step = max(1, _NUMBERS_AT_ONCE // shape[1])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            stored = self._bytes(offset + first * row_bytes, (last - first) * row_bytes)
            made = _dequantized(stored.reshape(last - first, row_bytes), kind, self.path)
            values[first - start : last - start] = made
        return torch.from_numpy(values)

    def _bytes(self, offset: int, size: int) -> NDArray[np.uint8]:
        try:
            found = np.fromfile(self.path, np.uint8, size, offset=offset)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if len(found) != size:
            raise InputError(f"{self.path} was cut short while it was read; fetch it again")
        return found

    def _rename(self, names: Mapping[str, str]) -> None:
        """Give tensors other names: old -> new."""
        self.shapes = {names.get(name, name): shape for name, shape in self.shapes.items()}
        self._places = {names.get(name, name): place for name, place in self._places.items()}


def _opened(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"reading {path} needs gguf; {how_to_install('train')}") from None
    try:
        return GGUFReader(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the checkpoint is not complete") from None
    except (ValueError, KeyError, IndexError, OSError, OverflowError) as error:
        if what := mistaken(path):
            raise InputError(f"{path} cannot be read as GGUF: it {what}") from None
        reason = " ".join(str(error).split()) or "its header is damaged"
        raise InputError(f"{path} cannot be read as GGUF ({reason}); fetch it again") from None


def _shape(reader: Any, tensor: Any) -> Shape:
    """Of a tensor: the file lists axes from the innermost, and may keep a shape of its own beside."""
    said = reader.get_field(f"{_SHAPE_FIELD}{tensor.name}")
    if said is not None:
        return tuple(int(size) for size in said.contents())
    return tuple(int(size) for size in reversed(tensor.shape.tolist()))


def _rows_are_blocks(kind: Any, width: int) -> bool:
    from gguf import GGML_QUANT_SIZES

    block, _ = GGML_QUANT_SIZES[kind]
    return bool(width % block == 0)


def _dequantized(stored: NDArray[np.uint8], kind: Any, path: Path) -> NDArray[np.float32]:
    from gguf import GGMLQuantizationType, quants

    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    try:
        found = quants.dequantize(stored.view(plain[kind]) if kind in plain else stored, kind)
    except NotImplementedError:
        raise InputError(
            f"{path}: the type {kind.name} cannot be read; take another file of the model, such as Q8_0"
        ) from None
    return np.asarray(found, np.float32)


def _t5_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Name in the file -> transformers' name, for a T5 encoder; by the `gguf` package's own table."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    blocks = 1 + max(int(match[1]) for name in shapes if (match := _T5_BLOCK.match(name)))
    table = get_tensor_name_map(MODEL_ARCH.T5ENCODER, blocks)
    layers = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o", "layer_norm")
    names = ["shared", "encoder.final_layer_norm"]
    for i in range(blocks):
        names += [f"encoder.block.{i}.layer.0.{layer}" for layer in layers]
        names += [f"encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias"]
        names += [f"encoder.block.{i}.layer.1.DenseReluDense.{layer}" for layer in ("wi_0", "wi_1", "wo")]
        names += [f"encoder.block.{i}.layer.1.layer_norm"]
    return {f"{table.get_name(name)}.weight": f"{name}.weight" for name in names}
