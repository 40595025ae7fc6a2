"""What a step costs against tokens, depth and cores, and what an edit of the 12B model then costs.

    python benchmarks/peers.py FOLDER --quick --only none    # makes the exports: 1 + 1 blocks of FLUX's width
    python benchmarks/cost_law.py out/cost.png FOLDER/1-1-1024-24            # five minutes on two quiet cores
    python benchmarks/cost_law.py out/cost.png FOLDER/1-1-1024-24 --write    # and keep it in results/

One call of the transformer is timed at several counts of tokens: 512 of text, the rest of the picture and its
context. That is done in `int8` and in float32, with one thread and with all. A double and a single block do
the same work for a token: products of 12 times the width squared, and attention. So the law of a call is

    seconds = c + blocks * (a * tokens + b * tokens^2)

with `a` for products and `b` for attention, fitted by least squares of relative errors. `c` is the
modulation, which no token changes: 12 widths squared for a double block and 3 for a single one. It grows with
the depth in that proportion. The largest count is not fitted but foretold, as a check.

For more cores than there are, the share that runs side by side comes from one thread and all (Amdahl's law).
No call can be quicker than its weights are read at this machine's bandwidth; a machine with more cores has
more. Calls are counted without and with `--cache 0.1`, which computes 8 of 28 (docs/nano.md). Text encoders,
autoencoder and filters are left out: `benchmarks/whole_edit.py` has them.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_cases import graph
from peers import RESULTS, TEXT, file_name, machine
from roofline import memory_peak

from openkontext.runtime import load_graph

BLOCKS = (19, 38)
CALLS = {"every step": 28, "--cache 0.1": 8}
EDITS = {"512x512": 512 + 2 * 1024, "1024x1024": 512 + 2 * 4096}
CORES = (2, 8, 16)
ARITHMETICS = {"int8": "int8", "float32": "faithful"}
WEIGHT_BYTES = {"int8": 1, "float32": 2}
"""Of a weight as it is read in a call: codes, or bfloat16 from its file."""


def modulation(blocks: tuple[int, int]) -> int:
    """Widths squared of the modulation of so many double and single blocks."""
    return 12 * blocks[0] + 3 * blocks[1]


@dataclass(frozen=True)
class Law:
    """Seconds of a call of a model of some blocks."""

    constant: float
    linear: float
    """Of one block and token."""
    quadratic: float
    """Of one block and pair of tokens."""
    blocks: tuple[int, int]
    """Double and single, of the model that was measured."""

    @classmethod
    def fit(cls, tokens: NDArray[np.float64], seconds: NDArray[np.float64], blocks: tuple[int, int]) -> "Law":
        """The law with the least squares of relative errors, and no negative term."""
        depth = sum(blocks)
        terms = np.stack([np.ones_like(tokens), depth * tokens, depth * tokens**2], 1)
        kept = [0, 1, 2]
        while True:
            found = np.linalg.lstsq(terms[:, kept] / seconds[:, None], np.ones_like(seconds))[0]
            if (found >= 0).all() or len(kept) == 1:
                break
            del kept[int(found.argmin())]
        values = np.zeros(3)
        values[kept] = found
        return cls(float(values[0]), float(values[1]), float(values[2]), blocks)

    def seconds(self, tokens: float, blocks: tuple[int, int] | None = None) -> float:
        """Of a call of so many blocks; None for those that were measured."""
        blocks = blocks or self.blocks
        constant = self.constant * modulation(blocks) / modulation(self.blocks)
        return constant + sum(blocks) * (self.linear * tokens + self.quadratic * tokens**2)


def inputs(tokens: int, channels: dict[str, int]) -> dict[str, NDArray[np.float32]]:
    """Of a call with so many tokens, text included."""
    rng = np.random.default_rng(0)
    image = tokens - TEXT
    grid = np.stack([np.arange(image) % 2, np.arange(image) // 64, np.arange(image) % 64], 1)
    arrays = {
        "hidden_states": rng.standard_normal((1, image, channels["hidden_states"])),
        "encoder_hidden_states": rng.standard_normal((1, TEXT, channels["encoder_hidden_states"])),
        "pooled_projections": rng.standard_normal((1, channels["pooled_projections"])),
        "timestep": np.array([0.5]),
        "img_ids": grid,
        "txt_ids": np.zeros((TEXT, 3)),
        "guidance": np.array([2.5]),
    }
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def measure(folder: Path, how: str, threads: int, counts: list[int], runs: int) -> list[float]:
    """Seconds of a call at each count of tokens, the best of some runs."""
    opened = load_graph(
        graph(folder, "bf16"), role="transformer", arithmetic=ARITHMETICS[how], threads=threads
    )
    channels = {name: int(spec.shape[-1] or 0) for name, spec in opened.inputs.items() if len(spec.shape) > 1}
    opened.run(**inputs(counts[0], channels))  # the first is slower
    best = []
    for count in counts:
        given, taken = inputs(count, channels), []
        for _ in range(runs):
            start = time.perf_counter()
            opened.run(**given)
            taken.append(time.perf_counter() - start)
        best.append(min(taken))
    return best


def speedup(one: float, many: float, threads: int, cores: int) -> float:
    """How much quicker than one core so many are: Amdahl's law through the times of one and of `threads`."""
    share = (1 - many / one) / (1 - 1 / threads) if threads > 1 else 0.0
    share = min(max(share, 0.0), 1.0)
    return 1 / (1 - share + share / cores)


def foretold(
    laws: dict[tuple[str, int], Law], threads: int, width: int, bandwidth: float
) -> list[dict[str, Any]]:
    """Seconds of edits of the whole model, for each arithmetic, size and number of cores."""
    rows = []
    weights = (12 * sum(BLOCKS) + modulation(BLOCKS)) * width**2
    weights += 12 * BLOCKS[0] * width**2  # a double block has those of the text besides
    for how in ARITHMETICS:
        reading = weights * WEIGHT_BYTES[how] / bandwidth / 1e9
        for size, tokens in EDITS.items():
            one, many = (laws[how, count].seconds(tokens, BLOCKS) for count in (1, threads))
            for cores in CORES:
                call = one / speedup(one, many, threads, cores)
                bound = max(call, reading)
                edits = {name: calls * bound for name, calls in CALLS.items()}
                rows.append(
                    {"arithmetic": how, "size": size, "cores": cores, "call": bound, "edits": edits,
                     "bound": "memory" if reading > call else "arithmetic"}
                )  # fmt: skip
    return rows


def table(measured: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Both tables in Markdown."""
    lines = ["| arithmetic | threads | tokens | s a call | by the law |", "|---" * 5 + "|"]
    for each in measured:
        told = f"{each['law']:.2f}" + (" (foretold)" if each["held_out"] else "")
        case = " | ".join(str(each[key]) for key in ("arithmetic", "threads", "tokens"))
        lines.append(f"| {case} | {each['seconds']:.2f} | {told} |")
    heads = ("arithmetic", "edit", "cores", "s a step", *(f"min, {name}" for name in CALLS), "bound by")
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        minutes = " | ".join(f"{seconds / 60:.1f}" for seconds in row["edits"].values())
        lines.append(
            f"| {row['arithmetic']} | {row['size']} | {row['cores']} | {row['call']:.1f} | {minutes} "
            f"| {row['bound']} |"
        )
    return "\n".join(lines)


def plot(measured: list[dict[str, Any]], laws: dict[tuple[str, int], Law], path: Path) -> None:
    """Seconds of a call against tokens: measured as points, laws as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    tokens = np.geomspace(256, 8704, 100)
    for number, ((how, threads), law) in enumerate(laws.items()):
        color = f"C{number}"
        name = f"{how}, {threads} {'thread' if threads == 1 else 'threads'}"
        axes.plot(tokens, [law.seconds(each) for each in tokens], color=color, label=name)
        for each in (m for m in measured if (m["arithmetic"], m["threads"]) == (how, threads)):
            filled = "none" if each["held_out"] else color
            axes.plot(each["tokens"], each["seconds"], "o", color=color, markerfacecolor=filled)
    axes.set(
        xlabel="tokens of text, picture and context", ylabel="seconds a call", xscale="log", yscale="log"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, fit, foretell, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("folder", type=Path, help="of an export of benchmarks/peers.py, such as 1-1-1024-24")
    parser.add_argument(
        "--tokens", default="768,1536,2560,4608", help="that the law is fitted to, text included"
    )
    parser.add_argument("--check", type=int, default=6656, help="tokens that the law foretells, all threads")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results/")
    options = parser.parse_args()
    os.environ.setdefault("OPENKONTEXT_HOME", str((options.folder / "home").absolute()))
    numbers = json.loads((options.folder / "model.json").read_text())
    blocks, width = tuple(numbers["blocks"]), 128 * numbers["heads"]
    counts = [int(each) for each in options.tokens.split(",")]
    laws: dict[tuple[str, int], Law] = {}
    measured: list[dict[str, Any]] = []
    for how in ARITHMETICS:
        for threads in sorted({1, options.threads}):
            checked = counts + [options.check] * (threads == options.threads and options.check > 0)
            seconds = measure(options.folder, how, threads, checked, options.runs)
            fitted = len(counts)
            law = Law.fit(np.array(counts, float), np.array(seconds[:fitted]), blocks)
            laws[how, threads] = law
            measured += [
                {"arithmetic": how, "threads": threads, "tokens": count, "seconds": taken,
                 "law": law.seconds(count), "held_out": number >= fitted}
                for number, (count, taken) in enumerate(zip(checked, seconds, strict=True))
            ]  # fmt: skip
    bandwidth = memory_peak(options.threads, 1 << 28)
    rows = foretold(laws, options.threads, width, bandwidth)
    here = machine()
    found = {
        **here,
        "width": width,
        "threads": options.threads,
        "bandwidth": bandwidth,
        "laws": [{"arithmetic": how, "threads": count, **asdict(law)} for (how, count), law in laws.items()],
        "measured": measured,
        "edits": rows,
    }
    text = (
        f"{here['processor']}, {options.threads} of {here['cpus']} CPUs, {' '.join(here['flags'])}; "
        f"{blocks[0]} + {blocks[1]} blocks, width {width}, best of {options.runs} runs; "
        f"memory {bandwidth:.1f} GB/s\n\n{table(measured, rows)}\n"
    )
    print(json.dumps(found, indent=1) if options.json else text)
    plot(measured, laws, options.out)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        name = f"cost-law-{file_name(here)}"
        (RESULTS / f"{name}.md").write_text(f"`python benchmarks/cost_law.py`: {text}", encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        plot(measured, laws, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
