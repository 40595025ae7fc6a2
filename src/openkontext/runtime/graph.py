"""One ONNX graph, opened for a provider and called with numpy arrays."""

import ctypes
import gc
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from openkontext.activity import stage
from openkontext.errors import InputError
from openkontext.lora import Change
from openkontext.onnx_runtime import give_back, onnxruntime
from openkontext.runtime import arena, cache
from openkontext.runtime.adapters import STRENGTHS, beside, strength_vector
from openkontext.runtime.blocks import SMALL_BLOCK_BYTES, PagedSession
from openkontext.runtime.contract import check_contract
from openkontext.runtime.int8_weights import holds_int8, identity, in_int8, weight_bits, weight_files
from openkontext.runtime.lowering import (
    ARITHMETICS,
    SMALL_BYTES,
    check_arithmetic,
    lower,
    needs_lowering,
    widened_bytes,
    with_types,
)
from openkontext.runtime.model_file import Shape, data_files, nodes, read_model, resolve_links
from openkontext.runtime.optimum import published_names
from openkontext.runtime.paging import map_large_blocks, released
from openkontext.runtime.provider_trial import why_absent
from openkontext.runtime.providers import (
    COMPILERS,
    PROVIDERS,
    available_providers,
    check_provider,
    open_session,
    split_device,
)
from openkontext.runtime.tensorrt import Range, provider_options

FOLDED_BYTES = SMALL_BYTES
"""Float32 bytes up to which a graph's weights of 16 bits and less are widened once, when it opens.

Above, they stay mapped from their file as they are and each is widened when it is used: the memory of one
weight instead of all, at the price of that work in every call.
"""

_NO_MEMORY = re.compile(r"out ?of ?memory|failed to allocate|bad_?alloc|not enough memory", re.IGNORECASE)

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": _BFLOAT16,
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
}


class OutOfMemoryError(InputError):
    """A provider has not the memory for a graph."""


@dataclass(frozen=True)
class TensorSpec:
    """Element type and shape of a graph's input or output."""

    dtype: np.dtype[Any]
    """Type of the elements, as the session has them."""
    shape: Shape
    """Size of each axis: a number, a symbol where it may vary, or None. Empty where the graph is silent."""


class Graph:
    """An opened graph; `load_graph` makes them."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        path: Path,
        released: Collection[Path] = (),
        fixed: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.path = path
        self._session = session
        self._released = released
        self._specs = _specs(session.get_inputs(), path)
        self._fixed = {name: self._value(name, array) for name, array in (fixed or {}).items()}
        self.inputs = {name: spec for name, spec in self._specs.items() if name not in self._fixed}
        """What `run` takes: name -> type and shape."""
        self.outputs = _specs(session.get_outputs(), path)
        """What `run` gives: name -> type and shape."""

    def run(self, **arrays: Any) -> dict[str, NDArray[Any]]:
        """Call the graph.

        Args:
            arrays: one array for every input, by name. Numbers of any type are cast to the input's own;
                only floating-point values for an integer input are refused.

        Returns:
            Name -> array of every output; 16-bit floats are widened to float32.

        Raises:
            InputError: an input is missing, unknown or of another type or shape, or the graph fails.
        """
        if unknown := sorted(arrays.keys() ^ self.inputs.keys()):
            state = "is not given" if unknown[0] in self.inputs else "is unknown"
            raise InputError(f"{self.path}: input '{unknown[0]}' {state}; it takes {', '.join(self.inputs)}")
        feed = {name: self._value(name, np.asarray(array)) for name, array in arrays.items()}
        try:
            with released(self._released):
                values = self._session.run_with_ort_values(list(self.outputs), feed | self._fixed)
        except Exception as error:  # ONNX Runtime's errors share no base
            text = _one_line(error)
            kind = OutOfMemoryError if _NO_MEMORY.search(text) else InputError
            raise kind(f"{self.path}: the graph failed: {text}") from error
        return {name: _array(value) for name, value in zip(self.outputs, values, strict=True)}

    def fix(self, name: str, array: NDArray[Any]) -> None:
        """Give another value to an input that is the same in every call, such as the strengths of LoRAs."""
        self._fixed[name] = self._value(name, array)

    def _value(self, name: str, array: NDArray[Any]) -> onnxruntime.OrtValue:
        spec = self._specs[name]
        if spec.dtype.kind in "iub" and array.dtype.kind not in "iub":
            raise InputError(f"{self.path}: input '{name}' takes {spec.dtype}, not {array.dtype}")
        if spec.shape and not (
            len(spec.shape) == array.ndim
            and all(
                size == want
                for size, want in zip(array.shape, spec.shape, strict=True)
                if isinstance(want, int)
            )
        ):
            raise InputError(
                f"{self.path}: input '{name}' takes {_shape(spec.shape)}, not {list(array.shape)}"
            )
        array = np.ascontiguousarray(array, dtype=spec.dtype)
        if spec.dtype == _BFLOAT16:  # ONNX Runtime's binding knows only numpy's own types
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                array.view(np.uint16), TensorProto.BFLOAT16
            )
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def load_graph(
    path: str | Path,
    provider: str = "cpu",
    *,
    arithmetic: str = ARITHMETICS[0],
    role: str | None = None,
    threads: int = 0,
    low_memory: bool = False,
    adapters: Sequence[Mapping[str, Change]] = (),
    strengths: Sequence[float] = (),
    ranges: Mapping[str, Range] | None = None,
    paged: bool = False,
) -> Graph:
    """Open an ONNX graph, rewriting it in memory where the provider cannot execute it as it is.

    Weights in external data files are mapped, not read. 16-bit graphs on a provider without 16-bit kernels
    are computed in float32, FP8 and FP4 as TensorRT writes them in standard operators (`passes`).

    Args:
        path: of `model.onnx`; its data files lie beside it.
        provider: one of `available_providers()`; behind a colon the number of a GPU, as in cuda:1.
        arithmetic: of a graph in FP8 or FP4: "faithful" computes what its file says, "fast" with the values
            of its weights alone. TensorRT always computes what the file says. "int8" computes a transformer
            of any precision by integers on the CPU (`int8_weights`), and is "fast" elsewhere.
        role: what the graph is in a repository (a key of `contract.CONTRACT`); its inputs and outputs are
            checked against it. None checks nothing.
        threads: CPU threads of one operator; 0 leaves it to ONNX Runtime, which takes one per core.
        low_memory: give mapped weights back to the system while the graph runs (`paging`): its memory is that
            of some layers, and every call reads its weights anew. In "int8" it runs block by block.
        adapters: of each LoRA the changes, by parameters that the graph has, in their shapes; with a role.
        strengths: of the adapters; `Graph.fix(STRENGTHS, ...)` changes them.
        ranges: sizes that will come, for a provider that compiles for them (`tensorrt.axis_ranges`).
        paged: have the provider hold the weights of one block of the graph at a time (`blocks`).

    Raises:
        OutOfMemoryError: the provider has not the memory for the graph.
        InputError: no such provider, arithmetic or graph, a data file is missing or cut short, the graph is
            not one of its role, it is quantized in a way that is not known, or has an operator that the
            provider lacks.
    """
    check_provider(provider)
    provider, device = split_device(provider)
    if provider != "cpu":  # what one logs that does not start is read by `provider_trial` and said once
        onnxruntime.set_default_logger_severity(4)
    path = Path(path)
    model = read_model(path)
    renamed = published_names(model, role)
    model = renamed or model
    files = data_files(model, path)
    if role is not None:
        check_contract(model, path, role)
    mapped = widened_bytes(model) > FOLDED_BYTES
    if mapped:  # small models gain nothing, and would wait for new pages
        map_large_blocks()
    fixed: dict[str, NDArray[Any]] = {}
    if adapters and role is not None:
        model, feed = beside(model, path, role, adapters)
        fixed = {**feed, STRENGTHS: strength_vector(strengths)}
    changed = bool(fixed) or renamed is not None
    check_arithmetic(arithmetic)
    if arithmetic == "int8" and (provider != "cpu" or role not in (None, "transformer")):
        arithmetic = "fast"  # integer products are the CPU's, and the text encoders' activations too uneven
    elif arithmetic == "faithful" and provider == "cpu" and holds_int8(model) and weight_bits() == 8:
        arithmetic = "int8"  # which is what such a file says
    lowered = _lowered(model, changed, path, provider, arithmetic)
    if lowered is not None:
        files |= weight_files(lowered) or {}
    # Last: what is kept on disk names the data files as the graph does, wherever these lie behind links.
    folder = resolve_links(lowered or model, files)
    if lowered is None and folder is None and not changed:
        source: str | bytes = str(path)
    else:
        source = (lowered or model).SerializeToString()
    folder = folder or path.parent.absolute()
    # What TensorRT does not compile runs on CUDA, and what a provider lacks on the CPU.
    helpers = ["cuda"] if provider in COMPILERS and "cuda" in available_providers() else []
    names = list(dict.fromkeys((provider, *helpers, "cpu")))
    options_of = [provider_options(name, device, lowered or model, role, ranges) for name in names]
    optimizers = ["ConstantFolding"] if mapped else None

    # Packed for the integer products, weights lie in memory and no longer in their file.
    by_blocks = arithmetic == "int8" and low_memory and mapped
    # Called once a step; what other graphs take is better given back at once.
    shared = mapped and provider == "cpu" and role == "transformer" and (by_blocks or not low_memory)

    def opened(source: str | bytes, own: Sequence[Mapping[str, str]] = ()) -> Any:
        options = _session_options(folder, threads)
        if shared:
            arena.take_part(options)
        return open_session(source, options, names, own, device, disabled_optimizers=optimizers)

    try:
        if by_blocks or (paged and provider not in COMPILERS):  # these compile the graph as a whole
            whole = onnx.shape_inference.infer_shapes(lowered or model)
            few: dict[str, Any] = {"block_bytes": SMALL_BLOCK_BYTES, "ahead": True} if by_blocks else {}
            blocks = PagedSession(whole, opened, **few)
            return Graph(blocks, path, files.values() if low_memory else (), fixed)
        del model, lowered
        session = opened(source, options_of)
        give_back()
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base
        if _NO_MEMORY.search(str(error)):
            raise OutOfMemoryError(_why_not(error, path, provider)) from error
        if provider != "cpu" and (why := why_absent(provider)):
            raise InputError(f"provider '{provider}' does not start on this machine: {why}") from error
        raise InputError(_why_not(error, path, provider)) from error
    if PROVIDERS[provider] not in session.get_providers():
        why = why_absent(provider) or "see `openkontext doctor`"
        raise InputError(f"provider '{provider}' does not start on this machine: {why}")
    return Graph(session, path, files.values() if low_memory and mapped else (), fixed)


def _lowered(
    model: ModelProto, changed: bool, path: Path, provider: str, arithmetic: str
) -> ModelProto | None:
    """`lower` and `in_int8`, or what they gave before, of a model that may be `changed` from its file."""
    in_integers = arithmetic == "int8"
    if not in_integers and not needs_lowering(model, provider):
        return None
    bits = weight_bits() if in_integers else 0
    content = model.SerializeToString() if changed else path.read_bytes()
    if in_integers:
        content += identity(model, path) + bytes([bits])
    entry = cache.entry(content, provider, arithmetic)
    del content
    found = cache.read(entry)
    if found is not None and weight_files(found) is None:
        found = None
    if found is None:
        stage("rewriting the graph for %s", provider)
        found = lower(model, path, provider, arithmetic)
        if in_integers:
            found = in_int8(with_types(found or model), path, bits)
        if found is not None:
            cache.write(entry, found)
        gc.collect(1)  # graphs that are rewritten are full of cycles, and a command may seldom look for them
    return found


def _session_options(folder: Path, threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    options.intra_op_num_threads = threads
    # Sizes vary from call to call: an arena keeps the peak of the largest call, and the planned pattern
    # reserves more than plain allocation peaks at.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # ONNX Runtime moves and merges quantizers where it likes, and quantizes anew for it.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _why_not(error: Exception, path: Path, provider: str) -> str:
    """What a user can be told of a graph that does not open: by node where ONNX Runtime names an operator."""
    text = _one_line(error)
    if found := re.search(r"(?:implementation for |: )(?:([\w.]+):)?(\w+)\(-?\d+\)", text):
        domain, op_type = found[1] or "", found[2]
        named = [n.name for n in nodes(read_model(path)) if (n.domain, n.op_type) == (domain, op_type)]
        if named:
            operator = f"{domain}:{op_type}" if domain else op_type
            return f"{path}: provider '{provider}' has no operator {operator}, which node '{named[0]}' needs"
    return f"{path}: provider '{provider}' cannot open it: {text}"


def _specs(arguments: list[Any], path: Path) -> Mapping[str, TensorSpec]:
    if odd := [argument for argument in arguments if argument.type not in _DTYPES]:
        raise InputError(f"{path}: '{odd[0].name}' is of type {odd[0].type}, which cannot be fed or read")
    return {
        argument.name: TensorSpec(_DTYPES[argument.type], tuple(argument.shape)) for argument in arguments
    }


def _array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    if value.element_type() == TensorProto.BFLOAT16:
        count = math.prod(value.shape())
        raw = (ctypes.c_uint16 * count).from_address(value.data_ptr())
        return np.frombuffer(raw, _BFLOAT16).reshape(value.shape()).astype(np.float32)
    array: NDArray[Any] = value.numpy()
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _shape(shape: Shape) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _one_line(error: Exception) -> str:
    """ONNX Runtime's message without its codes, paths into its source and line ends."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:400]
