"""A stage's metrics as `metrics.csv`, its sheets of samples, and both for TensorBoard."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openkontext.files import whole, write_whole


class Metrics:
    """What a stage has shown so far.

    Args:
        folder: of the stage. Rows and sheets from after `step` are dropped: the stage goes on from there.
        step: at which the stage stands.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step
        self.file = folder / "metrics.csv"
        self._columns: list[str] | None = None
        self._events: Any = None
        kept = [row for row in self.rows() if int(row["step"]) < step]
        if kept:
            self._write(kept)
        else:
            self.file.unlink(missing_ok=True)
        for path in (folder / "samples").glob("step-*.png"):
            if int(path.stem.split("-")[1]) > step:
                path.unlink()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.csv`; a last one that a kill has cut short is left out."""
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add a row; a metric that earlier rows lack gets a column of its own."""
        row = {"step": step, **values}
        if self._columns is None or not set(row) <= set(self._columns):
            self._write([*self.rows(), row])
        else:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        for name, value in values.items():
            self._writer().add_scalar(name, value, step)
        self._writer().flush()

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """Keep a sheet of samples: uint8 [H, W, 3]."""
        path = self.folder / "samples" / f"step-{step:06d}.png"
        with whole(path) as file:
            Image.fromarray(pixels).save(file, format="PNG")
        self._writer().add_image("samples", pixels, step, dataformats="HWC")
        self._writer().flush()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.file, text.getvalue().encode())

    def _writer(self) -> Any:
        """TensorBoard's writer: late, since it is slow to import, and told to forget what came after."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder), purge_step=self.step)
        return self._events
