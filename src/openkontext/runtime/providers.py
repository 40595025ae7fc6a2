"""Execution providers of ONNX Runtime: their short names, and what each can compute, found by trying."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto

from openkontext.errors import InputError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Name on our command line -> name in ONNX Runtime."""

_HOW_TO_GET = {
    "cuda": "on a machine with an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "with an NVIDIA GPU, install TensorRT, and onnxruntime-gpu in place of onnxruntime",
    "nvtensorrtrtx": "on Windows or Linux with an RTX GPU, use an ONNX Runtime built with TensorRT-RTX",
    "openvino": "install onnxruntime-openvino in place of onnxruntime",
    "directml": "on Windows, install onnxruntime-directml in place of onnxruntime",
    "coreml": "on macOS, install onnxruntime",
}

COMPILERS = frozenset({"tensorrt", "nvtensorrtrtx"})
"""Providers that compile a whole graph and take the published files as they are."""

HAVE_DEVICES = frozenset({"cuda", "directml", *COMPILERS})
"""Providers that take the number of a GPU."""

HALF_TYPES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""ONNX's 16-bit floating-point types."""


def available_providers() -> list[str]:
    """Names of the providers that the installed ONNX Runtime has, the CPU first."""
    present = set(onnxruntime.get_available_providers())
    return [name for name, provider in PROVIDERS.items() if provider in present]


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
        InputError: there is no provider of this name, or the installed ONNX Runtime lacks it.
    """
    name, _ = split_device(name)
    available = available_providers()
    if name not in PROVIDERS:
        raise InputError(
            f"unknown provider '{name}': choose one of {', '.join(PROVIDERS)} (here: {', '.join(available)})"
        )
    if name not in available:
        raise InputError(
            f"provider '{name}' is not in the installed ONNX Runtime (it has {', '.join(available)}): "
            f"{_HOW_TO_GET[name]}"
        )


@dataclass(frozen=True)
class Case:
    """An operator with a choice of element types."""

    domain: str
    operator: str
    inputs: tuple[int, ...]
    """Type of each input; 0 where it is unknown, -1 where the input is left out."""
    outputs: tuple[int, ...]
    """Type of each output, in the same way."""

    @classmethod
    def of(cls, node: NodeProto, types: Mapping[str, int]) -> "Case":
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


Computes = Callable[[ModelProto, NodeProto, Case], bool]
"""Whether a provider computes a node of a graph in its own element types."""


def by_trying(provider: str) -> Computes:
    """What a provider says itself: each case is offered to it once, in a graph of its own.

    Of an operator that is not ONNX's, a provider that compiles whole graphs is asked only whether it has it.
    """

    def computes(model: ModelProto, node: NodeProto, case: Case) -> bool:
        if node.domain and provider in COMPILERS:
            return _registers(_alone(model, node, case.inputs, case.outputs).SerializeToString(), provider)
        return _computes(_alone(model, node, case.inputs, case.outputs).SerializeToString(), provider)

    return computes


def refused_operators(model: ModelProto, computes: Computes) -> frozenset[Case]:
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


def _half_cases(model: ModelProto) -> list[tuple[NodeProto, Case]]:
    """Each case in 16 bits of a graph, with a node of it."""
    types = value_types(model)
    found = {Case.of(node, types): node for node in model.graph.node if node.op_type != "Constant"}
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
        onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[provider]], enable_fallback=0)
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
            onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[provider]], enable_fallback=0)
        except Exception:  # ONNX Runtime's errors share no base; whatever it says, it will not run this
            return False
        asked = {node.op_type for node in ModelProto.FromString(model).graph.node}
        return "Cast" in asked or not any(node.op_type == "Cast" for node in onnx.load(executed).graph.node)
