"""One edit with a model of any size, from the start of the process to the signed picture.

    python benchmarks/whole_edit.py MODEL [--size 512x512] [--steps 28] [--cache 0.1] [--low-memory] [--json]

MODEL is a repository, such as the one that `benchmarks/export_12b.py FOLDER --t5 24 --keep` leaves in
FOLDER/repository: FLUX.1 Kontext's size, random weights. The edit is what `openkontext edit` does, filters
and signature included, in a process of its own. Prints where the time went and the peak of memory. Files that
are mapped count into the peak as far as they are in memory. The first edit with `int8` makes the weights of
8 bits and keeps them: `--again` edits twice, and tells both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"


def edit(options: argparse.Namespace, out: str) -> None:
    """Edits, and prints what took how long as JSON."""
    import openkontext
    import openkontext.editor
    from openkontext.request import EditRequest
    from openkontext.result import EditStep
    from openkontext.step_cache import StepCache

    steps: list[float] = []
    calls: list[float] = []
    show = not options.json

    class Timed(StepCache):
        """The step cache, with the seconds of each call of the transformer."""

        def __call__(self, latents: Any, sigma: float, compute: Callable[[], Any], *, last: bool) -> Any:
            def timed() -> Any:
                start = time.perf_counter()
                velocity = compute()
                calls.append(time.perf_counter() - start)
                return velocity

            return super().__call__(latents, sigma, timed, last=last)

    openkontext.editor.StepCache = Timed  # type: ignore[attr-defined]

    def on_step(step: EditStep) -> None:
        steps.append(time.time())
        if show:
            print(
                f"step {step.index} of {step.count}: {time.time() - options.started:.0f} s", file=sys.stderr
            )

    editor = openkontext.load(
        options.model,
        precision=options.precision,
        arithmetic=options.arithmetic,
        low_memory=options.low_memory,
    )
    loaded = time.time()
    width, height = map(int, options.size.split("x"))
    request = EditRequest(
        image=str(PICTURE),
        prompt="make it night",
        width=width,
        height=height,
        num_inference_steps=options.steps,
        cache=options.cache,
        seed=1,
    )
    result = editor.run(request, on_step)
    result.save(out)
    ended = time.time()
    print(
        json.dumps(
            {
                "load_s": round(loaded - options.started, 1),
                "open_and_encode_s": round(steps[0] - loaded - calls[0], 1),
                "calls_s": round(sum(calls), 1),
                "calls": len(calls),
                "steps": len(steps),
                "call_s": round(statistics.median(calls), 2),
                "decode_sign_s": round(ended - steps[-1], 1),
            }
        )
    )


def measured(words: list[str]) -> dict[str, float]:
    """What an edit in a process of its own says, with its minutes and its peak."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder, "picture.png"))
        start = time.time()
        process = subprocess.Popen(
            [sys.executable, __file__, *words, "--part", out, str(start)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit("the edit failed")
    whole = {
        "minutes": round((time.time() - start) / 60, 2),
        "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }
    return {**whole, **json.loads(printed)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--precision", default="fp4")
    parser.add_argument("--arithmetic", default="int8")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--cache", type=float, default=0.1)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--again", action="store_true", help="a second edit, in another process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        out, started = options.part
        options.started = float(started)
        edit(options, out)
        return
    runs = [measured(sys.argv[1:]) for _ in range(1 + options.again)]
    if options.json:
        print(json.dumps(runs))
        return
    print("| edit | " + " | ".join(runs[0]) + " |")
    print("|---" * (1 + len(runs[0])) + "|")
    for name, run in zip(("first", "second"), runs, strict=False):
        print(f"| {name} | " + " | ".join(map(str, run.values())) + " |")


if __name__ == "__main__":
    main()
