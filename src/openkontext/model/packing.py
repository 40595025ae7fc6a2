"""Quantized safetensors files as ComfyUI and bitsandbytes write them, read as the weights they stand for.

| packing | beside `X.weight` | the weight is |
|---|---|---|
| plain float8 | nothing | the code |
| ComfyUI, scaled | `X.scale_weight`, or `X.weight_scale` and `X.comfy_quant` | code times scale |
| bitsandbytes, 8 bits | `X.SCB` | code times the row's scale / 127 |
| bitsandbytes, NF4 and FP4 | `X.weight.absmax`, `.quant_map`, `.quant_state...` | table[code] times a scale |

Formats: github.com/comfyanonymous/ComfyUI `QUANTIZATION.md`; bitsandbytes `functional.py`, `QuantState`. The
NF4 table is that of QLoRA (arXiv 2305.14314, appendix E); a file carries its own, which is what counts.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.model.weights import Shape, Weights, parse_json

Read: TypeAlias = Callable[[int, int], Tensor]

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("scale_weight", "weight_scale")  # names of the same thing, the older first
_HELPERS = re.compile(
    r"(.*\.)?("
    r"scaled_fp8|spiece_model"  # of the whole file
    r"|scale_weight|scale_input|weight_scale|weight_scale_2|input_scale|comfy_quant"  # of a layer
    r"|SCB|weight_format"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)"
    r")"
)
_STATE = ".quant_state.bitsandbytes__"
_COMFY_FORMATS = {"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"}
_MARKS = {  # last part of a name -> who packs so that only their own kernels can read it
    "wscales": "nunchaku",
    "smooth_factor": "nunchaku",
    "qzeros": "GPTQ or AWQ",
}


@dataclass(frozen=True)
class _Packed:
    """A weight that is not stored as it is."""

    shape: Shape
    read: Read


class Unpacked:
    """The weights that a safetensors file stands for.

    Args:
        weights: the file as it is.

    Raises:
        InputError: it is packed in a way that cannot be undone; the message says what to use instead.
    """

    def __init__(self, weights: Weights) -> None:
        self.path, self._weights = weights.path, weights
        self.metadata: Mapping[str, str] = weights.metadata
        _refuse_kernels_own(weights)
        formats = _comfy_formats(weights)
        self._packed: dict[str, _Packed] = {}
        for name in weights.shapes:
            if packed := _packed(weights, name, formats):
                self._packed[name] = packed
        self.shapes: Mapping[str, Shape] = {
            name: self._packed[name].shape if name in self._packed else shape
            for name, shape in weights.shapes.items()
            if not _HELPERS.fullmatch(name)
        }

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.rows`."""
        if name in self._packed:
            return self._packed[name].read(start, stop)
        return self._plain(name, self._weights.rows(name, start, stop))

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """As `Floats.read`."""
        if name in self._packed:
            return self._packed[name].read(start, stop)
        return self._plain(name, self._weights.read(name, start, stop))

    def _plain(self, name: str, tensor: Tensor) -> Tensor:
        if self._weights.dtypes[name] in _FLOAT8:
            return tensor.to(torch.bfloat16)  # exact: it has more bits of both kinds
        if not tensor.is_floating_point():
            raise InputError(
                f"{self.path}: {name} is quantized ({tensor.dtype}) in a way that is not known; "
                "load a checkpoint in floating point"
            )
        return tensor


def _packed(weights: Weights, name: str, formats: Mapping[str, str]) -> _Packed | None:
    layer = name.removesuffix(".weight")
    if layer == name:
        return None
    for kind in ("nf4", "fp4"):
        if f"{name}{_STATE}{kind}" in weights.shapes:
            return _four_bits(weights, name, f"{name}{_STATE}{kind}")
    if f"{layer}.SCB" in weights.shapes:
        return _scaled(weights, name, f"{layer}.SCB", 1 / 127)
    if (said := formats.get(layer)) not in _COMFY_FORMATS | {None}:
        raise InputError(
            f"{weights.path}: {name} is in ComfyUI's {said}, which cannot be read back; "
            "take the bf16 or fp8 file of the model"
        )
    for scale in _SCALES:
        if f"{layer}.{scale}" in weights.shapes:
            return _scaled(weights, name, f"{layer}.{scale}", 1.0)
    return None


def _scaled(weights: Weights, name: str, scale_name: str, factor: float) -> _Packed:
    """Codes times one scale, or one scale a row."""
    shape = weights.shapes[name]
    scale = _whole(weights, scale_name).float().reshape(-1) * factor
    if len(scale) not in (1, shape[0]):
        raise InputError(
            f"{weights.path}: {scale_name} has {len(scale)} scales, where {name} has {shape[0]} rows; "
            "take the bf16 file of the model"
        )

    def read(start: int, stop: int) -> Tensor:
        codes = weights.read(name, start, stop).float()
        each = scale if len(scale) == 1 else scale[start:stop]
        return codes * each.reshape(-1, *[1] * (codes.ndim - 1))

    return _Packed(shape, read)


def _four_bits(weights: Weights, name: str, state_name: str) -> _Packed:
    """Two codes a byte, the first in the high half, in blocks along the flattened weight."""
    state: dict[str, Any] = parse_json(bytes(_whole(weights, state_name).tolist()).decode(), weights.path)
    try:
        shape, block = tuple(int(size) for size in state["shape"]), int(state["blocksize"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{weights.path}: {state_name} is damaged; fetch the file again") from None
    table = _whole(weights, f"{name}.quant_map").float()
    scales = _block_scales(weights, name, state)
    row = torch.Size(shape[1:]).numel()
    if len(scales) != -(-shape[0] * row // block) or block % 2:
        raise InputError(f"{weights.path}: {name}.absmax does not suit its {list(shape)}; fetch it again")

    def read(start: int, stop: int) -> Tensor:
        first, last = start * row // block, -(-stop * row // block)
        stored = weights.shapes[name]  # [bytes, 1], or [1, bytes]
        flat = _bytes(weights, name, stored, first * block // 2, last * block // 2)
        codes = torch.stack((flat >> 4, flat & 15), dim=-1).reshape(-1)
        values = table[codes.int()]
        each = scales[first:last].repeat_interleave(block)[: len(values)]
        begin = start * row - first * block
        return (values * each)[begin : begin + (stop - start) * row].reshape(stop - start, *shape[1:])

    return _Packed(shape, read)


def _bytes(weights: Weights, name: str, stored: Shape, start: int, stop: int) -> Tensor:
    """Bytes of a tensor that is one long row or column."""
    if stored[0] == 1:
        return weights.read(name, 0, 1).reshape(-1)[start:stop]
    return weights.read(name, start, min(stop, stored[0])).reshape(-1)


def _block_scales(weights: Weights, name: str, state: Mapping[str, Any]) -> Tensor:
    """One scale a block; where these are quantized too (double quantization), the numbers that they were."""
    scales = _whole(weights, f"{name}.absmax").reshape(-1)
    if "nested_blocksize" not in state:
        return scales.float()
    outer = _whole(weights, f"{name}.nested_absmax").float().reshape(-1)
    table = _whole(weights, f"{name}.nested_quant_map").float()
    each = outer.repeat_interleave(int(state["nested_blocksize"]))[: len(scales)]
    return table[scales.int()] * each + float(state["nested_offset"])


def _comfy_formats(weights: Weights) -> dict[str, str]:
    """Layer -> ComfyUI's name of its format, said in the header or beside each layer."""
    found: dict[str, str] = {}
    if said := weights.metadata.get("_quantization_metadata"):
        layers = parse_json(said, weights.path).get("layers", {})
        found |= {layer: _format(entry) for layer, entry in layers.items()}
    for name in weights.shapes:
        if name.endswith(".comfy_quant"):
            text = bytes(_whole(weights, name).tolist()).rstrip(b"\0").decode(errors="replace")
            found[name.removesuffix(".comfy_quant")] = _format(parse_json(text, weights.path))
    return found


def _format(entry: Mapping[str, Any]) -> str:
    """ComfyUI's name of a layer's format; a rotated one is another."""
    return f"{entry.get('format')}{' (rotated)' if entry.get('convrot') else ''}"


def _refuse_kernels_own(weights: Weights) -> None:
    for name in weights.shapes:
        if name.endswith(".qweight"):
            layer = name.removesuffix("qweight")
            packer = next(
                (who for mark, who in _MARKS.items() if f"{layer}{mark}" in weights.shapes), "a tool"
            )
            raise InputError(nunchaku_message(weights.path, packer))


def nunchaku_message(path: Any, packer: str = "nunchaku") -> str:
    """That a file is packed for kernels of its own, and what to use instead."""
    return (
        f"{path} is packed by {packer} for kernels of its own and cannot be read back: export the original "
        "checkpoint with `--precision fp4`, or pull the published one with `openkontext pull "
        "black-forest-labs/FLUX.1-Kontext-dev-onnx --precision fp4`"
    )


def _whole(weights: Weights, name: str) -> Tensor:
    """A small tensor."""
    if name not in weights.shapes:
        raise InputError(f"{weights.path}: the tensor {name} is missing; fetch the file again")
    shape = weights.shapes[name]
    return weights.read(name, 0, shape[0]) if shape else weights.scalar(name).clone()
