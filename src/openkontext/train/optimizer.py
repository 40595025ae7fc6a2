"""Muon for matrices and convolutions, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024) makes each update orthogonal.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from openkontext.train.parallel import gather, rank, world_size


class MuonAdamW:
    """One step of both optimizers at a time.

    Several processes share Muon's work, which is most of a step's: each makes the updates of some matrices,
    keeps their momentum, and hands the new values to the others.

    Args:
        model: what to train. The weights of its convolutions must be in channels_last.
        by_muon: says by name and parameter which ones Muon takes; they have two dimensions or four.
        muon_rate: Muon's learning rate.
        adam_rate: AdamW's learning rate.
        weight_decay: of both.
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
        # Largest first, dealt out in turn: no process has much more to do than another.
        order = sorted(self.views, key=lambda view: -view.numel())
        self.shares = [order[i :: world_size()] for i in range(world_size())]
        self.both = (
            torch.optim.Muon(self.shares[rank()], lr=muon_rate, weight_decay=weight_decay, momentum=0.95),
            torch.optim.AdamW(
                [p for _, p in named if id(p) not in chosen],
                lr=adam_rate,
                betas=(0.9, 0.98),
                weight_decay=weight_decay,
            ),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Settings of both optimizers, their learning rates among them."""
        return [group for optimizer in self.both for group in optimizer.param_groups]

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in (*self.matrices, *self.views):
            parameter.grad = None
        self.both[1].zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step of both, at the learning rates of `param_groups`."""
        for parameter, view in zip(self.matrices, self.views, strict=True):
            if view is not parameter and parameter.grad is not None:
                view.grad = _as_matrix(parameter.grad)
        for optimizer in self.both:
            optimizer.step()
        if world_size() > 1:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Give every process the matrices that the others have moved."""
        for owner, share in enumerate(self.shares):
            together = torch.cat([view.flatten() for view in share])
            distributed.broadcast(together, owner)
            for view, value in zip(share, together.split([v.numel() for v in share]), strict=True):
                if owner != rank():
                    view.copy_(value.view_as(view))

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states, Muon's momentum by matrix; a call of all processes."""
        muon, adam = self.both
        numbers = {id(view): i for i, view in enumerate(self.views)}
        own = {numbers[id(view)]: state["momentum_buffer"] for view, state in muon.state.items()}
        momentum = {number: value for part in gather(own) for number, value in part.items()}
        return {"momentum": momentum, "adam": adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, with whatever number of processes."""
        muon, adam = self.both
        mine = {id(view) for view in self.shares[rank()]}
        for number, value in state["momentum"].items():
            if id(self.views[number]) in mine:
                muon.state[self.views[number]]["momentum_buffer"] = value.clone()
        adam.load_state_dict(state["adam"])


def _as_matrix(weight_OIHW: Tensor) -> Tensor:
    """A convolution's weight as [out, in * kernel]: a view where it lies in channels_last."""
    return weight_OIHW.permute(0, 2, 3, 1).reshape(weight_OIHW.shape[0], -1)
