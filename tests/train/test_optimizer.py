"""The joint optimizer: each parameter moves as its own rule says, convolutions as the matrices they are."""

import copy
from pathlib import Path

import torch
from torch import nn

from openkontext.train.optimizer import MuonAdamW
from openkontext.train.parallel import gather, launch, rank
from openkontext.train.training_engine import Trained


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.GroupNorm(1, 16)).to(memory_format=torch.channels_last)


def _optimizer(model: nn.Module) -> MuonAdamW:
    return MuonAdamW(model, lambda _, p: p.ndim == 4, muon_rate=0.1, adam_rate=0.01, weight_decay=0.0)


def _backward(model: nn.Module) -> None:
    torch.manual_seed(1)
    model(torch.randn(4, 8, 9, 9)).pow(3).mean().backward()


def test_muon_moves_a_convolution_by_an_orthogonal_matrix_and_adam_the_rest_by_its_rate() -> None:
    model = _model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = _optimizer(model)
    _backward(model)
    optimizer.step()
    optimizer.zero_grad()
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    # Newton-Schulz with Muon's coefficients leaves singular values between about 0.7 and 1.2, in torch's
    # bfloat16.
    singular = torch.linalg.svdvals(moved["0.weight"].flatten(1)) / 0.1
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # Adam's first step is the rate itself, whatever the gradient.
    torch.testing.assert_close(moved["1.weight"].abs(), torch.full((16,), 0.01), rtol=1e-3, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_a_resumed_optimizer_goes_on_the_same_way() -> None:
    model, twin = _model(), _model()
    one, two = _optimizer(model), _optimizer(twin)
    for _ in range(2):
        _backward(model)
        one.step()
        one.zero_grad()
    twin.load_state_dict(model.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for each, optimizer in ((model, one), (twin, two)):
        _backward(each)
        optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def _two_steps(folder: Path) -> None:
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


def test_processes_share_the_updates_and_end_with_the_same_weights_as_one(tmp_path: Path) -> None:
    for folder, processes in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        launch(_two_steps, processes, tmp_path / folder)
    one, *two = (torch.load(tmp_path / path) for path in ("one/0.pt", "two/0.pt", "two/1.pt"))
    for weights in two:
        for name, value in one.items():
            # Threads differ, and with them the order of sums; a missed update would be 0.1.
            torch.testing.assert_close(weights[name], value, rtol=0, atol=2e-3)
    for name, value in two[0].items():
        torch.testing.assert_close(two[1][name], value, rtol=0, atol=0)


def test_the_average_follows_with_its_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    trained = Trained(layer, torch.optim.SGD(layer.parameters()), decay=0.5)
    nn.init.constant_(layer.weight, 1.0)
    for _ in range(2):
        trained.update_average()
    # The warm-up takes decay (1 + n) / (10 + n) while that is below 0.5: 2/11, then 3/12.
    expected = 1 - (2 / 11) * (3 / 12)
    torch.testing.assert_close(trained.average["weight"].item(), expected)


def test_every_learning_rate_follows_the_factor() -> None:
    model = _model()
    trained = Trained(model, _optimizer(model), decay=0.0)
    for factor in (0.25, 0.5):
        _backward(model)
        trained.step(factor)
        assert [group["lr"] for group in trained.optimizer.param_groups] == [0.1 * factor, 0.01 * factor]
    assert all(p.grad is None for p in model.parameters())
