"""What the filters find, what they refuse wrongly, and what they cost an edit.

    python benchmarks/filters.py [--edits 20] [--hashes 1000000] [--json]

Prints, for each check, its suite, the share found, the share refused wrongly and milliseconds of processor
time, on all cores together; and the overhead of all local checks on one warm edit with nano. The suites are
benign or drawn here: words written in pictures, pictures on a list and copies of them, photographs that
nothing speaks against. prompt_filter.py says more of the instruction's suites.
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import prompt_filter  # puts tests/support on the path
import prompt_suites
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import openkontext
from openkontext.safety import nudenet, ocr
from openkontext.safety.guard import Guard, ScreeningRequest, Shown
from openkontext.safety.known.index import HashIndex
from openkontext.safety.known.lists import HashList
from openkontext.safety.known.pdq import BITS, BYTES, pdq
from openkontext.safety.policy import load_policy
from openkontext.safety.standard import standard_guard
from openkontext.safety.verdict import Stage

SCENE = Path(__file__).parents[1] / "examples" / "scene.png"
PHOTOS = (
    *(
        "astronaut",
        "camera",
        "chelsea",
        "clock",
        "coffee",
        "coins",
        "rocket",
        "page",
        "text",
        "moon",
        "brick",
    ),
    *("grass", "gravel", "hubble_deep_field", "immunohistochemistry", "retina", "logo", "horse"),
)
INSTRUCTIONS = ("make it night", "remove the background", "turn it into a watercolour", "make the sky orange")
PHRASES = ("NO ENTRY", "open until nine", "fresh bread 2.50", "this way out", "mind the step", "platform 4")

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the file itself": lambda image: image,
    "JPEG of quality 30": lambda image: _jpeg(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2)),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "in a black border": lambda image: _bordered(image, 40),
    "brighter by a fifth": lambda image: image.point(lambda value: min(255, round(value * 1.2))),
    "cropped by a tenth": lambda image: image.crop(
        (image.width // 20, image.height // 20, image.width * 19 // 20, image.height * 19 // 20)
    ),
    "turned by 10 degrees": lambda image: image.rotate(10),
}
"""What may have been done to a picture that is on a list; the last two are known to get by."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=20, help="edits to measure the overhead over")
    parser.add_argument("--hashes", type=int, default=1_000_000, help="hashes on the list")
    parser.add_argument("--overhead", action="store_true", help="measure the overhead alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    photos = {name: _photo(name) for name in PHOTOS}
    rows: list[dict[str, Any]] = []
    if not options.overhead:
        rows = [
            *_instructions(),
            *_known(photos, options.hashes),
            *_look_ups(options.hashes),
            *_words(),
            *_people(photos),
            *_innocent(photos),
        ]
    overhead = _overhead(options.edits)
    if options.json:
        print(json.dumps({"machine": _machine(), "checks": rows, "overhead": overhead}, indent=2))
        return
    print(_machine())
    print(f"\n{'check':16} {'suite':58} {'found':>9} {'wrongly':>9} {'CPU ms':>7}")
    for row in rows:
        found, wrong = row.get("found", ""), row.get("wrongly", "")
        print(f"{row['check']:16} {row['suite']:58} {found:>9} {wrong:>9} {row['ms']:7.1f}")
    print(f"\none warm edit with nano, {options.edits} of them, medians in milliseconds")
    for name, value in overhead.items():
        print(f"  {name:40} {value:8.1f}")


def _instructions() -> Iterator[dict[str, Any]]:
    """The suites of the prompt check: violating prompts in disguises, and benign ones."""
    for suite in prompt_suites.SUITES:
        table, _, busy, _ = prompt_filter.measure(suite)
        found, wrong = (
            [hit for hits in table[kind].values() for hit in hits] for kind in ("category", "benign")
        )
        yield {
            "check": "prompt",
            "suite": f"{suite} suite",
            "found": f"{sum(found)}/{len(found)}",
            "wrongly": f"{sum(wrong)}/{len(wrong)}",
            "ms": statistics.median(busy),
        }


def _known(photos: dict[str, Image.Image], size: int) -> Iterator[dict[str, Any]]:
    """Copies of listed photographs, among as many random hashes as a large list has."""
    listed = {name: photo for name, photo in photos.items() if pdq(np.asarray(photo)).quality >= 50}
    rng = np.random.default_rng(0)
    filler = rng.integers(0, 256, (size, BYTES), dtype=np.uint8)
    hashes = [np.frombuffer(pdq(np.asarray(photo)).hash, np.uint8) for photo in list(listed.values())[::2]]
    filler[: len(hashes)] = hashes
    index = HashIndex([HashList("list", "pdq", filler, ("",), np.zeros(size, np.uint16))])
    others = list(listed.values())[1::2]
    wrong = sum(index.match_pdq(pdq(np.asarray(photo))) is not None for photo in others)
    for name, change in COPIES.items():
        found, times = 0, []
        for photo in list(listed.values())[::2]:
            hashed = pdq(np.asarray(change(photo)))
            views = [hashed]
            if "border" in name:
                from openkontext.safety.known.material import _views

                views = [pdq(view) for view in _views(np.asarray(change(photo)))]
            started = time.thread_time()
            found += any(index.match_pdq(view) is not None for view in views)
            times.append(1000 * (time.thread_time() - started))
        yield {
            "check": "known material",
            "suite": f"{name} ({size:,} hashes; the look-up)",
            "found": f"{found}/{len(hashes)}",
            "wrongly": f"{wrong}/{len(others)}",
            "ms": statistics.median(times),
        }


def _look_ups(size: int) -> Iterator[dict[str, Any]]:
    """One hash, and the eight of a picture, among as many, in FAISS's exact indexes; and their making."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (size, BYTES), dtype=np.uint8)
    faiss.omp_set_num_threads(1)
    words = faiss.IndexBinaryMultiHash(BITS, 16, 16)
    words.nflip = 1
    indexes = {"with every hash": faiss.IndexBinaryFlat(BITS), "16 words, one bit turned": words}
    for name, index in indexes.items():
        started = time.thread_time()
        index.add(hashes)
        milliseconds = 1000 * (time.thread_time() - started)
        yield {"check": "look-up", "suite": f"making, {size:,} hashes: {name}", "ms": milliseconds}
        for count, what in ((1, "one hash"), (8, "eight orientations")):
            times = []
            for _ in range(20):
                queries = rng.integers(0, 256, (count, BYTES), dtype=np.uint8)
                started = time.thread_time()
                index.search(queries, 1)
                times.append(1000 * (time.thread_time() - started))
            suite = f"{what} among {size:,}: {name}"
            yield {"check": "look-up", "suite": suite, "ms": statistics.median(times)}


def _words() -> Iterator[dict[str, Any]]:
    """Words written into pictures of nano's size: whether they are read as they were written."""
    for letters in (8, 10, 14):
        found, times = 0, []
        for number, phrase in enumerate(PHRASES):
            image = Image.new("RGB", (128, 128), (200, 210, 150 + 10 * number))
            place = (4 + 3 * number, 10 + 16 * number)
            ImageDraw.Draw(image).text(place, phrase, fill="black", font=ImageFont.load_default(letters))
            started = time.process_time()
            read = "".join(line.text for line in ocr.read(np.asarray(image)).lines)
            times.append(1000 * (time.process_time() - started))
            found += read.replace(" ", "").lower() == phrase.replace(" ", "").lower()
        yield {
            "check": "ocr",
            "suite": f"words of {letters} pixels in 128x128",
            "found": f"{found}/{len(PHRASES)}",
            "ms": statistics.median(times),
        }


def _people(photos: dict[str, Image.Image]) -> Iterator[dict[str, Any]]:
    """People in photographs. Nudity is not tried: there is no such picture here."""
    people = {"astronaut", "camera"}
    found = wrong = 0
    times = []
    for name, photo in photos.items():
        started = time.process_time()
        seen = any(part.score >= 0.3 for part in nudenet.detect(np.asarray(photo)))
        times.append(1000 * (time.process_time() - started))
        found += seen and name in people
        wrong += seen and name not in people
    yield {
        "check": "nudenet",
        "suite": "somebody is in the photograph",
        "found": f"{found}/{len(people)}",
        "wrongly": f"{wrong}/{len(photos) - len(people)}",
        "ms": statistics.median(times),
    }


def _innocent(photos: dict[str, Image.Image]) -> Iterator[dict[str, Any]]:
    """All checks on photographs and instructions that nothing speaks against, in each profile."""
    for profile in ("strict", "default", "permissive"):
        guard = standard_guard(load_policy(profile))
        refused, times = 0, []
        for number, photo in enumerate(photos.values()):
            pixels = np.asarray(photo)
            screening = guard.screen(ScreeningRequest(INSTRUCTIONS[number % 4], pictures=(Shown(pixels),)))
            started = time.process_time()
            refused += not screening.judge_request().allowed
            times.append(1000 * (time.process_time() - started))
        yield {
            "check": "all",
            "suite": f"photographs that nothing speaks against, {profile}",
            "wrongly": f"{refused}/{len(photos)}",
            "ms": statistics.median(times),
        }


def _overhead(edits: int) -> dict[str, float]:
    """Time of the checks within warm edits, by stage, and of the edits."""
    editor = openkontext.load(profile="default")
    spent: dict[str, list[float]] = {stage: [] for stage in Stage}
    busy: list[float] = []
    judge = Guard.judge

    def timed(self: Guard, subjects: Any, tolerance: int | None = None) -> Any:
        started, working = time.perf_counter(), time.process_time()
        answer = judge(self, subjects, tolerance)
        spent[subjects[0].stage].append(1000 * (time.perf_counter() - started))
        busy.append(1000 * (time.process_time() - working))
        return answer

    editor.edit(SCENE, "make it night", seed=0)  # opens the models
    Guard.judge = timed  # type: ignore[method-assign]
    try:
        totals = []
        for seed in range(edits):
            started = time.perf_counter()
            editor.edit(SCENE, "make it night", seed=seed)
            totals.append(1000 * (time.perf_counter() - started))
    finally:
        Guard.judge = judge  # type: ignore[method-assign]
    checks = [sum(stages) for stages in zip(*spent.values(), strict=True)]
    medians = {f"checks of the {stage}": statistics.median(times) for stage, times in spent.items()}
    return {
        **medians,
        "all checks": statistics.median(checks),
        "all checks, the fastest": min(checks),
        "all checks, CPU time of all cores": sum(busy) / edits,
        "the whole edit": statistics.median(totals),
    }


def _photo(name: str) -> Image.Image:
    array = getattr(skimage.data, name)()
    array = array if array.dtype != bool else 255 * array.astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _bordered(image: Image.Image, width: int) -> Image.Image:
    framed = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width))
    framed.paste(image, (width, width))
    return framed


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
