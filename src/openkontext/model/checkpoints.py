"""Load and save the transformer and the autoencoder, as Black Forest Labs and as diffusers keep them.

A checkpoint is a `.safetensors` or `.gguf` file with either's names, alone or among other networks, or a
diffusers folder: `config.json` beside `diffusion_pytorch_model.safetensors` or an index of shards. What is
packed (`floats.py`) is read as the numbers that it stands for. Loading maps the files into memory and copies
nothing unless it is packed or another dtype is asked for; saving makes one tensor at a time.

A folder says its configuration in `config.json`, our own single files say it in their metadata. From others
it is inferred: widths, heads and block counts from the tensors' shapes. What no shape tells is taken as in
FLUX.1: rotary axes in the ratio 2 : 7 : 7 with theta 10000; the autoencoder's groups and scale.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from openkontext.bfl import Row, autoencoder_rows, transformer_rows
from openkontext.errors import InputError
from openkontext.model import config_json
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import AutoencoderConfig, TransformerConfig
from openkontext.model.floats import Floats, open_floats, part_of
from openkontext.model.inferred import Format, Shapes, infer_autoencoder, infer_transformer
from openkontext.model.packing import nunchaku_message
from openkontext.model.transformer import FluxTransformer
from openkontext.model.weights import Shape, WeightEntry, parse_json, read_json, write_json, write_weights

ModelT = TypeVar("ModelT", bound=nn.Module)
ConfigT = TypeVar("ConfigT")

_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_CONFIG_KEY = "openkontext.config"  # in the metadata of a single file
_INDEX_NAME = f"{_WEIGHTS_NAME}.index.json"


@dataclass(frozen=True)
class Checkpoint(Generic[ConfigT]):
    """A network's weights where they are, each read when it is asked for."""

    config: ConfigT
    """The numbers of the network."""
    shapes: Mapping[str, Shape]
    """Name in the model -> shape of every weight."""
    read: Callable[[str], Tensor]
    """A weight by its name, in the type that it is stored in."""

    @classmethod
    def of(cls, config: ConfigT, module: nn.Module) -> "Checkpoint[ConfigT]":
        """The weights of a network in memory."""
        state = module.state_dict()
        return cls(config, {name: tuple(tensor.shape) for name, tensor in state.items()}, state.__getitem__)


def open_transformer(path: str | Path, *, mapped: bool = False) -> Checkpoint[TransformerConfig]:
    """Open a transformer of either format without loading it: a weight takes memory when it is read.

    Args:
        path: a `.safetensors` file, or a diffusers folder with a `config.json`.
        mapped: give a view of the file, where it holds plain numbers, in place of a copy.

    Raises:
        InputError: the checkpoint is incomplete or not this architecture's; the message names the tensor.
    """
    return _opened(_TRANSFORMER, Path(path), None, mapped)


def transformer_of(
    floats: Floats, config: TransformerConfig | None = None, **known: Any
) -> Checkpoint[TransformerConfig]:
    """A transformer of opened tensors under either format's names.

    Args:
        floats: of it alone.
        config: its configuration; None infers it from the shapes.
        known: of its configuration, what no shape tells.

    Raises:
        InputError: it is incomplete or not this architecture's; the message names the tensor.
    """
    architecture = replace(_TRANSFORMER, infer=partial(infer_transformer, **known))
    return _checkpoint(architecture, floats, config, mapped=False)


def autoencoder_of(
    floats: Floats, config: AutoencoderConfig | None = None, **known: Any
) -> Checkpoint[AutoencoderConfig]:
    """An autoencoder of opened tensors under either format's names.

    Args:
        floats: of it alone.
        config: its configuration; None infers it from the shapes.
        known: of its configuration, what no shape tells.

    Raises:
        InputError: it is incomplete or not this architecture's; the message names the tensor.
    """
    architecture = replace(_AUTOENCODER, infer=partial(infer_autoencoder, **known))
    return _checkpoint(architecture, floats, config, mapped=False)


def load_transformer(
    path: str | Path, *, config: TransformerConfig | None = None, dtype: torch.dtype | None = None
) -> FluxTransformer:
    """Load a transformer of either format.

    Args:
        path: a `.safetensors` file, or a diffusers folder with a `config.json`.
        config: its configuration, where the checkpoint neither says it nor has FLUX.1's theta and axes.
        dtype: converts the weights; None keeps the stored type.

    Raises:
        InputError: the checkpoint is incomplete or not this architecture's; the message names the tensor.
    """
    return _load(_TRANSFORMER, Path(path), config, dtype)


def save_transformer(
    model: FluxTransformer,
    path: str | Path,
    format: Format = "diffusers",
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Save a transformer, replacing what is there; no file is ever left in part.

    Args:
        model: what to save.
        path: a `.safetensors` file for "bfl", a folder for "diffusers".
        format: whose names and layout to use.
        dtype: converts the weights on the way; None keeps the model's type.

    Raises:
        InputError: the path does not suit the format, or cannot be written.
    """
    _save(_TRANSFORMER, model, model.config, Path(path), format, dtype)


def load_autoencoder(
    path: str | Path, *, config: AutoencoderConfig | None = None, dtype: torch.dtype | None = None
) -> Autoencoder:
    """Load an autoencoder of either format.

    Args:
        path: a `.safetensors` file, or a diffusers folder with a `config.json`.
        config: its configuration, where the checkpoint neither says it nor has FLUX.1's groups and scale.
        dtype: converts the weights; None keeps the stored type.

    Raises:
        InputError: the checkpoint is incomplete or not this architecture's; the message names the tensor.
    """
    return _load(_AUTOENCODER, Path(path), config, dtype)


def save_autoencoder(
    model: Autoencoder, path: str | Path, format: Format = "diffusers", *, dtype: torch.dtype | None = None
) -> None:
    """Save an autoencoder, replacing what is there; no file is ever left in part.

    Args:
        model: what to save.
        path: a `.safetensors` file for "bfl", a folder for "diffusers".
        format: whose names and layout to use.
        dtype: converts the weights on the way; None keeps the model's type.

    Raises:
        InputError: the path does not suit the format, or cannot be written.
    """
    _save(_AUTOENCODER, model, model.config, Path(path), format, dtype)


@dataclass(frozen=True)
class _Architecture(Generic[ModelT, ConfigT]):
    """What the two networks differ in."""

    name: str
    build: Callable[[ConfigT], ModelT]
    bfl_rows: Callable[[ConfigT], list[Row]]
    markers: Mapping[Format, str]  # a tensor that only a file in this format has
    prefixes: tuple[str, ...]  # before the names, in files that hold several networks
    infer: Callable[[Shapes, Format], ConfigT]
    to_json: Callable[[ConfigT], dict[str, Any]]
    from_json: Callable[[Mapping[str, Any], str], ConfigT]

    def rows(self, config: ConfigT, format: Format, shapes: Shapes) -> list[Row]:
        """How a file in this format holds the parameters whose shapes are given."""
        if format == "diffusers":
            return [Row(name, (name,)) for name in shapes]
        return [row for row in self.bfl_rows(config) if row.parts[0] in shapes]


def _load(
    architecture: _Architecture[ModelT, ConfigT],
    path: Path,
    config: ConfigT | None,
    dtype: torch.dtype | None,
) -> ModelT:
    opened = _opened(architecture, path, config, mapped=True)
    with torch.device("meta"):
        model = architecture.build(opened.config)
    state = {name: opened.read(name) for name in opened.shapes}
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model


def _opened(
    architecture: _Architecture[ModelT, ConfigT], path: Path, config: ConfigT | None, mapped: bool
) -> Checkpoint[ConfigT]:
    weights, said = _open(architecture, path)
    if config is None and said is not None:
        config = architecture.from_json(said, f"the configuration of {path}")
    return _checkpoint(architecture, weights, config, mapped)


def _checkpoint(
    architecture: _Architecture[ModelT, ConfigT], weights: Floats, config: ConfigT | None, mapped: bool
) -> Checkpoint[ConfigT]:
    format = _format_of(architecture, weights)
    if config is None:
        config = _with_path(weights.path, partial(architecture.infer, weights.shapes, format))
    with torch.device("meta"):
        model = architecture.build(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    rows = architecture.rows(config, format, shapes)
    _compare(weights, {row.stored: _stored_shape(row, shapes) for row in rows}, f"a {architecture.name}")
    read_rows = weights.rows if mapped else weights.read
    places: dict[str, tuple[Row, int]] = {}
    for row in rows:
        start = 0
        for name in row.parts:
            places[name] = (row, start)
            start += shapes[name][0]

    def read(name: str) -> Tensor:
        row, start = places[name]
        tensor = read_rows(row.stored, start, start + shapes[name][0]).reshape(shapes[name])
        return _swap_halves(tensor) if row.swapped else tensor

    return Checkpoint(config, {name: shapes[name] for name in shapes if name in places}, read)


def _save(
    architecture: _Architecture[ModelT, ConfigT],
    model: ModelT,
    config: ConfigT,
    path: Path,
    format: Format,
    dtype: torch.dtype | None,
) -> None:
    if format == "bfl" and path.suffix != ".safetensors":
        raise InputError(f"{path}: a single file's name ends in .safetensors")
    if format == "diffusers" and path.suffix == ".safetensors":
        raise InputError(f"{path}: the diffusers format is a folder, not a .safetensors file")
    state = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in state.items()}
    said = architecture.to_json(config)
    entries = []
    for row in architecture.rows(config, format, shapes):
        shape = _stored_shape(row, shapes)
        make = partial(_assemble, [state[name] for name in row.parts], shape, row.swapped)
        entries.append(WeightEntry(row.stored, shape, dtype or state[row.parts[0]].dtype, make))
    if format == "bfl":
        write_weights(path, entries, {"format": "pt", _CONFIG_KEY: json.dumps(said)})
    else:
        write_weights(path / _WEIGHTS_NAME, entries, {"format": "pt"})
        (path / _INDEX_NAME).unlink(missing_ok=True)  # of shards that an earlier save may have left
        write_json(path / "config.json", said)


def holds_autoencoder(floats: Floats) -> bool:
    """Whether an opened file holds an autoencoder, be it among other networks."""
    return part_of(floats, _AUTOENCODER.prefixes, _AUTOENCODER.markers.values()) is not None


def _open(architecture: _Architecture[ModelT, ConfigT], path: Path) -> tuple[Floats, dict[str, Any] | None]:
    """The weights at a path, and the configuration that is said beside or inside them."""
    if path.is_dir():
        said = read_json(path / "config.json")
        index = path / _INDEX_NAME
        if (path / "transformer_blocks.safetensors").exists():
            raise InputError(nunchaku_message(path))
        return open_floats(index if index.exists() else path / _WEIGHTS_NAME), said
    if not path.exists():
        raise InputError(
            f"{path}: no such checkpoint; give a .safetensors file or a folder with a config.json"
        )
    weights = open_floats(path)
    inside = weights.metadata.get(_CONFIG_KEY)
    part = part_of(weights, architecture.prefixes, architecture.markers.values())
    return part or weights, None if inside is None else parse_json(inside, path)


def _format_of(architecture: _Architecture[ModelT, ConfigT], weights: Floats) -> Format:
    for format, marker in architecture.markers.items():
        if marker in weights.shapes:
            return format
    markers = " nor ".join(architecture.markers.values())
    raise InputError(f"{weights.path} is no FLUX.1 {architecture.name}: it has neither {markers}")


def _compare(weights: Floats, expected: Shapes, what: str) -> None:
    """Hold a checkpoint's names and shapes against those that the model needs."""
    for name, shape in expected.items():
        if name not in weights.shapes:
            raise InputError(f"{weights.path}: the tensor {name} is missing; {what} of this size needs it")
        if weights.shapes[name] != shape:
            raise InputError(
                f"{weights.path}: the tensor {name} has the shape {list(weights.shapes[name])}, "
                f"where {what} of this size has {list(shape)}"
            )
    for name in weights.shapes:
        if name not in expected:
            raise InputError(f"{weights.path}: unknown tensor {name}; {what} of this size has no such thing")


def _stored_shape(row: Row, shapes: Shapes) -> Shape:
    rows = sum(shapes[name][0] for name in row.parts)
    return (rows, *shapes[row.parts[0]][1:], *((1, 1) if row.pointwise else ()))


def _assemble(parts: list[Tensor], shape: Shape, swapped: bool) -> Tensor:
    tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (_swap_halves(tensor) if swapped else tensor).reshape(shape)


def _swap_halves(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat((second, first))


def _with_path(path: Path, infer: Callable[[], ConfigT]) -> ConfigT:
    try:
        return infer()
    except KeyError as error:
        raise InputError(f"{path}: the tensor {error.args[0]} is missing") from None
    except InputError as error:
        raise InputError(f"{path} says no configuration, and its shapes suit none: {error}") from None
    except (ValueError, IndexError, ZeroDivisionError):
        raise InputError(f"{path} says no configuration, and its shapes suit none") from None


_TRANSFORMER = _Architecture(
    name="transformer",
    build=FluxTransformer,
    bfl_rows=lambda config: transformer_rows(config.num_layers, config.num_single_layers),
    markers={"bfl": "img_in.weight", "diffusers": "x_embedder.weight"},
    prefixes=("", "model.diffusion_model.", "diffusion_model.", "model.", "transformer."),
    infer=infer_transformer,
    to_json=config_json.transformer_to_json,
    from_json=config_json.transformer_from_json,
)
_AUTOENCODER = _Architecture(
    name="autoencoder",
    build=Autoencoder,
    bfl_rows=lambda config: autoencoder_rows(len(config.block_out_channels), config.layers_per_block),
    markers={
        "bfl": "encoder.mid.block_1.conv1.weight",
        "diffusers": "encoder.mid_block.resnets.0.conv1.weight",
    },
    prefixes=("", "vae.", "first_stage_model."),
    infer=infer_autoencoder,
    to_json=config_json.autoencoder_to_json,
    from_json=config_json.autoencoder_from_json,
)
