"""The inputs of a calibration on their way through the transformer, one block at a time.

Only the block that they are passing is in memory: its weights, the tokens of all inputs, and of each linear
layer's inputs some sizes and a sample.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from openkontext.errors import InputError
from openkontext.export.calibration import Calibration
from openkontext.export.graph_builder import factors
from openkontext.export.quantizers import fp8
from openkontext.export.quantizers.svdquant import KEPT_ROWS, LayerInputs, evenly
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.config import TransformerConfig
from openkontext.model.transformer import (
    AttentionProduct,
    DoubleStreamBlock,
    FluxTransformer,
    SingleStreamBlock,
    rotary_angles,
)

ENDS = ("time_text_embed", "context_embedder", "x_embedder")
"""What the inputs go through before the first block."""


@dataclass
class _Layer:
    """The inputs of one linear layer, gathered batch by batch."""

    amax: Tensor
    total: Tensor
    count: int = 0
    clipped: float = 0.0
    rows: list[Tensor] = field(default_factory=list)

    def add(self, inputs: Tensor, percentile: float, sampled: int) -> None:
        rows = inputs.detach().float().flatten(0, -2)
        sizes = rows.abs()
        self.amax = torch.maximum(self.amax, sizes.amax(0))
        self.total += sizes.sum(0)
        self.count += len(rows)
        self.clipped = max(self.clipped, float(fp8.amax(rows, percentile)))
        self.rows.append(evenly(rows, sampled))

    def inputs(self) -> LayerInputs:
        rows = evenly(torch.cat(self.rows), KEPT_ROWS)
        return LayerInputs(self.amax, self.total / self.count, rows)


@dataclass(frozen=True)
class Observations:
    """What was seen while the inputs passed one block, by the full names of its modules."""

    layers: Mapping[str, LayerInputs]
    """Inputs of each linear layer."""
    amax: Mapping[str, float]
    """The magnitude that FP8's largest code is to stand for: of the inputs of each layer `L` as
    `L.input_quantizer`, of an attention's scaled operands as `A.q_bmm_quantizer` and so on."""


class CalibrationPass:
    """Calibration inputs between two blocks.

    Args:
        transformer: the weights; those of the embedders are read at once.
        calibration: the inputs.
        percentile: share in percent of the magnitudes of a layer's inputs that FP8 must not clip.
    """

    def __init__(
        self, transformer: Checkpoint[TransformerConfig], calibration: Calibration, percentile: float = 100.0
    ) -> None:
        calibration.check(transformer.config)
        self._config = transformer.config
        self._calibration = calibration
        self._percentile = percentile
        self._tokens: list[tuple[Tensor, Tensor]] = []
        self._conditioning: list[Tensor] = []
        self._embed(transformer)

    @torch.no_grad()
    def block(self, name: str, weights: Mapping[str, Tensor]) -> Observations:
        """Take all inputs through the next block.

        Args:
            name: of the block in the transformer, such as `transformer_blocks.3`.
            weights: of the block, float32, under their full names.

        Raises:
            InputError: an activation becomes infinite, or not a number.
        """
        with torch.device("meta"):
            double = name.startswith("transformer_blocks")
            block = DoubleStreamBlock(self._config) if double else SingleStreamBlock(self._config)
        state = {key.removeprefix(f"{name}."): weight for key, weight in weights.items()}
        block.load_state_dict(state, assign=True)
        sampled = -(-KEPT_ROWS // len(self._tokens))
        with _observed(block, self._percentile, sampled, self._config) as (layers, amax):
            for i, batch in enumerate(self._calibration.batches):
                self._tokens[i] = self._through(block, i, batch)
        for image, _ in self._tokens:
            if not bool(torch.isfinite(image).all()):
                raise InputError(
                    f"the model's activations are no numbers after {name}: its weights are damaged"
                )
        return Observations(
            {f"{name}.{key}": layer.inputs() for key, layer in layers.items()},
            {f"{name}.{key}.input_quantizer": layer.clipped for key, layer in layers.items()}
            | {f"{name}.{key}": value for key, value in amax.items()},
        )

    def save(self, path: Path) -> None:
        """Write where the inputs have come to."""
        state = {
            f"{i}/{kind}": tensor.contiguous()
            for i, pair in enumerate(self._tokens)
            for kind, tensor in zip(("image", "text"), pair, strict=True)
        }
        save_file(state, path)

    def load(self, path: Path) -> None:
        """Go on from where `save` was called.

        Raises:
            InputError: the file is damaged.
        """
        try:
            state = load_file(path)
            self._tokens = [(state[f"{i}/image"], state[f"{i}/text"]) for i in range(len(self._tokens))]
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete its folder and export anew") from None

    @torch.no_grad()
    def _embed(self, transformer: Checkpoint[TransformerConfig]) -> None:
        with torch.device("meta"):
            model = FluxTransformer(self._config)
        ends = [name for name in transformer.shapes if name.startswith(ENDS)]
        state = {name: transformer.read(name).float() for name in ends}
        model.load_state_dict(state, strict=False, assign=True)
        for batch in self._calibration.batches:
            embedded = model.time_text_embed(
                batch["timestep"], batch.get("guidance"), batch["pooled_projections"]
            )
            self._conditioning.append(F.silu(embedded))
            image = model.x_embedder(batch["hidden_states"])
            self._tokens.append((image, model.context_embedder(batch["encoder_hidden_states"])))

    def _through(self, block: nn.Module, i: int, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        image, text = self._tokens[i]
        ids = torch.cat((batch["txt_ids"], batch["img_ids"]))
        rotary = rotary_angles(ids, self._config.axes_dims_rope, self._config.theta)
        if isinstance(block, DoubleStreamBlock):
            image, text = block(image, text, self._conditioning[i], rotary)
            return image, text
        tokens = block(torch.cat((text, image), dim=1), self._conditioning[i], rotary)
        length = text.shape[1]
        return tokens[:, length:], tokens[:, :length]


@contextmanager
def _observed(
    block: nn.Module, percentile: float, sampled: int, config: TransformerConfig
) -> Iterator[tuple[dict[str, _Layer], dict[str, float]]]:
    """Watch the linear layers and the attention of a block while it runs."""
    layers: dict[str, _Layer] = {}
    amax: dict[str, float] = {}

    def of_linear(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if name not in layers:
            layers[name] = _Layer(torch.zeros(x.shape[-1]), torch.zeros(x.shape[-1]))
        layers[name].add(x, percentile, sampled)

    def of_product(name: str, _module: nn.Module, operands: tuple[Tensor, ...]) -> None:
        # As in the graph: a factor of the attention's scale goes into queries, the other into keys.
        scales = (*factors(config.attention_head_dim**-0.5, ir.DataType.BFLOAT16), 1.0)
        for kind, operand, scale in zip("qkv", operands, scales, strict=True):
            key = f"{name.removesuffix('.product')}.{kind}_bmm_quantizer"
            amax[key] = max(amax.get(key, 0.0), scale * float(fp8.amax(operand, percentile)))

    observers: dict[type[nn.Module], Callable[..., Any]] = {
        nn.Linear: of_linear,
        AttentionProduct: of_product,
    }
    handles = [
        module.register_forward_pre_hook(partial(observers[type(module)], name))
        for name, module in block.named_modules()
        if type(module) in observers
    ]
    try:
        yield layers, amax
    finally:
        for handle in handles:
            handle.remove()
