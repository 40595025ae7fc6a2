"""The transformer's weights in every precision asked for, block by block in one pass over the checkpoint."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import onnx_ir as ir
import torch
from torch import Tensor

from openkontext.errors import InputError
from openkontext.export.calibration import Calibration
from openkontext.export.observing import CalibrationPass, Observations
from openkontext.export.quantizers import fp8, nvfp4, svdquant
from openkontext.export.quantizers.selection import is_quantized
from openkontext.export.work import TensorFile, Work
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.config import TransformerConfig
from openkontext.runtime.int8_weights import quantize

FLOATS = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Precision of a graph without quantized layers -> the type of its weights and activations."""

CALIBRATED = ("fp8", "fp4")
"""Precisions with layers that are quantized by their inputs; all else in these graphs is bfloat16."""

QUANTIZED = (*CALIBRATED, "int8")
"""Precisions with quantized layers. What is not quantized in int8 is float32: it runs on any provider."""

DTYPES = {**dict.fromkeys(CALIBRATED, torch.bfloat16), "int8": torch.float32, **FLOATS}
"""Precision -> the type of weights and activations that are not quantized."""

_BLOCK = re.compile(r"(?:single_)?transformer_blocks\.\d+")
CALIBRATION_FILE = "calibration.npz"
"""In the folder of the work: the inputs that the layers are quantized by."""

_REST = "the rest"

OnProgress = Callable[[float, str], None]
"""Called with the share that is done, 0..1, and what is being done."""


@dataclass(frozen=True)
class QuantRecipe:
    """How layers are quantized; the defaults are as published."""

    percentile: float = 100.0
    """Share in percent of the magnitudes of an activation that FP8 must not clip."""
    rank: int = 32
    """Of the 16-bit branch beside each layer in FP4; 0 for none."""
    smooth: bool = True
    """Whether each input channel of a layer in FP4 is scaled by a factor that is searched for."""
    feed_back: bool = True
    """Whether what SVDQuant leaves to FP4 is rounded for the inputs of its layer, or to the nearest code."""
    seed: int = 0
    """Of the randomized decompositions."""

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise InputError(f"a percentile must be above 0 and at most 100, not {self.percentile:g}")
        if self.rank < 0:
            raise InputError(f"the rank of the branches must be 0 or more, not {self.rank}")

    def said(self) -> dict[str, float]:
        """As plain data."""
        return asdict(self)


def data_file(precision: str) -> str:
    """Path of a transformer's data in a repository."""
    return f"transformer.opt/{precision}/backbone.onnx_data"


def write_weights(
    transformer: Checkpoint[TransformerConfig],
    precisions: Sequence[str],
    work: Work,
    new: str,
    calibrate: Callable[[], Calibration],
    recipe: QuantRecipe,
    on_progress: OnProgress,
) -> dict[str, dict[str, float]]:
    """Write the data files of a transformer; what was written before a stop is not written again.

    Args:
        transformer: the weights.
        precisions: of `FLOATS` and `QUANTIZED`.
        work: where to write.
        new: folder of the repository in it.
        calibrate: gives the inputs to calibrate with; called only where a precision needs them.
        recipe: how to quantize.
        on_progress: told after each block.

    Returns:
        The scales that each quantized graph needs beside its tensors.

    Raises:
        InputError: a weight or an activation is infinite or not a number, or does not suit the precision.
        OSError: the disk is full, or fails.
    """
    units = dict(_units(transformer.shapes))
    files = {precision: work.file(f"{new}/{data_file(precision)}") for precision in precisions}
    calibrated = _Calibrated(transformer, work, recipe) if set(precisions) & set(CALIBRATED) else None
    todo = [unit for unit in units if work.record(unit) is None]
    if todo and calibrated is not None:
        calibrated.start(calibrate, last=_before(units, todo[0]))
    sizes = {unit: sum(_size(transformer.shapes[name]) for name in names) for unit, names in units.items()}
    done = sum(size for unit, size in sizes.items() if unit not in todo)
    for unit in todo:
        on_progress(done / sum(sizes.values()), f"transformer: {unit}")
        weights = {name: read_weight(transformer, name) for name in units[unit]}
        scales: dict[str, dict[str, float]] = {}
        observed = None
        if calibrated is not None and unit != _REST:
            weights = {name: weight.float() for name, weight in weights.items()}
            observed = calibrated.next(unit, weights)
        for precision, file in files.items():
            scales[precision] = {}
            for name, weight in weights.items():
                if precision == "int8" and unit != _REST and weight.ndim == 2:
                    _write_int8(file, name, weight)
                elif (
                    precision in CALIBRATED
                    and observed is not None
                    and weight.ndim == 2
                    and is_quantized(name)
                ):
                    layer = name.removesuffix(".weight")
                    if precision == "fp8":
                        amax = observed.amax[f"{layer}.input_quantizer"]
                        scales[precision] |= write_fp8(file, layer, weight, amax)
                    else:
                        scales[precision] |= _write_fp4(file, layer, weight, observed, recipe)
                else:
                    write_float(file, name, weight, DTYPES[precision])
            if precision in CALIBRATED and observed is not None:
                scales[precision] |= {
                    key: _stored(fp8.scale_of(torch.tensor(value)))
                    for key, value in observed.amax.items()
                    if key.endswith("_bmm_quantizer")
                }
        work.commit(unit, scales)
        if calibrated is not None:
            calibrated.forget_before(unit)
        done += sizes[unit]
    gathered: dict[str, dict[str, float]] = {p: {} for p in precisions}
    for unit in units:
        for precision, some in work.record(unit).items():
            gathered[precision] |= some
    return gathered


class _Calibrated:
    """The calibration's inputs on their way, kept on disk from block to block."""

    def __init__(self, transformer: Checkpoint[TransformerConfig], work: Work, recipe: QuantRecipe) -> None:
        self._transformer, self._work, self._recipe = transformer, work, recipe
        self._inputs = work.folder / CALIBRATION_FILE
        self._pass: CalibrationPass | None = None

    def start(self, calibrate: Callable[[], Calibration], last: str | None) -> None:
        """Begin with the inputs, or go on behind the block that was done last."""
        if not self._inputs.exists():
            calibrate().save(self._inputs)
        self._pass = CalibrationPass(
            self._transformer, Calibration.load(self._inputs), self._recipe.percentile
        )
        if last is not None and last != _REST:
            self._pass.load(self._state(last))

    def next(self, block: str, weights: Mapping[str, Tensor]) -> Observations:
        """What a block's layers are given."""
        assert self._pass is not None
        observed = self._pass.block(block, weights)
        self._pass.save(self._state(block))
        return observed

    def forget_before(self, block: str) -> None:
        """Delete where the inputs were before a block that is done."""
        for path in self._work.folder.glob("state.*.safetensors"):
            if path != self._state(block):
                path.unlink()

    def _state(self, block: str) -> Path:
        return self._work.folder / f"state.{block}.safetensors"


def _units(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, list[str]]]:
    """The weights that are written at a time: all outside the blocks, then each block's, in order."""
    units: dict[str, list[str]] = {_REST: []}
    for name in shapes:
        match = _BLOCK.match(name)
        units.setdefault(match[0] if match else _REST, []).append(name)
    yield from units.items()


def _before(units: Mapping[str, list[str]], unit: str) -> str | None:
    names = list(units)
    position = names.index(unit)
    return names[position - 1] if position else None


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def read_weight(network: Checkpoint[Any], name: str) -> Tensor:
    """A weight of a checkpoint.

    Raises:
        InputError: it is infinite or not a number somewhere.
    """
    weight = network.read(name).detach()
    low, high = torch.aminmax(weight)  # a NaN makes both NaN
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise InputError(f"the weight {name} holds values that are infinite, or not a number")
    return weight


def write_float(file: TensorFile, name: str, weight: Tensor, dtype: torch.dtype) -> None:
    """Write a weight that is not quantized.

    Raises:
        InputError: a value is beyond what the type holds.
        OSError: the disk is full, or fails.
    """
    stored = weight.to(dtype)
    if stored.dtype != weight.dtype and not bool(torch.isfinite(torch.stack(torch.aminmax(stored))).all()):
        raise InputError(f"the weight {name} holds values that {dtype} cannot")
    file.append(name, stored, ir.tensor_adapters.from_torch_dtype(dtype), tuple(weight.shape))


def write_fp8(file: TensorFile, layer: str, weight: Tensor, input_amax: float) -> dict[str, float]:
    """Write a layer's weight in FP8.

    Args:
        file: where to.
        layer: its name in the model.
        weight: [out, in].
        input_amax: the magnitude that the largest code of its input is to stand for.

    Returns:
        The scales of weight and input, rounded as the graph stores them.

    Raises:
        InputError: a value is infinite or not a number.
        OSError: the disk is full, or fails.
    """
    scale = _stored(fp8.scale_of(fp8.amax(weight)))
    codes = fp8.quantize(weight, torch.tensor(scale))
    file.append(f"{layer}.weight", codes, ir.DataType.FLOAT8E4M3FN, tuple(weight.shape))
    return {
        f"{layer}.weight_quantizer": scale,
        f"{layer}.input_quantizer": _stored(fp8.scale_of(torch.tensor(input_amax))),
    }


def _write_int8(file: TensorFile, name: str, weight: Tensor) -> None:
    """Write a layer's weight [out, in] in integers of 8 bits, one step for each output channel."""
    codes, steps = quantize(weight.float().T.numpy(), bits=8)
    file.append(name, torch.from_numpy(codes), ir.DataType.INT8, codes.shape)
    file.append(f"{name}_scale", torch.from_numpy(steps), ir.DataType.FLOAT, steps.shape)


def _write_fp4(
    file: TensorFile, layer: str, weight: Tensor, observed: Observations, recipe: QuantRecipe
) -> dict[str, float]:
    """Write a layer in NVFP4 with SVDQuant."""
    try:
        made = svdquant.quantize(
            weight,
            observed.layers[layer],
            recipe.rank,
            smooth=recipe.smooth,
            feed_back=recipe.feed_back,
            seed=recipe.seed,
        )
    except InputError as error:
        raise InputError(f"the layer {layer} cannot be stored in fp4: {error}") from None
    shape = tuple(weight.shape)
    for name, tensor in (
        ("input_quantizer._pre_quant_scale", made.smoothing),
        ("weight_quantizer._svdquant_lora_a", made.lora_a),
        ("weight_quantizer._svdquant_lora_b", made.lora_b),
    ):
        if tensor is not None:
            file.append(f"{layer}.{name}", tensor, ir.DataType.BFLOAT16, tuple(tensor.shape))
    file.append(f"{layer}.weight_f4", made.residual.packed, ir.DataType.FLOAT4E2M1, shape)
    blocks = (shape[0], shape[1] // nvfp4.BLOCK)
    file.append(f"{layer}.weight_f8_scale", made.residual.block_scales, ir.DataType.FLOAT8E4M3FN, blocks)
    file.append(f"{layer}.weight_f8_scale_f32_scale", made.residual.scale.reshape(1), ir.DataType.FLOAT, (1,))
    return {f"{layer}.input_quantizer": float(made.input_scale)}


def _stored(scale: Tensor) -> float:
    """A scale rounded to bfloat16, as the graph holds it."""
    return float(scale.numpy().astype(ml_dtypes.bfloat16))
