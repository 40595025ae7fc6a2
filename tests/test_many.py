"""Many pictures in one run: what is edited, what is skipped, what fails, and the exit codes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copier import blocks
from PIL import Image

import openkontext
from openkontext import InputError, images
from openkontext.cli import main
from openkontext.many import find, is_many, plan
from openkontext.request import EditRequest, of_metadata
from openkontext.runtime import Graph

Run = Any


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copier: Path
) -> Run:
    """Runs `edit` beside a folder `in` of two pictures; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("in/a.png", "in/b.jpg")):
        picture(Path(name), number)

    def edit(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["edit", *map(str, args), "--model", str(copier), "--steps", "1"])
        return code, *capsys.readouterr()

    return edit


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 200, (8, 12, 3), np.uint8)
    Image.fromarray(np.kron(colors, np.ones((8, 8, 1), np.uint8))).save(path)


def names(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_a_folder_is_edited_and_gone_on_with(run: Run) -> None:
    code, out, err = run("in", "make it brighter", "--seed", 3)
    assert code == 0
    assert names("in-edited") == ["a.png", "b.png"]
    assert out.count("seed 3") == 2
    assert "2 pictures: 2 made" in err
    before = {name: Path("in-edited", name).stat().st_mtime_ns for name in names("in-edited")}
    picture(Path("in/c.png"), 3)
    code, out, err = run("in", "make it brighter", "--seed", 3)
    assert (code, out.count("is there already")) == (0, 2)
    assert "3 pictures: 1 made, 2 skipped" in err
    assert {name: Path("in-edited", name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("change", ["instruction", "seed", "guidance", "picture", "mask"])
def test_what_was_made_otherwise_is_neither_skipped_nor_replaced(run: Run, change: str) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save("mask.png")
    base = ["in/*.png", "make it", "--seed", 1]
    assert run(*base)[0] == 0
    made = Path("edited/a.png").read_bytes()
    if change == "picture":
        picture(Path("in/a.png"), 9)
    again: list[Any] = {
        "instruction": ["in/*.png", "make it brighter", "--seed", 1],
        "seed": ["in/*.png", "make it", "--seed", 2],
        "guidance": [*base, "--guidance", 3],
        "picture": base,
        "mask": [*base, "--mask", "mask.png"],
    }[change]
    code, _, err = run(*again)
    assert code == 2
    assert "edited/a.png: exists, and was made otherwise; overwrite it" in err
    assert Path("edited/a.png").read_bytes() == made
    assert run(*again, "--overwrite")[0] == 0
    assert Path("edited/a.png").read_bytes() != made
    assert run(*again)[0] == 0


def test_a_bad_picture_costs_itself_alone(run: Run) -> None:
    Path("in/aa.png").write_bytes(b"no picture")
    code, out, err = run("in", "make it brighter", "--json")
    assert code == 2
    found = json.loads(out)
    assert {name: found[name] for name in ("made", "skipped", "refused", "failed")} == {
        "made": 2,
        "skipped": 0,
        "refused": 0,
        "failed": 1,
    }
    assert [each["status"] for each in found["pictures"]] == ["made", "failed", "made"]
    assert found["pictures"][1]["error"].startswith("in/aa.png: ")
    assert err.count("in/aa.png: is not a picture") == 1
    assert names("in-edited") == ["a.png", "b.png"]


def test_refusals_alone_have_their_own_code(run: Run) -> None:
    Path("list.jsonl").write_text(
        '{"image": "in/a.png", "prompt": "make it brighter"}\n'
        '{"image": "in/b.jpg", "prompt": "take off all of her clothes"}\n'
    )
    code, _, err = run("list.jsonl")
    assert code == 3
    assert "2 pictures: 1 made, 1 refused" in err
    assert "error: in/b.jpg: " in err
    assert names("edited") == ["a.png"]
    Path("list.jsonl").write_text(
        Path("list.jsonl").read_text() + '{"image": "none.png", "prompt": "make it"}'
    )
    assert run("list.jsonl")[0] == 2


def test_seeds_and_prompts_name_their_outputs(run: Run) -> None:
    Path("prompts.txt").write_text("make it brighter\n\nthe picture\n")
    code, _, _ = run("in/a.png", "--prompts", "prompts.txt", "--seeds", "4,5", "-o", "out/new")
    assert code == 0
    assert names("out/new") == ["a-p1-s4.png", "a-p1-s5.png", "a-p2-s4.png", "a-p2-s5.png"]
    said = images.read_metadata("out/new/a-p2-s5.png")
    assert (said["prompt"], said["seed"]) == ("the picture", "5")


def test_settings_come_back_from_a_picture(run: Run) -> None:
    assert run("in/a.png", "make it brighter", "--size", "original", "--guidance", 3, "-o", "a.png")[0] == 0
    assert run("in/a.png", "--from-metadata", "a.png", "-o", "again.png")[0] == 0
    np.testing.assert_array_equal(Image.open("a.png"), Image.open("again.png"))
    assert images.read_metadata("a.png") == images.read_metadata("again.png")
    assert run("in/a.png", "the picture", "--from-metadata", "a.png", "--seed", 8, "-o", "other.png")[0] == 0
    other = images.read_metadata("other.png")
    assert (other["prompt"], other["seed"], other["guidance_scale"]) == ("the picture", "8", "3.0")
    assert run("in", "--from-metadata", "a.png")[0] == 0
    assert images.read_metadata("in-edited/b.png")["prompt"] == "make it brighter"
    code, _, err = run("in/a.png", "--from-metadata", "in/a.png")
    assert code == 2
    assert "in/a.png: holds no settings" in err


def test_every_setting_comes_back() -> None:
    request = EditRequest(
        prompt="x",
        image="a.png",
        mask_image="m.png",
        crop_to_mask=True,
        fit="pad",
        keep_unchanged=False,
        strength=0.5,
        sigmas=[1, 0.25],
        max_sequence_length=9,
    )
    said = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in request.settings.items()
    }
    found = of_metadata(said | {"prompt": "x", "seed": "3", "cache": "0.1", "software": "y"})
    again = EditRequest(image="a.png", mask_image="m.png", **found)
    assert again.settings == request.settings
    assert (again.seed, again.cache) == (3, 0.1)
    with pytest.raises(InputError, match="damaged settings: seed is 'three'"):
        of_metadata({"prompt": "x", "seed": "three"})


def test_crop_and_extend_reach_the_edit(run: Run) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save("mask.png")
    assert run("in/a.png", "make it brighter", "--mask", "mask.png", "--crop-to-mask", "-o", "c.png")[0] == 0
    same = np.asarray(Image.open("c.png")) == np.asarray(Image.open("in/a.png"))
    assert same[mask == 0].all()
    code, _, _ = run(
        "in/a.png", "make it", "--extend", "left=32,top=16", "--extend", "right=8", "-o", "e.png"
    )
    assert code == 0
    assert Image.open("e.png").size == (96 + 40, 64 + 16)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["in"], "in/a.png: there is no instruction for it; give PROMPT or --prompts"),
        (["in/a.png"], "Missing argument 'PROMPT'"),
        (["none", "make it"], "none"),
        (["none/*.png", "make it"], "none/*.png: holds no picture"),
        (["in", "make it", "-o", "mask.png"], "-o names a folder"),
        (["in", "make it", "--seeds", "1,x"], "write whole numbers with commas"),
        (["in", "make it", "--seeds", "1,1"], "names a seed twice"),
        (["in", "make it", "--seeds", "1", "--seed", "2"], "either --seed or --seeds"),
        (["in", "make it", "--prompts", "empty.txt"], "empty.txt: holds no instruction"),
        (["in", "make it", "--preview", "p"], "--preview is for one picture"),
        (["in/a.png", "make it", "--extend", "left"], "write SIDE=PIXELS"),
        (["in/a.png", "make it", "--extend", "up=3"], "--extend has no side 'up'"),
        (["in/a.png", "make it", "--extend", "left=3,left=4"], "names left twice"),
        (["in/a.png", "make it", "--crop-to-mask"], "--crop-to-mask needs a mask"),
        (["bad.jsonl"], "bad.jsonl line 2: no JSON"),
        (["field.jsonl"], "field.jsonl line 1: there is no field 'color'"),
        (["out.jsonl"], "line 1: 'output' must be a name within"),
        (["twice.jsonl"], "two outputs would have this name"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, args: list[str], says: str) -> None:
    Path("empty.txt").write_text(" \n")
    line = '{"image": "in/a.png", "prompt": "make it"}\n'
    Path("bad.jsonl").write_text(line + "{")
    Path("field.jsonl").write_text(line.replace("prompt", "color"))
    Path("out.jsonl").write_text(line.replace("}", ', "output": "../x.png"}'))
    Path("twice.jsonl").write_text(line * 2)
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert says in err
    assert not [path for path in Path().iterdir() if path.is_dir() and path.name != "in"]


def test_names_are_told_apart_and_folders_kept(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.JPG", "x/y/a.png", "x/.hidden.png", "x/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def targets(source: Path, **options: Any) -> list[str]:
        jobs = plan(find(str(source)), Path("o"), prompts=["p"], **options)
        return sorted(job.target.as_posix() for job in jobs)

    assert targets(tmp_path / "x") == ["o/a-jpg.png", "o/a-png.png"]
    assert targets(tmp_path / "x" / "**" / "*.png") == ["o/.hidden.png", "o/a.png", "o/y/a.png"]
    assert targets(tmp_path / "x" / "y", seeds=[1, 2]) == ["o/a-s1.png", "o/a-s2.png"]
    (tmp_path / "[1].png").touch()
    assert not is_many(str(tmp_path / "[1].png"))
    assert is_many(str(tmp_path / "[12].jpg"))


def test_a_list_says_more_of_each(run: Run) -> None:
    lines = [
        {"image": "in/a.png", "instruction": "make it brighter", "seed": 5, "output": "sub/first.webp"},
        {"image": "in/b.jpg", "guidance_scale": 2.5, "size": "original"},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("list.jsonl", "the picture", "--seed", 1)[0] == 0
    assert names("edited") == ["b.png", "sub/first.webp"]
    first, second = (images.read_metadata(f"edited/{name}") for name in ("sub/first.webp", "b.png"))
    assert (first["prompt"], first["seed"]) == ("make it brighter", "5")
    assert (second["prompt"], second["seed"], second["guidance_scale"]) == ("the picture", "1", "2.5")
    assert io.BytesIO(Path("edited/sub/first.webp").read_bytes()).read(4) == b"RIFF"


@pytest.mark.parametrize("low_memory", [False, True])
def test_pictures_of_one_instruction_share_what_is_read_of_it(
    copier: Path, low_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, ran = openkontext.load(copier, low_memory=low_memory), []
    run = Graph.run

    def counted(graph: Graph, **arrays: Any) -> Any:
        ran.append(graph.path.parent.name)
        return run(graph, **arrays)

    monkeypatch.setattr(Graph, "run", counted)
    source, other = blocks(high=200), blocks(low=100)
    asked: dict[str, Any] = {"num_inference_steps": 2, "reference_images": [other]}
    asked |= {"negative_prompt": "the picture", "true_cfg_scale": 2.0}
    editor.edit(source, "make it brighter", seed=1, num_images_per_prompt=3, **asked)
    read = {"clip.opt": 2, "t5.opt": 2, "vae_encoder.opt": 2}  # instruction and negative; picture, reference
    assert {name: ran.count(name) for name in read} == read
    assert ran.count("vae.opt") == 3
    for seed in (4, 5):  # as `--seeds 4,5` asks, one request each
        editor.edit(source, "make it brighter", seed=seed, **asked)
    assert {name: ran.count(name) for name in read} == read
