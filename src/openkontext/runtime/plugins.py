"""Providers that come as packages of their own and are put into the installed ONNX Runtime: its plugins."""

import importlib
import importlib.util
import os
from typing import Any

from openkontext.errors import InputError
from openkontext.onnx_runtime import onnxruntime

PLUGINS = {
    "nvtensorrtrtx": "onnxruntime_ep_nv_tensorrt_rtx",
    "openvino": "onnxruntime_ep_openvino",
    "webgpu": "onnxruntime_ep_webgpu",
    "mlx": "onnxruntime_ep_mlx",
    "ggml": "onnxruntime_ggml",
}
"""Name on our command line -> module of the package that brings it."""

loaded: set[str] = set()
"""What ONNX Runtime calls the plugins that are in it; it lists them among its own providers from then on."""

_KINDS = ("GPU", "CPU", "NPU")
"""Kinds of devices, best first: an NPU has neither the memory nor the shapes for these graphs."""


def installed(name: str) -> bool:
    """Whether the package of a plugin is there; nothing of it is loaded."""
    return name in PLUGINS and importlib.util.find_spec(PLUGINS[name]) is not None


def devices(name: str, provider: str) -> list[Any]:
    """What a plugin runs on here, as `SessionOptions.add_provider_for_devices` takes it.

    Args:
        name: a key of `PLUGINS`.
        provider: what ONNX Runtime calls it.

    Returns:
        The `OrtEpDevice`s of the best kind; none where the machine has nothing that the plugin runs on.

    Raises:
        InputError: the plugin cannot be loaded.
    """
    _register(name, provider)
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    ranks = [_rank(device.device.type.name) for device in found]
    return [device for device, rank in zip(found, ranks, strict=True) if rank == min(ranks)]


def _rank(kind: str) -> int:
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


def _register(name: str, provider: str) -> None:
    """Load a plugin into ONNX Runtime, once a process; some bear the name that they are registered by."""
    if provider in loaded:
        return
    os.environ.setdefault("ORT_GGML_LOG", "off")  # what goes wrong is raised
    try:
        module = importlib.import_module(PLUGINS[name])
        find = getattr(module, "get_library_path", None) or module.library_path
        onnxruntime.register_execution_provider_library(provider, find())
    except Exception as error:  # each plugin and ONNX Runtime itself raise what they like
        raise InputError(
            f"provider '{name}': the plugin {PLUGINS[name]} does not load: "
            + " ".join(str(error).split())[:300]
        ) from error
    loaded.add(provider)
