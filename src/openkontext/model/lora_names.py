"""The names of LoRA files that were not made by diffusers or PEFT, as diffusers' names.

Three kinds are about: those of Black Forest Labs, `double_blocks.0.img_attn.qkv.lora_A.weight`, some of
them behind `diffusion_model.`; those of kohya-ss/sd-scripts, where `_` stands for `.`, as in
`lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`; and both with diffusers' layer names. What BFL
keeps in one layer, such as `qkv`, is several in diffusers: `up` is cut into the parts, `down` is shared.
"""

import re
from functools import cache

from openkontext.model.bfl import Row, transformer_rows

PARTS = {
    "lora_A.weight": "lora_A.weight",
    "lora_down.weight": "lora_A.weight",
    "lora.down.weight": "lora_A.weight",
    "lora_B.weight": "lora_B.weight",
    "lora_up.weight": "lora_B.weight",
    "lora.up.weight": "lora_B.weight",
    "alpha": "alpha",
}
"""End of a tensor's name -> what it is, in PEFT's words."""

_PREFIXES = ("base_model.model.", "transformer.", "model.", "diffusion_model.")
_KOHYA = re.compile(r"lora_(?:unet|transformer)_(.+)")
_TENSOR = re.compile(rf"(.+)\.({'|'.join(map(re.escape, PARTS))})")
_BLOCK = re.compile(r"((?:double|single)_blocks|(?:single_)?transformer_blocks)[._](\d+)[._](.+)")


def layer_and_part(tensor: str) -> tuple[str, str] | None:
    """The layer that a tensor of a LoRA file belongs to, in either's names, and what it is there.

    None where it is nothing of a LoRA.
    """
    bare = tensor
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    match = _TENSOR.fullmatch(bare)
    if match is None:
        return None
    layer, part = match[1], PARTS[match[2]]
    if (flat := _KOHYA.fullmatch(layer)) is None:
        return layer, part
    block = _BLOCK.fullmatch(flat[1])
    if block is None:
        return _dotted().get(flat[1], flat[1]), part
    name = _dotted().get(f"{block[1]}_0_{block[3]}")
    if name is None:
        return flat[1], part
    return name.replace(".0.", f".{block[2]}.", 1), part


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


@cache
def _rows() -> dict[str, Row]:
    """BFL's linear layers, of each kind of block the first."""
    found = {}
    for row in transformer_rows(1, 1):
        if row.stored.endswith(".weight"):
            layer = row.stored.removesuffix(".weight")
            found[layer] = Row(layer, tuple(p.removesuffix(".weight") for p in row.parts), row.swapped)
    return found


@cache
def _dotted() -> dict[str, str]:
    """Names of layers with `_` in the place of `.` -> the names; of BFL's and of diffusers'."""
    names = [*_rows(), *(part for row in _rows().values() for part in row.parts)]
    return {name.replace(".", "_"): name for name in names}
