"""Small models in torch in which every weight matters, and how far two results lie apart."""

import torch
from torch import nn

from openkontext.model.config import TransformerConfig

TRANSFORMER = TransformerConfig(
    in_channels=8,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=32,
    num_attention_heads=2,
    joint_attention_dim=24,
    pooled_projection_dim=20,
    axes_dims_rope=(4, 14, 14),
)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module weights that keep activations near 1, and norms and biases away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return module


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference, of that of the reference."""
    assert value.shape == reference.shape
    return ((value.float() - reference.float()).norm() / reference.float().norm()).item()
