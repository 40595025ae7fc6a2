"""Measuring for `tuning`: one layer of FLUX.1's width by every candidate.

Each engine has a process of its own, whose end by a broken library is an answer, too. What openkontext keeps
on disk of the graphs goes to a folder that is removed.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from openkontext.errors import InputError
from openkontext.runtime.graph import Graph, load_graph
from openkontext.runtime.layer_graphs import FILES, WIDTH, one_layer
from openkontext.runtime.lowering import ARITHMETICS, SMALL_BYTES
from openkontext.runtime.processor import processor
from openkontext.runtime.providers import available_providers
from openkontext.runtime.tuning import Tuning, TuningMachine, TuningRow

ENGINES = ("cpu", "openvino")
"""Providers that run on a processor, and that are measured where they are installed."""

TOKENS = 1024
"""Of a picture of 512x512."""

_ROUNDS = 4
"""Rounds through all candidates of a file, of which the first is not measured."""
_SECONDS = 180
"""Longest wait for an engine: OpenVINO compiles some graphs for a minute and more."""

_CODE = f"import sys; from {__name__} import measure; measure(*sys.argv[1:])"

Candidate = tuple[str, str, int]
"""File, arithmetic and threads."""


def tune(tell: Callable[[str], None], width: int = WIDTH, tokens: int = TOKENS) -> Tuning:
    """Measure every engine of `ENGINES` that is here.

    Args:
        tell: is told the name of each before it is measured.
        width: of the layer.
        tokens: of what it is given.

    Raises:
        OSError: there is no room for the layers in the folder for temporary files.
    """
    rows: list[TuningRow] = []
    with tempfile.TemporaryDirectory(prefix="openkontext-tuning-") as folder:
        for file in FILES:  # said to be as large as the runtime takes a model for large
            one_layer(Path(folder) / file, file, width, declared=SMALL_BYTES)
        for provider in (name for name in ENGINES if name in available_providers()):
            tell(provider)
            rows += _rows(provider, *_measured(provider, folder, width, tokens))
    return Tuning(TuningMachine.here(), tuple(rows))


def candidates(provider: str) -> Iterator[Candidate]:
    """What is measured of an engine: integers on the CPU alone, and "fast" where it differs from the file."""
    found = processor()
    threads = (0,) if provider != "cpu" or found.cores == os.cpu_count() else (0, found.cpus)
    for file in FILES:
        for arithmetic in ARITHMETICS:
            known = provider == "cpu" if arithmetic == "int8" else file != "bf16" or arithmetic == "faithful"
            if known:
                yield from ((file, arithmetic, each) for each in threads)


def measure(provider: str, folder: str, width: str, tokens: str) -> None:
    """What an engine's process does; prints a line for each run: the candidate, and its seconds or a reason.

    Args:
        provider: the engine.
        folder: where the graphs are, a folder for each file.
        width: of the layer.
        tokens: of what it is given.
    """
    x = np.random.default_rng(0).standard_normal((int(tokens), int(width)), np.float32)
    for file in FILES:
        opened: dict[Candidate, Graph] = {}
        for candidate in (each for each in candidates(provider) if each[0] == file):
            with _failure_told(candidate):
                path = Path(folder) / file / "model.onnx"
                opened[candidate] = load_graph(path, provider, arithmetic=candidate[1], threads=candidate[2])
        for number in range(_ROUNDS):
            for candidate, graph in opened.items():
                with _failure_told(candidate):
                    start = time.perf_counter()
                    graph.run(x=x)
                    if number:
                        _print(candidate, seconds=time.perf_counter() - start)


@contextmanager
def _failure_told(candidate: Candidate) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _print(candidate, failed=str(error)[:300])


def _print(candidate: Candidate, **found: Any) -> None:
    print(json.dumps({"candidate": candidate, **found}), flush=True)


def _measured(provider: str, folder: str, width: int, tokens: int) -> tuple[list[str], str]:
    """The lines that an engine's process printed, and why it did not come to its end."""
    command = [sys.executable, "-P", "-c", _CODE, provider, folder, str(width), str(tokens)]
    environment = {**os.environ, "OPENKONTEXT_HOME": str(Path(folder) / "home")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        text = printed if isinstance(printed, str) else printed.decode(errors="replace")
        return text.splitlines(), f"not done in {_SECONDS} s"
    if done.returncode < 0:
        return done.stdout.splitlines(), f"it ends the process (signal {-done.returncode})"
    why = (done.stderr.strip().splitlines() or ["it gives no reason"])[-1][:300]
    return done.stdout.splitlines(), why if done.returncode else ""


def _rows(provider: str, lines: Iterable[str], why: str) -> list[TuningRow]:
    """The best of each candidate's runs: what else the machine does only adds to one."""
    seconds: dict[Candidate, float] = {}
    failed: dict[Candidate, str] = {}
    for line in lines:
        try:
            found = json.loads(line)
            file, arithmetic, threads = found["candidate"]
        except (ValueError, TypeError, KeyError):  # what a library prints, or a line cut short
            continue
        key = file, arithmetic, threads
        if "failed" in found:
            failed[key] = found["failed"]
        else:
            seconds[key] = min(seconds.get(key, math.inf), found["seconds"])
    rows = []
    for key in candidates(provider):
        reason = failed.get(key) or ("" if key in seconds else why or "it gave no figure")
        rows.append(TuningRow(key[0], provider, key[1], key[2], None if reason else seconds[key], reason))  # type: ignore[arg-type]
    return rows
