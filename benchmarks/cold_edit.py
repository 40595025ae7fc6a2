"""One edit with nano from a cold start, whole processes, beside diffusers' FluxKontextPipeline.

    python benchmarks/cold_edit.py [--runs 5] [--steps 28]

Both run the same weights for the same number of steps on the CPU, in turn. Prints seconds and peak memory of
each and their ratio. Needs the packages of the tests (torch, diffusers).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "scene.png"
PROMPT = "make it night"


def prepare(folder: str) -> None:
    """Write nano as diffusers reads it; print the theta of its positions, which diffusers does not read."""
    from openkontext.export.loading import import_repository
    from openkontext.model.pipeline import save_pipeline
    from openkontext.repository import Repository

    pipeline = import_repository(Repository.open("nano").path)
    for network in (pipeline.transformer, pipeline.autoencoder, pipeline.clip, pipeline.t5):
        network.float()
    save_pipeline(pipeline, folder)
    print(pipeline.transformer.config.theta)


def peer(folder: str, steps: int, theta: int, out: str) -> None:
    """The edit as diffusers makes it."""
    import torch
    from diffusers import FluxKontextPipeline
    from PIL import Image

    pipeline = FluxKontextPipeline.from_pretrained(folder)
    pipeline.transformer.pos_embed.theta = theta
    pipeline.set_progress_bar_config(disable=True)
    image = Image.open(PICTURE).convert("RGB")
    result = pipeline(
        image=image,
        prompt=PROMPT,
        num_inference_steps=steps,
        height=image.height,
        width=image.width,
        max_area=image.height * image.width,
        max_sequence_length=32,
        _auto_resize=False,
        generator=torch.Generator().manual_seed(1),
    )
    result.images[0].save(out)


def part(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the functions above alone: a child's peak counts what its parent held."""
    return [sys.executable, __file__, "--part", name, *map(str, arguments)]


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command run to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command[:4])} ... failed:\n{errors.decode()}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    match sys.argv[1:]:
        case ["--part", "prepare", folder]:
            prepare(folder)
            return
        case ["--part", "peer", folder, steps, theta, out]:
            peer(folder, int(steps), int(theta), out)
            return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, out = Path(folder, "nano"), str(Path(folder, "out.png"))
        theta = subprocess.check_output(part("prepare", checkpoint), text=True).strip()
        steps = str(options.steps)
        ours = [sys.executable, "-m", "openkontext", "edit", str(PICTURE), PROMPT, "-o", out]
        ours += ["--steps", steps, "--seed", "1", "--overwrite"]
        theirs = part("peer", checkpoint, steps, theta, out)
        measure(ours), measure(theirs)  # files come into the disk's cache
        runs = [(measure(ours), measure(theirs)) for _ in range(options.runs)]

    names = ("openkontext", "diffusers")
    table = {
        name: {
            "seconds": round(statistics.median(run[i][0] for run in runs), 2),
            "peak_mib": round(statistics.median(run[i][1] for run in runs)),
        }
        for i, name in enumerate(names)
    }
    ratios = {
        "seconds": round(statistics.median(a[0] / b[0] for a, b in runs), 3),
        "peak_mib": round(statistics.median(a[1] / b[1] for a, b in runs), 3),
    }
    if options.json:
        print(json.dumps({**table, "ratio": ratios, "runs": options.runs, "steps": options.steps}))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; medians of {options.runs} runs, {options.steps} steps"
    )
    for name in names:
        print(f"{name:12} {table[name]['seconds']:6.2f} s {table[name]['peak_mib']:6} MiB")
    print(f"{'ratio':12} {ratios['seconds']:6.3f}   {ratios['peak_mib']:6.3f}")


if __name__ == "__main__":
    main()
