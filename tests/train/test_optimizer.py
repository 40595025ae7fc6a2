"""The joint optimizer: each parameter moves as its own rule says, convolutions as the matrices they are."""

import copy
from pathlib import Path

import pytest
import torch
from sharing import average_and_step, inputs_of, small_model, two_steps
from torch import nn

from openkontext.train.optimizer import MuonAdamW
from openkontext.train.parallel import launch
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


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes did together."""
    folder = tmp_path_factory.mktemp("two")
    launch(average_and_step, 2, folder)
    return folder


def test_two_processes_take_the_same_step_as_one_with_both_batches(of_two: Path) -> None:
    one, two = (torch.load(of_two / f"gradient-{rank}.pt") for rank in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    model, inputs = small_model(), torch.cat([inputs_of(rank) for rank in range(2)])
    model(inputs).square().mean().backward()
    torch.testing.assert_close(one, model.weight.grad)


def test_processes_share_the_updates_and_end_with_the_same_weights_as_one(
    of_two: Path, tmp_path: Path
) -> None:
    launch(two_steps, 1, tmp_path)
    one, *two = (torch.load(path) for path in (tmp_path / "0.pt", of_two / "0.pt", of_two / "1.pt"))
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
