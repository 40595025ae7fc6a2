"""What TensorRT is told of a graph: where to keep what it compiles, and which sizes will come.

TensorRT compiles a graph for ranges of sizes. Without them it compiles anew for each picture's size, for
minutes each time; without a cache it does so in every process. Options: ONNX Runtime's pages on the TensorRT
and TensorRT-RTX execution providers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from openkontext.places import cache_folder
from openkontext.runtime.contract import CONTRACT
from openkontext.runtime.model_file import graph_inputs, shapes

MAX_BATCH = 4
"""Pictures at a time that are compiled for, as the published profiles have it."""

MAX_CONTEXTS = 4
"""Context images beside a picture that are compiled for: the picture to edit and three references."""

_PREFIXES = {"tensorrt": "trt", "nvtensorrtrtx": "nv"}
_TOKEN, _LATENT = 16, 8  # pixels along one side


@dataclass(frozen=True)
class Range:
    """Sizes that an axis takes."""

    least: int
    usual: int
    most: int


def axis_ranges(sizes: Sequence[tuple[int, int]], min_area: float) -> Mapping[str, Range]:
    """The sizes of every axis that varies from call to call.

    Args:
        sizes: (width, height) in pixels that the model was trained on.
        min_area: share of their pixels from which on it works at smaller ones.

    Returns:
        Name of an axis as in `contract.VARYING` -> its range.
    """
    middle = min(sizes, key=lambda size: (abs(size[0] / size[1] - 1), -size[0]))
    areas = [width * height // _TOKEN**2 for width, height in sizes]
    small = max(_TOKEN, int(min(min(size) for size in sizes) * min_area**0.5) // _TOKEN * _TOKEN)
    large = max(max(size) for size in sizes)
    usual = 2 * (middle[0] * middle[1] // _TOKEN**2)
    pixels = {
        "height": Range(small, middle[1], large),
        "width": Range(small, middle[0], large),
    }
    latent = {
        f"latent_{name}": Range(each.least // _LATENT, each.usual // _LATENT, each.most // _LATENT)
        for name, each in pixels.items()
    }
    return {
        "batch": Range(1, 1, MAX_BATCH),
        "tokens": Range(max(1, int(min(areas) * min_area)), usual, (1 + MAX_CONTEXTS) * max(areas)),
        **pixels,
        **latent,
    }


def provider_options(
    provider: str, device: int, model: ModelProto, role: str | None, ranges: Mapping[str, Range] | None
) -> dict[str, str]:
    """Options of a provider for one graph.

    Args:
        provider: its short name.
        device: number of the GPU.
        model: the graph.
        role: of the graph in a repository; None for a graph of another kind.
        ranges: of `axis_ranges`; None for sizes that are not known.
    """
    if provider not in ("cuda", "directml", *_PREFIXES):
        return {}
    options = {"device_id": str(device)}
    if provider not in _PREFIXES:
        return options
    folder = cache_folder() / provider
    folder.mkdir(parents=True, exist_ok=True)
    if provider == "tensorrt":
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            "trt_fp16_enable": "0",  # the graph says the type of each value
        }
    else:
        options["nv_runtime_cache_path"] = str(folder)
    if role is not None and ranges is not None:
        options |= _profile(_PREFIXES[provider], model, role, ranges)
    return options


def _profile(prefix: str, model: ModelProto, role: str, ranges: Mapping[str, Range]) -> dict[str, str]:
    """The least, usual and largest shape of every input that varies; nothing where one cannot be told."""
    signature, found = CONTRACT[role].inputs, shapes(graph_inputs(model))
    said: dict[str, list[str]] = {"min": [], "opt": [], "max": []}
    for name, axes in found.items():
        if axes is None or name not in signature or len(axes) != len(signature[name]):
            return {}
        if all(isinstance(axis, int) for axis in axes):
            continue
        each = []
        for axis, asked in zip(axes, signature[name], strict=True):
            if isinstance(axis, int) or isinstance(asked, int):
                size = axis if isinstance(axis, int) else int(asked)
                each.append(Range(size, size, size))
            elif asked in ranges:
                each.append(ranges[asked])
            else:
                return {}
        for key, of in (("min", "least"), ("opt", "usual"), ("max", "most")):
            said[key].append(f"{name}:{'x'.join(str(getattr(size, of)) for size in each)}")
    return {f"{prefix}_profile_{key}_shapes": ",".join(texts) for key, texts in said.items() if texts}
