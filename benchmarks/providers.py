"""The same edit on the CPU provider and on another: how alike the pictures are, and what opening costs.

    python benchmarks/providers.py openvino [--precisions bf16,fp8,fp4] [--model nano] [--steps 8]
    python benchmarks/providers.py ggml --offload

Prints for each precision the likeness of the two pictures (peak signal-to-noise ratio in decibels: above 50
no eye tells them apart), and the seconds that the other provider took for the first edit, for the first edit
of another editor, which finds what was compiled before, and for the next.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

import openkontext
from openkontext.editor import Editor
from openkontext.onnx_runtime import installed_runtimes

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("provider")
    parser.add_argument("--precisions")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--offload", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPENKONTEXT_HOME"] = folder  # nothing was compiled before

        def edit(editor: Editor) -> tuple[np.ndarray, float]:
            begun = time.perf_counter()
            result = editor.edit(
                PICTURE,
                "make it night",
                seed=1,
                num_inference_steps=options.steps,
                keep_unchanged=False,
            )
            return np.asarray(result.image, np.float64), time.perf_counter() - begun

        precisions = openkontext.load(options.model).repository.precisions
        runtime = ", ".join(f"{name} {version}" for name, version in installed_runtimes().items())
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, {runtime}; {options.model} on {options.provider}"
        )
        print("precision  dB against cpu  first s  first again s  next s")
        for precision in options.precisions.split(",") if options.precisions else precisions:
            expected, _ = edit(openkontext.load(options.model, precision=precision))
            seconds = []
            for _ in range(2):
                editor = openkontext.load(
                    options.model, precision=precision, provider=options.provider, offload=options.offload
                )
                found, first = edit(editor)
                _, following = edit(editor)
                seconds.append(first)
            error = np.mean((found - expected) ** 2)
            likeness = 10 * np.log10(255**2 / error) if error else np.inf
            print(f"{precision:9}  {likeness:14.1f}  {seconds[0]:7.1f}  {seconds[1]:13.1f}  {following:6.1f}")


if __name__ == "__main__":
    main()
