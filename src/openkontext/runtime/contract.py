"""What each graph of a repository is fed and gives: the names and shapes of the published exports.

Sizes that are words in the table must be the same wherever the word stands, in every graph of a
repository and in its settings; those in `VARYING` may differ from call to call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from openkontext.errors import InputError
from openkontext.runtime.model_file import Shape, graph_inputs, shapes

VARYING = frozenset({"batch", "tokens", "height", "width", "latent_height", "latent_width"})


@dataclass(frozen=True)
class GraphSignature:
    """Names and shapes of one graph's inputs and of its outputs that we read."""

    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]


CONTRACT: Mapping[str, GraphSignature] = {
    "clip": GraphSignature(
        {"input_ids": ("batch", "clip_length")},
        {"pooled_embeddings": ("batch", "pooled_width")},
    ),
    "t5": GraphSignature(
        {"input_ids": ("batch", "text_length")},
        {"text_embeddings": ("batch", "text_length", "text_width")},
    ),
    "transformer": GraphSignature(
        {
            "hidden_states": ("batch", "tokens", "token_width"),
            "encoder_hidden_states": ("batch", "text_length", "text_width"),
            "pooled_projections": ("batch", "pooled_width"),
            "timestep": ("batch",),
            "img_ids": ("tokens", 3),
            "txt_ids": ("text_length", 3),
            "guidance": ("batch",),
        },
        {"latent": ("batch", "tokens", "token_width")},
    ),
    "vae": GraphSignature(
        {"latent": ("batch", "latent_channels", "latent_height", "latent_width")},
        {"images": ("batch", 3, "height", "width")},
    ),
    "vae_encoder": GraphSignature(
        {"images": ("batch", 3, "height", "width")},
        {"latent": ("batch", "latent_channels", "latent_height", "latent_width")},
    ),
}
"""Role of a graph in a repository -> its signature (black-forest-labs/flux `src/flux/trt`)."""


class AgreedSizes:
    """The sizes that the graphs of a repository must agree on, gathered graph by graph."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str]] = {}

    def agree(self, name: str, size: int, where: str) -> None:
        """Note that `name` is `size` at `where`.

        Raises:
            InputError: it was noted with another size before.
        """
        known, there = self._known.setdefault(name, (size, where))
        if known != size:
            raise InputError(f"{where}: {name} is {size}, but {known} in {there}: they are not of one model")


def check_contract(model: ModelProto, path: Path, role: str, sizes: AgreedSizes | None = None) -> None:
    """Check a graph's inputs and outputs against its role.

    Args:
        model: the graph read from `path`.
        path: for the messages.
        role: a key of `CONTRACT`.
        sizes: what other graphs of the repository have said already; this graph's are added.

    Raises:
        InputError: an input or output lacks, is too many, has other axes than the role asks, or a size
            contradicts the ones known.
    """
    signature = CONTRACT[role]
    inputs, outputs = shapes(graph_inputs(model)), shapes(model.graph.output)
    for kind, asked, found in (
        ("input", signature.inputs, inputs),
        ("output", signature.outputs, outputs),
    ):
        if missing := [name for name in asked if name not in found]:
            raise InputError(
                f"{path}: not a {role} graph: it has no {kind} '{missing[0]}', only {_listed(found)}"
            )
    if extra := [name for name in inputs if name not in signature.inputs]:
        raise InputError(f"{path}: not a {role} graph: it asks for an input '{extra[0]}' that no {role} has")
    sizes = sizes or AgreedSizes()
    for asked, found in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name, axes in asked.items():
            _check_axes(axes, found[name], f"{path}: '{name}'", sizes)


def _check_axes(asked: tuple[int | str, ...], found: Shape | None, where: str, sizes: AgreedSizes) -> None:
    if found is None:
        return
    if len(found) != len(asked):
        raise InputError(f"{where} has {len(found)} axes where {_shape(asked)} is asked: not the right graph")
    for want, have in zip(asked, found, strict=True):
        if not isinstance(have, int) or want in VARYING:
            continue
        if isinstance(want, str):
            sizes.agree(want, have, where)
        elif want != have:
            raise InputError(
                f"{where} is {_shape(found)} where {_shape(asked)} is asked: not the right graph"
            )


def _shape(axes: Shape) -> str:
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in axes) + "]"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:8]) or "none"
