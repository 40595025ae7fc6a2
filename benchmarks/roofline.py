"""How near the parts of a step come to what this machine can do: its roofline.

    python benchmarks/roofline.py out/roofline.png            # under two minutes on two quiet cores
    python benchmarks/roofline.py out/roofline.png --write    # and keep table, JSON and plot in results/
    python benchmarks/roofline.py out/small.png --width 512 --tokens 64,128 --side 512    # only to try it

First it measures the machine's peaks, in the same process and with the same threads: of products of 8-bit
integers and of float32 (ONNX Runtime, a large square), and of memory (numpy, all threads reading or copying).
Then it runs what a step of FLUX.1 is made of, opened as an edit opens it. These are the linear layers of a
block in `int8` and in float32, the modulation of one token, and attention.

No part can be quicker than its arithmetic at the peak, or than the bytes that it must read and write at the
bandwidth. Its intensity is operations per such byte. Its share is the time of that bound over its own. A
multiplication and an addition count as two operations. Every time is the best of several runs. The last lines
add up the parts of a step of 19 double and 38 single blocks.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper
from peers import RESULTS, file_name, machine

from openkontext.runtime import load_graph
from openkontext.runtime.layer_graphs import WIDTH, LayerWriter

HEAD = 128  # width of an attention head
BLOCKS = (19, 38)
RUNS = 5


@dataclass(frozen=True)
class Peaks:
    """What the machine does at best."""

    int8: float
    """Operations a second, in 10^9."""
    float32: float
    """The same."""
    memory: float
    """Bytes a second, in 10^9."""


@dataclass(frozen=True)
class Part:
    """A part of a step, measured."""

    name: str
    tokens: int
    arithmetic: str
    """"int8" or "float32"."""
    operations: float
    bytes: float
    """That must be read and written: weights once, what comes in and what goes out."""
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.bytes

    @property
    def rate(self) -> float:
        """Operations a second, in 10^9."""
        return self.operations / self.seconds / 1e9

    def bound(self, peaks: Peaks) -> float:
        """Seconds that it takes at least."""
        peak = peaks.int8 if self.arithmetic == "int8" else peaks.float32
        return max(self.operations / peak, self.bytes / peaks.memory) / 1e9


def best(run: Callable[[], Any], runs: int = RUNS) -> float:
    """Seconds of the quickest run; a first one is not measured."""
    run()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def product_peak(side: int, threads: int, integers: bool) -> float:
    """10^9 operations a second of a square product in ONNX Runtime."""
    types = ("uint8", "int8", "int32") if integers else ("float",) * 3
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g ({types[0]}[N, {side}] x) => ({types[2]}[N, {side}] y) '
        f"{{ y = {'MatMulInteger' if integers else 'MatMul'} (x, w) }}"
    )
    rng = np.random.default_rng(0)
    weight = rng.integers(-63, 64, (side, side)).astype(np.int8 if integers else np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = rng.integers(0, 255, (side, side)).astype(np.uint8 if integers else np.float32)
    return 2 * side**3 / best(lambda: session.run(None, {"x": x})) / 1e9


def memory_peak(threads: int, size: int) -> float:
    """10^9 bytes a second that all threads together read, or read and write in a copy."""
    source, target = np.ones(size // 8), np.empty(size // 8)
    parts = np.array_split(np.arange(len(source)), threads)
    slices = [slice(int(each[0]), int(each[-1]) + 1) for each in parts]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(target[part], source[part]), slices))

        def read() -> None:
            list(pool.map(lambda part: source[part].max(), slices))

        return max(2 * source.nbytes / best(copy), source.nbytes / best(read)) / 1e9


class Measuring:
    """Runs parts of a step.

    Args:
        folder: for their graphs.
        threads: of the CPU.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.rng = np.random.default_rng(0)

    def layer(self, name: str, into: int, out: int, arithmetic: str, tokens: list[int]) -> list[Part]:
        """A linear layer behind a normalization, from a file in bfloat16."""
        place = self.folder / f"{name} {arithmetic}"
        writer = LayerWriter(place, "bf16")
        path = writer.save(writer.linear(writer.norm("x", into), out, into), into, out)
        how = "int8" if arithmetic == "int8" else "faithful"
        graph = load_graph(path, arithmetic=how, threads=self.threads)
        weight = into * out * (1 if arithmetic == "int8" else 4)
        parts = []
        for count in tokens:
            x = self.rng.standard_normal((count, into), np.float32)
            seconds = best(lambda x=x: graph.run(x=x))  # type: ignore[misc]
            moved = weight + 4 * count * (into + out)
            parts.append(Part(name, count, arithmetic, 2.0 * count * into * out, moved, seconds))
        return parts

    def attention(self, width: int, tokens: list[int]) -> list[Part]:
        """Attention as the exports write it, of heads of 128."""
        heads = width // HEAD
        shape = f"float[1, {heads}, T, {HEAD}]"
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 21]> g ({shape} q, {shape} k, {shape} v) => ({shape} y) {{'
            "keys = Transpose <perm = [0, 1, 3, 2]> (k) scores = MatMul (q, keys)"
            "shares = Softmax <axis = -1> (scores) y = MatMul (shares, v) }"
        )
        path = self.folder / "attention.onnx"
        path.write_bytes(model.SerializeToString())
        graph = load_graph(path, arithmetic="int8", threads=self.threads)
        parts = []
        for count in tokens:
            given = {name: self.rng.standard_normal((1, heads, count, HEAD), np.float32) for name in "qkv"}
            seconds = best(lambda given=given: graph.run(**given))  # type: ignore[misc]
            operations, moved = 4.0 * count * count * width, 16.0 * count * width
            parts.append(Part("attention", count, "float32", operations, moved, seconds))
        return parts


def measure(folder: Path, threads: int, width: int, tokens: list[int]) -> list[Part]:
    """All parts of a step."""
    measuring = Measuring(folder, threads)
    parts: list[Part] = []
    for arithmetic in ("int8", "float32"):
        parts += measuring.layer("square", width, width, arithmetic, tokens)
        parts += measuring.layer("up", width, 4 * width, arithmetic, tokens)
        parts += measuring.layer("down", 4 * width, width, arithmetic, tokens)
    parts += measuring.layer("modulation, double", width, 6 * width, "int8", [1])
    parts += measuring.layer("modulation, single", width, 3 * width, "int8", [1])
    return parts + measuring.attention(width, tokens)


def steps(parts: list[Part], peaks: Peaks) -> list[dict[str, Any]]:
    """Parts of a whole step added up, and their bounds.

    The linear layers of a double block have as much work as those of a single one: four square ones, one up
    and one down. A double block modulates both of its streams.
    """
    double, single = BLOCKS
    found = []
    for tokens in sorted({part.tokens for part in parts if part.tokens > 1}):
        counts = {"square": 4 * sum(BLOCKS), "up": sum(BLOCKS), "down": sum(BLOCKS), "attention": sum(BLOCKS)}
        counts |= {"modulation, double": 2 * double, "modulation, single": single}
        used = [
            (counts[part.name], part)
            for part in parts
            if part.tokens in (1, tokens) and (part.arithmetic == "int8" or part.name == "attention")
        ]
        seconds = {part.name: count * part.seconds for count, part in used}
        bound = sum(count * part.bound(peaks) for count, part in used)
        whole = sum(seconds.values())
        found.append(
            {"tokens": tokens, "seconds": whole, "bound": bound, "share": bound / whole, "parts": seconds}
        )
    return found


def table(parts: list[Part], peaks: Peaks, whole: list[dict[str, Any]]) -> str:
    """What was measured in Markdown."""
    lines = [
        f"Peaks: {peaks.int8:.0f} GFLOP/s in int8, {peaks.float32:.0f} in float32, {peaks.memory:.1f} GB/s.",
        "",
        "| part | tokens | arithmetic | operations a byte | ms | GFLOP/s | share of the bound |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {part.name} | {part.tokens} | {part.arithmetic} | {part.intensity:.1f} | "
        f"{1e3 * part.seconds:.2f} | {part.rate:.0f} | {part.bound(peaks) / part.seconds:.0%} |"
        for part in parts
    ]
    lines.append("")
    for each in whole:
        named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in each["parts"].items())
        lines.append(
            f"A step of {sum(BLOCKS)} blocks at {each['tokens']} tokens: {each['seconds']:.2f} s ({named}). "
            f"Its bound is {each['bound']:.2f} s, {each['share']:.0%} of that."
        )
    return "\n".join(lines)


def plot(parts: list[Part], peaks: Peaks, path: Path) -> None:
    """Rate against intensity under both roofs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    low = min(part.intensity for part in parts) / 2
    high = max(part.intensity for part in parts) * 4
    across = np.geomspace(low, high, 200)
    roofs = (("int8", peaks.int8, "tab:red"), ("float32", peaks.float32, "tab:blue"))
    for name, peak, color in roofs:
        axes.plot(
            across, np.minimum(peak, across * peaks.memory), color=color, label=f"{name}, {peak:.0f} GFLOP/s"
        )
    for part in parts:
        color = "tab:red" if part.arithmetic == "int8" else "tab:blue"
        axes.plot(part.intensity, part.rate, "o", color=color)
        label = part.name if part.tokens == 1 else f"{part.name} {part.tokens}"
        axes.annotate(label, (part.intensity, part.rate), fontsize=7)
    axes.set(xlabel=f"operations a byte (memory: {peaks.memory:.1f} GB/s)", ylabel="GFLOP/s")
    axes.set(xscale="log", yscale="log")
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", default="1024,2560", help="of 512x512 without and with all it attends to")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--side", type=int, default=4096, help="of the square that the peaks are measured on")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results/")
    options = parser.parse_args()
    tokens = [int(each) for each in options.tokens.split(",")]
    integers, floats = (product_peak(options.side, options.threads, each) for each in (True, False))
    peaks = Peaks(integers, floats, memory_peak(options.threads, 64 * options.side**2 // 4))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPENKONTEXT_HOME"] = folder
        parts = measure(Path(folder), options.threads, options.width, tokens)
    whole = steps(parts, peaks)
    here = machine()
    found = {
        **here,
        "threads": options.threads,
        "width": options.width,
        "peaks": asdict(peaks),
        "parts": [
            {
                **asdict(part),
                "intensity": part.intensity,
                "gflops": part.rate,
                "share": part.bound(peaks) / part.seconds,
            }
            for part in parts
        ],
        "steps": whole,
    }
    head = (
        f"{here['processor']}, {options.threads} of {here['cpus']} CPUs, {' '.join(here['flags'])}; "
        f"width {options.width}, best of {RUNS} runs"
    )
    text = f"{head}\n\n{table(parts, peaks, whole)}\n"
    print(json.dumps(found, indent=1) if options.json else text)
    plot(parts, peaks, options.out)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        name = f"roofline-{file_name(here)}"
        (RESULTS / f"{name}.md").write_text(f"`python benchmarks/roofline.py`: {text}", encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        plot(parts, peaks, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
