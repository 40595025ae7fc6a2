"""What the kernels of ONNX Runtime's CUDA provider take, as its documentation says.

On a machine with a GPU the provider is asked itself (`providers.refused_operators`). This table stands in
for it where there is none, so that the graph which it would be handed can be checked operator by operator.
"""

from collections.abc import Iterator
from functools import partial

from onnx import ModelProto, NodeProto, TensorProto

from openkontext.runtime.model_file import nodes
from openkontext.runtime.providers import Computes, ProviderCase, value_types

SOURCE = "microsoft/onnxruntime docs/OperatorKernels.md, commit 001d12d2623fd411ce0f83d05abb5e82304a3389"
"""Where the table was read: the state of that file between releases 1.24 and 1.25."""

_LETTERS: dict[str, int] = {
    "b": TensorProto.BFLOAT16,
    "h": TensorProto.FLOAT16,
    "f": TensorProto.FLOAT,
    "d": TensorProto.DOUBLE,
    "8": TensorProto.FLOAT8E4M3FN,
    "5": TensorProto.FLOAT8E5M2,
    "4": TensorProto.FLOAT4E2M1,
    "?": TensorProto.BOOL,
    "i": TensorProto.INT32,
    "l": TensorProto.INT64,
    "w": TensorProto.UINT32,
    "x": TensorProto.UINT64,
    "s": TensorProto.INT8,
    "u": TensorProto.UINT8,
    "o": TensorProto.INT16,
    "p": TensorProto.UINT16,
}
_GROUPS = {"A": "b?dfhilwxsuop", "F": "bdfh", "N": "bdfhilwxsuop", "J": "ilwx"}

# Operator, then from which opset on it takes elements of which types, all inputs and outputs together. Only
# what graphs of this architecture hold, and of each operator the versions from opset 13 on.
_CUDA = """
Abs 13N | Add 14N | And 7? | Attention 23bfh? | Cast 13A 19A85 23A854 | Ceil 13dfh | Clip 13dfhlxsu
Concat 13A | ConstantOfShape 9A | Conv 11dfh 22F | ConvTranspose 11dfh | Cos 7dfh | CumSum 14dfhJ
DequantizeLinear 13fsu 19fh85su 21fh85su | Div 14N | Einsum 12dfh | Equal 13?dfhJ | Erf 13F | Exp 13F
Expand 13A | Flatten 13A | Floor 13dfh | Gather 13A | GatherElements 13A | GatherND 13b?dfhl | Gelu 20F
Gemm 13F | Greater 13dfhJ? | GreaterOrEqual 16dfhJ? | Identity 13A 19A85 | InstanceNormalization 6dfhil
LayerNormalization 17Ff | Less 13dfhJ? | LessOrEqual 16dfhJ? | Log 13dfh | MatMul 13F | Max 13FJ | Min 13FJ
Mod 13FJ | Mul 14N | Neg 13Foils | Not 1? | Or 7? | Pad 13?dfhl | Pow 13dfhil 15Fil
QuantizeLinear 13fsu 19fh85su 21fh85su | RMSNormalization 23F | Range 11dfoil | Reciprocal 13dfh
ReduceL2 1dfhil | ReduceMax 1dfhil | ReduceMean 1dfhil | ReduceMin 1dfhilsu | ReduceSum 13Fil | Relu 13F
Reshape 13A 19A85 | Resize 13dfhiul | RotaryEmbedding 23bfhl | Round 11dfh | ScatterND 11A | Shape 13A 19A85
Sigmoid 13F | Sign 13N | Sin 7dfh | Size 13A | Slice 13A | Softmax 13F | Split 13A | Sqrt 13F | Squeeze 13A
Sub 14N | Sum 13F | Tanh 13F | Tile 13Fil | Transpose 13A | Trilu 14A | Unsqueeze 13A | Where 9?dfhilu 16?Filu
com.microsoft:MatMulNBits 1bfhu
"""


def _read(table: str) -> dict[tuple[str, str], list[tuple[int, frozenset[int]]]]:
    kernels: dict[tuple[str, str], list[tuple[int, frozenset[int]]]] = {}
    for row in table.replace("\n", "|").split("|"):
        if not row.strip():
            continue
        name, *versions = row.split()
        domain, _, operator = name.rpartition(":")
        found: list[tuple[int, frozenset[int]]] = []
        for version in versions:
            since = "".join(letter for letter in version[:2] if letter.isdigit())
            letters = version[len(since) :]
            for group, members in _GROUPS.items():
                letters = letters.replace(group, members)
            found.append((int(since), frozenset(_LETTERS[letter] for letter in letters)))
        kernels[domain, operator] = found
    return kernels


_KERNELS = {"cuda": _read(_CUDA)}


def documented(provider: str) -> Computes:
    """What a provider's documentation says, to stand in for `providers.by_trying`.

    Args:
        provider: "cuda".
    """
    return partial(_documented, provider)


def _documented(provider: str, model: ModelProto, node: NodeProto, case: ProviderCase) -> bool:
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 1)
    if node.op_type == "Constant" and not node.domain:
        return True  # ONNX Runtime makes an initializer of it
    versions = _KERNELS[provider].get((node.domain, node.op_type), ())
    taken = [types for since, types in versions if node.domain or since <= opset]
    return bool(taken) and {*case.inputs, *case.outputs} - {-1} <= taken[-1]


def undocumented(model: ModelProto, provider: str) -> Iterator[str]:
    """The nodes of a graph for which a provider's documentation has no kernel, with their element types.

    Args:
        model: a graph whose values all have their element types.
        provider: "cuda".
    """
    types = value_types(model)
    for node in nodes(model):
        case = ProviderCase.of(node, types)
        if not _documented(provider, model, node, case):
            names = [TensorProto.DataType.Name(max(dtype, 0)) for dtype in (*case.inputs, *case.outputs)]
            yield f"{node.domain or 'ai.onnx'}:{node.op_type} '{node.name}' {' '.join(names)}"
