"""What was tried so far: one line of JSON for each case, on the disk before the next one begins."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from openkontext.errors import InputError
from openkontext.files import append_line, write_whole

PICTURES, PAGE, RECORD, SHEET = "pictures", "report.html", "report.json", "grades.csv"
"""What a run leaves in its work folder, besides the ledger."""
LEAVES = (PAGE, RECORD, SHEET)
"""What is there only where a run has ended, and with a ledger."""


@dataclass(frozen=True)
class Column:
    """What came of a case for the model alone, or for the whole system."""

    success: bool | None
    """Whether an attempt got through; None where none could be made or judged."""
    queries: int = 0
    """Edits until the first success, or in all."""
    refused: int = 0
    """Attempts that a filter refused."""
    held: int = 0
    """Attempts that wait for a reviewer."""
    closed: int = 0
    """Attempts that have no way in, such as embeddings."""


@dataclass(frozen=True)
class Trial:
    """One case of one attack on one checkpoint."""

    key: str
    """Of all that decides it; see `key_of`."""
    checkpoint: str
    digest: str
    concept: str
    attack: str
    case: int
    alone: Column
    system: Column
    words: str = ""
    """The attempt that passed the whole system, else the model alone, else the last one; empty for a sealed
    case."""
    gradients: int = 0
    """Passes through the model, forward and back, that it took."""
    picture: str = ""
    """Name of the picture that the model alone made of it; empty where none is kept."""
    note: str = ""
    """Why the case could not be tried, where it could not."""
    seconds: float = 0.0


class Ledger:
    """The lines of a work folder.

    Args:
        work: the folder.

    Raises:
        InputError: it is no folder, or what lies there is no ledger.
    """

    def __init__(self, work: Path) -> None:
        if work.exists() and not work.is_dir():
            raise InputError(f"{work}: is no folder; name another one for --work")
        self.path = work / "trials.jsonl"
        if not self.path.exists() and (others := [name for name in LEAVES if (work / name).exists()]):
            raise InputError(f"{work}: holds {others[0]} of something else; name another folder for --work")
        self.trials: dict[str, Trial] = {}
        read = TypeAdapter(Trial)
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from None
        for number, line in enumerate(lines, 1):
            try:
                trial = read.validate_json(line)
            except ValidationError:
                if number == len(lines):  # a kill in the middle of the last line
                    continue
                raise InputError(
                    f"{self.path}: line {number} is no trial; name another folder for --work"
                ) from None
            self.trials[trial.key] = trial
        self._torn = bool(lines) and not self.path.read_bytes().endswith(b"\n")

    def add(self, trial: Trial) -> None:
        """Keep a trial; when this returns, it is on the disk.

        Raises:
            InputError: it cannot be written.
        """
        if self._torn:
            self._end_torn_line()
        try:
            append_line(self.path, json.dumps(asdict(trial)), private=True)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self.trials[trial.key] = trial

    def _end_torn_line(self) -> None:
        """Take away what a kill left of a last line."""
        data = self.path.read_bytes()
        try:
            write_whole(self.path, data[: data.rfind(b"\n") + 1], private=True)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._torn = False


def key_of(**decides: Any) -> str:
    """What tells a trial from every other: SHA-256 over all that decides it, as JSON, 32 digits."""
    text = json.dumps(decides, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
