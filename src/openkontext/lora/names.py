"""The names of tensors in adapter files: which layer of which network, and what the tensor is there.

Read from the loaders of diffusers (`loaders/lora_conversion_utils.py`), ComfyUI (`comfy/lora.py`,
`comfy/lora_convert.py`, `comfy/weight_adapter/`) and kohya-ss/sd-scripts (`networks/lora_flux.py`). A name
has up to three parts: prefixes of the tool, the layer in the words of diffusers or of Black Forest Labs, and
an end that says what the tensor is. kohya and LyCORIS write `_` for the `.` of a layer.
"""

import re
from dataclasses import dataclass
from functools import cache

from openkontext.bfl import Row, transformer_rows

TRANSFORMER, CLIP, T5 = "transformer", "clip", "t5"
"""The networks, by the role that their graphs have in a repository."""


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file belongs."""

    network: str
    """"transformer", "clip" or "t5"."""
    layer: str
    """In the words of diffusers or BFL; the text encoders' layers begin with `encoder.`."""
    part: str
    """What it is there: a key of `_ENDS`, behind it a number where it is that of one layer of several."""
    stem: str = ""
    """All of the name before that: two tools' names of one layer differ in it."""


_ADAPTER = r"(?:\.(?P<adapter>(?!weight\b|bias\b)[\w-]+))?"
_ENDS = {
    "down": rf"\.lora_(?:A|down){_ADAPTER}(?:\.weight)?|[._]lora(?:_linear_layer)?\.down\.weight",
    "up": rf"\.lora_(?:B|up){_ADAPTER}(?:\.weight)?|[._]lora(?:_linear_layer)?\.up\.weight",
    "bias": rf"\.lora_B{_ADAPTER}\.bias",
    "alpha": r"\.alpha",
    "magnitude": rf"\.dora_scale|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?",
    **{name: rf"\.{name}{_ADAPTER}" for name in ("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b")},
    **{name: rf"\.{name}{_ADAPTER}" for name in ("lokr_w2_a", "lokr_w2_b", "hada_w1_a", "hada_w1_b")},
    **{name: rf"\.{name}{_ADAPTER}" for name in ("hada_w2_a", "hada_w2_b")},
    "diff": r"\.diff|\.w_norm",
    "diff_b": r"\.diff_b|\.b_norm",
    "set": r"\.set_weight|(?<=_norm)\.scale|(?<=norm_[qk])\.weight|(?<=norm_added_[qk])\.weight",
}
"""What a tensor is -> how its name ends."""

_END = {part: re.compile(rf"(?P<layer>.+?)(?:{end})") for part, end in _ENDS.items()}

_PREFIXES = {
    "text_encoders.clip_l.transformer.": CLIP,
    "clip_l.transformer.": CLIP,
    "text_encoder.": CLIP,
    "lora_te1_": CLIP,
    "lora_te_": CLIP,
    "text_encoders.t5xxl.transformer.": T5,
    "t5xxl.transformer.": T5,
    "text_encoder_2.": T5,
    "text_encoder_3.": T5,
    "lora_te2_": T5,  # OneTrainer's FLUX
    "lora_te3_": T5,
    "base_model.model.": None,
    "diffusion_model.": None,
    "transformer.": None,
    "unet.": None,
    "model.": None,
    "module.": None,
    "lora_transformer_": None,
    "lora_prior_unet_": None,
    "lora_unet_": None,
    "lycoris_": None,
}
"""How names begin -> the network that this says; they may stand one behind the other, in any order."""

_XLABS = re.compile(r"\.processor\.(qkv|proj)_lora([12]?)\.(down|up)\.")
_BLOCK = re.compile(r"((?:double|single)_blocks|(?:single_)?transformer_blocks)[._](\d+)[._](.+)")
_FLAT_CLIP = re.compile(r"encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")
_FLAT_T5 = re.compile(r"encoder_block_(\d+)_layer_(\d+)_(SelfAttention|DenseReluDense)_(\w+)")
_NUNCHAKU = re.compile(r"(?:^|\.)(?:qkv_proj|mlp_fc[12]|mlp_context_fc[12]|(?:qkv|out)_proj_context)(?:\.|$)")
_XLABS_QKV = Row(
    "single_blocks.0.linear1_qkv",
    tuple(f"single_transformer_blocks.0.attn.to_{each}" for each in "qkv"),
)


def place(tensor: str) -> Place | None:
    """Where a tensor belongs by its name, or None where it is nothing of an adapter for these networks."""
    for part, end in _END.items():
        match = end.fullmatch(_XLABS.sub(_xlabs, tensor))
        if match is None:
            continue
        network, bare = _without_prefixes(match["layer"])
        layer = _of_text(bare, network) if network != TRANSFORMER else _of_transformer(bare)
        adapter = match.groupdict().get("adapter") or ""
        if layer is None:
            return None
        return Place(network, layer, f"{part}.{adapter}" if adapter.isdecimal() else part, match["layer"])
    return None


def is_embedding(tensor: str) -> bool:
    """Whether a tensor is of a textual inversion that OneTrainer bundles with its LoRAs."""
    return tensor.startswith("bundle_emb.") or "string_to_param" in tensor


def is_packed(tensor: str) -> bool:
    """Whether a tensor's layer is one of nunchaku's, whose weights lie in the order of its kernels."""
    return _NUNCHAKU.search(tensor) is not None


def fused(layer: str) -> Row | None:
    """How a layer of BFL's is made of diffusers', or None for one that is of diffusers' already."""
    block = _BLOCK.fullmatch(layer)
    row = _rows().get(layer if block is None else f"{block[1]}.0.{block[3]}")
    if row is None or block is None:
        return row
    parts = tuple(part.replace(".0.", f".{block[2]}.", 1) for part in row.parts)
    return Row(layer, parts, row.swapped)


def shares(row: Row) -> tuple[int, ...]:
    """Sizes of the parts of a BFL layer: in units of the hidden width, or 1 where there is but one."""
    return tuple(4 if part.endswith("proj_mlp") and len(row.parts) > 1 else 1 for part in row.parts)


def _xlabs(match: re.Match[str]) -> str:
    """XLabs' names of adapted layers as BFL's: `qkv_lora2` is the text stream's."""
    what, stream, side = match.groups()
    if not stream:
        layer = "linear1_qkv" if what == "qkv" else "linear2"
    else:
        layer = f"{'img' if stream == '1' else 'txt'}_attn.{what}"
    return f".{layer}.lora_{side}."


def _without_prefixes(name: str) -> tuple[str, str]:
    network = TRANSFORMER
    while True:
        for prefix, said in _PREFIXES.items():
            if name.startswith(prefix):
                name, network = name[len(prefix) :], said or network
                break
        else:
            return network, name


def _of_text(name: str, network: str) -> str | None:
    name = name.removeprefix("text_model.").removeprefix("text_model_")
    if name.startswith("encoder."):
        return name
    if network == CLIP:
        match = _FLAT_CLIP.fullmatch(name)
        return match and f"encoder.layers.{match[1]}.{match[2]}.{match[3]}"
    match = _FLAT_T5.fullmatch(name)
    return match and f"encoder.block.{match[1]}.layer.{match[2]}.{match[3]}.{match[4]}"


def _of_transformer(name: str) -> str | None:
    name = re.sub(r"\.attn\.processor\.", ".attn.", name)
    block = _BLOCK.fullmatch(name)
    kind = name if block is None else f"{block[1]}.0.{block[3]}"
    known = _dotted().get(kind.replace(".", "_"))
    if known is None:
        return None
    return known if block is None else known.replace(".0.", f".{block[2]}.", 1)


@cache
def _rows() -> dict[str, Row]:
    """BFL's layers, of each kind of block the first."""
    found = {_XLABS_QKV.stored: _XLABS_QKV}
    for row in transformer_rows(1, 1):
        layer, _, kind = row.stored.rpartition(".")
        if kind in ("weight", "scale"):
            found[layer] = Row(layer, tuple(p.removesuffix(".weight") for p in row.parts), row.swapped)
    return found


@cache
def _dotted() -> dict[str, str]:
    """Names of layers with `_` in the place of `.` -> the names; of BFL's and of diffusers'."""
    names = [*_rows(), *(part for row in _rows().values() for part in row.parts)]
    flat = {name.replace(".", "_"): name for name in names}
    return flat | {name.removesuffix("_0"): of for name, of in flat.items() if name.endswith("attn_to_out_0")}
