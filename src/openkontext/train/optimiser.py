"""Muon for matrices and convolutions, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024) makes each update orthogonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW:
    """One step of both optimisers at a time.

    Args:
        model: What to train. The weights of its convolutions must be in channels_last.
        by_muon: Says by name and parameter which ones Muon takes; they have two dimensions or four.
        muon_rate: Muon's learning rate.
        adam_rate: AdamW's learning rate.
        weight_decay: Of both.
    """

    def __init__(
        self,
        model: nn.Module,
        by_muon: Callable[[str, Tensor], bool],
        *,
        muon_rate: float,
        adam_rate: float,
        weight_decay: float = 0.01,
    ) -> None:
        named = list(model.named_parameters())
        self.matrices = [p for name, p in named if by_muon(name, p)]
        chosen = {id(p) for p in self.matrices}
        # torch's Muon takes matrices: it is handed views of the convolutions' weights as such.
        self.views = [p if p.ndim == 2 else nn.Parameter(_as_matrix(p.data)) for p in self.matrices]
        self.rates = (muon_rate, adam_rate)
        self.both = (
            torch.optim.Muon(self.views, lr=muon_rate, weight_decay=weight_decay, momentum=0.95),
            torch.optim.AdamW(
                [p for _, p in named if id(p) not in chosen],
                lr=adam_rate,
                betas=(0.9, 0.98),
                weight_decay=weight_decay,
            ),
        )

    def step(self, factor: float) -> None:
        """One step at `factor` times the learning rates; clears the gradients."""
        for parameter, view in zip(self.matrices, self.views, strict=True):
            if view is not parameter and parameter.grad is not None:
                view.grad = _as_matrix(parameter.grad)
                parameter.grad = None
        for optimiser, rate in zip(self.both, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states."""
        return {str(i): optimiser.state_dict() for i, optimiser in enumerate(self.both)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        for i, optimiser in enumerate(self.both):
            optimiser.load_state_dict(state[str(i)])


def _as_matrix(weight_OIHW: Tensor) -> Tensor:
    """A convolution's weight as [out, in * kernel]: a view where it lies in channels_last."""
    return weight_OIHW.permute(0, 2, 3, 1).reshape(weight_OIHW.shape[0], -1)
