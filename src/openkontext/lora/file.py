"""An adapter file: what it changes of each network."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.lora.alphas import Alphas, read_alphas
from openkontext.lora.changes import Change, Decomposed, Kronecker, Linear, LowRank, Replaced, Whole, hadamard
from openkontext.lora.names import CLIP, T5, TRANSFORMER, Place, fused, is_embedding, is_packed, place, shares
from openkontext.lora.stored import Stored

FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file in a folder that they save to."""

_SHOWN = 3
_QUIET = (".reshape_weight",)
"""Ends of names that say nothing beyond the shapes of other tensors."""

_Parts = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class LoraFile:
    """What a file changes, by the names of parameters in diffusers' and transformers' words."""

    path: Path
    """The file."""
    changes: Mapping[str, Mapping[str, Change]]
    """Network ("transformer", "clip", "t5") -> parameter -> what becomes of it; no network is empty."""
    warnings: tuple[str, ...] = field(default=())
    """What of it was left out, for the user."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class UsedLora:
    """A LoRA that a picture was made with."""

    name: str
    """Of its file."""
    digest: str
    """SHA-256 of its file."""
    strength: float


LoraArgument: TypeAlias = str | Path | tuple[str | Path, float]
"""A file, which is used at strength 1, or a file and its strength."""

MAX_STRENGTH = 100.0
"""Magnitude of the largest strength taken; 1 is the LoRA as it was trained."""


def open_lora(lora: LoraArgument) -> tuple[LoraFile, float]:
    """Read a LoRA that is to be used, and its strength.

    Raises:
        InputError: the strength is no number from -100 to 100, or as `read_lora`.
    """
    path, strength = lora if isinstance(lora, tuple) else (lora, 1.0)
    try:
        value = float(strength)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) <= MAX_STRENGTH or isinstance(strength, bool):
        raise InputError(
            f"{path}: the strength {strength!r} is no number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}; "
            "most often it lies in 0..1"
        )
    return read_lora(path), value


def read_lora(path: str | Path) -> LoraFile:
    """Read an adapter: LoRA, LoKr, LoHa or DoRA, whole differences and replaced norms, in any tool's names.

    The numbers stay mapped from the file until they are used.

    Args:
        path: the `.safetensors` file, or the folder that diffusers or PEFT saved it to.

    Raises:
        InputError: there is no such file, it is damaged, or nothing in it changes one of the networks.
    """
    path = _file(Path(path))
    stored = Stored(path)
    alphas = read_alphas(path, stored.metadata)
    layers: dict[tuple[str, str, str], _Parts] = defaultdict(dict)
    odd: list[str] = []
    for name in stored:
        found = None if is_packed(name) else place(name)
        if found is not None:
            layers[found.network, found.layer, found.stem].setdefault(found.part, stored[name])
        elif not name.endswith(_QUIET):
            odd.append(name)
    reader = _Reader(path, alphas)
    # A file may hold all twice; like diffusers, we take what has diffusers' own names.
    for network, layer, stem in sorted(
        layers, key=lambda key: not key[2].endswith(key[1]) or bool(fused(key[1]))
    ):
        reader.add(Place(network, layer, ""), layers[network, layer, stem])
    changes = {network: found for network, found in reader.changes.items() if found}
    if not changes:
        raise InputError(_nothing(path, odd))
    if alphas[TRANSFORMER].decomposed and not reader.decomposed:
        raise InputError(f"{path} says that it is a DoRA, but holds no magnitudes; save it again with them")
    return LoraFile(path, changes, tuple(_left_out(path, [*odd, *reader.odd])))


class _Reader:
    """Makes changes of the tensors of one layer after the other."""

    def __init__(self, path: Path, alphas: Mapping[str, Alphas]) -> None:
        self.path = path
        self.alphas = alphas
        self.changes: dict[str, dict[str, Change]] = {TRANSFORMER: {}, CLIP: {}, T5: {}}
        self.odd: list[str] = []
        self.decomposed = False

    def add(self, where: Place, parts: _Parts) -> None:
        """Add what the tensors of a layer, by what they are, change."""
        row = fused(where.layer) if where.network == TRANSFORMER else None
        targets = (where.layer,) if row is None else row.parts
        pieces = sorted({part.partition(".")[2] for part in parts if "." in part})
        if pieces:  # the layers that the file's layer is made of, each with a product of its own
            for piece in map(int, pieces):
                own = {
                    part.removesuffix(f".{piece}"): parts[part]
                    for part in parts
                    if part.endswith(f".{piece}")
                }
                own |= {part: parts[part] for part in ("alpha",) if part in parts}
                if piece < len(targets):
                    self.add(Place(where.network, targets[piece], ""), own)
            return
        cut = _Cut(
            self.path, where.layer, targets, None if row is None else shares(row), bool(row and row.swapped)
        )
        linear = self._linear(where, parts)
        if linear is not None:
            of_layers = cut(linear)
            changes: Mapping[str, Change] = of_layers
            if "magnitude" in parts:
                changes = self._decomposed(cut, of_layers, parts["magnitude"], linear.shape)
            for layer, change in changes.items():
                self._put(where.network, f"{layer}.weight", change)
        elif not parts.keys() & {"bias", "diff_b", "set"}:
            self.odd += [f"{where.layer}.{part}" for part in parts if part != "alpha"]
        bias = self._bias(where, parts)
        if bias is not None:
            for layer, change in cut(bias).items():
                self._put(where.network, f"{layer}.bias", change)
        if "set" in parts:
            self._put(where.network, f"{targets[0]}.weight", Replaced(_wide(parts["set"]).reshape(-1)))

    def _decomposed(
        self, cut: "_Cut", layers: Mapping[str, Linear], values: NDArray[Any], shape: Sequence[int]
    ) -> dict[str, Change]:
        """The layers with magnitudes, which are those of the rows or of the columns of the file's layer."""
        self.decomposed = True
        magnitude = self._magnitude(cut.layer, values, shape)
        if magnitude.shape[1] > 1 or shape[0] == 1:
            beside = tuple((f"{layer}.weight", each) for layer, each in layers.items())
            return {layer: Decomposed(each, magnitude[0], False, beside) for layer, each in layers.items()}
        rows = cut(Whole(magnitude))
        return {layer: Decomposed(each, _of(rows[layer]), True) for layer, each in layers.items()}

    def _put(self, network: str, name: str, change: Change) -> None:
        """Take a change; where a file holds one twice, under two tools' names, the first is taken."""
        if name in self.changes[network]:
            self.odd.append(f"a second change of {name}")
        else:
            self.changes[network][name] = change

    def _linear(self, where: Place, parts: _Parts) -> Linear | None:
        layer = where.layer
        if "diff" in parts:
            values = _wide(parts["diff"])
            return Whole(values.reshape(len(values), -1) if values.ndim > 2 else values)
        if parts.keys() & {"down", "up"}:
            return self._low_rank(where, parts)
        if any(part.startswith("hada_") for part in parts):
            names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
            a1, b1, a2, b2 = (_flat(self._part(layer, parts, name)) for name in names)
            self._multiply(layer, a1, b1)
            self._multiply(layer, a2, b2)
            if (len(a1), b1.shape[1]) != (len(a2), b2.shape[1]):
                raise InputError(f"{self.path}: the two products of {layer} are of different shapes")
            return hadamard((a1, b1, a2, b2), self._scale(where, parts, len(b1)))
        if any(part.startswith("lokr_") for part in parts):
            left, rank1 = self._factor(layer, parts, "lokr_w1")
            right, rank2 = self._factor(layer, parts, "lokr_w2")
            rank = rank2 or rank1
            # Where both factors are whole, alpha has no meaning (LyCORIS, ComfyUI), but to PEFT.
            scaled = rank or self.alphas[where.network].ranks is not None
            return Kronecker(left, right, self._scale(where, parts, rank or 1) if scaled else 1.0)
        return None

    def _low_rank(self, where: Place, parts: _Parts) -> LowRank:
        down, up = (_flat(self._part(where.layer, parts, name)) for name in ("down", "up"))
        self._multiply(where.layer, up, down)
        return LowRank(down, up, self._alpha(where, parts, len(down)))

    def _factor(self, layer: str, parts: _Parts, name: str) -> tuple[NDArray[np.float32], int]:
        """One factor of a Kronecker product, and its rank where it is a product itself, else 0."""
        if name in parts:
            return _flat(_wide(parts[name])), 0
        a, b = (_flat(_wide(self._part(layer, parts, f"{name}_{side}"))) for side in "ab")
        self._multiply(layer, a, b)
        return a @ b, len(b)

    def _bias(self, where: Place, parts: _Parts) -> Whole | None:
        if "diff_b" in parts:
            return Whole(_wide(parts["diff_b"]).reshape(-1))
        if "bias" not in parts:
            return None
        rank = len(parts["down"]) if "down" in parts else 1
        scale = (
            self._alpha(where, parts, rank) / rank
        )  # the bias is the adapter's, so it is scaled as all of it
        return Whole(np.float32(scale) * _wide(parts["bias"]).reshape(-1))

    def _magnitude(self, layer: str, values: NDArray[Any], shape: Sequence[int]) -> NDArray[np.float32]:
        """Magnitudes as [out, 1] or [1, in]."""
        wide = _wide(values)
        if wide.size == shape[0] and (wide.ndim == 1 or wide.shape[0] == shape[0]):
            return wide.reshape(-1, 1)
        if wide.size == shape[1]:
            return wide.reshape(1, -1)
        raise InputError(
            f"{self.path}: the magnitudes {list(wide.shape)} of {layer} fit neither the rows nor the columns "
            f"of its weight {list(shape)}"
        )

    def _scale(self, where: Place, parts: _Parts, rank: int) -> float:
        return self._alpha(where, parts, rank) / rank

    def _alpha(self, where: Place, parts: _Parts, rank: int) -> float:
        if "alpha" in parts:
            return float(_wide(parts["alpha"]).reshape(-1)[0])
        return self.alphas[where.network].of(where.layer, rank)

    def _part(self, layer: str, parts: _Parts, name: str) -> NDArray[Any]:
        if name not in parts:
            shown = {"down": "lora_A.weight", "up": "lora_B.weight"}.get(name, name)
            raise InputError(f"{self.path}: the tensor {layer}.{shown} is missing")
        return parts[name]

    def _multiply(self, layer: str, left: NDArray[Any], right: NDArray[Any]) -> None:
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0] or not right.shape[0]:
            raise InputError(
                f"{self.path}: lora_A {list(right.shape)} and lora_B {list(left.shape)} of {layer} do not "
                "multiply"
            )


@dataclass(frozen=True)
class _Cut:
    """Cuts a change of a layer under BFL's name into those of the diffusers layers that lie in it."""

    path: Path
    layer: str
    targets: tuple[str, ...]
    sizes: tuple[int, ...] | None
    swapped: bool

    def __call__(self, whole: Linear) -> dict[str, Linear]:
        rows = whole.shape[0]
        if self.sizes is None or (len(self.sizes) == 1 and not self.swapped):
            return {self.targets[0]: whole}
        if rows % (2 if self.swapped else sum(self.sizes)):
            raise InputError(
                f"{self.path}: lora_B of {self.layer} has {rows} rows, which are no {len(self.sizes)} layers'"
            )
        if self.swapped:
            return {self.targets[0]: _swapped(whole)}
        cuts, start = {}, 0
        for target, size in zip(self.targets, self.sizes, strict=True):
            stop = start + rows // sum(self.sizes) * size
            cuts[target] = whole.rows(start, stop)
            start = stop
        return cuts


def _swapped(whole: Linear) -> Linear:
    """The two halves of the rows the other way round."""
    if isinstance(whole, LowRank):
        return LowRank(whole.down, np.concatenate(np.split(whole.up, 2)[::-1]), whole.alpha)
    if isinstance(whole, Kronecker):
        whole = Whole(whole.delta(_no_read, ""))
    return Whole(np.concatenate(np.split(whole.values, 2)[::-1]))


def _of(rows: Linear) -> NDArray[np.float32]:
    """What was cut, number by number."""
    assert isinstance(rows, Whole)
    return rows.values.reshape(-1)


def _no_read(name: str) -> NDArray[Any]:
    raise AssertionError("this delta depends on no weight")


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILE_NAMES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} holds no LoRA: neither {' nor '.join(FILE_NAMES)}")


def _nothing(path: Path, odd: Sequence[str]) -> str:
    if not odd:
        return f"{path} holds no tensors, so it is no LoRA"
    if any(map(is_packed, odd)):
        return (
            f"{path} is packed for nunchaku's kernels, and cannot be read: use the LoRA that it was made "
            "from, in diffusers', kohya's or ComfyUI's names"
        )
    return (
        f"{path}: the tensor {odd[0]} is no part of a LoRA of the transformer or the text encoders, nor is "
        "any other: what is read is told in docs/loras.md"
    )


def _left_out(path: Path, odd: Sequence[str]) -> Iterator[str]:
    bundled = [name for name in odd if is_embedding(name)]
    if bundled:
        yield f"{path.name}: the embedding {bundled[0]} is left out: textual inversions are not read"
    if rest := [name for name in odd if name not in set(bundled)]:
        yield f"{path.name}: left out, since it is nothing that is known here: {some_of(rest)}"


def some_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """A matrix; some tools store those of 1x1 convolutions."""
    return array.reshape(len(array), -1) if array.ndim > 2 else array


def _wide(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(array).astype(np.float32, copy=False)
