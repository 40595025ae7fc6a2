"""Which linear layers of the transformer are quantized."""

import re

EXCLUSIONS = {
    r"time_emb_proj|time_embedding|time_text_embed": "timestep, guidance and pooled text steer every block",
    r"x_embedder|context_embedder|add_embedding|pos_embed": "the error of a first layer passes through all",
    r"norm_out": "modulation of the last layer",
    r"conv_in|conv_out|conv_shortcut": "convolutions of U-Nets; FLUX has none",
    r"proj_out": "the last layer, and the one that closes each single-stream block",
}
"""Parts of names that stay in 16 bits, and why.

All but the last are the exclusions of the published recipe (TensorRT-Model-Optimizer,
`examples/diffusers/quantization`). `proj_out` is switched off by the default configuration of the same tool,
in every export of it that we have seen, with FP8 as with FP4.
"""

_EXCLUDED = re.compile("|".join(EXCLUSIONS))


def is_quantized(name: str) -> bool:
    """Whether a linear layer, or its weight, of this name is quantized in a published export."""
    return _EXCLUDED.search(name) is None
