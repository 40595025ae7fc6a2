"""What signing adds to writing a picture; a chain of six edits; what the invisible mark survives.

    python benchmarks/provenance.py [--runs 20]

Cold is the first signing of a process, with the key made in it; warm is the median of runs in one process.
The pictures of the last table are the example and, where scikit-image is installed, four of its photographs.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ["OPENKONTEXT_DATA"] = tempfile.mkdtemp(prefix="openkontext-provenance-")  # not the user's key

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image, ImageEnhance, ImageFilter  # noqa: E402

from openkontext import images, load, provenance  # noqa: E402
from openkontext.provenance import watermark  # noqa: E402

Pixels = NDArray[np.uint8]
DIGEST = "deadbeef" * 8

COLD = """
import os, sys, tempfile, time
os.environ["OPENKONTEXT_DATA"] = tempfile.mkdtemp()
import numpy as np
from openkontext import images
pixels = np.asarray(images.load(sys.argv[1]).pixels)
started = time.perf_counter()
data = images.encode(pixels, "PNG")
written = time.perf_counter()
from openkontext import provenance
provenance.sign(data, "PNG", provenance.Record(model="nano", digest="0" * 64))
print(written - started, time.perf_counter() - written)
"""


def median(work: Callable[[], object], runs: int) -> float:
    """Median milliseconds of some work."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def signing(runs: int) -> None:
    """Encoding alone beside encoding with signing."""
    print(f"{'picture':<16}{'encode ms':>10}{'sign ms':>10}{'ratio':>8}{'verify ms':>11}")
    scene = Image.open(ROOT / "examples" / "scene.png").convert("RGB")
    cold = [
        [float(word) for word in subprocess.check_output([sys.executable, "-c", COLD, scene_path]).split()]
        for scene_path in [str(ROOT / "examples" / "scene.png")] * 3
    ]
    encode, sign = (1000 * statistics.median(column) for column in zip(*cold, strict=True))
    print(f"{'PNG, cold':<16}{encode:>10.1f}{sign:>10.1f}{(encode + sign) / encode:>8.2f}{'':>11}")
    for side in (128, 1024):
        pixels = np.asarray(scene.resize((side, side), Image.Resampling.BICUBIC))
        parent = provenance.Ingredient.of(images.load(images.encode(pixels, "JPEG")))
        record = provenance.Record(model="nano", digest=DIGEST, ingredients=(parent,))
        for kind in ("PNG", "JPEG", "WEBP"):
            plain = images.encode(pixels, kind)
            signed = provenance.sign(plain, kind, record)
            encode = median(partial(images.encode, pixels, kind), runs)
            sign = median(partial(provenance.sign, plain, kind, record), runs)
            verify = median(partial(provenance.verify, signed), runs)
            row = f"{kind} {side}x{side}"
            print(f"{row:<16}{encode:>10.1f}{sign:>10.1f}{(encode + sign) / encode:>8.2f}{verify:>11.1f}")


def chain() -> None:
    """Six successive edits with nano, read back after each."""
    print("\nedits  bytes    sign ms  valid  steps in the chain  models")
    editor = load()
    data = (ROOT / "examples" / "scene.png").read_bytes()
    for number, prompt in enumerate(["make it night", "make it winter", "make it day"] * 2, 1):
        result = editor.edit(data, prompt, num_inference_steps=4, seed=number)
        started = time.perf_counter()
        data = result.encode()
        milliseconds = 1000 * (time.perf_counter() - started)
        report = provenance.verify(data)
        models = ", ".join({str(step.model) for step in report.chain})
        row = f"{number:>5}{len(data):>9}{milliseconds:>9.1f}  {report.valid!s:<5}"
        print(f"{row}  {len(report.chain):>18}  {models}")


def _through(kind: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def _scaled(across: float, down: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * across), round(image.height * down)))


def _noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 5, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "JPEG quality 90": _through("JPEG", 90),
    "JPEG quality 70": _through("JPEG", 70),
    "JPEG quality 50": _through("JPEG", 50),
    "JPEG quality 30": _through("JPEG", 30),
    "WebP quality 75": _through("WEBP", 75),
    "half the size": _scaled(0.5, 0.5),
    "a third of the size": _scaled(1 / 3, 1 / 3),
    "double the size": _scaled(2, 2),
    "another aspect": _scaled(0.7, 1.2),
    "brightness +10%": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "contrast -10%": lambda image: ImageEnhance.Contrast(image).enhance(0.9),
    "blur of 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "noise of 5": _noisy,
    "gray": lambda image: image.convert("L").convert("RGB"),
    "2% cut off": lambda image: image.crop((image.width // 50, image.height // 50, *image.size)),
    "turned by 1 degree": lambda image: image.rotate(1),
}


def pictures() -> dict[str, Pixels]:
    """The pictures to mark."""
    scene = Image.open(ROOT / "examples" / "scene.png").convert("RGB")
    found = {
        f"scene {side}": np.asarray(scene.resize((side, side * 3 // 4), Image.Resampling.BICUBIC))
        for side in (128, 256, 512, 1024)
    }
    try:
        from skimage import data
    except ImportError:
        return found
    names = ("astronaut", "coffee", "chelsea", "rocket")
    return found | {name: np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB")) for name in names}


def marks() -> None:
    """How much the mark changes a picture, and after which changes it is still read."""
    marked = {}
    print("\npicture       PSNR dB  largest change  embed ms")
    for name, pixels in pictures().items():
        started = time.perf_counter()
        marked[name] = watermark.embed(pixels, DIGEST)
        milliseconds = 1000 * (time.perf_counter() - started)
        change = marked[name].astype(float) - pixels
        psnr = 10 * np.log10(255**2 / (change**2).mean())
        print(f"{name:<14}{psnr:>7.1f}{np.abs(change).max():>16.0f}{milliseconds:>10.0f}")
        assert watermark.detect(pixels) is None
    print("\nchange                read in")
    for what, change_of in CHANGES.items():
        lost = [
            name
            for name, pixels in marked.items()
            if watermark.detect(np.asarray(change_of(Image.fromarray(pixels)))) != DIGEST[:8]
        ]
        missing = f"not: {', '.join(lost)}" if lost else ""
        print(f"{what:<22}{len(marked) - len(lost)} of {len(marked)}  {missing}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    signing(parser.parse_args().runs)
    chain()
    marks()
