"""FP8 and NVFP4: against another tool's exports, the casts of ml_dtypes, and values worked by hand."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from peer_exports import PEER_EXPORTS, needs_peers

from openkontext.errors import InputError
from openkontext.export.graph_weights import GraphFloats
from openkontext.export.quantizers import fp8, nvfp4
from openkontext.export.quantizers.selection import is_quantized


def peer_weights() -> dict[str, torch.Tensor]:
    floats = GraphFloats(PEER_EXPORTS / "bf16" / "model.onnx", "transformer")
    return {f"m.{name}": floats.read(name, 0, shape[0]) for name, shape in floats.shapes.items()}


def raw_bytes(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).view(np.uint8).copy())


def steps_apart(codes: torch.Tensor, peer: torch.Tensor, sign: int) -> torch.Tensor:
    """Distance on the line of values of a format whose sign is the bit `sign`."""
    line = [torch.where(bits >= sign, -(bits.int() - sign), bits.int()) for bits in (codes.int(), peer.int())]
    return (line[0] - line[1]).abs()


@needs_peers
def test_nvfp4_gives_the_tensors_of_another_tool():
    weights = peer_weights()
    initializers = ir.load(PEER_EXPORTS / "fp4" / "model.onnx").graph.initializers
    theirs = {name: value.const_value.numpy() for name, value in initializers.items()}
    names = [name.removesuffix("_f4") for name in theirs if name.endswith("_f4")]
    assert len(names) > 30
    equal = total = 0
    for name in names:
        ours = nvfp4.quantize(weights[name])
        assert ours.scale.numpy() == theirs[f"{name}_f8_scale_f32_scale"], name
        for codes, peer, sign in (
            (nvfp4.unpack(ours.packed), theirs[f"{name}_f4"], 8),
            (ours.block_scales.view(torch.uint8), theirs[f"{name}_f8_scale"], 128),
        ):
            apart = steps_apart(codes, raw_bytes(peer), sign)
            assert apart.max() <= 1, name
            assert (apart == 0).float().mean() > 0.99, name
            equal, total = equal + int((apart == 0).sum()), total + apart.numel()
    assert equal / total >= 0.999


@needs_peers
@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_the_layers_quantized_are_those_of_another_tool(precision: str):
    graph = onnx.load(PEER_EXPORTS / precision / "model.onnx", load_external_data=False).graph
    if precision == "fp4":
        theirs = {t.name.removesuffix("_f4") for t in graph.initializer if t.name.endswith("_f4")}
    else:
        quantized = {node.input[0] for node in graph.node if node.op_type == "TRT_FP8QuantizeLinear"}
        theirs = quantized & {t.name for t in graph.initializer}
    assert theirs == {name for name, w in peer_weights().items() if w.ndim == 2 and is_quantized(name)}


@needs_peers
def test_fp8_scales_are_those_of_another_tool():
    weights = peer_weights()
    graph = onnx.load(PEER_EXPORTS / "fp8" / "model.onnx", load_external_data=False).graph
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    pairs = [
        (node.input[0], constants[node.input[1]])
        for node in graph.node
        if node.op_type == "TRT_FP8QuantizeLinear" and node.input[0] in weights
    ]
    assert len(pairs) > 30
    for name, scale in pairs:
        assert fp8.scale_of(fp8.amax(weights[name])).numpy().astype(scale.dtype) == scale, name


def test_fp8_rounds_as_ml_dtypes_and_saturates():
    values = torch.randn(4096, generator=torch.Generator().manual_seed(1)) * 30
    scale = fp8.scale_of(fp8.amax(values))
    codes = fp8.quantize(values, scale)
    expected = (values / scale).numpy().astype(ml_dtypes.float8_e4m3fn)
    assert torch.equal(codes.view(torch.uint8), raw_bytes(expected))
    # Three bits of mantissa: half a step is a sixteenth of a value, or half of 2^-9 below the normal ones.
    error = (fp8.dequantize(codes, scale) - values).abs()
    assert (error <= torch.maximum(values.abs() / 16, scale * 2**-10) * 1.0001).all()
    beyond = fp8.quantize(torch.tensor([1e9, -1e9, 449.0]), torch.tensor(1.0))
    assert beyond.float().tolist() == [448, -448, 448]


def test_a_percentile_clips_the_outliers():
    values = torch.arange(-500.0, 500)  # magnitudes 0, 500, and 1 to 499 twice
    assert fp8.amax(values).item() == 500
    assert fp8.amax(values, 99.9).item() == 499
    assert fp8.amax(values, 99.0).item() == 495
    outlier = torch.randn(10_000, generator=torch.Generator().manual_seed(2))
    outlier[7] = 1e5  # leaves steps of 0.44 to the others, below the smallest normal code

    def error_of_the_others(percentile: float) -> float:
        scale = fp8.scale_of(fp8.amax(outlier, percentile))
        error = (fp8.dequantize(fp8.quantize(outlier, scale), scale) - outlier).abs()
        error[7] = 0
        return error.mean().item()

    assert error_of_the_others(99.99) < 0.9 * error_of_the_others(100)


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile: float):
    with pytest.raises(InputError, match="percentile"):
        fp8.amax(torch.ones(3), percentile)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=64))
def test_e2m1_rounds_as_ml_dtypes(values: list[float]):
    array = np.array(values, np.float32)
    expected = raw_bytes(array.astype(ml_dtypes.float4_e2m1fn))
    assert torch.equal(nvfp4.encode(torch.from_numpy(array)), expected)
    assert torch.equal(nvfp4.nearest(torch.from_numpy(array)), nvfp4.decode(expected))


def test_every_e2m1_edge_rounds_as_ml_dtypes():
    array = np.arange(-64, 65, dtype=np.float32) / 8  # each value, each midpoint, and values beyond
    codes = nvfp4.encode(torch.from_numpy(array))
    assert torch.equal(codes, raw_bytes(array.astype(ml_dtypes.float4_e2m1fn)))
    expected = array.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    for values in (nvfp4.decode(codes), nvfp4.nearest(torch.from_numpy(array))):
        np.testing.assert_array_equal(values.numpy(), expected)


def test_packing_is_that_of_onnx():
    codes = torch.randint(0, 16, (3, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    tensor = ir.Tensor(codes.numpy().view(ml_dtypes.float4_e2m1fn), dtype=ir.DataType.FLOAT4E2M1)
    assert nvfp4.pack(codes).numpy().tobytes() == tensor.tobytes()
    assert nvfp4.pack(torch.tensor([1, 2], dtype=torch.uint8)).tolist() == [0x21]
    assert torch.equal(nvfp4.unpack(nvfp4.pack(codes)), codes)


def test_nvfp4_by_hand():
    # amax 5376 makes the tensor's scale 2; the second block's amax of 12 makes its scale 1.
    values = torch.zeros(32)
    values[[0, 1]] = torch.tensor([5376.0, -2688.0])
    values[[16, 17, 18, 19]] = torch.tensor([12.0, -2.9, 1.1, 5.0])
    quantized = nvfp4.quantize(values)
    assert quantized.scale.item() == 2
    assert quantized.block_scales.float().tolist() == [448, 1]
    assert nvfp4.unpack(quantized.packed)[[0, 1, 16, 17, 18, 19]].tolist() == [7, 8 + 5, 7, 8 + 3, 1, 4]
    assert nvfp4.dequantize(quantized)[[0, 1, 16, 17, 18, 19]].tolist() == [5376, -2688, 12, -3, 1, 4]


def test_nvfp4_of_zeros_and_of_blocks_too_small_for_a_scale():
    values = torch.zeros(2, 32)
    assert torch.equal(nvfp4.dequantize(nvfp4.quantize(values)), values)
    values[0, 0], values[1, 0] = 1.0, 1e-9
    assert nvfp4.dequantize(nvfp4.quantize(values)).tolist()[0][0] == 1
    assert torch.isfinite(nvfp4.dequantize(nvfp4.quantize(values))).all()


def test_nvfp4_clips_what_a_calibrated_scale_does_not_reach():
    quantized = nvfp4.quantize(torch.full((16,), 100.0), nvfp4.scale_of(torch.tensor(50.0)))
    torch.testing.assert_close(nvfp4.dequantize(quantized), torch.full((16,), 50.0))


@pytest.mark.parametrize("shape", [(4, 24), (8,), ()])
def test_nvfp4_refuses_rows_that_are_not_whole_blocks(shape: tuple[int, ...]):
    with pytest.raises(InputError, match="multiple of 16"):
        nvfp4.quantize(torch.ones(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(bad: float):
    values = torch.ones(16)
    values[3] = bad
    for quantize in (nvfp4.quantize, fp8.amax):
        with pytest.raises(InputError, match="infinite, or not a number"):
            quantize(values)
