"""The joint optimiser: each parameter moves as its own rule says, convolutions as the matrices they are."""

import copy

import torch
from torch import nn

from openkontext.train.loop import Average
from openkontext.train.optimiser import MuonAdamW


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.GroupNorm(1, 16)).to(memory_format=torch.channels_last)


def _optimiser(model: nn.Module) -> MuonAdamW:
    return MuonAdamW(model, lambda _, p: p.ndim == 4, muon_rate=0.1, adam_rate=0.01, weight_decay=0.0)


def _backward(model: nn.Module) -> None:
    torch.manual_seed(1)
    model(torch.randn(4, 8, 9, 9)).pow(3).mean().backward()


def test_muon_moves_a_convolution_by_an_orthogonal_matrix_and_adam_the_rest_by_its_rate() -> None:
    model = _model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = _optimiser(model)
    _backward(model)
    optimiser.step(1.0)
    moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    # Newton-Schulz with Muon's coefficients leaves singular values between about 0.7 and 1.2, in torch's
    # bfloat16.
    singular = torch.linalg.svdvals(moved["0.weight"].flatten(1)) / 0.1
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    # Adam's first step is the rate itself, whatever the gradient.
    torch.testing.assert_close(moved["1.weight"].abs(), torch.full((16,), 0.01), rtol=1e-3, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_a_resumed_optimiser_goes_on_the_same_way() -> None:
    model, twin = _model(), _model()
    one, two = _optimiser(model), _optimiser(twin)
    for _ in range(2):
        _backward(model)
        one.step(1.0)
    twin.load_state_dict(model.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for each, optimiser in ((model, one), (twin, two)):
        _backward(each)
        optimiser.step(0.5)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_average_follows_with_its_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = Average(layer, decay=0.5)
    nn.init.constant_(layer.weight, 1.0)
    for _ in range(2):
        average.update(layer)
    # The warm-up takes decay (1 + n) / (10 + n) while that is below 0.5: 2/11, then 3/12.
    expected = 1 - (2 / 11) * (3 / 12)
    torch.testing.assert_close(average.values["weight"].item(), expected)
