"""The folders of a curation: one run at a time, and nothing that is read is ever written to."""

import shutil
from pathlib import Path

import pytest
from curated_pairs import files_of, scene, write_pairs
from light_filters import light_guard
from PIL import Image

from openkontext import cli
from openkontext.curation import curate
from openkontext.curation.runner import Watched
from openkontext.errors import InputError


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_second_run_in_one_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    source, out = write_pairs(tmp_path / "in", 3), tmp_path / "out"
    answers: list[tuple[int, str]] = []

    phases = dict[str, Watched]()

    def meanwhile(seen: Watched) -> None:
        phases[seen.phase] = seen
        if not answers:
            for more in ([], ["--overwrite"]):
                asked = [
                    "curate",
                    str(source),
                    str(out),
                    "--rules",
                    "pre-training",
                    "--engine",
                    engine,
                    *more,
                ]
                answers.append((cli.main(asked), capsys.readouterr().err))

    card = curate(source, out, "pre-training", guard=light_guard, watch=meanwhile)
    assert card["kept"] == 3
    assert phases == {
        name: Watched(name, 3, 3, 3, 0) for name in ("looking", "comparing", "writing", "reporting")
    }
    for status, error in answers:
        assert status == 2
        assert error.count("\n") == 1
        assert "another curation is at work in it" in error
    assert not (out / ".curation").exists()
    assert curate(source, out, "pre-training", guard=light_guard) == card  # nobody is at work any more
    assert not (out / ".curation").exists()


def test_a_folder_that_is_read_is_never_written_to(tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    Image.fromarray(scene(50)).save(held_out / "a.png")
    source = write_pairs(tmp_path / "in", 2)
    rules = tmp_path / "rules.toml"
    rules.write_text('leakage.sets = ["held-out"]')
    curate(source, tmp_path / "first", guard=light_guard)
    (tmp_path / "link").symlink_to(tmp_path / "first")
    before = files_of(tmp_path)
    for read, out, by in (
        (tmp_path / "first" / "pairs.jsonl", tmp_path / "first", "post-training"),
        (tmp_path / "first" / "pairs.jsonl", tmp_path / "link", "post-training"),
        (tmp_path / "in" / "pairs.jsonl", tmp_path / "in", "post-training"),
        (source, tmp_path / "held-out" / "out", rules),
        (source, held_out, rules),
    ):
        with pytest.raises(InputError, match="name another folder"):
            curate(read, out, by, guard=light_guard, overwrite=True)
    assert files_of(tmp_path) == before


def test_an_output_may_lie_beside_its_source(tmp_path: Path) -> None:
    """Names with blanks, signs and ends of lines in them are as good as any."""
    folder = tmp_path / "Bilder 絵\nneu"
    source = write_pairs(folder, 2)
    assert curate(folder, folder / "out put", "pre-training", guard=light_guard)["kept"] == 2
    read = files_of(folder / "out put")
    shutil.rmtree(folder / "out put")
    curate(source, folder / "out put", "pre-training", guard=light_guard)
    assert files_of(folder / "out put").keys() == read.keys()


def test_a_card_of_which_nothing_is_kept_says_so(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "in", 1)
    (tmp_path / "rules.toml").write_text('name = "<all>"\nlicense.allow = ["none"]\n')
    card = curate(source, tmp_path / "out", tmp_path / "rules.toml", guard=light_guard)
    assert (card["kept"], card["dropped"]) == (0, 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Nothing was kept" in page
    assert "1 was dropped" in " ".join(page.split())
    assert "&lt;all&gt;" in page
    assert "<all>" not in page


def test_an_empty_evaluation_set_leaves_nothing_and_the_same_folder_serves_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_pairs(tmp_path / "in", 1), tmp_path / "out"
    (tmp_path / "held-out").mkdir()
    (tmp_path / "rules.toml").write_text('leakage.sets = ["held-out"]\n')
    asked = ["curate", str(source), str(out), "--rules", str(tmp_path / "rules.toml")]
    assert cli.main(asked) == 2
    assert "held-out holds no picture that can be read" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    assert cli.main(asked) == 2
    assert list(out.iterdir()) == []
    Image.fromarray(scene(40)).save(tmp_path / "held-out" / "a.png")
    assert curate(source, out, tmp_path / "rules.toml", guard=light_guard)["kept"] == 1
