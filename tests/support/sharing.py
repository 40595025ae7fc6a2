"""What two processes do at once in tests of shared steps. Each imports this anew, so it imports little."""

from pathlib import Path

import torch
from torch import nn

from openkontext.train.optimizer import MuonAdamW
from openkontext.train.parallel import average_gradients, gather, rank


def small_model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def inputs_of(rank: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))


def average_and_step(folder: Path) -> None:
    """Keep the mean of the gradients of both processes' inputs, then the weights after two steps."""
    model = small_model()
    model(inputs_of(rank())).square().mean().backward()
    average_gradients(model)
    torch.save(model.weight.grad, folder / f"gradient-{rank()}.pt")
    two_steps(folder)


def two_steps(folder: Path) -> None:
    """As in one process, since all have the same gradients: the second step goes on from the saved state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    for _ in range(2):
        optimizer = MuonAdamW(model, lambda _, p: p.ndim == 2, muon_rate=0.1, adam_rate=0.01)
        if (folder / "state.pt").exists():
            optimizer.load_state_dict(torch.load(folder / "state.pt"))
        torch.manual_seed(1)
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        state = optimizer.state_dict()
        if rank() == 0:
            torch.save(state, folder / "state.pt")
        gather(None)  # nobody reads it before it is whole
    torch.save(model.state_dict(), folder / f"{rank()}.pt")
