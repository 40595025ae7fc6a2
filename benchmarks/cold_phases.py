"""Where the time of a first edit with nano goes, from the start of the process to the signed file.

    python benchmarks/cold_phases.py

Prints for every phase its wall time, the CPU time of all threads and of the main one, and the memory so far.
The graphs open in another thread while the filters look, so that their time is part of that phase.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

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
    """Edits once."""
    phases = Phases()
    import openkontext.cli  # noqa: F401 - what the command line brings

    phases.end("command line")
    from openkontext.provenance import default_signer

    default_signer()
    phases.end("signing key")
    from openkontext.editor import load
    from openkontext.result import EditStep
    from openkontext.safety.guard import Screening

    phases.end("imports of an edit")
    editor = load("nano")
    phases.end("repository verified")
    admit, release = Screening.admit, Screening.release

    def timed_admit(self: Screening) -> None:
        phases.end("picture read, files digested")
        admit(self)
        phases.end("filters, graphs opened beside")

    def timed_release(self: Screening, *shown: object) -> object:
        phases.end("decoded")
        verdict = release(self, *shown)  # type: ignore[arg-type]
        phases.end("result judged")
        return verdict

    Screening.admit, Screening.release = timed_admit, timed_release  # type: ignore[assignment,method-assign]

    def on_step(step: EditStep) -> None:
        if step.index in (1, step.count):
            phases.end("encoded, first step" if step.index == 1 else f"{step.count - 1} further steps")

    result = editor.edit(PICTURE, "make it night", seed=1, on_step=on_step)
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "out.png")
    phases.end("signed and written")


if __name__ == "__main__":
    main()
