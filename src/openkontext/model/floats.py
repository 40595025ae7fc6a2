"""The floating-point numbers that a checkpoint's tensors stand for, however its file packs them.

`open_floats` opens a safetensors or GGUF file. What is read are plain weights: float8 is widened, scales are
multiplied, packed codes are unpacked, a few rows at a time. The helpers of a packing (scales, tables, marks)
are no weights and do not show.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from openkontext.errors import InputError
from openkontext.model.weights import Shape, Weights

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


class Floats(Protocol):
    """Named floating-point tensors on disk."""

    path: Path
    """The file, or the index of several."""
    shapes: Mapping[str, Shape]
    """Name -> shape of every weight."""
    metadata: Mapping[str, str]
    """What the file says of itself."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start to stop along the first axis: a view of the file where it holds plain numbers."""
        ...

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """The same rows in memory of their own."""
        ...


class Within:
    """The tensors whose names begin with a prefix, without it.

    Args:
        floats: of the whole file.
        prefix: of the names.
    """

    def __init__(self, floats: Floats, prefix: str) -> None:
        self._floats, self._prefix = floats, prefix
        self.path, self.metadata = floats.path, floats.metadata
        self.shapes: Mapping[str, Shape] = {
            name.removeprefix(prefix): shape
            for name, shape in floats.shapes.items()
            if name.startswith(prefix)
        }

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.rows`."""
        return self._floats.rows(self._prefix + name, start, stop)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.read`."""
        return self._floats.read(self._prefix + name, start, stop)


class Renamed:
    """Tensors under other names.

    Args:
        floats: the tensors.
        names: new name -> name in the file; what it does not list is left out.
    """

    def __init__(self, floats: Floats, names: Mapping[str, str]) -> None:
        self._floats, self._names = floats, names
        self.path, self.metadata = floats.path, floats.metadata
        self.shapes: Mapping[str, Shape] = {new: floats.shapes[old] for new, old in names.items()}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.rows`."""
        return self._floats.rows(self._names[name], start, stop)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.read`."""
        return self._floats.read(self._names[name], start, stop)


class Joined:
    """The tensors of several files that make one network.

    Args:
        parts: of which each has names of its own.
    """

    def __init__(self, *parts: Floats) -> None:
        self._of = {name: part for part in parts for name in part.shapes}
        self.path, self.metadata = parts[0].path, parts[0].metadata
        self.shapes: Mapping[str, Shape] = {name: part.shapes[name] for name, part in self._of.items()}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.rows`."""
        return self._of[name].rows(name, start, stop)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.read`."""
        return self._of[name].read(name, start, stop)


def open_floats(path: Path) -> Floats:
    """Open a checkpoint's file, or the index of several.

    Raises:
        InputError: it is missing, damaged, of another kind, or packed in a way that cannot be undone.
    """
    # Late: each reads what the other need not.
    if path.suffix == ".gguf":
        from openkontext.model.gguf_file import GgufFile

        return GgufFile(path)
    if path.suffix in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run any program when it is opened; "
            "convert it to .safetensors in the tool that made it"
        )
    from openkontext.model.packing import Unpacked

    return Unpacked(Weights(path))


def part_of(floats: Floats, prefixes: Iterable[str], markers: Iterable[str]) -> Floats | None:
    """The network in a file that may hold several, each under a prefix of its own.

    Args:
        floats: of the whole file.
        prefixes: that this kind of network comes under in the files of other tools.
        markers: names that this kind of network alone has; one is enough.

    Returns:
        Its tensors by their names in the network; None where the file does not hold it.
    """
    wanted = tuple(markers)
    for prefix in prefixes:
        if any(f"{prefix}{marker}" in floats.shapes for marker in wanted):
            return floats if not prefix else Within(floats, prefix)
    return None
