"""Safetensors files: read without copying, written one tensor at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openkontext.errors import InputError
from openkontext.files import mistaken, whole

Shape: TypeAlias = tuple[int, ...]

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_INDEX_SUFFIX = ".index.json"


class Weights:
    """The tensors of one safetensors file, or of the files that an index lists, mapped into memory.

    Args:
        path: a `.safetensors` or `.sft` file, or a `.safetensors.index.json` beside the files that it lists.

    Raises:
        InputError: a file is missing, is no safetensors file, or is cut short; or it lacks a tensor that the
            index ascribes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, Any] = {}
        self._places: dict[str, tuple[Path, int, str]] = {}
        if path.name.endswith(_INDEX_SUFFIX):
            weight_map = _weight_map(path)
            for file in sorted(set(weight_map.values())):
                self._add(path.parent / file)
            for name, file in weight_map.items():
                if name not in self._files:
                    raise InputError(f"{path} says that {file} holds the tensor {name}, but it does not")
            self.metadata: dict[str, str] = {}
        else:
            self.metadata = self._add(path).metadata() or {}
        self.shapes: dict[str, Shape] = {
            name: tuple(file.get_slice(name).get_shape()) for name, file in self._files.items()
        }
        self.dtypes: dict[str, str] = {name: dtype for name, (_, _, dtype) in self._places.items()}

    def _add(self, path: Path) -> Any:
        try:
            file = safe_open(path, framework="pt")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; the checkpoint is not complete") from None
        except (SafetensorError, OSError) as error:
            if what := mistaken(path):
                raise InputError(f"{path} cannot be read as safetensors: it {what}") from None
            raise InputError(f"{path} cannot be read as safetensors ({error}); fetch it again") from None
        self._files |= dict.fromkeys(file.keys(), file)
        self._places |= _places(path)
        return file

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start to stop along the first axis of a tensor: a view of the file, not a copy."""
        tensor: Tensor = self._files[name].get_slice(name)[start:stop]
        return tensor

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The same rows, read into memory of their own.

        The pages of a mapped file count as the process's memory for as long as the file is open. Whoever goes
        through a checkpoint that is larger than the memory reads it.

        Raises:
            InputError: the file cannot be read any more.
        """
        path, offset, dtype_name = self._places[name]
        shape = self.shapes[name]
        if dtype_name not in _DTYPES:
            return self.rows(name, start, stop).clone()
        dtype = _DTYPES[dtype_name]
        row = torch.Size(shape[1:]).numel() * dtype.itemsize
        size = (stop - start) * row
        try:
            found = np.fromfile(path, np.uint8, size, offset=offset + start * row)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        if len(found) != size:
            raise InputError(f"{path} was cut short while it was read; fetch it again")
        return torch.from_numpy(found).view(dtype).reshape(stop - start, *shape[1:])

    def scalar(self, name: str) -> Tensor:
        """A tensor without axes."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file beside the index."""
    found = read_json(path).get("weight_map")
    if not (isinstance(found, dict) and all(isinstance(file, str) for file in found.values())):
        raise InputError(f"{path} does not say which file holds which tensor; fetch it again")
    for file in found.values():
        if Path(file).name != file:
            raise InputError(f"{path} names {file[:100]}, which is no file beside it; fetch it again")
    return found


def _places(path: Path) -> dict[str, tuple[Path, int, str]]:
    """Name -> file, first byte and type of every tensor, from a header that has been found sound."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: (path, 8 + length + said["data_offsets"][0], said["dtype"]) for name, said in header.items()
    }


@dataclass(frozen=True)
class WeightEntry:
    """A tensor to be written, made only when its turn comes."""

    name: str
    shape: Shape
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write_weights(path: Path, entries: Iterable[WeightEntry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that never exists in part, with one tensor in memory at a time.

    Layout: length of the header (8 bytes, little endian), header (JSON, padded with spaces), tensors.

    Raises:
        InputError: the file cannot be written.
    """
    # Wider types first, so that every tensor starts at a multiple of its type's size.
    entries = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + torch.Size(entry.shape).numel() * entry.dtype.itemsize
        header[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with whole_file(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries:
            tensor = entry.make().detach().to("cpu", entry.dtype).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under its name when it is complete, and not at all after an error.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with whole(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: there is no such file, or it holds no JSON object.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the checkpoint is not complete") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again") from None


def parse_json(text: str, path: Path) -> dict[str, Any]:
    """The object that a JSON text from a file says.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} has a damaged configuration ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} has a configuration that is no JSON object; fetch it again")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
