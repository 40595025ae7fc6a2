"""What foreseen steps cost: the same edits with every step computed, beside those of several thresholds.

    python benchmarks/step_cache.py [--model REPO] [--count N] [--steps N] [--thresholds T,...]

Calls are shares of those of the whole run. PSNR is against the whole run's pictures, where they differ.
"held" is EasyCache without its shift: the last velocity once more. "line" is what `openkontext` does.
"""

import argparse

import numpy as np

import openkontext
from openkontext import editor as editing
from openkontext.errors import RefusedError
from openkontext.evaluation.cases import draw_cases
from openkontext.evaluation.similarity import psnr
from openkontext.step_cache import StepCache


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What foreseen steps cost.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=170)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thresholds", default="0.05,0.1,0.2,0.4")
    parser.add_argument("--ways", default="held,line")
    asked = parser.parse_args()
    editor = openkontext.load(asked.model)
    cases = draw_cases(asked.seed, asked.count, editor.repository.config.kinds or ())
    caches: list[StepCache] = []

    def pictures(threshold: float, extend: bool) -> list[np.ndarray | None]:
        """Of every case; None where a filter refuses."""
        caches.clear()

        def made(_: float) -> StepCache:
            caches.append(StepCache(threshold, extend=extend))
            return caches[-1]

        editing.StepCache = made  # type: ignore[assignment,attr-defined]
        outputs: list[np.ndarray | None] = []
        for case in cases:
            try:
                result = editor.edit(
                    case.before, case.instruction, seed=case.index, num_inference_steps=asked.steps
                )
                outputs.append(np.asarray(result.image))
            except RefusedError:
                outputs.append(None)
        return outputs

    def row(name: str, outputs: list[np.ndarray | None]) -> None:
        right = [case.judge(o).success for case, o in zip(cases, outputs, strict=True) if o is not None]
        pairs = [(a, b) for a, b in zip(whole, outputs, strict=True) if a is not None and b is not None]
        near = [psnr(a, b) for a, b in pairs if not np.array_equal(a, b)]
        likeness = f"{np.median(near):.1f} | {np.percentile(near, 5):.1f}" if near else "the same bytes | "
        calls = sum(cache.computed for cache in caches) / (len(caches) * asked.steps)
        print(
            f"| {name} | {calls:.0%} | {likeness} | {sum(right) / len(cases):.1%} |",
            flush=True,
        )

    print("| way, threshold | calls | PSNR, median | PSNR, worst 5% | success |")
    print("|---|---|---|---|---|")
    whole = pictures(0.0, True)
    row("every step", whole)
    for way in asked.ways.split(","):
        for threshold in map(float, asked.thresholds.split(",")):
            row(f"{way}, {threshold:g}", pictures(threshold, way == "line"))


if __name__ == "__main__":
    main()
