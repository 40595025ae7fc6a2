"""Safetensors files as numpy arrays, without torch.

The safetensors library hands numpy neither bfloat16 nor 8-bit floats, in which most LoRAs are stored. The
format is a length (8 bytes, little endian), a header (JSON) and the tensors.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.files import mistaken

_DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_MAX_HEADER = 100_000_000  # the format's own limit
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")


class Stored:
    """The tensors of one safetensors file, mapped into memory.

    Args:
        path: the file.

    Raises:
        InputError: there is no such file, or it is no whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() in _PICKLES:
            raise InputError(f"{path} is a pickle, which can run code: convert it to .safetensors")
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = file.read(length) if length <= _MAX_HEADER else b""
            data = np.memmap(path, np.uint8, "r")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            if what := mistaken(path):
                raise InputError(f"{path} cannot be read as safetensors: it {what}") from None
            raise InputError(f"{path} cannot be read as safetensors ({error}); fetch it again") from None
        try:
            said: dict[str, Any] = json.loads(header)
            metadata = said.pop("__metadata__", None) or {}
            self.metadata: dict[str, str] = {str(key): str(value) for key, value in metadata.items()}
            self._tensors = {name: _view(data[8 + length :], place) for name, place in said.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if what := mistaken(path):
                raise InputError(f"{path} cannot be read as safetensors: it {what}") from None
            reason = str(error).partition("\n")[0][:100]
            raise InputError(f"{path} cannot be read as safetensors ({reason}); fetch it again") from None

    def __iter__(self) -> Any:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A tensor in the type that it is stored in: a view of the file."""
        return self._tensors[name]


def _view(data: NDArray[np.uint8], place: Mapping[str, Any]) -> NDArray[Any]:
    start, stop = (int(offset) for offset in place["data_offsets"])
    shape = tuple(int(size) for size in place["shape"])
    if place["dtype"] not in _DTYPES:
        raise ValueError(f"unknown type {place['dtype']}")
    dtype = np.dtype(_DTYPES[place["dtype"]])
    if not 0 <= start <= stop <= len(data) or min(shape, default=0) < 0:
        raise ValueError("a tensor lies outside of the file")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor does not fit its place")
    return np.frombuffer(
        data[start:stop].tobytes() if start % dtype.itemsize else data[start:stop], dtype
    ).reshape(shape)
