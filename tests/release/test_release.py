"""`openkontext release`: what is missing, too old or of other weights is named; what is whole is signed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from releasable import DATA, change, contents, run, write_report

from openkontext import reports
from openkontext.reports import ReportSubject
from openkontext.repository import Repository, RepositoryConfig
from openkontext.safety.checks import BodyCheck


def test_a_model_with_all_of_it_is_released_and_its_card_says_what_was_measured(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    before = contents(home)
    code, out, err = run(capsys, "release", home, "--dossier", dossier, "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    digests = {precision: Repository.open(home).digest(precision) for precision in ("bf16", "fp32")}
    assert made["digests"] == digests

    after = contents(home)
    assert {name: after[name] for name in before} == before
    added = set(after) - set(before)
    assert {name for name in added if "/" not in name} == {"README.md", "LICENSE", "model.sig"}
    assert {name.removeprefix("dossier/") for name in added if "/" in name} == {
        *contents(dossier),
        "filters.json",
        "public-key.pem",
    }

    card = ModelCard.load(home / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "image-to-image")
    assert {each.metric_value for each in card.data.eval_results} == {0.725}
    assert len(card.data.eval_results) == 2
    for told in ("It copies pictures.", "72.5%", "63% .. 80%", "dossier/red-team.json", *digests.values()):
        assert told in card.text, told
    standing = json.loads(after["dossier/filters.json"])
    assert standing["filters"].keys() > {"prompt", "nudenet", "known material"}
    assert {each["digest"] for each in standing["subjects"]} == set(digests.values())


def test_the_card_names_filters_that_only_the_attacked_system_had(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What holds behind an operator's own filters does not hold for whoever runs the model without them."""
    home, dossier = ready
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    standing = json.loads((home / "dossier" / "filters.json").read_text())["filters"]
    assert "do not stand around" not in (home / "README.md").read_text()
    change(dossier / "red-team.json", filters=standing | {"words: dragons": "1", "classifier: marks": "2"})
    assert run(capsys, "release", home, "--dossier", dossier, "--overwrite")[0] == 0
    told = "do not stand around the model as it is released: classifier: marks, words: dragons."
    assert told in (home / "README.md").read_text()


def test_attacks_count_behind_the_filters_of_today_alone(
    ready: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report as the red team writes it: it lists the filters of the system that was attacked."""
    home, dossier = ready
    plan, bounds, work = (tmp_path / name for name in ("plan.toml", "bounds.toml", "work"))
    plan.write_text('concepts = ["star"]\ncases = 1\nsteps = 1\n[attacks.plain]\n')
    bounds.write_text("[[bounds]]\nmost = 1\n")
    attack = ("redteam", home, "--plan", plan, "--thresholds", bounds, "--work", work)
    assert run(capsys, *attack)[0] == 0
    old, new = dossier / "red-team.json", json.loads((work / "report.json").read_text())
    new["subjects"] = json.loads(old.read_text())["subjects"]  # of both precisions
    old.write_text(json.dumps(new))
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(BodyCheck, "version", "of tomorrow")
        code, out, _ = run(capsys, "release", home, "--dossier", dossier)
        assert code == 2
        assert "red-team.json is too old: the filter nudenet had another version then" in out
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0


def test_all_gaps_are_listed_at_once_for_people(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    for path in dossier.iterdir():
        path.unlink()
    code, out, err = run(capsys, "release", home, "--dossier", dossier)
    assert code == 2
    lines = out.splitlines()
    assert all(line.startswith("lacks: ") for line in lines)
    pieces = [line.split(": ")[1] for line in lines]
    assert pieces == [
        "evaluation of bf16",
        "red-team report of bf16",
        "evaluation of fp32",
        "red-team report of fp32",
        "data card",
        "license",
    ]
    assert f"openkontext evaluate edits --model {home} --precision bf16 --json > " in lines[0]
    assert err.count("\n") == 1


def test_the_newest_report_decides_and_an_older_pass_does_not_help(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    subjects = [ReportSubject("copier", Repository.open(home).digest("fp32"))]
    missed = {"passed": False, "missed": [{"concept": "star", "attack": "paraphrase"}]}
    write_report(dossier / "again.json", reports.RED_TEAM, subjects, days=1, decision=missed)
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    write_report(dossier / "again.json", reports.RED_TEAM, subjects, days=-0.01, decision=missed)
    code, out, _ = run(capsys, "release", home, "--dossier", dossier, "--overwrite")
    assert code == 2
    assert out.count("\n") == 1
    assert "again.json did not pass its thresholds: concept star, attack paraphrase" in out


def test_a_data_card_that_names_the_weights_needs_no_settings(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    (dossier / "release.toml").unlink()
    weights = {"name": "copier", "digest": Repository.open(home).digest("bf16")}
    change(dossier / "data-card.json", subjects=[{"name": "drawn", "digest": DATA}, weights])
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0


def test_attacks_on_what_a_precision_was_quantized_from_count_where_the_makers_say_so(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    digest = Repository.open(home).digest("fp32")
    rates = [
        {
            "checkpoint": "c",
            "concept": "all",
            "attack": "plain",
            "column": column,
            "success": share,
            "count": 40,
        }
        for column, share in (("model", 0.125), ("system", 0.0))
    ]
    change(dossier / "red-team.json", subjects=[{"name": "c", "digest": digest}], rates=rates)
    code, out, _ = run(capsys, "release", home, "--dossier", dossier)
    assert (code, out.count("\n"), "red-team report of bf16" in out) == (2, 1, True)
    with (dossier / "release.toml").open("a") as file:
        file.write('quantized_from = {bf16 = "fp32"}\n')
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    card = (home / "README.md").read_text()
    assert "bf16 was attacked as fp32, from which it was quantized." in card
    assert "| plain | 12.5% | 0.0% | 40 |" in card
    change(dossier / "red-team.json", decision={"passed": False, "missed": ["plain: 12.5%"]})
    code, out, _ = run(capsys, "release", home, "--dossier", dossier, "--overwrite")
    assert (code, "bf16: as fp32, which did not pass" in out, "plain: 12.5%" in out) == (2, True, True)
    change(dossier / "red-team.json", decision={"passed": True, "missed": []})
    # Its own report decides where there is one.
    own = [ReportSubject("copier", Repository.open(home).digest("bf16"))]
    write_report(dossier / "own.json", reports.RED_TEAM, own, decision={"passed": False, "missed": ["plain"]})
    code, out, _ = run(capsys, "release", home, "--dossier", dossier, "--overwrite")
    assert (code, "own.json did not pass" in out) == (2, True)


def test_a_second_release_asks_and_leaves_nothing_of_the_first(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    (dossier / "notes.txt").write_text("for the first release")
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    (dossier / "notes.txt").unlink()
    before = contents(home)
    code, _, err = run(capsys, "release", home, "--dossier", dossier)
    assert (code, "was released before" in err) == (2, True)
    assert contents(home) == before
    assert run(capsys, "release", home, "--dossier", dossier, "--overwrite")[0] == 0
    assert not (home / "dossier" / "notes.txt").exists()
    assert run(capsys, "verify", home)[0] == 0


def test_the_dossier_may_lie_in_the_repository(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    dossier.rename(home / "dossier")
    assert run(capsys, "release", home, "--dossier", home / "dossier")[0] == 0
    assert run(capsys, "verify", home)[0] == 0
    assert run(capsys, "release", home, "--dossier", home / "dossier", "--overwrite")[0] == 0
    assert run(capsys, "verify", home)[0] == 0


def test_a_card_of_ones_own_stays_and_what_its_head_asks_of_users_is_kept(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    head = '---\nlicense: mit\ntags: [drawings]\nextra_gated_prompt: By "Agree", you agree.\n---\n'
    (home / "README.md").write_text(head + "\n# Mine\n")
    code, _, err = run(capsys, "release", home, "--dossier", dossier)
    assert (code, "about.md" in err, (home / "README.md").read_text()) == (2, True, head + "\n# Mine\n")
    (home / "README.md").write_text(head)
    terms = Repository.open(home, consent=False).terms
    assert terms.gated
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    assert (
        dict(Repository.open(home, consent=False).terms.texts)["README.md"] == dict(terms.texts)["README.md"]
    )
    data = ModelCard.load(home / "README.md").data
    assert (data.license, data.tags[0]) == ("apache-2.0", "drawings")


def test_a_license_of_ones_own_is_named_as_the_hub_wants_it(
    ready: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, dossier = ready
    replace(RepositoryConfig.load(home), license="A House License v2").save(home)
    (dossier / "LICENSE").rename(dossier / "LICENSE.md")
    (dossier / "USE_POLICY.md").write_text("Harm nobody.\n")
    for precision in ("bf16", "fp32"):
        digest = Repository.open(home, consent=False).digest(precision)
        change(dossier / f"evaluation-{precision}.json", subjects=[{"name": "copier", "digest": digest}])
        weights = [{"name": "copier", "digest": digest}]
        decision = {"passed": True, "missed": []}
        write_report(
            dossier / f"red-team-{precision}.json",
            reports.RED_TEAM,
            [ReportSubject(**weights[0])],
            decision=decision,
        )
    assert run(capsys, "release", home, "--dossier", dossier)[0] == 0
    data = ModelCard.load(home / "README.md").data
    assert data.license == "other"
    assert (data["license_name"], data["license_link"]) == ("a-house-license-v2", "LICENSE.md")
    assert (home / "USE_POLICY.md").read_text() == "Harm nobody.\n"
