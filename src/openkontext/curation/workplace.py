"""The folder of an output: whose it is, how far it has come, and what of it is taken away at the end."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from openkontext.curation import data_card, kept_files
from openkontext.errors import InputError
from openkontext.files import PARTS, alone, write_whole

_MARK, _LOCK = "mark.json", "lock"


class Workplace:
    """Where a curation writes."""

    def __init__(self, out: Path) -> None:
        """Touch nothing yet.

        Args:
            out: folder of the output.
        """
        self._out = out
        self.work = out / kept_files.WORK
        """Folder of what is not finished."""

    def require_apart(self, sources: Iterable[Path], sets: Iterable[Path]) -> None:
        """See that nothing that is read is written to.

        Args:
            sources: files that are read, and with them the pictures that they name.
            sets: evaluation sets, of which every file is read.

        Raises:
            InputError: the folder holds one of them, lies in an evaluation set, or is a file.
        """
        if self._out.exists() and not self._out.is_dir():
            raise InputError(f"{self._out}: is a file; name a folder for the output")
        out = self._out.resolve()
        for path in (*sources, *sets):
            if path.resolve().is_relative_to(out):
                raise InputError(f"{self._out}: holds {path}, which is read; name another folder")
        for path in sets:
            if out.is_relative_to(path.resolve()):
                raise InputError(f"{self._out}: lies in the evaluation set {path}; name another folder")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder, on this machine and on those that share its files.

        Raises:
            InputError: another run is at work in it, or the folder is not ours.
            OSError: it cannot be made.
        """
        if self._card() is None and "mark" not in self._begun() and self._holds_others():
            raise InputError(f"{self._out}: holds other files; name a new or an empty folder")
        new = not self._out.exists()
        with alone(self.work, "curation", self._out):
            try:
                yield
            finally:
                if not (self.work / _MARK).exists():
                    self.clear()
                    if new:
                        with suppress(OSError):  # it holds the set
                            self._out.rmdir()

    def take(self, mark: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
        """Make the folder this curation's own.

        Args:
            mark: what tells this curation from others.
            overwrite: replace another curation.

        Returns:
            The data card where all is done; else None.

        Raises:
            InputError: the folder holds another curation.
            OSError: it cannot be written.
        """
        digest = self.mark_digest(mark)
        card = self._card()
        if card is not None and card.get("mark") == digest and not overwrite:
            self.clear()
            return {name: value for name, value in card.items() if name != "mark"}
        begun = self._begun().get("mark")
        if begun != digest or overwrite:
            if (card is not None or begun is not None) and not overwrite:
                raise InputError(
                    f"{self._out}: holds a curation of other records or by other rules; name another folder, "
                    "or replace it with --overwrite"
                )
            if card is not None or begun is not None:
                self._remove()
        for part in self._out.rglob(PARTS):  # of a write that a kill ended
            part.unlink()
        return None

    def begin(self, mark: dict[str, Any], now: datetime) -> datetime:
        """Write down whose the folder is, where that is not said yet.

        Returns:
            When the run began.

        Raises:
            OSError: it cannot be written.
        """
        digest, said = self.mark_digest(mark), self._begun()
        if said.get("mark") == digest:
            return datetime.fromisoformat(said["made"])
        begun = {"mark": digest, "made": now.isoformat()}
        write_whole(self.work / _MARK, json.dumps(begun).encode())
        return now

    def is_begun(self, mark: dict[str, Any]) -> bool:
        """Whether the folder holds what this curation did so far."""
        return self._begun().get("mark") == self.mark_digest(mark)

    def rows(self, block: int) -> Path:
        """File of a block's rows."""
        return self.work / "looked" / f"{block:06d}.parquet"

    def decisions(self, group: int) -> Path:
        """File of the decisions on a group of blocks."""
        return self.work / "decided" / f"{group:06d}.parquet"

    def written(self, block: int) -> Path:
        """File that says that a block's kept pairs are written."""
        return self.work / "written" / f"{block:06d}"

    def clear(self) -> None:
        """Take away what a run that goes on would need."""
        shutil.rmtree(self.work, ignore_errors=True)

    @staticmethod
    def mark_digest(mark: dict[str, Any]) -> str:
        """SHA-256 of a mark."""
        return hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()

    def _card(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            card = json.loads((self._out / data_card.JSON).read_bytes())
            if isinstance(card, dict) and "mark" in card:
                return card
        return None

    def _begun(self) -> dict[str, str]:
        with suppress(OSError, ValueError):
            said = json.loads((self.work / _MARK).read_bytes())
            if isinstance(said, dict):
                return said
        return {}

    def _holds_others(self) -> bool:
        return self._out.exists() and any(path.name != kept_files.WORK for path in self._out.iterdir())

    def _remove(self) -> None:
        """Take away a curation, and nothing else."""
        if not self._out.exists():
            return
        # The folder stays ours until the last file is gone.
        write_whole(self.work / _MARK, json.dumps({"mark": ""}).encode())
        for name in (data_card.JSON, data_card.HTML, kept_files.OUTCOMES, kept_files.SUMS):
            (self._out / name).unlink(missing_ok=True)
        for path in list(kept_files.set_files(self._out)):
            path.unlink()
        shutil.rmtree(self._out / kept_files.PICTURES, ignore_errors=True)
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (_MARK, _LOCK):
                path.unlink()
