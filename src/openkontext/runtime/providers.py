"""Execution providers of ONNX Runtime: names, sessions, and what each can compute, found by trying."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from openkontext.errors import InputError
from openkontext.onnx_runtime import how_to_get, onnxruntime
from openkontext.places import cache_folder
from openkontext.runtime import plugins

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "mlx": "MLXExecutionProvider",
    "ggml": "ggml",
}
"""Name on our command line -> name in ONNX Runtime."""

_WHERE = {
    "cuda": "on Linux or Windows with an NVIDIA GPU",
    "tensorrt": "on Linux or Windows with an NVIDIA GPU and TensorRT",
    "nvtensorrtrtx": "on Linux or Windows with an RTX GPU",
    "openvino": "on Linux or Windows, made for processors and GPUs of Intel",
    "directml": "on Windows",
    "coreml": "on macOS",
    "migraphx": "on Linux with a GPU of AMD and ROCm",
    "webgpu": "with a GPU, on Linux with Vulkan",
    "mlx": "on macOS with Apple silicon",
    "ggml": "with or without a GPU",
}
_ON_CUDA = frozenset({"cuda", "tensorrt"})
"""Providers of onnxruntime-gpu that need the libraries of CUDA and cuDNN."""

_EXTRAS = {"tensorrt": "cuda", "coreml": "cpu"}
"""Provider -> our group of packages that has it, where that is called otherwise."""

COMPILERS = frozenset({"tensorrt", "nvtensorrtrtx"})
"""Providers that compile a whole graph and take the published files as they are."""

HAVE_DEVICES = frozenset({"cuda", "directml", *COMPILERS})
"""Providers that take the number of a GPU."""

HALF_TYPES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""ONNX's 16-bit floating-point types."""


def available_providers() -> list[str]:
    """Names of the providers that can be asked for here: built in, or plugins with a device; CPU first."""
    built_in = _built_in()
    return [name for name in PROVIDERS if name in built_in or _has_device(name)]


def plugin_devices(name: str, number: int = 0) -> list[Any]:
    """What a provider that is no part of the installed ONNX Runtime runs on, for `add_provider_for_devices`.

    Args:
        name: a key of `PROVIDERS`.
        number: of the device, among those of the best kind.

    Returns:
        One device; none where the provider is built in, its plugin is not installed or has no device here.

    Raises:
        InputError: the plugin is installed and does not load.
    """
    if name in _built_in() or not plugins.installed(name):
        return []
    return plugins.devices(name, PROVIDERS[name])[number : number + 1]


def split_device(name: str) -> tuple[str, int]:
    """A provider and the number of its device: `cuda:1` is the second GPU, `cuda` the first.

    Raises:
        InputError: what stands behind the colon is no number, or the provider has no devices.
    """
    provider, colon, number = name.partition(":")
    if not colon:
        return name, 0
    if not number.isdecimal() or provider not in HAVE_DEVICES:
        raise InputError(
            f"provider '{name}': only {', '.join(sorted(HAVE_DEVICES))} take a device, as cuda:1"
        )
    return provider, int(number)


def check_provider(name: str) -> None:
    """Check that a provider can be asked for, with or without a device.

    Raises:
        InputError: there is no provider of this name, or it is not installed, or has no device here.
    """
    name, number = split_device(name)
    if name in _built_in():  # before plugins are loaded
        return
    available = available_providers()
    here = ", ".join(available)
    if name not in PROVIDERS:
        raise InputError(f"unknown provider '{name}': choose one of {', '.join(PROVIDERS)} (here: {here})")
    if plugins.installed(name):
        if not plugin_devices(name, number):
            found = f"no device {number}" if name in available else "nothing to run on"
            raise InputError(f"provider '{name}': its plugin {plugins.PLUGINS[name]} finds {found} here")
        return
    if name in available:
        return
    raise InputError(
        f"provider '{name}' is not in the installed ONNX Runtime (it has {here}): "
        f"{_WHERE[name]}, {how_to_get(_EXTRAS.get(name, name))}"
    )


def _built_in() -> frozenset[str]:
    """Names of the providers that are part of the installed ONNX Runtime."""
    present = set(onnxruntime.get_available_providers()) - plugins.loaded
    return frozenset(name for name, provider in PROVIDERS.items() if provider in present)


def _has_device(name: str) -> bool:
    try:
        return bool(plugin_devices(name))
    except InputError:  # said where it is asked for
        return False


def open_session(
    source: str | bytes,
    options: Any,
    names: Sequence[str],
    options_of: Sequence[Mapping[str, str]] = (),
    number: int = 0,
    *,
    disabled_optimizers: Sequence[str] | None = None,
) -> Any:
    """Open a graph on a provider.

    Args:
        source: path of the graph, or the graph itself.
        options: an `onnxruntime.SessionOptions`; a plugin is added to it.
        names: keys of `PROVIDERS`: the one that is asked for, then those for what it does not compute. The
            CPU stands behind a plugin by itself.
        options_of: what each of these is told of this graph, under ONNX Runtime's names; none when left out.
        number: of the device, for a plugin; others are told it by their options.
        disabled_optimizers: names of ONNX Runtime's optimizers to leave out.

    Returns:
        The `onnxruntime.InferenceSession`. Where the first provider did not start, it has only the others.

    Raises:
        InputError: a plugin does not load.
        Exception: what ONNX Runtime raises where it cannot open the graph; its errors share no base.
    """
    if not _ON_CUDA.isdisjoint(names):
        _find_cuda()
    of_graph = list(options_of) or [{}] * len(names)
    providers: dict[str, Any] = {}
    if devices := plugin_devices(names[0], number):
        given = {**_standing_options(names[0], devices[0]), **of_graph[0]}
        given.pop("device_id", None)  # it is the device that is handed over
        options.add_provider_for_devices(devices, given)
    else:
        providers["providers"] = [PROVIDERS[name] for name in names]
        providers["provider_options"] = [
            {**_standing_options(name), **own} for name, own in zip(names, of_graph, strict=True)
        ]
    session = onnxruntime.InferenceSession(
        source,
        options,
        **providers,
        disabled_optimizers=disabled_optimizers,
        enable_fallback=0,  # it prints to stdout and tries the CPU
    )
    session._model_bytes = None  # kept to open it on other providers, which we ask for anew
    return session


def _standing_options(name: str, device: Any = None) -> dict[str, str]:
    """What a provider is told of every graph.

    OpenVINO compiles each graph when it opens: it is given a folder to keep what it compiled, where it can
    read that again. On a processor it reads it by its library for its own format, which ONNX Runtime's
    packages for Linux leave out: there it would write every time and never read. ggml would round weights to
    float16, of which bfloat16 goes out of range.
    """
    if name == "ggml":
        return {"weights": "f32"}
    if name != "openvino":
        return {}
    folder = str(cache_folder() / name)
    if device is None:
        return {"cache_dir": folder} if _reads_what_it_compiled() else {}
    return {"load_config": json.dumps({device.device.type.name: {"CACHE_DIR": folder}})}


def _reads_what_it_compiled() -> bool:
    """Whether the library with which OpenVINO reads its own format lies beside ONNX Runtime's."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    return any(capi.glob("*openvino_ir_frontend*"))


@cache
def _find_cuda() -> None:
    """Load the CUDA and cuDNN of pip's packages, which no search path names, once a process.

    It prints what is missing to stdout; ONNX Runtime says so again where the provider does not start.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime.preload_dlls()


@dataclass(frozen=True)
class ProviderCase:
    """An operator with a choice of element types."""

    domain: str
    operator: str
    inputs: tuple[int, ...]
    """Type of each input; 0 where it is unknown, -1 where the input is left out."""
    outputs: tuple[int, ...]
    """Type of each output, in the same way."""

    @classmethod
    def of(cls, node: NodeProto, types: Mapping[str, int]) -> "ProviderCase":
        """The case of a node, given the type of every value."""
        inputs, outputs = (
            tuple(types.get(name, 0) if name else -1 for name in names) for names in (node.input, node.output)
        )
        return cls(node.domain, node.op_type, inputs, outputs)

    @property
    def halves(self) -> frozenset[int]:
        """Its 16-bit types."""
        return HALF_TYPES.intersection(self.inputs + self.outputs)


def value_types(model: ModelProto) -> dict[str, int]:
    """Name -> element type of a graph's values; 0 where it is unknown."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for values in (model.graph.input, model.graph.output, model.graph.value_info):
        types.update((value.name, value.type.tensor_type.elem_type) for value in values)
    return types


Computes = Callable[[ModelProto, NodeProto, ProviderCase], bool]
"""Whether a provider computes a node of a graph in its own element types."""


def by_trying(provider: str) -> Computes:
    """What a provider says itself: each case is offered to it once, in a graph of its own.

    Of an operator that is not ONNX's, a provider that compiles whole graphs is asked only whether it has it.
    """

    def computes(model: ModelProto, node: NodeProto, case: ProviderCase) -> bool:
        if node.domain and provider in COMPILERS:
            return _registers(_alone(model, node, case.inputs, case.outputs).SerializeToString(), provider)
        return _computes(_alone(model, node, case.inputs, case.outputs).SerializeToString(), provider)

    return computes


def refused_operators(model: ModelProto, computes: Computes) -> frozenset[ProviderCase]:
    """The operators of a graph that a provider does not compute in the 16-bit types that the graph asks for.

    Args:
        model: a graph whose values all have their element types (`onnx.shape_inference`).
        computes: `by_trying(provider)`, or what stands in for a provider that is not here.
    """
    return frozenset(case for node, case in _half_cases(model) if not computes(model, node, case))


def refused_half_types(model: ModelProto, computes: Computes) -> frozenset[int]:
    """The 16-bit types among whose operators in a graph there is one that a provider does not compute in.

    Args:
        model: a graph whose values all have their element types (`onnx.shape_inference`).
        computes: see `refused_operators`.
    """
    refused: set[int] = set()
    for node, case in _half_cases(model):
        if not case.halves <= refused and not computes(model, node, case):
            refused |= case.halves
    return frozenset(refused)


def _half_cases(model: ModelProto) -> list[tuple[NodeProto, ProviderCase]]:
    """Each case in 16 bits of a graph, with a node of it."""
    types = value_types(model)
    found = {ProviderCase.of(node, types): node for node in model.graph.node if node.op_type != "Constant"}
    return [
        (node, case) for case, node in found.items() if case.halves and 0 not in case.inputs + case.outputs
    ]


def _alone(
    model: ModelProto, node: NodeProto, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> ModelProto:
    """A graph of one node, its shapes left open, its names such that equal nodes give equal graphs."""
    single = NodeProto()
    single.CopyFrom(node)
    single.name = ""
    del single.input[:], single.output[:]
    ends: dict[str, list[onnx.ValueInfoProto]] = {"x": [], "y": []}
    for letter, types, names in (("x", inputs, single.input), ("y", outputs, single.output)):
        for index, dtype in enumerate(types):
            names.append(f"{letter}{index}" if dtype > 0 else "")
            if dtype > 0:
                ends[letter].append(onnx.helper.make_tensor_value_info(names[-1], dtype, None))
    graph = onnx.helper.make_graph([single], "one", ends["x"], ends["y"])
    return onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)


@lru_cache(maxsize=64)
def _registers(model: bytes, provider: str) -> bool:
    """Whether a provider brings the operator of a graph of one node."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        open_session(model, options, [provider])
    except Exception as error:  # ONNX Runtime's errors share no base
        return "is not a registered function/op" not in str(error)
    return True


@lru_cache(maxsize=1024)
def _computes(model: bytes, provider: str) -> bool:
    """Whether a provider opens a graph and runs it as it is, not in another type between Casts."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.onnx"
        options.optimized_model_filepath = str(executed)
        try:
            open_session(model, options, [provider])
        except Exception:  # ONNX Runtime's errors share no base; whatever it says, it will not run this
            return False
        asked = {node.op_type for node in ModelProto.FromString(model).graph.node}
        return "Cast" in asked or not any(node.op_type == "Cast" for node in onnx.load(executed).graph.node)
