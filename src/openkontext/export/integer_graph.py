"""Linear layers whose weights are integers of 8 bits, in operators that every provider of ONNX Runtime has.

    x -> Abs -> ReduceMax -> Max -> Mul 1/127 = step of each token
    x -> Div step -> QuantizeLinear -> DequantizeLinear -> Mul step -> MatMul <- DequantizeLinear

All else is float32, since the CPU provider computes nothing in bfloat16. Weights are stored [in, out], as
products of integers take them, so that they can be mapped from the file (`runtime.int8_weights`).
"""

import numpy as np
import onnx_ir as ir

from openkontext.export.graph_builder import GraphBuilder

_INT8 = ir.DataType.INT8
_LEVELS = 127
_SMALLEST = 1e-30  # a token of zeros is divided by this


class IntegerGraphBuilder(GraphBuilder):
    """A builder that writes integer layers where the weights are.

    A layer's tensors, beside its bias: `weight` as INT8 [in, out] and `weight_scale` float32 [out].
    """

    def linear(self, x: ir.Value, name: str, bias: bool = True) -> ir.Value:
        """Linear layer over the last axis of a tensor of any rank."""
        with self.scope(name):
            integers = self.has("weight_scale")
        if not integers:
            return super().linear(x, name, bias)
        with self.scope(name):
            with self.scope("input_quantizer"):
                x = self._rounded(x)
            codes, scale = self.parameter("weight"), self.parameter("weight_scale")
            with self.scope("weight_quantizer"):
                weight = self.op("DequantizeLinear", codes, scale, axis=1)
            y = self.op("MatMul", x, weight)
            return self.op("Add", self.parameter("bias"), y) if bias else y

    def vector_linear(self, x: ir.Value, name: str) -> ir.Value:
        """Linear layer on [B, in]."""
        with self.scope(name):
            integers = self.has("weight_scale")
        return self.linear(x, name) if integers else super().vector_linear(x, name)

    def _rounded(self, x: ir.Value) -> ir.Value:
        """Each token rounded to whole multiples of its step."""
        size = self.op("ReduceMax", self.op("Abs", x), self.constant([-1]), keepdims=1)
        step = self.op("Max", size, self.constant(_SMALLEST))
        step = self.op("Mul", step, self.constant(1 / _LEVELS))
        one, zero = self.constant(1.0), self.constant(np.array(0, np.int8), _INT8)
        codes = self.op("QuantizeLinear", self.op("Div", x, step), one, zero)
        return self.op("Mul", self.op("DequantizeLinear", codes, one, zero), step)
