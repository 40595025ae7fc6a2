"""Fewer calls of the transformer: a step whose velocity can be foreseen is not computed.

EasyCache (arXiv 2507.02860) asks inputs and outputs alone, so that it serves every file and provider. How far
the velocity will move is foreseen from how far the latents did, at the rate of the last computed steps; these
moves are added up, and once they reach the threshold the transformer is asked again. EasyCache then gives the
last output once more, shifted with its input. Here the line through the last two computed velocities goes
on, which is nearer: `benchmarks/step_cache.py` prints both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
THRESHOLDS = {"off": 0.0, "close": 0.1, "quick": 0.2}
"""Thresholds by name; `benchmarks/step_cache.py` prints what they cost."""
_TINY = 1e-30  # in place of a size of 0


def threshold(value: Any) -> Any:
    """The threshold that a name stands for; what is none of the names is given back."""
    return THRESHOLDS.get(value.strip(), value) if isinstance(value, str) else value


class StepCache:
    """Velocities of one edit, computed or foreseen; called in the order of the steps.

    Args:
        threshold: how far the velocity may have moved, in shares of its size, before it is computed anew:
            0 computes every step.
        extend: whether the velocity goes on along its line; else the last one is given, as it is.
    """

    def __init__(self, threshold: float, *, extend: bool = True) -> None:
        self.threshold, self.extend = threshold, extend
        self.computed = 0
        """Steps that were computed so far."""
        self._known: list[tuple[float, Float]] = []  # noise level and velocity of the last two computed
        self._rate: float | None = None
        self._moved = 0.0
        self._latents: Float | None = None  # of the step before
        self._computed_at: Float | None = None  # of the last computed step

    def __call__(self, latents: Float, sigma: float, compute: Callable[[], Float], *, last: bool) -> Float:
        """The velocity at a noise level.

        Args:
            latents: of the step, float32 [B, C, H, W].
            sigma: noise level.
            compute: asks the transformer.
            last: whether it is the last step, which is always computed.

        Returns:
            The velocity, float32 [B, C, H, W].
        """
        before, self._latents = self._latents, latents
        if self._rate is not None and before is not None and not last:
            _, velocity = self._known[-1]
            self._moved += self._rate * _norm(latents - before) / max(_norm(velocity), _TINY)
            if self._moved < self.threshold:
                return self._foreseen(sigma)
        velocity = compute()
        self.computed += 1
        self._learn(latents, sigma, velocity)
        return velocity

    def _learn(self, latents: Float, sigma: float, velocity: Float) -> None:
        if self._computed_at is not None:
            step = _norm(latents - self._computed_at)
            self._rate = _norm(velocity - self._known[-1][1]) / step if step else None
        self._computed_at = latents
        self._known = [*self._known[-1:], (sigma, velocity)]
        self._moved = 0.0

    def _foreseen(self, sigma: float) -> Float:
        (sigma_0, velocity_0), (sigma_1, velocity_1) = self._known
        if not self.extend:
            return velocity_1
        share = np.float32((sigma - sigma_1) / (sigma_1 - sigma_0))
        return velocity_1 + share * (velocity_1 - velocity_0)


def _norm(values: Float) -> float:
    return float(np.linalg.norm(values))
