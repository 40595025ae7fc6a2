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

import numpy as np

from openkontext.runtime.layer_graphs import WIDTH, LayerWriter

CASES = (("bf16", "faithful"), ("fp8", "faithful"), ("fp8", "fast"), ("fp4", "faithful"), ("fp4", "fast"))


def write(folder: Path, precision: str, blocks: int) -> None:
    """Write a graph of blocks."""
    writer = LayerWriter(folder, precision)
    x = "x"
    for _ in range(blocks):
        for _ in range(4):
            x = writer.norm(writer.linear(x, WIDTH, WIDTH), WIDTH)
        up = writer.node("Gelu", [writer.linear(x, 4 * WIDTH, WIDTH)], approximate="tanh")
        x = writer.norm(writer.linear(up, WIDTH, 4 * WIDTH), WIDTH)
    writer.save(x, WIDTH)


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
                write(place, precision, options.blocks)
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
