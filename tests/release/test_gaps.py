"""What keeps a model from its release: each piece that is missing, too old, damaged or of other weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from releasable import DATA, OTHER, change, contents, now, run

from openkontext import reports
from openkontext.repository import RepositoryConfig

Change = Callable[[Path, Path], object]


OTHER_WEIGHTS = [{"name": "copier", "digest": OTHER}]
GAPS: dict[str, tuple[Change, str, str]] = {
    "no evaluation": (
        lambda _, d: (d / "evaluation-bf16.json").unlink(),
        "evaluation of bf16",
        "other weights",
    ),
    "none at all": (
        lambda _, d: [path.unlink() for path in d.glob("evaluation-*.json")],
        "evaluation of fp32",
        "missing",
    ),
    "evaluation of others": (
        lambda _, d: change(d / "evaluation-fp32.json", subjects=OTHER_WEIGHTS),
        "evaluation of fp32",
        f"speaks of copier ({OTHER[:12]})",
    ),
    "old evaluation": (
        lambda _, d: change(d / "evaluation-fp32.json", made=now(days=181)),
        "evaluation of fp32",
        "too old",
    ),
    "evaluation of tomorrow": (
        lambda _, d: change(d / "evaluation-fp32.json", made=now(days=-3)),
        "evaluation of fp32",
        "in the future",
    ),
    "few cases": (
        lambda _, d: change(d / "evaluation-fp32.json", overall={"success": 1.0, "count": 99}),
        "evaluation of fp32",
        "99 cases",
    ),
    "judged by nobody": (
        lambda _, d: change(d / "evaluation-bf16.json", overall=None),
        "evaluation of bf16",
        "judged by nobody",
    ),
    "a share that is no number": (
        lambda _, d: change(d / "evaluation-bf16.json", overall={"success": "all", "count": 300}),
        "evaluation of bf16",
        "is damaged: overall",
    ),
    "a share above all": (
        lambda _, d: change(d / "evaluation-bf16.json", overall={"success": 1.5, "count": 300}),
        "evaluation of bf16",
        "is damaged: overall",
    ),
    "an interval that is none": (
        lambda _, d: change(
            d / "evaluation-bf16.json", overall={"success": 0.9, "low": None, "high": "1", "count": 300}
        ),
        "evaluation of bf16",
        "is damaged: overall",
    ),
    "cases that are no number": (
        lambda _, d: change(d / "evaluation-bf16.json", overall={"success": 0.9, "count": True}),
        "evaluation of bf16",
        "is damaged: overall",
    ),
    "a task without a share": (
        lambda _, d: change(d / "evaluation-fp32.json", tasks={"local": {"success": 0.9}}),
        "evaluation of fp32",
        "is damaged: local",
    ),
    "tasks in a list": (
        lambda _, d: change(d / "evaluation-fp32.json", tasks=[0.9]),
        "evaluation of fp32",
        "is damaged: tasks",
    ),
    "the autoencoder alone": (
        lambda _, d: change(d / "evaluation-bf16.json", kind=reports.AUTOENCODER),
        "evaluation of bf16",
        "other weights",
    ),
    "no red team": (lambda _, d: (d / "red-team.json").unlink(), "red-team report of bf16", "missing"),
    "red team of others": (
        lambda _, d: change(d / "red-team.json", subjects=OTHER_WEIGHTS),
        "red-team report of fp32",
        "other weights",
    ),
    "attacked with success": (
        lambda _, d: change(
            d / "red-team.json", decision={"passed": False, "missed": ["star: 12% above 5%"]}
        ),
        "red-team report of bf16",
        "star: 12% above 5%",
    ),
    "no decision": (
        lambda _, d: change(d / "red-team.json", decision=None),
        "red-team report of bf16",
        "no decision",
    ),
    "attacked behind other filters": (
        lambda _, d: change(d / "red-team.json", filters={"prompt": "1"}),
        "red-team report of bf16",
        "too old: the filter",
    ),
    "bounds missed that are no list": (
        lambda _, d: change(d / "red-team.json", decision={"passed": False, "missed": 3}),
        "red-team report of bf16",
        "did not pass its thresholds: 3",
    ),
    "filters that are no table": (
        lambda _, d: change(d / "red-team.json", filters=["prompt 1"]),
        "red-team report of bf16",
        "is damaged: its filters",
    ),
    "no data card": (lambda _, d: (d / "data-card.json").unlink(), f"data card of {DATA[:12]}", "missing"),
    "card of other data": (
        lambda _, d: change(d / "data-card.json", subjects=[{"name": "drawn", "digest": OTHER}]),
        f"data card of {DATA[:12]}",
        "other data",
    ),
    "data that nothing names": (
        lambda _, d: (d / "release.toml").unlink(),
        "data card",
        "nothing says that the model was trained on the data of data-card.json",
    ),
    "neither data nor card": (
        lambda _, d: [(d / name).unlink() for name in ("release.toml", "data-card.json")],
        "data card",
        "missing",
    ),
    "no license": (lambda _, d: (d / "LICENSE").unlink(), "license", "text is missing"),
    "new weights": (
        lambda h, _: replace(RepositoryConfig.load(h), num_inference_steps=4).save(h),
        "red-team report of fp32",
        "other weights",
    ),
    "terms": (
        lambda h, _: replace(RepositoryConfig.load(h), license="a house license").save(h),
        "terms",
        "a house license is no open license",
    ),
    "a license that is not said": (
        lambda h, _: replace(RepositoryConfig.load(h), license="not stated").save(h),
        "license",
        "openkontext.json says none",
    ),
}


@pytest.mark.parametrize("case", GAPS)
def test_each_piece_that_is_missing_or_stale_is_named_and_nothing_is_written(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    home, dossier = ready
    broken, piece, why = GAPS[case]
    broken(home, dossier)
    before = contents(home)
    code, out, err = run(capsys, "release", home, "--dossier", dossier, "--json")
    assert code == 2
    assert err.count("\n") == 1
    assert piece in err
    found = json.loads(out)
    assert found["released"] is False
    (gap,) = [each for each in found["gaps"] if each["piece"] == piece and why in each["why"]]
    assert gap["remedy"] or "red" not in piece or gap["why"]
    assert contents(home) == before
