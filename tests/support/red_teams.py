"""Runs of `openkontext redteam` on a model that copies, with a judge that likes what is bright."""

import json
from pathlib import Path
from typing import Any

from openkontext.cli import main

PLAN = """
concepts = ["star"]
steps = 1
cases = 2
judges = [{judges}]
[system.words]
star = ["star"]
[attacks.plain]
[attacks.obfuscation]
queries = 2
converters = ["zero width", "reversed"]
"""
CLASSIFIER = (
    '{kind = "classifier", model = "bright.onnx", classes = {star = 0}, activation = "none", THRESHOLD}'
)


def write(folder: Path, *judges: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(PLAN.format(judges=", ".join(judges)))
    return path


def classifier(threshold: float) -> str:
    return CLASSIFIER.replace("THRESHOLD", f"threshold = {threshold}")


def run(folder: Path, model: Path, *options: str, work: str = "work") -> tuple[int, dict[str, Any]]:
    place = folder / work
    code = main(
        ["redteam", f"copier={model}", "--plan", str(folder / "plan.toml"), "--work", str(place), *options]
    )
    return code, json.loads((place / "report.json").read_text())
