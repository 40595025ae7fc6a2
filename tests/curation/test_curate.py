"""Whole curations of a few pairs: each record has one outcome, whatever is wrong, whatever ends."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from curated_pairs import files_of, outcomes, scene, write_pairs
from light_filters import light_guard
from PIL import Image

from openkontext import cli, reports
from openkontext.curation import CurationRules, curate, load_rules
from openkontext.curation.looking import Looker
from openkontext.errors import InputError
from openkontext.train.records import PairRecord, read_records, sources

POST = load_rules("post-training")
HUNG_SECONDS = 30
"""A record takes milliseconds. A busy machine may stand still for seconds and must not look like a hang."""


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A source with poison in it, and what must become of each record."""
    folder = tmp_path_factory.mktemp("spoiled")
    write_pairs(
        folder,
        14,
        at1={"instruction": "make it night " * 4000},
        at2={"after": "../secret.png"},
        at3={"instruction": 7},
        at4={"instruction": "put a rifle in his hands"},
        at5={"instruction": "make the house sleep"},
        at6={"instruction": "make the two cars crash"},
        at7={"before": "a\0b.png"},
        at8={"instruction": "please make this check fail"},
        at10={"after": "a" * 5000},
    )
    Image.fromarray(scene(1)).save(folder / "9-after.png", "JPEG", quality=70)
    Image.fromarray(scene(0)).save(folder / "9-before.png", "JPEG", quality=70)
    (folder / "12-after.png").write_bytes((folder / "12-after.png").read_bytes()[:200])
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    lines[9] = json.dumps(json.loads(lines[9]) | {"instruction": first["instruction"].upper()})
    lines[11] = lines[0]
    lines.append('{"deep": ' + "[" * 100_000)
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl", [
        ("kept", ""),
        ("instruction", "too long"),
        ("read", "after: lies outside of the table's folder"),
        ("read", "no instruction"),
        ("filters", "weapons (prompt)"),
        ("record", f"it took longer than {HUNG_SECONDS} s"),
        ("record", "it ended the process that looked at it"),
        ("read", "before: no such file"),
        ("filters", "the check words could not look"),
        ("near duplicates", "looks alike"),
        ("read", "after: no such file"),
        ("exact duplicates", "the same again"),
        ("decode", "after: damaged or cut short"),
        ("kept", ""),
        ("read", "no JSON"),
    ]


def test_a_poison_record_costs_that_record_alone(spoiled, tmp_path: Path) -> None:
    source, expected = spoiled
    card = curate(source, tmp_path / "out", POST, guard=light_guard, seconds=HUNG_SECONDS, block=4)
    assert outcomes(tmp_path / "out") == expected
    assert (card["records"], card["kept"], card["dropped"]) == (15, 2, 13)
    assert sum(sum(reasons.values()) for reasons in card["dropped_by"].values()) == 13
    assert card["kind"] == reports.DATA_CARD
    sums = (tmp_path / "out" / "SHA256SUMS").read_bytes()
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True)
    assert checked.returncode == 0
    assert card["subjects"] == [{"name": "out", "digest": hashlib.sha256(sums).hexdigest()}]
    again = curate(source, tmp_path / "out", POST, guard=light_guard, seconds=HUNG_SECONDS, block=4)
    assert again == card  # it is finished: nothing is done twice


def test_ray_comes_to_the_same_outcome_of_every_record(spoiled, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    source, expected = spoiled
    path = os.pathsep.join(each for each in sys.path if each)  # for filters of tests, on whichever machine
    environment = {"env_vars": {"PYTHONPATH": path}}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        curate(source, tmp_path / "out", POST, guard=light_guard, seconds=HUNG_SECONDS, block=5, engine="ray")
    finally:
        ray.shutdown()
    assert outcomes(tmp_path / "out") == expected


PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from light_filters import light_guard
from openkontext.curation import curate

def end(after):
    while not after.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=end, args=(Path(sys.argv[2], ".curation", sys.argv[3]),), daemon=True).start()
    curate(sys.argv[1], sys.argv[2], guard=light_guard, block=4, workers=1)
"""
"""Kills itself at the file that it is told of: whoever watches from outside may come too late."""


@pytest.mark.parametrize("after", ["looked/000001.parquet", "written/000000"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = write_pairs(tmp_path / "in", 12, at3={"instruction": "go"})
    curate(source, tmp_path / "whole" / "set", guard=light_guard, block=4)
    out = tmp_path / "killed" / "set"
    (tmp_path / "program.py").write_text(PROGRAM)
    path = os.pathsep.join(each for each in sys.path if each)
    command = [sys.executable, tmp_path / "program.py", source, out, after]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode == -signal.SIGKILL
    looked = {each: each.stat().st_mtime_ns for each in (out / ".curation" / "looked").glob("0*.parquet")}
    blocks: list[int] = []

    def look(self: Looker, *_: object) -> None:  # in the process that asks, none is looked at
        raise AssertionError

    monkeypatch.setattr(Looker, "look", look)
    curate(source, out, guard=light_guard, block=4, watch=lambda seen: blocks.append(seen.done))
    assert looked  # what was written down was not done again
    assert blocks[0] >= 4 * len(looked)
    assert files_of(out) == files_of(tmp_path / "whole" / "set")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "webdataset"])
def test_every_format_is_read_again_as_it_went_in(tmp_path: Path, kind: str) -> None:
    source = write_pairs(tmp_path / "in", 3, at1={"instruction": 'nächste "Zeile" \u2603, make it snow'})
    curate(source, tmp_path / "out", CurationRules(), guard=light_guard, kind=kind)
    (tmp_path / "out" / "outcomes.jsonl").rename(tmp_path / "outcomes.jsonl")
    before, after = list(read_records(sources(source))), list(read_records(sources(tmp_path / "out")))
    for one, other in zip(before, after, strict=True):
        assert isinstance(one, PairRecord)
        assert isinstance(other, PairRecord)
        assert one.instruction == other.instruction
        for mine, theirs in ((one.before, other.before), (one.after, other.after)):
            assert isinstance(mine, Path)
            assert (theirs.read_bytes() if isinstance(theirs, Path) else theirs) == mine.read_bytes()


def test_rules_that_say_so_drop_by_license_group_and_leakage(tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    Image.fromarray(np.rot90(scene(7))).save(held_out / "a.jpg", quality=70)
    source = write_pairs(
        tmp_path / "in",
        7,
        at0={"license": "cc by 4.0"},
        at1={"license": "CC-BY-NC-4.0"},
        at2={"license": None},
        **{f"at{at}": {"source": "web"} for at in (4, 5, 6)},
    )
    (tmp_path / "rules.toml").write_text(
        'license.allow = ["CC-BY-4.0", "CC0-1.0"]\nleakage.sets = ["held-out"]\n'
        'balance = {field = "source", most = 2}\n'
    )
    card = curate(source, tmp_path / "out", tmp_path / "rules.toml", guard=light_guard)
    assert [stage for stage, _ in outcomes(tmp_path / "out")] == [
        "kept", "license", "license", "leakage", "kept", "kept", "balance",
    ]  # fmt: skip
    assert card["licenses"] == {"CC0-1.0": 2, "cc by 4.0": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("picture.min_sidee = 3", r"picture.min_sidee is no rule; did you mean picture.min_side\?"),
        ("pictures = {}", r"pictures is no rule; did you mean picture\?"),
        ("min_side = 3", r"min_side is no rule; did you mean picture.min_side\?"),
        ('extends = "none"', "extends = 'none'; it is one of pre-training"),
        ("picture.min_side = 3", "picture.min_side = 3: "),
        ("duplicates.near = 'of'", "duplicates.near = 'of'"),
        ("instruction.max_characters = 40000", "instruction.max_characters = 40000"),
        ("instruction = {min_characters = 9, max_characters = 8}", "min_characters is above"),
        ("picture = [", "cannot read the rules"),
        ("picture = 3", "picture = 3: "),
        ("picture.min_side = '64'", "picture.min_side = '64': "),
        ("picture.min_side = true", "picture.min_side = True: "),
        ("picture.max_aspect = nan", "picture.max_aspect = nan: "),
        ("picture.min_sharpness = inf", "picture.min_sharpness = inf: "),
        ("duplicates.same_instruction = 'no'", "duplicates.same_instruction = 'no': "),
        ("license.allow = 'CC0-1.0'", "license.allow = 'CC0-1.0': "),
        ("license.allow = [1]", r"license.allow.0 = 1: "),
        ("balance.most = 1979-05-27", "balance.most = 1979-05-27: "),
        ("extends = ['pre-training']", "it is one of pre-training"),
        ("safety.profile = 'off'", "'off'"),
        ("leakage.sets = ['gone']", "gone: no such file or folder"),
        ("instruction.languages = ['qqq']", "'qqq' is no language"),
    ],
)
def test_rules_that_are_none_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    source = write_pairs(tmp_path / "in", 1)
    (tmp_path / "rules.toml").write_text(text)
    asked = ["curate", str(source), str(tmp_path / "out"), "--rules", str(tmp_path / "rules.toml")]
    assert cli.main(asked) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error), error
    assert not (tmp_path / "out").exists()


def test_folders_of_others_and_empty_sets_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pairs(tmp_path / "in", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty.jsonl").write_text("\n")
    monkeypatch.setitem(sys.modules, "ray.data", None)
    for asked, says in (
        ([source, tmp_path / "full"], "holds other files"),
        ([source, tmp_path / "full", "--overwrite"], "holds other files"),
        ([tmp_path / "empty.jsonl", tmp_path / "out"], "holds no record"),
        ([source, source], "is a file"),
        ([source, tmp_path / "out", "--engine", "ray"], r"pip install '.[ray]'"),
        ([source, tmp_path / "out", "--format", "csv"], "jsonl, parquet, webdataset"),
        ([source, "/dev/full/out"], "/dev/full/out"),
    ):
        assert cli.main(["curate", *map(str, asked), "--rules", "pre-training"]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert files_of(tmp_path / "full") == {"mine.txt": b"mine"}
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    from openkontext.curation import runner

    source = write_pairs(tmp_path / "in", 4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "write_decisions", full)
        with pytest.raises(InputError, match="No space left on device"):
            curate(source, tmp_path / "out", guard=light_guard)
    assert not (tmp_path / "out" / "report.json").exists()
    assert curate(source, tmp_path / "out", guard=light_guard)["kept"] == 4


def test_another_curation_is_not_mixed_with_it(tmp_path: Path) -> None:
    source, out = write_pairs(tmp_path / "in", 3), tmp_path / "out"
    curate(source, out, guard=light_guard)
    with pytest.raises(InputError, match="--overwrite"):
        curate(source, out, "pre-training", guard=light_guard)
    (out / "mine.txt").write_text("mine")
    curate(source, out, "pre-training", guard=light_guard, overwrite=True, kind="webdataset")
    assert sorted(each.name for each in out.iterdir()) == [
        "SHA256SUMS", "mine.txt", "outcomes.jsonl", "pairs-000000.tar", "report.html", "report.json",
    ]  # fmt: skip
