"""The flow transformer of FLUX.1: double-stream, then single-stream blocks over text and image tokens.

Same function and parameter names as diffusers' `FluxTransformer2DModel`; the forward pass has the argument
names of the published ONNX graph. A context image (Kontext) is nothing but further image tokens with other
position ids.

Shapes: B batch, L tokens (text, then image), H heads, D head width, C hidden width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openkontext.model.config import TransformerConfig

_EPS = 1e-6
_TIME_CHANNELS = 256
_MLP_RATIO = 4

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine of every rotary angle, each [L, D/2] float32."""


def rotary_angles(ids: Tensor, axes_dims: tuple[int, ...], theta: float) -> Rotary:
    """Rotation of every token's channel pairs: RoPE (arXiv 2104.09864), a share of the channels to each axis.

    Args:
        ids: positions [L, axes].
        axes_dims: channels that each axis turns; they add up to D.
        theta: base of the wavelengths; pair j of an axis with d channels turns by position / theta^(2j/d).

    Returns:
        Cosine and sine, each [L, D/2] float32.
    """
    angles = []
    for axis, dim in enumerate(axes_dims):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=ids.device) / dim
        frequencies = (theta**-exponents).float()
        angles.append(ids[:, axis, None].float() * frequencies)
    angles_LD = torch.cat(angles, dim=-1)
    return angles_LD.cos(), angles_LD.sin()


def rotate(x_BHLD: Tensor, rotary: Rotary) -> Tensor:
    """Turn the channel pairs (0, 1), (2, 3), ... of queries or keys by their token's angles.

    The first members of all pairs come back before all second ones. Queries and keys are permuted alike, so
    that their products, all that attention sees, are the same, and nothing has to be interleaved again.
    """
    cos, sin = rotary
    first, second = x_BHLD.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x_BHLD.dtype)


def sinusoidal_embedding(x: Tensor, channels: int = _TIME_CHANNELS) -> Tensor:
    """Cosines, then sines, of 1000 x at frequencies from 1 down to 1e-4: [B] -> [B, channels] float32."""
    half = channels // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device) / half
    )
    angles = 1000 * x.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class Embedder(nn.Module):
    """Two-layer perceptron that lifts a conditioning vector to the hidden width."""

    def __init__(self, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels] -> [B, C]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Conditioning(nn.Module):
    """Sum of the embeddings of time, guidance (where the model is distilled for it) and pooled text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.timestep_embedder = Embedder(_TIME_CHANNELS, width)
        self.guidance_embedder = Embedder(_TIME_CHANNELS, width) if config.guidance_embeds else None
        self.text_embedder = Embedder(config.pooled_projection_dim, width)

    def forward(self, timestep: Tensor, guidance: Tensor | None, pooled_projections: Tensor) -> Tensor:
        """[B], [B] and [B, pooled] -> [B, C]."""
        dtype = pooled_projections.dtype
        embedding = self.timestep_embedder(sinusoidal_embedding(timestep).to(dtype))
        if self.guidance_embedder is not None:
            if guidance is None:
                raise TypeError("this transformer has guidance_embeds: guidance [B] is required")
            embedding = embedding + self.guidance_embedder(sinusoidal_embedding(guidance).to(dtype))
        return embedding + self.text_embedder(pooled_projections)


class Modulation(nn.Module):
    """`count` vectors of the hidden width per example, read from the conditioning."""

    def __init__(self, hidden_size: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(hidden_size, count * hidden_size)

    def forward(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        """[B, C], already through SiLU -> `count` times [B, 1, C]."""
        return self.linear(conditioning)[:, None].chunk(self.count, dim=-1)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalization without weights of its own, then shift and scale from the conditioning (adaLN)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=_EPS), 1 + scale)


class GeluProjection(nn.Module):
    """Linear layer, then GELU in its tanh approximation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_channels] -> [..., out_channels]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two-layer perceptron on every token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = _MLP_RATIO * hidden_size
        # The identity stands where diffusers has dropout: parameter names count it.
        self.net = nn.Sequential(
            GeluProjection(hidden_size, inner), nn.Identity(), nn.Linear(inner, hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        return self.net(x)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention over [B, H, L, D].

    On a CPU the backward pass of torch's fused kernel takes four times as long as that of the formula itself
    (bfloat16, 160 tokens), so that training of small models there writes it out. The scale stands before the
    product: torch.compile takes `softmax(scale * q k)` for attention and puts the fused kernel back.
    """
    if query.device.type == "cpu" and query.requires_grad and query.shape[2] <= 1024:
        weights = torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2), dim=-1)
        return weights.to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


class AttentionProduct(nn.Module):
    """`attention` as a module, so that a calibration can see what it is given."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries, keys and values [B, H, L, D] -> [B, H, L, D]."""
        return attention(query, key, value)


class Attention(nn.Module):
    """What self-attention and joint attention share: projections of one stream and the attention itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, self.head_dim = config.hidden_size, config.attention_head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(self.head_dim, eps=_EPS)
        self.norm_k = nn.RMSNorm(self.head_dim, eps=_EPS)
        self.product = AttentionProduct()

    def heads(self, x_BLC: Tensor) -> Tensor:
        """[B, L, C] -> [B, H, L, D]."""
        return x_BLC.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rotary: Rotary) -> Tensor:
        """Queries, keys and values [B, H, L, D] -> [B, L, C]."""
        mixed = self.product(rotate(query, rotary), rotate(key, rotary), value)
        return mixed.transpose(1, 2).flatten(2)


class SelfAttention(Attention):
    """Attention over one sequence; the block that owns it projects the result."""

    def forward(self, hidden_states: Tensor, rotary: Rotary) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        query = self.norm_q(self.heads(self.to_q(hidden_states)))
        key = self.norm_k(self.heads(self.to_k(hidden_states)))
        return self.attend(query, key, self.heads(self.to_v(hidden_states)), rotary)


class JointAttention(Attention):
    """Attention of two streams with weights of their own over the sequence of both."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.norm_added_q = nn.RMSNorm(self.head_dim, eps=_EPS)
        self.norm_added_k = nn.RMSNorm(self.head_dim, eps=_EPS)
        self.to_add_out = nn.Linear(width, width)

    def forward(self, image: Tensor, text: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Image and text tokens [B, L, C] -> the same shapes."""
        query = (
            self.norm_added_q(self.heads(self.add_q_proj(text))),
            self.norm_q(self.heads(self.to_q(image))),
        )
        key = (
            self.norm_added_k(self.heads(self.add_k_proj(text))),
            self.norm_k(self.heads(self.to_k(image))),
        )
        value = (self.heads(self.add_v_proj(text)), self.heads(self.to_v(image)))
        mixed = self.attend(torch.cat(query, dim=2), torch.cat(key, dim=2), torch.cat(value, dim=2), rotary)
        text_length = text.shape[1]
        return self.to_out[0](mixed[:, text_length:]), self.to_add_out(mixed[:, :text_length])


class DoubleStreamBlock(nn.Module):
    """Joint attention, then a perceptron per stream; each modulated and gated by the conditioning."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = Modulation(config.hidden_size, 6)
        self.norm1_context = Modulation(config.hidden_size, 6)
        self.attn = JointAttention(config)
        self.ff = FeedForward(config.hidden_size)
        self.ff_context = FeedForward(config.hidden_size)

    def forward(
        self, image: Tensor, text: Tensor, conditioning: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Image and text tokens [B, L, C] and the conditioning [B, C] -> new tokens of the same shapes."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.norm1(conditioning)
        t_shift, t_scale, t_gate, t_shift_mlp, t_scale_mlp, t_gate_mlp = self.norm1_context(conditioning)
        image_mixed, text_mixed = self.attn(
            modulated_norm(image, shift, scale), modulated_norm(text, t_shift, t_scale), rotary
        )
        image = torch.addcmul(image, gate, image_mixed)
        image = torch.addcmul(image, gate_mlp, self.ff(modulated_norm(image, shift_mlp, scale_mlp)))
        text = torch.addcmul(text, t_gate, text_mixed)
        text = torch.addcmul(
            text, t_gate_mlp, self.ff_context(modulated_norm(text, t_shift_mlp, t_scale_mlp))
        )
        return image, text


class SingleStreamBlock(nn.Module):
    """Attention and perceptron side by side (arXiv 2302.05442) over text and image as one sequence."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm = Modulation(width, 3)
        self.attn = SelfAttention(config)
        self.proj_mlp = nn.Linear(width, _MLP_RATIO * width)
        self.proj_out = nn.Linear((1 + _MLP_RATIO) * width, width)

    def forward(self, hidden_states: Tensor, conditioning: Tensor, rotary: Rotary) -> Tensor:
        """Tokens [B, L, C] and the conditioning [B, C] -> new tokens."""
        shift, scale, gate = self.norm(conditioning)
        normed = modulated_norm(hidden_states, shift, scale)
        mlp = F.gelu(self.proj_mlp(normed), approximate="tanh")
        branches = torch.cat((self.attn(normed, rotary), mlp), dim=-1)
        return torch.addcmul(hidden_states, gate, self.proj_out(branches))


class FluxTransformer(nn.Module):
    """Predicts the velocity of packed latents.

    Args:
        config: the shape of the network; kept as `.config`.

    Attributes:
        gradient_checkpointing: set it to recompute every block in the backward pass, which saves memory and
            takes about a third more work.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.hidden_size
        self.time_text_embed = Conditioning(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(DoubleStreamBlock(config) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            SingleStreamBlock(config) for _ in range(config.num_single_layers)
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, config.in_channels)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity of every image token, those of the context images included.

        Args:
            hidden_states: packed latents, the target's tokens and then the context images' [B, image, 64].
            encoder_hidden_states: T5 text tokens [B, text, joint_attention_dim].
            pooled_projections: pooled CLIP embedding [B, pooled_projection_dim].
            timestep: noise level [B] in 0..1.
            img_ids: positions of the image tokens [image, 3]: which image, row, column.
            txt_ids: positions of the text tokens [text, 3], zeros.
            guidance: guidance scale [B]; not used, and may be None, unless `config.guidance_embeds`.

        Returns:
            [B, image, 64]. The caller keeps the target's part.

        Raises:
            TypeError: guidance is None, and the model needs it.
        """
        conditioning = F.silu(self.time_text_embed(timestep, guidance, pooled_projections))
        image, text = self.x_embedder(hidden_states), self.context_embedder(encoder_hidden_states)
        rotary = rotary_angles(torch.cat((txt_ids, img_ids)), self.config.axes_dims_rope, self.config.theta)
        for block in self.transformer_blocks:
            image, text = self._run(block, image, text, conditioning, rotary)
        tokens = torch.cat((text, image), dim=1)
        for block in self.single_transformer_blocks:
            tokens = self._run(block, tokens, conditioning, rotary)
        scale, shift = self.norm_out(conditioning)
        return self.proj_out(modulated_norm(tokens[:, text.shape[1] :], shift, scale))

    def compile_blocks(self) -> None:
        """Let torch compile what each block computes; hooks on blocks stay outside."""
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            block.forward = torch.compile(block.forward)

    def _run(self, block: nn.Module, *inputs: Tensor | Rotary) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
