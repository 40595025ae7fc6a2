"""What an adapter changes of one parameter of a model, in each of the forms that files hold.

A parameter `w` becomes `w + strength * delta`. Where the delta has a structure it is kept, so that a
graph can apply it beside the layer at little cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]

Read: TypeAlias = Callable[[str], NDArray[Any]]
"""Gives a parameter of the model by its name."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """`alpha / rank * up @ down` (LoRA, arXiv 2106.09685)."""

    down: NDArray[Any]
    """[rank, in], `lora_A` in files."""
    up: NDArray[Any]
    """[out, rank], `lora_B` in files."""
    alpha: float
    """The scale is alpha / rank."""

    @property
    def rank(self) -> int:
        """Rank of what is added."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return (self.up.shape[0], self.down.shape[1])

    def delta(self, read: Read, name: str) -> Float:
        """What is added to the weight at strength 1."""
        return np.float32(self.scale) * (_wide(self.up) @ _wide(self.down))

    def rows(self, start: int, stop: int) -> "LowRank":
        """The part of some rows of the weight."""
        return LowRank(self.down, self.up[start:stop], self.alpha)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """`scale * kron(left, right)` (LoKr, arXiv 2309.14859)."""

    left: Float
    """[out1, in1]."""
    right: Float
    """[out2, in2]."""
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return (self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1])

    def delta(self, read: Read, name: str) -> Float:
        """What is added to the weight at strength 1."""
        return np.float32(self.scale) * np.kron(_wide(self.left), _wide(self.right))

    def rows(self, start: int, stop: int) -> "Kronecker | Whole":
        """The part of some rows of the weight; a product again where these are whole blocks."""
        block = self.right.shape[0]
        if start % block or stop % block:
            return Whole(self.delta(_no_model, "")[start:stop])
        return Kronecker(self.left[start // block : stop // block], self.right, self.scale)


@dataclass(frozen=True, eq=False)
class Whole:
    """All that is added, number by number: `diff` and `diff_b` in files."""

    values: Float
    """Of the parameter's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return self.values.shape

    def delta(self, read: Read, name: str) -> Float:
        """What is added to the parameter at strength 1."""
        return _wide(self.values)

    def rows(self, start: int, stop: int) -> "Whole":
        """The part of some rows of the parameter."""
        return Whole(self.values[start:stop])


Linear: TypeAlias = LowRank | Kronecker | Whole


@dataclass(frozen=True, eq=False)
class Decomposed:
    """`magnitude * (w + d) / norm(w + d)` takes the place of w (DoRA, arXiv 2402.09353, equation 5)."""

    direction: Linear
    """The delta d."""
    magnitude: Float
    """[out] where each row of the weight has a norm of its own, as PEFT and kohya do; else [in]."""
    by_row: bool
    beside: tuple[tuple[str, Linear], ...] = ()
    """Where columns have the norms: the weights that lie below one another in the file's layer, this one's
    included, with their deltas. The norm is that of their whole column."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return self.direction.shape

    def gain(self, read: Read, name: str) -> Float:
        """What rows [out, 1] or columns [1, in] are multiplied by: magnitude / norm."""
        if self.by_row:
            square = np.square(self._moved(self.direction, read, name)).sum(axis=1)
        else:
            square = sum(
                (np.square(self._moved(each, read, part)).sum(axis=0) for part, each in self.beside),
                np.zeros(self.shape[1], np.float32),
            )
        norm = np.sqrt(square)
        gain = np.divide(_wide(self.magnitude), norm, out=np.zeros_like(norm), where=norm > 0)
        return gain[:, None] if self.by_row else gain[None]

    def delta(self, read: Read, name: str) -> Float:
        """What is added to the weight at strength 1."""
        moved = self._moved(self.direction, read, name)
        return self.gain(read, name) * moved - _wide(read(name))

    def _moved(self, change: Linear, read: Read, name: str) -> Float:
        return _wide(read(name)) + change.delta(read, name)


@dataclass(frozen=True, eq=False)
class Replaced:
    """A parameter of its own in place of the model's: norms in control LoRAs."""

    value: Float
    """Of the parameter's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return self.value.shape

    def delta(self, read: Read, name: str) -> Float:
        """What is added to the parameter at strength 1."""
        return _wide(self.value) - _wide(read(name))


Change: TypeAlias = Linear | Decomposed | Replaced


def hadamard(parts: tuple[NDArray[Any], ...], scale: float) -> Linear:
    """`scale * (a1 @ b1) * (a2 @ b2)`, the product by element (LoHa, arXiv 2108.06098).

    It has the rank r1 * r2 at most: column (i, j) of `up` is a1[:, i] * a2[:, j]. Where the two matrices of
    that rank would be larger than the whole, it is made whole.

    Args:
        parts: a1 [out, r1], b1 [r1, in], a2 [out, r2], b2 [r2, in].
        scale: what it is multiplied by.
    """
    a1, b1, a2, b2 = (_wide(part) for part in parts)
    out, into, rank = a1.shape[0], b1.shape[1], a1.shape[1] * a2.shape[1]
    if rank * (out + into) >= out * into:
        return Whole(np.float32(scale) * (a1 @ b1) * (a2 @ b2))
    up = (a1[:, :, None] * a2[:, None, :]).reshape(out, rank)
    down = (b1[:, None, :] * b2[None, :, :]).reshape(rank, into)
    return LowRank(down, up, scale * rank)


def _wide(array: NDArray[Any]) -> Float:
    return np.asarray(array).astype(np.float32, copy=False)


def _no_model(name: str) -> NDArray[Any]:
    raise AssertionError("this delta depends on no weight")
