"""The linear layers of 3072-wide blocks in FP8 and FP4: `faithful` and `fast` beside the bfloat16 graph.

    python benchmarks/quantized_layers.py [--blocks 1] [--tokens 1024] [--runs 3]

Each block has the layers of a double-stream block of FLUX.1: four of 3072x3072, one up to 12288 and one
down. Weights are random. Every graph opens in a process of its own; prints seconds to open it, seconds of a
run, its peak memory beside the size of its file, and the ratio of its time to that of the bfloat16 graph,
which the CPU provider computes in float32.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH, WIDE = 3072, 12288
BF16, FP8, FP4, FLOAT = (
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT4E2M1,
    TensorProto.FLOAT,
)
CASES = (("bf16", "faithful"), ("fp8", "faithful"), ("fp8", "fast"), ("fp4", "faithful"), ("fp4", "fast"))


class Writer:
    """A graph in the grammar of the published files; its weights go to the data file as they are made."""

    def __init__(self, folder: Path, precision: str) -> None:
        self.folder, self.precision = folder, precision
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        folder.mkdir(parents=True)
        self.data = (folder / "backbone.onnx_data").open("wb")

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
        place = {"location": "backbone.onnx_data", "offset": self.data.tell(), "length": len(raw)}
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

    def save(self, blocks: int) -> None:
        """Write the graph."""
        x = "x"
        for _ in range(blocks):
            for _ in range(4):
                x = self.norm(self.linear(x, WIDTH, WIDTH))
            up = self.node("Gelu", [self.linear(x, WIDE, WIDTH)], approximate="tanh")
            x = self.norm(self.linear(up, WIDTH, WIDE))
        self.nodes.append(helper.make_node("Identity", [x], ["y"]))
        self.data.close()
        ends = [helper.make_tensor_value_info(name, BF16, ["tokens", WIDTH]) for name in "xy"]
        graph = helper.make_graph(self.nodes, "layers", ends[:1], ends[1:], self.weights)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        (self.folder / "model.onnx").write_bytes(model.SerializeToString())

    def norm(self, x: str) -> str:
        """Add a normalization, so that values neither grow nor vanish."""
        ones = self.weight(BF16, [WIDTH], np.full(WIDTH, 0x3F80, np.uint16).tobytes())
        return self.node("LayerNormalization", [x, ones])


def child(path: str, arithmetic: str, tokens: int, runs: int) -> None:
    """Open a graph, run it, and print what that took."""
    import resource

    from openkontext.runtime import load_graph

    x = np.random.default_rng(1).standard_normal((tokens, WIDTH), np.float32)
    start = time.perf_counter()
    graph = load_graph(path, arithmetic=arithmetic)
    opened = time.perf_counter() - start
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        y = graph.run(x=x)["y"]
        taken.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    figures = {"open": opened, "run": min(taken), "peak": peak, "norm": float(np.linalg.norm(y))}
    print(json.dumps(figures))


def measure(options: argparse.Namespace) -> Iterator[dict[str, float | str]]:
    """What each case takes, one after the other."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for precision, arithmetic in CASES:
            place = Path(folder, precision)
            if not place.exists():
                Writer(place, precision).save(options.blocks)
            size = (place / "backbone.onnx_data").stat().st_size / 2**20
            arguments = [str(place / "model.onnx"), arithmetic, str(options.tokens), str(options.runs)]
            done = subprocess.run(
                [sys.executable, __file__, "--child", *arguments], check=True, capture_output=True, text=True
            )
            yield {"graph": precision, "arithmetic": arithmetic, "file": size, **json.loads(done.stdout)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where to write the graphs for the time of the run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{options.blocks} blocks, {options.tokens} tokens, {os.cpu_count()} CPUs")
        heads = (("file MiB", 9), ("peak MiB", 9), ("open s", 7), ("run s", 7), ("x bf16", 7))
        print(f"{'graph':6} {'arithmetic':10}", *(f"{head:>{width}}" for head, width in heads), flush=True)
    results = []
    for result in measure(options):
        results.append(result)
        result["ratio"] = float(result["run"]) / float(results[0]["run"])
        if not options.json:
            print(
                f"{result['graph']:6} {result['arithmetic']:10} {result['file']:9.0f} {result['peak']:9.0f} "
                f"{result['open']:7.1f} {result['run']:7.2f} {result['ratio']:7.2f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
