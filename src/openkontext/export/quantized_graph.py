"""Linear layers and attention in FP8 and NVFP4, operator by operator as in the published files.

Which form a layer takes follows from how its weight is stored. Names are those of TensorRT-Model-Optimizer's
exporter, whose tools find the layers by them:

    FP8    x -> TRT_FP8QuantizeLinear -> TRT_FP8DequantizeLinear -> MatMul <- Transpose <- DequantizeLinear
    NVFP4  x -> Cast -> TRT_FP4DynamicQuantize -> 2 DequantizeLinear -> Cast -> MatMul <- Cast <- Transpose
           <- 2 DequantizeLinear; with SVDQuant a Mul before it all, and two MatMul with an Add beside it

A weight in FP8 is stored as such; its exporter stores it in 16 bits with a pair of operators, and has a tool
(`fold_fp8_qdq_to_dq`) that makes the form written here of that, in half the bytes.
"""

from collections.abc import Mapping

import onnx_ir as ir

from openkontext.export.graph_builder import GraphBuilder
from openkontext.export.quantizers.nvfp4 import BLOCK

_FLOAT = ir.DataType.FLOAT
_FP8 = ir.DataType.FLOAT8E4M3FN
_SOFTMAX_SCALE = 1.0  # its outputs lie in 0..1


class QuantizedGraphBuilder(GraphBuilder):
    """A builder that writes quantized layers where the weights are.

    A layer's tensors, beside its bias: `weight` as FLOAT8E4M3FN for FP8; `weight_f4`, `weight_f8_scale` and
    `weight_f8_scale_f32_scale` for NVFP4, and with SVDQuant `input_quantizer._pre_quant_scale`,
    `weight_quantizer._svdquant_lora_a` and `_b`. All others are written in `dtype`.

    Args:
        dtype: type of weights, activations, inputs and outputs, but for those that are quantized.
        parameters: the tensors under their names in the model.
        scales: numbers in the graph. Of a layer `L` its input's `L.input_quantizer`, and `L.weight_quantizer`
            in FP8; of an attention `A` the operands' `A.q_bmm_quantizer`, `A.k_bmm_quantizer` and
            `A.v_bmm_quantizer`. An attention without these is not quantized.
    """

    def __init__(
        self, dtype: ir.DataType, parameters: Mapping[str, ir.TensorProtocol], scales: Mapping[str, float]
    ) -> None:
        in_fp4 = any(tensor.dtype == ir.DataType.FLOAT4E2M1 for tensor in parameters.values())
        super().__init__(dtype, parameters, opset=23 if in_fp4 else 20)
        self._scales = scales

    def linear(self, x: ir.Value, name: str, bias: bool = True) -> ir.Value:
        """Linear layer over the last axis of a tensor of any rank."""
        with self.scope(name):
            if not (self.has("weight_f4") or self._in_fp8()):
                y = self.op("MatMul", x, self.op("Transpose", self.parameter("weight"), perm=[1, 0]))
                return self.op("Add", self.parameter("bias"), y) if bias else y
            x, branch = self._smoothed(x)
            y = self._narrow(self._quantized(x))
            weight = self._narrow(self.op("Transpose", self._weight(), perm=[1, 0]))
            y = self.op("MatMul", y, weight)
            if bias:
                y = self.op("Add", self.parameter("bias"), y)
            return y if branch is None else self.op("Add", y, branch)

    def vector_linear(self, x: ir.Value, name: str) -> ir.Value:
        """Linear layer on [B, in] as one Gemm."""
        with self.scope(name):
            if not (self.has("weight_f4") or self._in_fp8()):
                return self.op("Gemm", x, self.parameter("weight"), self.parameter("bias"), transB=1)
            x, branch = self._smoothed(x)
            x, weight = self._narrow(self._quantized(x)), self._narrow(self._weight())
            y = self.op("Gemm", x, weight, self.parameter("bias"), transB=1)
            return y if branch is None else self.op("Add", y, branch)

    def attention_product(self, a: ir.Value, b: ir.Value, names: tuple[str, str]) -> ir.Value:
        """A product of an attention with both operands in FP8; TensorRT asks for it in float32."""
        if self._in_module("q_bmm_quantizer") not in self._scales:
            return super().attention_product(a, b, names)
        wide = []
        for x, name in ((a, names[0]), (b, names[1])):
            quantizer = "softmax_quantizer" if name == "softmax" else f"{name}_bmm_quantizer"
            scale = _SOFTMAX_SCALE if name == "softmax" else self._scales[self._in_module(quantizer)]
            with self.scope(quantizer):
                wide.append(self.cast(self._fp8(x, scale), _FLOAT))
        return self.cast(self.op("MatMul", *wide), self.dtype)

    def _in_fp8(self) -> bool:
        return self.parameter("weight").dtype == _FP8

    def _narrow(self, x: ir.Value) -> ir.Value:
        """What NVFP4 gives in float32, in the graph's type."""
        return self.cast(x, self.dtype) if self.has("weight_f4") else x

    def _smoothed(self, x: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """The input times its smoothing, and what the low-rank branch makes of it."""
        if self.has("input_quantizer._pre_quant_scale"):
            x = self.op("Mul", x, self.parameter("input_quantizer._pre_quant_scale"))
        if not self.has("weight_quantizer._svdquant_lora_a"):
            return x, None
        branch = x
        for factor in ("_svdquant_lora_a", "_svdquant_lora_b"):
            transposed = self.op("Transpose", self.parameter(f"weight_quantizer.{factor}"), perm=[1, 0])
            branch = self.op("MatMul", branch, transposed)
        return x, branch

    def _quantized(self, x: ir.Value) -> ir.Value:
        """The input after quantizing and dequantizing: NVFP4's in float32."""
        scale = self._scales[self._in_module("input_quantizer")]
        in_fp4 = self.has("weight_f4")
        with self.scope("input_quantizer"):
            if not in_fp4:
                return self._fp8(x, scale)
            of_tensor = self.constant(scale, _FLOAT)
            values, of_blocks = self.ops(
                "trt::TRT_FP4DynamicQuantize",
                2,
                self.cast(x, _FLOAT),
                of_tensor,
                axis=-1,
                block_size=BLOCK,
                scale_type=int(_FP8),
            )
            values.type, of_blocks.type = ir.TensorType(ir.DataType.FLOAT4E2M1), ir.TensorType(_FP8)
            steps = self.op("DequantizeLinear", of_blocks, of_tensor)
            return self.op("DequantizeLinear", values, steps, axis=-1, block_size=BLOCK)

    def _weight(self) -> ir.Value:
        """The weight [out, in]: NVFP4's in float32."""
        if not self.has("weight_f4"):
            codes = self.parameter("weight")
            scale = self.constant(self._scales[self._in_module("weight_quantizer")])
            with self.scope("weight_quantizer"):
                return self.op("DequantizeLinear", codes, scale)
        steps = self.op(
            "DequantizeLinear",
            self.parameter("weight_f8_scale"),
            self.parameter("weight_f8_scale_f32_scale"),
        )
        return self.op("DequantizeLinear", self.parameter("weight_f4"), steps, axis=-1, block_size=BLOCK)

    def _fp8(self, x: ir.Value, scale: float) -> ir.Value:
        """Quantize and dequantize with one scale for the whole tensor."""
        stored = self.constant(scale)
        codes = self.op("trt::TRT_FP8QuantizeLinear", x, stored)
        codes.type = ir.TensorType(ir.DataType.UINT8)
        values = self.op("trt::TRT_FP8DequantizeLinear", codes, stored)
        values.type = ir.TensorType(self.dtype)
        return values
