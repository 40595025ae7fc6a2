"""Holding an adapter against a model: what of it the model has, and whether the sizes are the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from openkontext.errors import InputError
from openkontext.lora.changes import Change, LowRank
from openkontext.lora.file import LoraFile, some_of
from openkontext.lora.names import TRANSFORMER

_FIRST = "x_embedder.weight"


@dataclass(frozen=True, eq=False)
class Fitted:
    """An adapter as it is applied to one model."""

    file: LoraFile
    changes: Mapping[str, Mapping[str, Change]]
    """Network -> parameter of the model -> what becomes of it."""
    warnings: tuple[str, ...]
    """What has no effect on this model, for the user."""


def fit(file: LoraFile, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Fitted:
    """What of an adapter a model has.

    Args:
        file: the adapter.
        shapes: of the model: network -> parameter -> shape.

    Raises:
        InputError: it changes nothing that the model has, or was made for a model of another size.
    """
    changes: dict[str, dict[str, Change]] = {}
    unknown: list[str] = []
    warnings = list(file.warnings)
    for network, found in file.changes.items():
        mine = changes[network] = {}
        for name, change in found.items():
            shape = shapes.get(network, {}).get(name)
            if shape is None:
                unknown.append(f"{_layer(name)} ({network})")
            else:
                mine[name] = _of_size(file, network, name, change, shape, warnings)
    if unknown and not any(changes.values()):
        raise InputError(
            f"{file.path} changes the layer {unknown[0]}, which this model does not have, nor any other that "
            "it has: use a LoRA that was made for this model"
        )
    if unknown:
        shown = some_of(list(dict.fromkeys(unknown)))
        warnings.append(f"{file.path.name}: left out, since this model does not have it: {shown}")
    return Fitted(file, {network: mine for network, mine in changes.items() if mine}, tuple(warnings))


def _of_size(
    file: LoraFile, network: str, name: str, change: Change, shape: tuple[int, ...], warnings: list[str]
) -> Change:
    if change.shape == shape:
        return change
    if isinstance(change, LowRank) and (network, name) == (TRANSFORMER, _FIRST):
        # Control LoRAs widen the first layer for a second picture, whose channels follow the first's.
        out, into = change.shape
        if out == shape[0] and into > shape[1] and into % shape[1] == 0:
            warnings.append(
                f"{file.path.name}: its control picture has no effect: this model's first layer takes "
                f"{shape[1]} channels, not {into}"
            )
            return replace(change, down=change.down[:, : shape[1]])
    raise InputError(
        f"{file.path}: its layer {_layer(name)} is for a weight of {list(change.shape)}, where this model "
        f"has {list(shape)}; it was made for a model of another size: use one that was made for this model"
    )


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
