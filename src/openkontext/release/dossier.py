"""A dossier: the folder with what is known of a model, as it lies before a release."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from openkontext.errors import InputError
from openkontext.reports import ReportSubject
from openkontext.toml_file import checked_table, read_toml

SETTINGS = "release.toml"
"""File of a dossier with `ReleaseSettings`; it may be left out."""
ABOUT = "about.md"
"""File of a dossier with what the model is for and what it cannot do, in its makers' words."""

_MOST_BYTES = 64 << 20
_KEY = b"PRIVATE KEY-----"
_KEY_BYTES = 1 << 20  # a larger file is no key


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReleaseSettings:
    """What a release cannot find out by itself, and how old reports may be."""

    trained_on: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    """Digests of the data sets that the model was trained on, as their data cards name them."""
    quantized_from: dict[str, str] = Field(default_factory=dict)
    """Precision -> the one that it was quantized from and nothing else was done: attacks on that count for
    it, too, where it has no red-team report of its own. Every precision is evaluated by itself."""
    base_model: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """OWNER/NAME of the model that it grew out of."""
    language: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}(-[A-Za-z0-9]+)*$")], ...] = ("en",)
    """Languages of the instructions, as ISO 639-1 has them."""
    max_age_days: Annotated[int, Field(ge=1, le=36_500)] = 180
    """Age from which a report is too old."""
    min_cases: Annotated[int, Field(ge=1)] = 100
    """Cases that an evaluation must have."""


@dataclass(frozen=True)
class ModelReport:
    """A report of the dossier, by the head that all have (`openkontext.reports`)."""

    path: Path
    kind: str
    made: datetime
    """In UTC."""
    subjects: tuple[ReportSubject, ...]
    record: dict[str, Any]
    """All of it."""

    def speaks_of(self, digest: str) -> bool:
        """Whether it is about the model or the data with this digest."""
        return any(subject.digest == digest for subject in self.subjects)


@dataclass(frozen=True)
class Dossier:
    """What lies in the folder."""

    folder: Path
    settings: ReleaseSettings
    reports: tuple[ModelReport, ...]
    """The newest first."""
    files: tuple[Path, ...]
    """All files, those of an earlier release too."""

    @classmethod
    def open(cls, folder: Path) -> "Dossier":
        """Read a dossier.

        Raises:
            InputError: there is none, a file of it cannot be read, a JSON file has no head of a report, or
                a private key lies in it.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; make it and put the reports into it")
        files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
        check_no_keys(files)
        reports = [_read_report(path) for path in files if path.suffix == ".json"]
        reports.sort(key=lambda report: (report.made, report.path), reverse=True)
        return cls(folder, _read_settings(folder / SETTINGS), tuple(reports), files)

    def of_kind(self, kind: str) -> Iterator[ModelReport]:
        """Its reports of a kind, the newest first."""
        return (report for report in self.reports if report.kind == kind)

    @property
    def about(self) -> str:
        """What its makers say of the model; empty where they say nothing."""
        path = self.folder / ABOUT
        return path.read_text("utf-8", errors="replace").strip() if path.is_file() else ""


def check_no_keys(files: tuple[Path, ...]) -> None:
    """Stop where a file that would be published holds a private key.

    Raises:
        InputError: one does, or cannot be read.
    """
    for path in files:
        try:
            if path.stat().st_size <= _KEY_BYTES and _KEY in path.read_bytes():
                raise InputError(f"{path}: holds a private key, which a release would publish; move it away")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read_report(path: Path) -> ModelReport:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: is larger than any report")
        record = json.loads(path.read_bytes())
        made = datetime.fromisoformat(record["made"])
        subjects = tuple(ReportSubject(str(each["name"]), str(each["digest"])) for each in record["subjects"])
        kind = record["kind"]
        if made.tzinfo is None or not isinstance(kind, str):
            raise ValueError
        made = made.astimezone(UTC)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(
            f"{path}: is no report: a JSON object with kind, made (with its zone) and subjects; "
            "make it with this version, or move it out of the dossier"
        ) from None
    return ModelReport(path, kind, made, subjects, record)


def _read_settings(path: Path) -> ReleaseSettings:
    if not path.exists() and not path.is_symlink():
        return ReleaseSettings()
    return checked_table(path, ReleaseSettings, read_toml(path, "settings of the release"))
