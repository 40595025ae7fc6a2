"""The same edit on the CPU provider and on another: how alike the pictures are, and what opening costs.

    python benchmarks/providers.py openvino [--precisions bf16,fp8,fp4] [--model nano] [--steps 8]
    python benchmarks/providers.py cuda --offload

Prints for each precision the likeness of the two pictures (peak signal-to-noise ratio in decibels: above 50
no eye tells them apart), and the seconds that the other provider took for the first edit, for the first edit
of another process, which finds what was compiled before, and for the next.
"""

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import openkontext
from openkontext.onnx_runtime import installed_runtimes

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"


def edits(steps: int | None, **arguments: Any) -> tuple[np.ndarray, float, float]:
    """The picture of an edit, and the seconds of the first and of the next one of an editor."""
    seconds = []
    editor = openkontext.load(**arguments)
    for _ in range(2):
        begun = time.perf_counter()
        result = editor.edit(
            PICTURE, "make it night", seed=1, num_inference_steps=steps, keep_unchanged=False
        )
        seconds.append(time.perf_counter() - begun)
    return np.asarray(result.image, np.float64), seconds[0], seconds[1]


def alone(*arguments: Any, **named: Any) -> tuple[np.ndarray, float, float]:
    """`edits` in a process of its own, as each command is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(edits, *arguments, **named).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("provider")
    parser.add_argument("--precisions")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--offload", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPENKONTEXT_HOME"] = folder  # nothing was compiled before
        precisions = openkontext.load(options.model).repository.precisions
        runtime = ", ".join(f"{name} {version}" for name, version in installed_runtimes().items())
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, {runtime}; {options.model} on {options.provider}"
        )
        print("precision  dB against cpu  first s  first again s  next s")
        for precision in options.precisions.split(",") if options.precisions else precisions:
            chosen = {"model": options.model, "precision": precision}
            expected, _, _ = alone(options.steps, **chosen)
            asked = {**chosen, "provider": options.provider, "offload": options.offload}
            found, first, _ = alone(options.steps, **asked)
            _, again, following = alone(options.steps, **asked)
            error = np.mean((found - expected) ** 2)
            likeness = 10 * np.log10(255**2 / error) if error else np.inf
            print(f"{precision:9}  {likeness:14.1f}  {first:7.1f}  {again:13.1f}  {following:6.1f}")


if __name__ == "__main__":
    main()
