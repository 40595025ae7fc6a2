"""How far each arithmetic lies from bfloat16: the table of docs/providers.md, `Three arithmetics`.

    python benchmarks/arithmetic_errors.py [FOLDER] [--json]

Prints the relative error of a transformer's output to that of its bfloat16 graph: as its file says
(published), in `int8`, and in `int8` with weights of 7 bits, which processors without VNNI get.

FOLDER has graphs that another tool made, as the tests take them from $OPENKONTEXT_PEER_EXPORTS, which
stands in for it. In each of its folders bf16, fp8 and fp4_svd are `model.onnx`, and `cases.npz` with inputs
and what the tool computes of them. Of its two cases the worse counts. nano's half needs no folder. It is
the largest error of four steps of an edit, each given what the bfloat16 edit had.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from openkontext import load
from openkontext.repository import Repository
from openkontext.runtime import graph as graph_module
from openkontext.runtime import load_graph

FILES = {"bf16": "bf16", "fp8": "fp8", "fp4": "fp4_svd"}
"""Kind of file -> its folder among the other tool's graphs."""
BITS = (8, 7)
Row = dict[str, float]
"""Error by "published", 8 and 7 bits."""


def relative_error(found: Any, exact: Any) -> float:
    """Distance over size."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


def in_int8(path: Path, worst: Callable[[Any], float]) -> Iterator[tuple[str, float]]:
    """The error of a graph in integers, with weights of each number of bits.

    Args:
        path: of the graph.
        worst: gives the error of an opened graph.
    """
    for bits in BITS:
        with patch.object(graph_module, "weight_bits", return_value=bits):
            yield f"{bits} bits", worst(load_graph(path, role="transformer", arithmetic="int8"))


def of_peers(folder: Path, file: str) -> Row:
    """Errors of another tool's graph, whose own output is the published arithmetic."""
    given, exact = (np.load(folder / FILES[each] / "cases.npz") for each in (file, "bf16"))

    def worst(graph: Any) -> float:
        errors = []
        for case in range(2):
            result = graph.run(**{name: given[f"in{case}_{name}"] for name in graph.inputs})["latent"]
            errors.append(relative_error(result, exact[f"out{case}"]))
        return max(errors)

    published = max(relative_error(given[f"out{case}"], exact[f"out{case}"]) for case in range(2))
    return {"published": published, **dict(in_int8(folder / FILES[file] / "model.onnx", worst))}


def of_nano() -> dict[str, Row]:
    """Errors of nano's files in four steps of an edit."""
    calls: list[tuple[dict[str, Any], Any]] = []
    editor = load("nano", precision="bf16", arithmetic="faithful")
    components: Any = editor.components
    transformer = components.transformer

    def recorded(**arrays: Any) -> Any:
        calls.append((arrays, transformer(**arrays)))
        return calls[-1][1]

    components.transformer = recorded
    picture = Path(__file__).parents[1] / "examples" / "scene.png"
    editor.edit(picture, "make it night", num_inference_steps=4, seed=1)

    def worst(graph: Any) -> float:
        return max(relative_error(graph.run(**given)["latent"], exact) for given, exact in calls)

    rows = {}
    for file in FILES:
        path = Repository.open("nano").graph("transformer", file)
        published = worst(load_graph(path, role="transformer", arithmetic="faithful"))
        rows[file] = {"published": published, **dict(in_int8(path, worst))}
    return rows


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("OPENKONTEXT_PEER_EXPORTS"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["OPENKONTEXT_HOME"] = home  # nothing of the other tool's graphs stays in the cache
        peers = {file: of_peers(Path(options.folder), file) for file in FILES} if options.folder else {}
        nano = of_nano()
    if options.json:
        print(json.dumps({"peers": peers, "nano": nano}, indent=1))
        return
    columns = ("published", *(f"{bits} bits" for bits in BITS))
    heads = ["file", *(f"{name}" for name in columns), *(f"nano: {name}" for name in columns)]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for file in FILES:
        cells = [peers[file][name] if peers else None for name in columns]
        cells += [nano[file][name] for name in columns]
        print(f"| {file} |", " | ".join("" if each is None else f"{each:.3f}" for each in cells), "|")


if __name__ == "__main__":
    main()
