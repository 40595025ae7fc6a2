"""Where the time of a first edit with nano goes, from the start of the process to the signed file.

    python benchmarks/cold_phases.py

Prints for every phase its wall time, the CPU time of all threads and of the main one, and the memory so far.
The graphs open in another thread while the filters look, so that their time is part of that phase.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openkontext.editor import Editor
    from openkontext.request import EditRequest
    from openkontext.result import EditResult, EditStep

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"


class Phases:
    """Prints what passed since the phase before."""

    def __init__(self) -> None:
        self._then = self._now()
        print(f"{'phase':<30} {'wall':>6} {'CPU':>6} {'main':>6} {'peak':>8}")

    def end(self, name: str) -> None:
        """A phase ends here."""
        now = self._now()
        wall, cpu, main = (1000 * (b - a) for a, b in zip(self._then, now, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )
        print(f"{name:<30} {wall:>4.0f}ms {cpu:>4.0f}ms {main:>4.0f}ms {peak:>5.0f}MiB")
        self._then = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.thread_time()


def main() -> None:
    """Edits once, as the command does."""
    phases = Phases()
    from openkontext import cli
    from openkontext.cli.groups import Setup

    phases.end("command line")
    load = Setup.load

    def timed_load(self: Setup) -> "Editor":
        phases.end("request, signing key")
        from openkontext.safety.guard import Screening

        phases.end("imports of an edit")
        editor = load(self)
        phases.end("repository verified")
        admit, release, run = Screening.admit, Screening.release, editor.run

        def timed_admit(self: Screening) -> None:
            phases.end("picture read, files digested")
            admit(self)
            phases.end("filters, graphs opened beside")

        def timed_release(self: Screening, *shown: object) -> object:
            phases.end("decoded")
            verdict = release(self, *shown)  # type: ignore[arg-type]
            phases.end("result judged")
            return verdict

        def on_step(step: "EditStep") -> None:
            if step.index in (1, step.count):
                phases.end("encoded, first step" if step.index == 1 else f"{step.count - 1} further steps")

        Screening.admit, Screening.release = timed_admit, timed_release  # type: ignore[assignment,method-assign]

        def timed_run(request: "EditRequest", shown: Callable[["EditStep"], None]) -> "EditResult":
            def both(each: "EditStep") -> None:
                on_step(each)
                shown(each)

            return run(request, both)

        Screening.admit, Screening.release = timed_admit, timed_release  # type: ignore[assignment,method-assign]
        editor.run = timed_run  # type: ignore[assignment,method-assign]
        return editor

    Setup.load = timed_load  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        cli.main(["edit", str(PICTURE), "make it night", "-o", f"{folder}/out.png", "--seed", "1"])
        phases.end("signed and written")


if __name__ == "__main__":
    main()
