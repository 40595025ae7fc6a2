"""A model that is ready to be released: a repository of two precisions, and a dossier with all it needs."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from copier import make_repository

from openkontext import reports
from openkontext.cli import main
from openkontext.reports import ReportSubject
from openkontext.repository import Repository

DATA = "d0" * 32
"""Digest of the data that the model was trained on."""
OTHER = "ee" * 32
"""Of other weights, and of other data."""


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """A command: its exit code, and what it printed on stdout and on stderr."""
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    return code, *capsys.readouterr()


def now(days: float) -> str:
    """A time so many days ago, as reports have it."""
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def make_ready(folder: Path, template: Path | None = None) -> tuple[Path, Path]:
    """Write the repository and the dossier; returns their folders.

    Args:
        folder: to write them into.
        template: the copier's repository, where there is one already.
    """
    home, dossier = folder / "model", folder / "dossier"
    shutil.copytree(template, home) if template else make_repository(home)
    shutil.copytree(home / "transformer.opt" / "fp32", home / "transformer.opt" / "bf16")
    repository = Repository.open(home)
    subjects = {p: ReportSubject("copier", repository.digest(p)) for p in repository.precisions}
    overall = {"success": 0.725, "low": 0.63, "high": 0.8, "count": 100}
    for precision, subject in subjects.items():
        write_report(
            dossier / f"evaluation-{precision}.json",
            reports.EVALUATION,
            [subject],
            source="held-out edits",
            seed=3,
            overall=overall,
            tasks={"local edits": overall},
        )
    decision = {"passed": True, "missed": []}
    write_report(dossier / "red-team.json", reports.RED_TEAM, list(subjects.values()), decision=decision)
    write_report(
        dossier / "data-card.json", reports.DATA_CARD, [ReportSubject("drawn", DATA)], kept=90, dropped=10
    )
    (dossier / "release.toml").write_text(f'trained_on = ["{DATA}"]\n')
    (dossier / "LICENSE").write_text("Do as you like.\n")
    (dossier / "about.md").write_text("It copies pictures. It cannot do anything else.\n")
    return home, dossier


def write_report(path: Path, kind: str, subjects: list[ReportSubject], days: float = 0, **more: Any) -> None:
    """Write a report that is some days old."""
    made = datetime.now(UTC) - timedelta(days=days)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**reports.head(kind, subjects, made), **more}))


def change(path: Path, **fields: Any) -> None:
    """Change fields of a report."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
