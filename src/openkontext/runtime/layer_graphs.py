"""Graphs of linear layers alone, in the grammar of the published files: what speed is measured on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH = 3072
"""Of FLUX.1's tokens; its feed-forward layers are four times as wide."""

FILES = ("bf16", "fp8", "fp4")
"""What weights are stored in."""

BF16, FP8, FP4, FLOAT = (
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT4E2M1,
    TensorProto.FLOAT,
)
_DATA = "backbone.onnx_data"


class LayerWriter:
    """Writes a graph into a folder; its random weights go to the data file as they are made.

    Args:
        folder: is made.
        precision: of the layers: one of `FILES`.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        self.folder, self.precision = folder, precision
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        folder.mkdir(parents=True)
        self.data = (folder / _DATA).open("wb")

    def node(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        """Add a node; gives the name of its first output."""
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        domain = "trt" if op_type.startswith("TRT") else ""
        name = f"node{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, domain=domain, **attributes))
        return names[0]

    def weight(self, dtype: int, dims: list[int], raw: bytes) -> str:
        """Add a weight."""
        tensor = TensorProto(
            name=f"w{len(self.weights)}", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL
        )
        place = {"location": _DATA, "offset": self.data.tell(), "length": len(raw)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(raw)
        self.weights.append(tensor)
        return tensor.name

    def scalar(self, value: float, dtype: int) -> str:
        """Add a Constant."""
        return self.node("Constant", [], value=helper.make_tensor("s", dtype, [], [value]))

    def linear(self, x: str, out: int, width: int) -> str:
        """Add a layer in the precision, its activations quantized too."""
        codes = self.rng.integers(0, 256, out * width, np.uint8)
        if self.precision == "bf16":
            values = (self.rng.standard_normal(out * width, np.float32) * 0.02).view(np.uint32) >> 16
            w = self.weight(BF16, [out, width], values.astype(np.uint16).tobytes())
        elif self.precision == "fp8":
            sane = codes & 0x80 | codes % 0x7F  # 0x7F is not a number
            w = self.weight(FP8, [out, width], sane.tobytes())
            w = self.node("DequantizeLinear", [w, self.scalar(2e-4, BF16)])
            scale = self.scalar(0.02, BF16)
            x = self.node("TRT_FP8DequantizeLinear", [self.node("TRT_FP8QuantizeLinear", [x, scale]), scale])
        else:
            scales = [self.weight(FP8, [out, width // 16], bytes([0x70]) * (out * width // 16))]  # 128
            w = self.weight(FP4, [out, width], codes[: codes.size // 2].tobytes())
            steps = self.node("DequantizeLinear", [*scales, self.scalar(5e-5, FLOAT)])
            w = self.node("DequantizeLinear", [w, steps], axis=-1, block_size=16)
            w = self.node("Cast", [w], to=BF16)
            scale = self.scalar(3e-3, FLOAT)
            x = self.node("Cast", [x], to=FLOAT)
            x = self.node("TRT_FP4DynamicQuantize", [x, scale], 2, axis=-1, block_size=16, scale_type=FP8)
            steps = self.node("DequantizeLinear", [x.replace("_0", "_1"), scale])
            x = self.node("DequantizeLinear", [x, steps], axis=-1, block_size=16)
            x = self.node("Cast", [x], to=BF16)
        return self.node("MatMul", [x, self.node("Transpose", [w], perm=[1, 0])])

    def norm(self, x: str, width: int) -> str:
        """Add a normalization, so that values neither grow nor vanish."""
        ones = self.weight(BF16, [width], np.full(width, 0x3F80, np.uint16).tobytes())
        return self.node("LayerNormalization", [x, ones])

    def declare(self, float32_bytes: int) -> None:
        """Say the last weight again, under names that nothing reads, until weights are said to be so large.

        The data file stays as it is. A graph is opened in another way when its weights are large.
        """
        last = self.weights[-1]
        count = float32_bytes // (4 * int(np.prod(last.dims))) + 1
        for number in range(count):
            again = TensorProto()
            again.CopyFrom(last)
            again.name = f"unused{number}"
            self.weights.append(again)

    def save(self, y: str, width: int, out: int | None = None) -> Path:
        """Write the graph of "x" [tokens, width] -> "y" [tokens, out], in bfloat16.

        Args:
            y: the value that comes out.
            width: of what comes in.
            out: of what comes out; None for the same.

        Returns:
            Its path.
        """
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        self.data.close()
        widths = {"x": width, "y": width if out is None else out}
        ends = [helper.make_tensor_value_info(name, BF16, ["tokens", size]) for name, size in widths.items()]
        graph = helper.make_graph(self.nodes, "layers", ends[:1], ends[1:], self.weights)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = self.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path


def one_layer(folder: Path, precision: str, width: int = WIDTH, declared: int = 0) -> Path:
    """Write a graph of one square layer behind a normalization.

    Args:
        folder: is made.
        precision: one of `FILES`.
        width: of the layer.
        declared: bytes in float32 above which weights are said to lie; see `LayerWriter.declare`.
    """
    writer = LayerWriter(folder, precision)
    y = writer.linear(writer.norm("x", width), width, width)
    if declared:
        writer.declare(declared)
    return writer.save(y, width)
