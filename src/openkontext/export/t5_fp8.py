"""T5's linear layers in FP8, block by block: what `t5-fp8.opt` of a repository holds.

All layers of the blocks are quantized, as TensorRT-Model-Optimizer's default for FP8 has it, and none else:
embedding, norms and the learned position bias stay bfloat16. T5's attention is not quantized.

Shapes: B batch, L tokens, H heads, D head width, C width.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openkontext.data.draws import random_edit
from openkontext.data.edits import KINDS
from openkontext.data.instructions import phrase
from openkontext.export.precisions import OnProgress, read_weight, write_float, write_fp8
from openkontext.export.quantizers import fp8
from openkontext.export.text_encoders import T5_EPS, relative_position_bucket
from openkontext.export.work import Work
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.config import T5EncoderConfig
from openkontext.text import t5_tokens

FOLDER = "t5-fp8.opt"
"""Of a repository."""
DATA_FILE = f"{FOLDER}/backbone.onnx_data"

_PROMPTS = 16
_TOKENS = 64  # of each prompt; what is behind it is padding, all alike
_STREAM = 0x75F8  # first word of the random state of the prompts
_BLOCK = re.compile(r"encoder\.block\.\d+")
_ATTENTION, _FEED_FORWARD = "layer.0.SelfAttention", "layer.1.DenseReluDense"
_READ_BY = {  # what goes into which layers
    "attention": tuple(f"{_ATTENTION}.{name}" for name in "qkv"),
    "mixed": (f"{_ATTENTION}.o",),
    "feed_forward": (f"{_FEED_FORWARD}.wi_0", f"{_FEED_FORWARD}.wi_1"),
    "inner": (f"{_FEED_FORWARD}.wo",),
}


def write_t5(
    t5: Checkpoint[T5EncoderConfig],
    ids: Tensor,
    work: Work,
    new: str,
    percentile: float,
    on_progress: OnProgress,
) -> dict[str, float]:
    """Write the data file; of what was written before a stop only the inputs are computed again.

    Args:
        t5: the weights.
        ids: tokens [B, L] to calibrate with (`prompts`).
        work: where to write.
        new: folder of the repository in it.
        percentile: share in percent of the magnitudes of a layer's inputs that FP8 must not clip.
        on_progress: told before each block.

    Returns:
        The scales that the graph needs beside its tensors.

    Raises:
        InputError: a weight or an activation is infinite or not a number.
        OSError: the disk is full, or fails.
    """
    file = work.file(f"{new}/{DATA_FILE}")
    blocks: dict[str, list[str]] = {}
    rest = []
    for name in t5.shapes:
        if match := _BLOCK.match(name):
            blocks.setdefault(match[0], []).append(name)
        elif name != "encoder.embed_tokens.weight":  # the same as shared.weight
            rest.append(name)
    if work.record(f"{FOLDER}: rest") is None:
        for name in rest:
            write_float(file, name, read_weight(t5, name), torch.bfloat16)
        work.commit(f"{FOLDER}: rest", {})
    if all(work.record(f"{FOLDER}: {block}") is not None for block in blocks):
        return _gathered(work, blocks)

    hidden = read_weight(t5, "shared.weight")[ids].float()
    table = read_weight(t5, f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight").float()
    bias = _position_bias(table, ids.shape[1])
    for i, (block, names) in enumerate(blocks.items()):
        unit = f"{FOLDER}: {block}"
        on_progress(i / len(blocks), unit)
        weights = {name.removeprefix(f"{block}."): read_weight(t5, name).float() for name in names}
        hidden, inputs = _through(weights, hidden, bias, t5.config)
        if work.record(unit) is not None:
            continue
        scales: dict[str, float] = {}
        amax = {
            layer: float(fp8.amax(inputs[kind], percentile))
            for kind, layers in _READ_BY.items()
            for layer in layers
        }
        for name, weight in weights.items():
            layer = name.removesuffix(".weight")
            if layer in amax:
                scales |= write_fp8(file, f"{block}.{layer}", weight, amax[layer])
            else:
                write_float(file, f"{block}.{name}", weight, torch.bfloat16)
        work.commit(unit, scales)
    return _gathered(work, blocks)


def prompts(tokenizer: Path, length: int, kinds: tuple[str, ...] | None) -> Tensor:
    """Tokens [B, L] to calibrate with: instructions of drawn edits, none of them a case of the evaluation.

    Args:
        tokenizer: folder of T5's tokenizer.
        length: tokens that the model pads every prompt to.
        kinds: of edit, that the model was taught; None for all.

    Raises:
        InputError: the tokenizer is missing or cannot be read.
    """
    texts = []
    for index in range(_PROMPTS):
        rng = np.random.default_rng([_STREAM, index])
        kind = (kinds or KINDS)[index % len(kinds or KINDS)]
        texts.append(phrase(random_edit(rng, kind, unseen=False), rng))
    return torch.from_numpy(t5_tokens(tokenizer, texts, length))[:, :_TOKENS]


def _gathered(work: Work, blocks: Mapping[str, list[str]]) -> dict[str, float]:
    scales: dict[str, float] = {}
    for block in blocks:
        scales |= work.record(f"{FOLDER}: {block}")
    return scales


@torch.no_grad()
def _through(
    weights: Mapping[str, Tensor], hidden: Tensor, bias: Tensor, config: T5EncoderConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """One block on [B, L, C], and the inputs of its layers by the kinds of `_READ_BY`."""

    def linear(x: Tensor, layer: str) -> Tensor:
        return F.linear(x, weights[f"{layer}.weight"])

    def norm(x: Tensor, layer: str) -> Tensor:
        return F.rms_norm(x, (config.d_model,), weights[f"{layer}.layer_norm.weight"], T5_EPS)

    attention = norm(hidden, "layer.0")
    query, key, value = (
        linear(attention, layer).unflatten(-1, (config.num_heads, -1)).transpose(1, 2)  # [B, H, L, D]
        for layer in _READ_BY["attention"]
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    mixed = mixed.transpose(1, 2).flatten(2)
    hidden = hidden + linear(mixed, f"{_ATTENTION}.o")
    feed_forward = norm(hidden, "layer.1")
    gate = F.gelu(linear(feed_forward, f"{_FEED_FORWARD}.wi_0"), approximate="tanh")
    inner = gate * linear(feed_forward, f"{_FEED_FORWARD}.wi_1")
    hidden = hidden + linear(inner, f"{_FEED_FORWARD}.wo")
    return hidden, {"attention": attention, "mixed": mixed, "feed_forward": feed_forward, "inner": inner}


def _position_bias(table: Tensor, length: int) -> Tensor:
    """The bias [H, L, L] of each head for each pair of positions, from the learned table [32, H]."""
    positions = np.arange(length)
    buckets = relative_position_bucket(positions[None] - positions[:, None])
    return table[torch.from_numpy(buckets)].permute(2, 0, 1)
