"""The work folder of a run: names of any kind, folders of others, two runs at once, a full disk."""

import errno
import json
from pathlib import Path

import pytest
from red_teams import classifier, run, write

from openkontext.cli import main
from openkontext.files import alone


def test_a_work_folder_that_is_a_file_is_told_before_any_edit(
    folder: Path, copier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, '{kind = "reader"}')
    (folder / "work").write_text("mine")
    assert (
        main(["redteam", str(copier), "--plan", str(folder / "plan.toml"), "--work", str(folder / "work")])
        == 2
    )
    assert capsys.readouterr().err == f"error: {folder / 'work'}: is no folder; name another one for --work\n"
    assert (folder / "work").read_text() == "mine"


def test_a_work_folder_of_something_else_stays_as_it_is(
    folder: Path, copier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A curation leaves a report of the same name."""
    write(folder, classifier(0.0))
    (folder / "work").mkdir()
    (folder / "work" / "report.json").write_text("{}")
    asked = ["redteam", str(copier), "--plan", str(folder / "plan.toml"), "--work", str(folder / "work")]
    assert main(asked) == 2
    says = f"{folder / 'work'}: holds report.json of something else; name another folder for --work"
    assert capsys.readouterr().err == f"error: {says}\n"
    assert [(each.name, each.read_text()) for each in (folder / "work").iterdir()] == [("report.json", "{}")]


def test_a_second_run_in_the_same_folder_is_refused(
    folder: Path, copier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, classifier(0.0))
    with alone(folder / "work", "red-team run"):
        asked = ["redteam", str(copier), "--plan", str(folder / "plan.toml"), "--work", str(folder / "work")]
        assert main(asked) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder / 'work'}: another red-team run is at work in it; wait for it")
    assert [each.name for each in (folder / "work").iterdir()] == ["lock"]
    assert run(folder, copier)[0] == 0


def test_names_are_shown_as_they_are_and_people_called_alike_are_two(
    folder: Path, copier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint's name may look like markup of the terminal, or be no text."""
    write(folder, classifier(0.0))
    name = "[/b]:star:[red]<i>\udcff of a name that is long"
    asked = ["redteam", f"{name}={copier}", "--plan", str(folder / "plan.toml"), "--work", str(folder / "w")]
    assert main(asked) == 0
    assert "[/b]:star:[red]<i>" in capsys.readouterr().out
    page = (folder / "w" / "report.html").read_text()
    assert "<title>[/b]:star:[red]&lt;i&gt; of a name that is long</title>[/b]:star:[red]&lt;i&gt; …<" in page
    sheet = (folder / "w" / "grades.csv").read_text().replace(",\n", ",yes\n")
    for place in ("north", "south"):
        (folder / place).mkdir()
        (folder / place / "ann.csv").write_text(sheet)
    folders = (f'{{kind = "grades", folder = "{place}"}}' for place in ("north", "south"))
    write(folder, classifier(0.0), *folders)
    assert main(asked) == 0
    shares = json.loads((folder / "w" / "report.json").read_text())["judges"]["shares"]
    assert list(shares) == ["classifier", "ann (person)", "ann (person) 3"]


@pytest.mark.parametrize("file", ["trials.jsonl", "report.json"])
def test_a_full_disk_is_one_line(
    folder: Path, copier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    write(folder, classifier(0.0))

    def full(path: Path, *_: object, **__: object) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    module = "ledger.append_line" if file == "trials.jsonl" else "commanding.write_whole"
    monkeypatch.setattr(f"openkontext.redteam.{module}", full)
    work = folder / "work"
    arguments = ["redteam", str(copier), "--plan", str(folder / "plan.toml"), "--work", str(work)]
    assert main(arguments) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"error: {work / file}: cannot be written: No space left on device"
    assert not (work / file).exists()
