"""The image autoencoder of FLUX.1: a convolutional encoder and decoder around a 16-channel latent.

Same function and parameter names as diffusers' `AutoencoderKL` without quantization convolutions. All layers
keep the `channels_last` memory format, which is the faster one for convolutions on a CPU.

Shapes: B batch, C channels, h and w the size of the feature map.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openkontext.model.config import AutoencoderConfig

_EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions added to their input."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map, added to its input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        query, key, value = (project(tokens).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return x + self.to_out[0](mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Half the resolution with a strided convolution, padded to the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h/2, w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbor, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _resnets(in_channels: int, out_channels: int, count: int, groups: int) -> nn.ModuleList:
    """`count` residual blocks, of which the first changes the width."""
    widths = (in_channels, *[out_channels] * count)
    return nn.ModuleList(ResnetBlock(before, after, groups) for before, after in pairwise(widths))


class DownBlock(nn.Module):
    """Residual blocks of one encoder resolution, then the step to the next, but for the last."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, layers, groups)
        self.downsamplers = nn.ModuleList() if last else nn.ModuleList([Downsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, h/2, w/2]; the last block keeps h and w."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Residual blocks of one decoder resolution, then the step to the next, but for the last."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, layers, groups)
        self.upsamplers = nn.ModuleList() if last else nn.ModuleList([Upsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, 2h, 2w]; the last block keeps h and w."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Images to the mean and log variance of the latent, stacked along the channels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(before, after, config.layers_per_block, groups, last=level == len(channels) - 1)
            for level, (before, after) in enumerate(pairwise((channels[0], *channels)))
        )
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 2 * latent_channels, H/8, W/8]."""
        hidden = self.conv_in(images)
        for block in self.down_blocks:
            hidden = block(hidden)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(hidden))))


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0], groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(before, after, config.layers_per_block + 1, groups, last=level == len(channels) - 1)
            for level, (before, after) in enumerate(pairwise((channels[0], *channels)))
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, latent_channels, h, w] -> [B, 3, 8h, 8w]."""
        hidden = self.mid_block(self.conv_in(latent))
        for block in self.up_blocks:
            hidden = block(hidden)
        return self.conv_out(F.silu(self.conv_norm_out(hidden)))


class Autoencoder(nn.Module):
    """Between images in -1..1 and unscaled latents; the caller applies `shift_factor` and `scaling_factor`.

    Args:
        config: the shape of the network; kept as `.config`.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The latent's distribution: images [B, 3, H, W] -> mean and log variance, each [B, C, H/8, W/8].

        H and W are multiples of `config.downsampling` (8). Editing uses the mean. The log variance is limited
        to -30..20.
        """
        mean, logvar = self.encoder(images).chunk(2, dim=1)
        return mean, torch.clamp(logvar, -30.0, 20.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images [B, 3, 8h, 8w], about -1..1 (not clipped)."""
        return self.decoder(latent)
