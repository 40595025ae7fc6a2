"""Equal-sized edits one after another, beside the same edits with their graph calls run as one.

    python benchmarks/batching.py [--edits 8] [--batch 2,4] [--model nano] [--provider cpu]

Prints seconds of both, their ratio (below 1: batching pays), and how far the pictures differ.
"""

import argparse
import os
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import openkontext
from openkontext.editor import Editor
from openkontext.request import EditRequest
from openkontext.runtime.batching import BatchingComponents

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"


def requests(count: int, steps: int | None) -> list[EditRequest]:
    """Edits of one picture with seeds of their own."""
    return [
        EditRequest(prompt="make it night", image=PICTURE, seed=seed, num_inference_steps=steps)
        for seed in range(count)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=8)
    parser.add_argument("--batch", default="2,4")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--provider", default="cpu")
    options = parser.parse_args()
    editor = openkontext.load(options.model, provider=options.provider)
    plain = editor.components
    asked = requests(options.edits, options.steps)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.provider}; {options.edits} edits of "
        f"{options.model}, best of {options.rounds} rounds in turn"
    )

    for batch in map(int, options.batch.split(",")):
        shared = BatchingComponents(editor.repository, plain.precision, options.provider, batch=batch)

        def together(
            editor: Editor = editor, shared: BatchingComponents = shared, batch: int = batch
        ) -> list[np.ndarray]:
            editor.components = shared
            start = threading.Barrier(batch)

            def run(index: int) -> np.ndarray:
                if index < batch:
                    start.wait()
                with shared.member():
                    return np.asarray(editor.run(asked[index]).image)

            with ThreadPoolExecutor(batch) as pool:
                return list(pool.map(run, range(len(asked))))

        def alone(editor: Editor = editor) -> list[np.ndarray]:
            editor.components = plain
            return [np.asarray(editor.run(request).image) for request in asked]

        seconds: dict[str, list[float]] = {"alone": [], "together": []}
        for _ in range(options.rounds):
            begun = time.perf_counter()
            singles = alone()
            seconds["alone"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            batched = together()
            seconds["together"].append(time.perf_counter() - begun)
        apart = max(
            int(np.abs(one.astype(int) - other.astype(int)).max())
            for one, other in zip(singles, batched, strict=True)
        )
        one, other = min(seconds["alone"]), min(seconds["together"])
        print(
            f"batch {batch}: alone {one:.2f} s, together {other:.2f} s, ratio {other / one:.3f}; "
            f"pixels differ by at most {apart} of 255"
        )


if __name__ == "__main__":
    main()
