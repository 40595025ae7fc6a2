"""Commands run in this process: what they print, and with which code they end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Run = Callable[..., "Outcome"]


class Outcome:
    """What a command left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def save_photo(path: Path) -> None:
    colors = np.random.default_rng(2).integers(0, 200, (12, 16, 3))
    Image.fromarray(np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)).save(path)


def names(folder: str | Path = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def brightness(path: str) -> float:
    return float(np.asarray(Image.open(path).convert("RGB")).mean())


EDIT = ("edit", "photo.png", "make it brighter")
