"""What is rewritten, and what is left as it is."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from quantized_graphs import Draft
from tiny import ONNX_TYPES, make_model

from openkontext.runtime.lowering import lower
from openkontext.runtime.model_file import read_model
from openkontext.runtime.passes import ComputeInFloat32
from openkontext.runtime.providers import available_providers, by_trying, refused_half_types

HERE = Path("model.onnx")


def one_node(op_type: str, dtype: int, inputs: int = 1, opset: int = 22) -> onnx.ModelProto:
    names = [f"x{index}" for index in range(inputs)]
    node = helper.make_node(op_type, names, ["y"], name="node")
    ends = {name: (dtype, [4, 4]) for name in names}
    return onnx.shape_inference.infer_shapes(make_model([node], ends, {"y": (dtype, [4, 4])}, opset=opset))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("op_type", "inputs"), [("MatMul", 2), ("Add", 2), ("Identity", 1), ("Transpose", 1)]
)
def test_a_type_is_refused_where_no_kernel_of_it_runs(
    tmp_path: Path, precision: str, op_type: str, inputs: int
) -> None:
    """The judge is ONNX Runtime's own record of what it executed: the operator, or Casts around it."""
    dtype = ONNX_TYPES[precision]
    model = one_node(op_type, dtype, inputs)
    refused = refused_half_types(model, by_trying("cpu"))
    assert refused == (frozenset() if executes_in_type(model, tmp_path) else frozenset({dtype}))


def executes_in_type(model: onnx.ModelProto, folder: Path) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception:
        return False
    feed = {}
    for value in session.get_inputs():
        zeros = np.zeros((4, 4), np.uint16)
        feed[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            zeros, model.graph.input[0].type.tensor_type.elem_type
        )
    session.run_with_ort_values(None, feed)
    return '"op_name" : "Cast"' not in Path(session.end_profiling()).read_text()


def test_compilers_take_the_published_files() -> None:
    for provider in ("tensorrt", "nvtensorrtrtx"):
        assert lower(one_node("MatMul", TensorProto.BFLOAT16, 2), HERE, provider) is None


def test_float32_graphs_pass_without_onnx_ir() -> None:
    assert lower(one_node("MatMul", TensorProto.FLOAT, 2), HERE, "cpu") is None


def test_the_cpu_is_always_available() -> None:
    assert available_providers()[0] == "cpu"


def test_the_pass_says_whether_it_modified() -> None:
    types = {ir.DataType.BFLOAT16, ir.DataType.FLOAT16}
    for dtype, modified in ((TensorProto.FLOAT, False), (TensorProto.BFLOAT16, True)):
        model = ir.serde.deserialize_model(one_node("Gelu", dtype))
        assert ComputeInFloat32(types)(model).modified == modified
        assert not ComputeInFloat32(types)(model).modified


def test_no_16_bit_value_is_left_but_the_weights() -> None:
    half = TensorProto.FLOAT16
    model = make_model(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node(
                "ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("one", half, [1], [1.0])
            ),
            helper.make_node("Add", ["x", "ones"], ["more"]),
            helper.make_node("MatMul", ["more", "w"], ["y"]),
        ],
        {"x": (half, [2, 3])},
        {"y": (half, [2, 3])},
        {"w": np.eye(3, dtype=np.float16)},
    )
    lowered = lower(model, HERE, "cpu")
    assert lowered is not None
    onnx.checker.check_model(lowered, full_check=True)
    assert [tensor.data_type for tensor in lowered.graph.initializer] == [half]
    values = [*lowered.graph.input, *lowered.graph.value_info, *lowered.graph.output]
    assert [v.name for v in values if v.type.tensor_type.elem_type == half and v.name != "w"] == []


def layers(folder: Path, kind: str) -> Path:
    """A graph of three layers with a nonlinearity between them."""
    rng = np.random.default_rng(0)
    draft = Draft(rng, "bf16", {"x": rng.standard_normal((2, 32)).astype(np.float32)})
    value = "x"
    for _ in range(3):
        y = draft.linear(value, rng.standard_normal((32, 32)).astype(np.float32), kind)
        value = draft("Tanh", [y])
        draft.values[value] = np.tanh(draft.values[y])
    return draft.save(folder, value, {"x": ["B", 32]})


@pytest.mark.parametrize("arithmetic", ["faithful", "fast"])
@pytest.mark.parametrize("kind", ["fp8", "fp8 stored", "fp8 standard", "fp4"])
def test_weights_that_stay_mapped_are_widened_layer_by_layer(
    tmp_path: Path, kind: str, arithmetic: str
) -> None:
    """All at once, they would take the memory of the whole model. ONNX Runtime's own record is the judge."""
    path = layers(tmp_path, kind)
    lowered = lower(read_model(path), path, "cpu", arithmetic)
    assert lowered is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    session = onnxruntime.InferenceSession(
        lowered.SerializeToString(), options, disabled_optimizers=["ConstantFolding"]
    )
    session.run(None, {"x": np.ones((1, 32), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    executed = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    products = [index for index, name in enumerate(executed) if "MatMul" in name or name == "Gemm"]
    widened = [index for index, name in enumerate(executed) if name in ("Gather", "Cast")]
    assert len(products) == 3
    assert any(products[0] < index < products[1] for index in widened)
    assert any(products[1] < index < products[2] for index in widened)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["fp4", "fp4 smoothed", "fp4 svd"])
def test_fast_hands_fp4_layers_to_the_kernel(tmp_path: Path, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 32)).astype(np.float32)
    draft = Draft(rng, "bf16", {"x": x})
    y = draft.linear("x", rng.standard_normal((8, 32)).astype(np.float32), kind, None, seed % 2 == 0)
    path = draft.save(tmp_path, y, {"x": ["B", 32]})
    counts = {}
    for arithmetic in ("faithful", "fast"):
        lowered = lower(read_model(path), path, "cpu", arithmetic)
        assert lowered is not None
        counts[arithmetic] = sum(node.op_type == "MatMulNBits" for node in lowered.graph.node)
        types = {tensor.data_type for tensor in lowered.graph.initializer}
        assert TensorProto.FLOAT4E2M1 not in types
    assert counts == {"faithful": 0, "fast": 1}


def test_a_weight_that_nothing_reads_is_not_widened() -> None:
    """Its Cast would run in every call."""
    weights = [
        helper.make_tensor(name, TensorProto.BFLOAT16, [4, 4], np.ones(16)) for name in ("w", "unused")
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [4, 4]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    lowered = lower(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]), HERE, "cpu")
    assert lowered is not None
    assert [each.input[0] for each in lowered.graph.node if each.op_type == "Cast"] == ["w"]
