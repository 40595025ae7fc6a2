"""Rewriting a graph into what a provider can execute."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx.inliner
import onnx.parser
import onnx.shape_inference
from onnx import ModelProto, TensorProto

from openkontext.errors import InputError
from openkontext.runtime.model_file import nodes, tensors
from openkontext.runtime.providers import (
    COMPILERS,
    HALF_TYPES,
    Computes,
    ProviderCase,
    by_trying,
    refused_half_types,
    refused_operators,
    value_types,
)

if TYPE_CHECKING:
    from onnx_ir.passes import InPlacePass

ARITHMETICS = ("faithful", "fast", "int8")
"""What a graph may be computed as.

"faithful" is what its file says, the rounding of activations included; "fast" keeps the values of the
weights, and uses the kernels of the machine. The two differ only where a graph is quantized. "int8" rounds
weights and activations of the transformer's layers to 8 bits, in any precision; see `int8_weights`.
"""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "MatMulNBits"})
"""Operators that take nearly all of the time."""

SMALL_BYTES = 1 << 30
"""Weights in float32 up to which activations are small, too, so that some copies of them do not matter."""

_TINY_TYPES = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT4E2M1})
_TENSORRT = "trt"  # domain of TensorRT's own operators
_NOISE = frozenset({"RandomNormal", "RandomNormalLike"})
_NARROW_TYPES = HALF_TYPES | _TINY_TYPES | {TensorProto.INT8}
"""Types of weights that are widened to float32 when they are used."""


def lower(
    model: ModelProto,
    path: Path,
    provider: str,
    arithmetic: str = ARITHMETICS[0],
    computes: Computes | None = None,
) -> ModelProto | None:
    """The graph as a provider can execute it, or None where it can take the file as it is.

    Draws of random numbers become their mean, for every provider. FP8 and FP4 as TensorRT writes them become
    standard operators, of the same arithmetic or of the quantized weights alone; a provider that compiles
    whole graphs gets them only where it does not know TensorRT's, and keeps its types. What any other does
    not compute in 16 bits becomes float32: single operators where it multiplies matrices in 16 bits, else
    all. Weights in external data files stay there: the result refers to the same files.

    Args:
        model: the graph read from `path`.
        path: for the messages.
        provider: short name of an available provider.
        arithmetic: one of `ARITHMETICS`.
        computes: stands in for a provider that is not here; None asks the provider itself.

    Raises:
        InputError: no such arithmetic, or the graph cannot be rewritten: it is damaged, or quantized in a way
            that is not known.
    """
    check_arithmetic(arithmetic)
    if not needs_lowering(model, provider):
        return None
    computes = computes or by_trying(provider)
    quantized = _mentions_quantized(model)
    noisy = _mentions_noise(model)
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        model = with_types(model)
        if noisy:
            model = with_types(_noiseless(model))
        if provider in COMPILERS:
            unknown = _unknown_operators(model, computes)
            return _known_to_compilers(model) if unknown else (model if noisy else None)
        if quantized:
            # The types of what follows TensorRT's operators are known only once these are replaced.
            model = with_types(_standard_operators(model, provider, arithmetic, computes))
        if provider != "cpu":  # where all becomes float32
            model = with_types(_one_type(model))
        lowered = _without_refused(model, provider, computes) or (model if quantized or noisy else None)
        if provider == "cpu" and not (quantized and arithmetic == ARITHMETICS[0]):  # which is step by step
            return fused(lowered or model) or lowered
        return lowered
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a damaged graph makes each library fail in its own ways
        raise InputError(
            f"{path}: cannot be rewritten for provider '{provider}', it may be damaged: fetch or export it "
            f"again ({' '.join(str(error).split())[:200]})"
        ) from error


def fused(model: ModelProto) -> ModelProto | None:
    """A float32 graph with ONNX Runtime's own kernels for the CPU; None where it has nothing for them.

    They compute the same, to rounding.

    Args:
        model: with the type of every value.
    """
    from openkontext.runtime import passes

    kernels = (passes.FusedAttention(), passes.FusedRotary(), passes.ModulatedNorms())
    result, modified = _applied(model, *kernels)
    return result if modified else None


def needs_lowering(model: ModelProto, provider: str) -> bool:
    """Whether a provider may have to be given another graph than the file; quick to say."""
    if _mentions_noise(model):
        return True
    if provider in COMPILERS:
        return any(node.domain == _TENSORRT for node in nodes(model))
    return _mentions_quantized(model) or _mentions_half(model)


def check_arithmetic(name: str, *others: str) -> None:
    """Check that an arithmetic can be asked for.

    Args:
        name: what was asked for.
        others: what may be asked for besides.

    Raises:
        InputError: there is none of this name.
    """
    known = (*others, *ARITHMETICS)
    if name not in known:
        raise InputError(f"unknown arithmetic '{name}': choose one of {', '.join(known)}")


def weight_bytes(model: ModelProto) -> int:
    """Bytes that all weights of a graph would take in float32."""
    types = _NARROW_TYPES | {TensorProto.FLOAT}
    return sum(4 * math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in types)


def widened_bytes(model: ModelProto) -> int:
    """Bytes that the weights of less than 32 bits of a graph would take in float32."""
    return sum(
        4 * math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in _NARROW_TYPES
    )


def with_types(model: ModelProto) -> ModelProto:
    """The graph with the type of every value; what it says counts only of operators that are not ONNX's.

    TensorRT's tools declare some values float32 that their operators make bfloat16.
    """
    foreign = {name for node in model.graph.node if node.domain for name in node.output}
    kept = [value for value in model.graph.value_info if value.name in foreign]
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return onnx.shape_inference.infer_shapes(copy)


def _standard_operators(model: ModelProto, provider: str, arithmetic: str, computes: Computes) -> ModelProto:
    from openkontext.runtime import passes

    fast = arithmetic != ARITHMETICS[0]
    # OpenVINO would cut the graph at every quantizer, and compile more than a hundred pieces.
    small = provider in ("cpu", "openvino") and widened_bytes(model) <= SMALL_BYTES
    return _apply(
        model,
        *((passes.WeightsOnly(),) if fast else ()),
        passes.StandardFp8(),
        passes.StoredFp8(),
        *((passes.RoundedFp8(),) if small else ()),
        passes.Fp4Activations(),
        passes.Fp4Weights(kernel=arithmetic == "fast" and _has_kernel(computes), wide=provider == "cpu"),
        passes.StoredFirst(),
    )


def _noiseless(model: ModelProto) -> ModelProto:
    from openkontext.runtime.passes import Noiseless

    return _apply(model, Noiseless())


def _unknown_operators(model: ModelProto, computes: Computes) -> set[str]:
    """TensorRT's own operators in a graph that a provider does not have."""
    found = {node.op_type: node for node in model.graph.node if node.domain == _TENSORRT}
    types = value_types(model)
    return {name for name, node in found.items() if not computes(model, node, ProviderCase.of(node, types))}


def _known_to_compilers(model: ModelProto) -> ModelProto:
    """The graph with ONNX's quantizers in place of TensorRT's; FP8 stays FP8, which TensorRT reads of them.

    FP4's are rounded by float32 arithmetic: the standard has no operator for blocks scaled as they come.
    """
    from openkontext.runtime import passes

    return _apply(
        model, passes.StandardFp8(), passes.Fp4Activations(), passes.Fp4Weights(kernel=False, wide=False)
    )


def _one_type(model: ModelProto) -> ModelProto:
    from openkontext.runtime.passes import OneType

    return _apply(model, OneType())


def _has_kernel(computes: Computes) -> bool:
    """Whether a provider multiplies by weights of 8 bits in blocks of 16."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
        one (float[1, 16] x0, uint8[8, 1, 16] x1, float[8] x2) => (float[1, 8] y0) {
            y0 = com.microsoft.MatMulNBits <K=16, N=8, bits=8, block_size=16> (x0, x1, x2)
        }"""
    )
    node = model.graph.node[0]
    return computes(model, node, ProviderCase.of(node, value_types(model)))


def _without_refused(model: ModelProto, provider: str, computes: Computes) -> ModelProto | None:
    """The graph without what a provider does not compute in 16 bits; None where there is no such thing."""
    import onnx_ir as ir

    from openkontext.runtime.passes import ComputeInFloat32, OperatorsInFloat32, StoredFirst

    if provider == "cpu":  # which gains nothing from 16 bits: if not for all, then for none
        whole = refused_half_types(model, computes)
        cases: frozenset[ProviderCase] = frozenset()
    else:
        cases = refused_operators(model, computes)
        whole = frozenset(dtype for case in cases if case.operator in _PRODUCTS for dtype in case.halves)
    changes: list[InPlacePass] = []
    if whole:
        changes.append(ComputeInFloat32({ir.DataType(dtype) for dtype in whole}))
    if rest := frozenset(case for case in cases if not case.halves <= whole):
        changes.append(OperatorsInFloat32(rest))
    return _apply(model, *changes, StoredFirst()) if changes else None


def _apply(model: ModelProto, *passes: "InPlacePass") -> ModelProto:
    return _applied(model, *passes)[0]


def _applied(model: ModelProto, *passes: "InPlacePass") -> tuple[ModelProto, bool]:
    """The graph after some passes, and whether any of them modified it."""
    # Imported here since it takes a third of a second that graphs in float32 need not pay.
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveInitializersFromInputsPass

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what is wrong with a graph is raised
    rewritten = ir.serde.deserialize_model(model)
    RemoveInitializersFromInputsPass()(rewritten)
    modified = [change(rewritten).modified for change in passes]
    return ir.serde.serialize_model(rewritten), any(modified)


def _mentions_quantized(model: ModelProto) -> bool:
    """Whether TensorRT's operators, or floats of 8 or 4 bits, are in the graph."""
    return any(
        node.domain == _TENSORRT
        or any(
            attribute.name == "output_dtype" and attribute.i in _TINY_TYPES for attribute in node.attribute
        )
        for node in nodes(model)
    ) or any(tensor.data_type in _TINY_TYPES for tensor in tensors(model))


def _mentions_noise(model: ModelProto) -> bool:
    """Whether a graph draws random numbers when it runs."""
    return any(not node.domain and node.op_type in _NOISE for node in nodes(model))


def _mentions_half(model: ModelProto) -> bool:
    """Whether any 16-bit float enters the graph: as an input, a weight, a constant or by a Cast."""
    return (
        any(value.type.tensor_type.elem_type in HALF_TYPES for value in model.graph.input)
        or any(tensor.data_type in HALF_TYPES for tensor in tensors(model))
        or any(
            attribute.name == "to" and attribute.i in HALF_TYPES
            for node in nodes(model)
            for attribute in node.attribute
        )
    )
