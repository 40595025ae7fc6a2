"""Graphs in the grammar that TensorRT's tools write FP8 and FP4 in, and what they compute in numpy.

draft = Draft(rng, precision)            # scales as Constants or initializers, and other choices, by chance
y = draft.linear("x", w, "fp4", b)       # the name of a value in the graph
path = draft.save(folder, y, shape)
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny import ONNX_TYPES

FLOAT, UINT8, FLOAT8, FLOAT4 = (
    TensorProto.FLOAT,
    TensorProto.UINT8,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT4E2M1,
)
E4M3, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn


KINDS = ("fp8", "fp8 in float", "fp8 standard", "fp8 stored", "fp4", "fp4 smoothed", "fp4 svd")
Array = NDArray[np.float32]


def to_fp8(x: Array, scale: float) -> Array:
    return np.clip(x / np.float32(scale), -448, 448).astype(E4M3).astype(np.float32) * np.float32(scale)


def to_fp4(x: Array, scale: float) -> tuple[Array, NDArray[Any]]:
    """E2M1 values of x in blocks of 16, and their E4M3 scales."""
    blocks = x.reshape(*x.shape[:-1], -1, 16)
    amax = np.abs(blocks).max(axis=-1)
    steps = np.clip(amax / np.float32(6) / np.float32(scale), 0, 448).astype(E4M3)
    step = steps.astype(np.float32)[..., None] * np.float32(scale)
    values = np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0)
    return np.clip(values, -6, 6).astype(E2M1).astype(np.float32).reshape(x.shape), steps


def from_fp4(values: Array, steps: NDArray[Any], scale: float) -> Array:
    return values * np.repeat(steps.astype(np.float32), 16, axis=-1) * np.float32(scale)


def as_stored(array: NDArray[Any], precision: str) -> Array:
    return array.astype(helper.tensor_dtype_to_np_dtype(ONNX_TYPES[precision])).astype(np.float32)


class Draft:
    """A graph in the making, and what its values are for one input.

    Args:
        rng: draws what the tools leave open: Constants or initializers for scales, Gemm or MatMul, weights
            stored as they are or transposed.
        precision: "bf16", "fp16" or "fp32", of what is not quantized.
        given: name -> value of the graph's inputs.
        fast: whether expected values are those of the weights alone, without rounding activations.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        precision: str,
        given: dict[str, Array],
        fast: bool = False,
        listed: bool | None = None,
    ) -> None:
        self.rng = rng
        self.precision = precision
        self.dtype = ONNX_TYPES[precision]
        self.fast = fast
        self.listed = self.chance() if listed is None else listed
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values = {name: as_stored(value, precision) for name, value in given.items()}
        """What each value of the graph should be; only of those that are at hand."""
        self.given = tuple(given)

    def chance(self) -> bool:
        return bool(self.rng.integers(2))

    def __call__(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        domain = "trt" if op_type.startswith("TRT") else ""
        names = [f"n{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(
                op_type, inputs, names, name=f"node{len(self.nodes)}", domain=domain, **attributes
            )
        )
        return names[0]

    def weight(self, array: NDArray[Any], dtype: int, name: str = "") -> str:
        name = name or f"w{len(self.initializers)}"
        if dtype == FLOAT4:  # two a byte, the low nibble first
            codes = array.astype(E2M1).view(np.uint8).reshape(-1)
            raw = (codes[0::2] | codes[1::2] << 4).tobytes()
            self.initializers.append(TensorProto(name=name, data_type=dtype, dims=array.shape, raw_data=raw))
        else:
            array = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def scale(self, value: float, dtype: int) -> str:
        if self.chance():
            return self.weight(np.array([value]), dtype)
        array = np.array(value).astype(helper.tensor_dtype_to_np_dtype(dtype))
        return self("Constant", [], value=numpy_helper.from_array(array))

    def cast(self, x: str, dtype: int) -> str:
        return self("Cast", [x], to=dtype)

    def fp8(self, x: str, scale: float, style: str = "trt") -> str:
        """A pair of operators; style is "trt", "float" (the pair in float32 between Casts) or "standard"."""
        if style == "float":
            return self.cast(self._pair(self.cast(x, FLOAT), self.scale(scale, FLOAT), style), self.dtype)
        return self._pair(x, self.scale(scale, self.dtype), style)

    def _pair(self, x: str, step: str, style: str) -> str:
        if style != "standard":
            return self("TRT_FP8DequantizeLinear", [self("TRT_FP8QuantizeLinear", [x, step]), step])
        shape: Any = next((list(t.dims) for t in self.initializers if t.name == step), ())
        zero = self.weight(np.zeros(shape), FLOAT8)
        return self("DequantizeLinear", [self("QuantizeLinear", [x, step, zero]), step])

    def fp4(self, x: str, scale: float) -> str:
        x = self.cast(x, FLOAT)
        step = self.scale(scale, FLOAT)
        values = self("TRT_FP4DynamicQuantize", [x, step], 2, axis=-1, block_size=16, scale_type=FLOAT8)
        steps = self("DequantizeLinear", [values.replace("_0", "_1"), step])
        x = self("DequantizeLinear", [values, steps], axis=-1, block_size=16)
        return self.cast(x, self.dtype)

    def linear(self, x: str, w: Array, kind: str, bias: Array | None = None, gemm: bool = False) -> str:
        """A layer with the weight [out, in], its values rounded to the precision: x w^T + bias."""
        stored, value = self.precision, self.values[x]
        if kind in ("fp4 smoothed", "fp4 svd"):
            smooth = as_stored(self.rng.uniform(0.5, 2, w.shape[1]), stored)
            x = self("Mul", [x, self.weight(smooth, self.dtype)])
            value = self.values[x] = as_stored(value * smooth, stored)
        x_scale, w_scale = (float(as_stored(np.abs(t).max() / 448, stored)) for t in (value, w))
        if kind.startswith("fp8"):
            y, y_value = self._fp8_linear(x, w, kind, x_scale, w_scale, gemm)
        else:
            y, y_value = self._fp4_linear(x, w, float(np.float32(x_scale / 6)), w_scale, gemm)
        if kind == "fp4 svd":
            down, up = (
                as_stored(self.rng.standard_normal(s), stored) for s in ((4, w.shape[1]), (w.shape[0], 4))
            )
            side = x
            for part in (down, up):
                turned = self("Transpose", [self.weight(part, self.dtype)], perm=[1, 0])
                side = self("MatMul", [side, turned])
            y, y_value = self("Add", [y, side]), y_value + value @ down.T @ up.T
        if bias is not None:
            y, y_value = self("Add", [self.weight(bias, self.dtype), y]), y_value + bias
        self.values[y] = as_stored(y_value, stored)
        return y

    def _fp8_linear(
        self, x: str, w: Array, kind: str, x_scale: float, w_scale: float, gemm: bool
    ) -> tuple[str, Array]:
        style = {"fp8 in float": "float", "fp8 standard": "standard"}.get(kind, "trt")
        value = self.values[x] if self.fast else to_fp8(self.values[x], x_scale)
        w_value, turned = to_fp8(w, w_scale), self.chance()
        if turned:
            w = w.T
        if kind == "fp8 stored":
            dtype = UINT8 if self.chance() else FLOAT8
            codes = np.clip(w / np.float32(w_scale), -448, 448).astype(E4M3)
            name = self.weight(codes.view(np.uint8) if dtype == UINT8 else codes, dtype)
            operator = "TRT_FP8DequantizeLinear" if dtype == UINT8 else "DequantizeLinear"
            weight = self(operator, [name, self.scale(w_scale, self.dtype)])
        else:
            weight = self.fp8(self.weight(w, self.dtype), w_scale, style)
        return self._product(self.fp8(x, x_scale, style), weight, turned, gemm), value @ w_value.T

    def _fp4_linear(self, x: str, w: Array, x_scale: float, w_scale: float, gemm: bool) -> tuple[str, Array]:
        w_scale = float(np.float32(np.abs(w).max() / 448 / 6))
        value = self.values[x]
        if not self.fast:
            value = as_stored(from_fp4(*to_fp4(value, x_scale), x_scale), self.precision)
        values, steps = to_fp4(w, w_scale)
        w_value = as_stored(from_fp4(values, steps, w_scale), self.precision)
        turned, axis = self.chance(), -1
        if turned:  # stored as the MatMul takes it, the blocks along the first axis
            values, steps, axis = values.T, steps.T, 0
        scales = [self.weight(steps, FLOAT8), self.scale(w_scale, FLOAT)]
        weight = self.weight(values, FLOAT4)
        weight = self(
            "DequantizeLinear", [weight, self("DequantizeLinear", scales)], axis=axis, block_size=16
        )
        if self.chance():
            weight, turned = self("Transpose", [weight], perm=[1, 0]), not turned
        return self._product(
            self.fp4(x, x_scale), self.cast(weight, self.dtype), turned, gemm
        ), value @ w_value.T

    def _product(self, x: str, weight: str, turned: bool, gemm: bool) -> str:
        if gemm:
            return self("Gemm", [x, weight], transB=0 if turned else 1)
        return self("MatMul", [x, weight if turned else self("Transpose", [weight], perm=[1, 0])])

    def attention(self, q: str, k: str, v: str) -> str:
        """Attention in FP8 as the tools write it, on [B, heads, tokens, width] each."""
        scale = self.values[q].shape[-1] ** -0.25
        half = self("Constant", [], value=numpy_helper.from_array(np.array(scale, self._numpy)))
        root = float(np.array(scale, self._numpy))
        q_value, k_value, v_value = (self.values[name] for name in (q, k, v))
        turned = self("Transpose", [k], perm=[0, 1, 3, 2])
        parts, numbers = [], []
        for name, number in ((q, q_value * root), (turned, k_value.swapaxes(-1, -2) * root)):
            number = as_stored(number, self.precision)
            step = float(as_stored(np.abs(number).max() / 448, self.precision))
            parts.append(self.cast(self.fp8(self("Mul", [name, half]), step), FLOAT))
            numbers.append(number if self.fast else to_fp8(number, step))
        logits = self.cast(self("MatMul", parts), self.dtype)
        weights = self.cast(self.fp8(self("Softmax", [logits], axis=-1), 1.0), FLOAT)
        step = float(as_stored(np.abs(v_value).max() / 448, self.precision))
        y = self.cast(self("MatMul", [weights, self.cast(self.fp8(v, step), FLOAT)]), self.dtype)
        logit = as_stored(numbers[0] @ numbers[1], self.precision)
        power = np.exp(logit - logit.max(axis=-1, keepdims=True))
        share = as_stored(power / power.sum(axis=-1, keepdims=True), self.precision)
        if not self.fast:
            share, v_value = to_fp8(share, 1.0), to_fp8(v_value, step)
        self.values[y] = as_stored(share @ v_value, self.precision)
        return y

    @property
    def _numpy(self) -> Any:
        return helper.tensor_dtype_to_np_dtype(self.dtype)

    def model(self, output: str, shapes: dict[str, list[Any]], opset: int = 23) -> onnx.ModelProto:
        """The graph, with its output named "y"."""
        nodes = [*self.nodes, helper.make_node("Identity", [output], ["y"])]
        inputs = [helper.make_tensor_value_info(name, self.dtype, shape) for name, shape in shapes.items()]
        if self.listed:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.initializers]
        outputs = [helper.make_tensor_value_info("y", self.dtype, None)]
        graph = helper.make_graph(nodes, "graph", inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("trt", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def save(self, folder: Path, output: str, shapes: dict[str, list[Any]], opset: int = 23) -> Path:
        """Write the graph with its weights in `backbone.onnx_data`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        onnx.save_model(
            self.model(output, shapes, opset),
            path,
            save_as_external_data=True,
            location="backbone.onnx_data",
            size_threshold=64,
        )
        return path


def layers(folder: Path, text: str, **weights: NDArray[Any]) -> Path:
    """A graph from ONNX's textual form; its weights in a data file beside it."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    return path
