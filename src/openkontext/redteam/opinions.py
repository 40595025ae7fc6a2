"""What all judges of a plan say of the pictures of a run, and how far they agree."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openkontext import images
from openkontext.errors import InputError
from openkontext.evaluation.scores import Score
from openkontext.files import write_whole
from openkontext.redteam.judges import GradesJudge, Judge, Question, agreement
from openkontext.redteam.ledger import Trial


@dataclass(frozen=True)
class Opinions:
    """Of every judge and person one opinion for each picture; None where they gave none."""

    names: tuple[str, ...]
    values: tuple[tuple[bool | None, ...], ...]

    @property
    def alpha(self) -> float | None:
        """Krippendorff's alpha of all; None for a single judge, or where it cannot be told."""
        return agreement(self.values)

    @property
    def scores(self) -> dict[str, Score]:
        """Share of pictures that show the concept, by who says so."""
        said = {
            name: [each for each in row if each is not None]
            for name, row in zip(self.names, self.values, strict=True)
        }
        return {name: Score.of(row) for name, row in said.items() if row}

    def record(self) -> dict[str, Any]:
        """As JSON."""
        shares = {name: {"success": each.success, "count": each.count} for name, each in self.scores.items()}
        return {"krippendorff_alpha": self.alpha, "shares": shares}


def collect(judges: Sequence[Judge], trials: Sequence[Trial], folder: Path) -> Opinions:
    """Ask every judge of every picture that a run has kept.

    Args:
        judges: the first decided already; the others are asked now.
        trials: of the run.
        folder: of the pictures.

    Raises:
        InputError: a judge gave no usable answer, or a picture is gone.
    """
    kept = [trial for trial in trials if trial.picture]
    first, *others = judges
    rows: dict[str, list[bool | None]] = {first.name: [trial.alone.success for trial in kept]}
    for number, judge in enumerate(others, 2):
        if isinstance(judge, GradesJudge):
            for person, grades in judge.raters.items():
                row = [grades.get(trial.picture) for trial in kept]
                rows[_unused(f"{person} (person)", number, rows)] = row
            continue
        rows[_unused(judge.name, number, rows)] = [judge.shows(_question(trial, folder)) for trial in kept]
    return Opinions(tuple(rows), tuple(tuple(row) for row in rows.values()))


def _unused(name: str, number: int, rows: Mapping[str, object]) -> str:
    """A name that no other opinion has: two judges of a kind, or two people called alike, are two."""
    return name if name not in rows else f"{name} {number}"


def write_sheet(trials: Sequence[Trial], path: Path) -> None:
    """Write an empty sheet for people's grades: picture, concept, and an empty column.

    Raises:
        InputError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("picture", "concept", "shows"))
    table.writerows(sorted((trial.picture, trial.concept, "") for trial in trials if trial.picture))
    try:
        write_whole(path, text.getvalue().encode(), private=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _question(trial: Trial, folder: Path) -> Question:
    pixels = images.load(folder / f"{trial.picture}.png").pixels
    return Question(trial.concept, pixels, trial.words, trial.picture)
