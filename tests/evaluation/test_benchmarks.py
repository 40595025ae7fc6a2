"""Cases from elsewhere: both layouts are read as documented, and what is wrong is named by its line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import Copying

from openkontext import InputError
from openkontext.data.edits import TASKS
from openkontext.evaluation.benchmarks import CATEGORIES, PictureCase, read_cases, spread
from openkontext.evaluation.editing import edited_by, evaluate
from openkontext.evaluation.scores import ScoreReport


def picture(file: Path, color: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(file)


def write(file: Path, *rows: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return file


@pytest.fixture
def kontext_bench(tmp_path: Path) -> Path:
    """Its layout: a line a prompt, a picture of which several prompts may speak."""
    rows = []
    for index, category in enumerate(CATEGORIES):
        name = f"images/{index // 2:04}.jpg"
        picture(tmp_path / "test" / name, (40 * index, 90, 120))
        rows.append(
            {
                "file_name": name,
                "instruction": f"prompt {index}",
                "category": category,
                "key": f"{index // 2:04}_{index % 2:02}",
                "image_idx": index // 2,
                "prompt_idx": index % 2,
            }
        )
    write(tmp_path / "test" / "metadata.jsonl", *rows)
    return tmp_path


@pytest.mark.parametrize("inner", ["", "test", "test/metadata.jsonl"])
def test_kontext_bench_is_read_from_its_folder(kontext_bench: Path, inner: str):
    cases = read_cases(kontext_bench / inner)
    assert [case.task for case in cases] == list(TASKS) == list(CATEGORIES.values())[:2] + list(TASKS)[2:]
    assert [case.name for case in cases] == ["0000_00", "0000_01", "0001_00", "0001_01", "0002_00"]
    assert cases[3].instruction == "prompt 3"
    assert cases[0].before_path == cases[1].before_path
    assert cases[4].before.shape == (48, 64, 3)
    assert cases[4].reference is None
    assert cases[4].may_change is None


def test_a_category_that_is_new_is_a_task_of_its_own(kontext_bench: Path):
    write(
        kontext_bench / "test" / "metadata.jsonl",
        {"file_name": "images/0000.jpg", "instruction": "zoom out", "category": "Camera"},
    )
    (case,) = read_cases(kontext_bench)
    assert (case.task, case.name) == ("Camera", "line 1")


def test_a_jsonl_of_cases_brings_what_it_has(tmp_path: Path):
    for name, color in (("a.png", (200, 30, 30)), ("b.png", (30, 30, 200))):
        picture(tmp_path / name, color)
    below = np.tri(48, 64, dtype=bool)  # white below the diagonal
    Image.fromarray(below).save(tmp_path / "mask.png")
    file = write(
        tmp_path / "cases.jsonl",
        {
            "before": "a.png",
            "instruction": " make it blue ",
            "after": "b.png",
            "name": "first",
            "task": "sky",
        },
        "",
        {"before": "a.png", "instruction": "x", "mask": "mask.png", "measure": ["changed"]},
    )
    first, second = read_cases(file)
    assert (first.name, first.task, first.instruction) == ("first", "sky", "make it blue")
    assert first.reference is not None
    assert tuple(first.reference[0, 0]) == (30, 30, 200)
    assert (second.name, second.task, second.wanted) == ("line 3", "cases", ["changed"])
    assert second.may_change is not None
    np.testing.assert_array_equal(second.may_change, below)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: no JSON"),
        ("[]", "line 2: no JSON object"),
        ({"instruction": "x"}, 'line 2: names no picture: give "before"'),
        ({"before": "a.png"}, "line 2: there is no 'instruction'"),
        ({"before": "a.png", "instruction": "  "}, "line 2: there is no 'instruction'"),
        ({"before": "a.png", "instruction": 3}, "line 2: 'instruction' must be text"),
        ({"file_name": "a.png", "instruction": None}, "line 2: 'instruction' must be text"),
        ({"before": "a.png", "instruction": "x", "task": ["y"]}, "line 2: 'task' must be text"),
        ({"before": 7, "instruction": "x"}, "line 2: 'before' must be the path of a picture"),
        ({"before": "none.png", "instruction": "x"}, "line 2: 'before': no such file: none.png"),
        ({"before": "../a.png", "instruction": "x"}, "line 2: 'before' lies outside"),
        ({"before": "broken.png", "instruction": "x"}, "line 2: .*broken.png"),
        ({"before": "a.png", "instruction": "x", "mask": "wide.png"}, "line 2: the mask is 96x48"),
        (
            {"before": "a.png", "instruction": "x", "measure": ["taste"]},
            "line 2: 'measure' must be a list of",
        ),
        ({"before": "a.png", "instruction": "x", "measure": ["ssim"]}, "line 2: to measure ssim .* 'after'"),
        ({"before": "a.png", "instruction": "x", "measure": ["outside"]}, "'mask' or 'after'"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path: Path, line: object, says: str):
    picture(tmp_path / "a.png", (1, 2, 3))
    picture(tmp_path / "wide.png", (255, 255, 255), (96, 48))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    file = write(tmp_path / "cases.jsonl", {"before": "a.png", "instruction": "fine"}, line)
    with pytest.raises(InputError, match=says):
        read_cases(file)


def test_what_is_no_benchmark_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_cases(tmp_path / "none")
    with pytest.raises(InputError, match=r"neither metadata.jsonl nor test/metadata.jsonl.*hf download"):
        read_cases(tmp_path)
    with pytest.raises(InputError, match="holds no case"):
        read_cases(write(tmp_path / "empty.jsonl"))


def test_fewer_cases_are_spread_over_all(tmp_path: Path):
    picture(tmp_path / "a.png", (1, 2, 3))
    cases = read_cases(
        write(tmp_path / "c.jsonl", *({"before": "a.png", "instruction": str(i)} for i in range(10)))
    )
    assert [case.index for case in spread(cases, 4)] == [0, 2, 5, 7]
    assert spread(cases, 99) == spread(cases, None) == cases


def test_nobody_judges_them_but_they_are_measured(kontext_bench: Path):
    cases = read_cases(kontext_bench)
    outcomes = list(evaluate(cases, edited_by(Copying())))
    assert all(outcome.judgment is None for outcome in outcomes)
    report = ScoreReport.of(outcomes)
    assert (report.count, report.overall, report.tasks, report.kinds, report.goals) == (5, None, {}, {}, ())
    assert report.cases == dict.fromkeys(TASKS, 1)
    assert report.measures["all"] == {"changed": 0, "ssim_input": 1}
    assert report.unchanged == dict.fromkeys(TASKS, 1)  # a copy says so


def test_the_seed_shifts_the_noise(kontext_bench: Path):
    class Recording(Copying):
        def edit(self, image: np.ndarray, prompt: str, **options: object):
            self.seed = options["seed"]
            return super().edit(image, prompt)

    editor, case = Recording(), read_cases(kontext_bench)[3]
    assert isinstance(case, PictureCase)
    edited_by(editor, seed=100)(case)
    assert editor.seed == 103
