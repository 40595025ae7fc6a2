"""An export that is killed: what it leaves, and that the same export goes on from it to the same bytes."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from forked import forking_from

from openkontext.errors import InputError
from openkontext.export.exporting import export_repository
from openkontext.export.precisions import QuantRecipe
from openkontext.model.pipeline import save_pipeline
from openkontext.repository import Repository

PRECISIONS = ("bf16", "fp8", "fp4")


def export(checkpoint: Path, out: Path) -> None:
    torch.set_num_threads(1)
    export_repository(checkpoint, out, PRECISIONS, recipe=QuantRecipe(rank=4), overwrite=True, t5_fp8=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def processes():
    with forking_from("openkontext.export.exporting") as context:
        yield context


@pytest.fixture
def checkpoint(with_words, tmp_path) -> Path:
    save_pipeline(with_words, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("seed", "kills"),
    [
        (0, 6),
        *(pytest.param(seed, 20, marks=pytest.mark.slow) for seed in range(1, 6)),
    ],
)
def test_kills_at_any_moment_leave_nothing_half_made_and_are_gone_on_from(
    processes, checkpoint, tmp_path, seed, kills
):
    warm = processes.Process(target=len, args=((),))  # the first waits for all to be imported
    warm.start()
    warm.join()
    started = time.monotonic()
    whole = processes.Process(target=export, args=(checkpoint, tmp_path / "whole" / "out"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    took = time.monotonic() - started
    expected = contents(tmp_path / "whole" / "out")
    assert {f"transformer.opt/{precision}/model.onnx" for precision in PRECISIONS} < expected.keys()

    rng, killed, finished, folder = random.Random(seed), 0, 0, tmp_path / "killed"
    for _ in range(4 * kills):
        if killed == kills and finished:
            break
        process = processes.Process(target=export, args=(checkpoint, folder / "out"))
        process.start()
        if killed < kills:
            process.join(rng.uniform(0, 0.8 * took))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        killed += process.exitcode != 0
        for found in (path for path in [folder, *folder.rglob("*")] if path.is_dir()):
            check(found, expected)
        if process.exitcode == 0:
            assert contents(folder / "out") == expected
            assert not (folder / ".out.export").exists()
            finished += 1
            took /= 2  # the machine was busier before: kills come sooner from now on
            folder = tmp_path / f"killed again {finished}"
    assert killed == kills


def check(folder: Path, expected: dict[str, bytes]) -> None:
    """What is taken for a repository must be whole in each precision that it says to hold."""
    try:
        repository = Repository.open(folder)
    except InputError:
        return
    for precision in repository.precisions:
        for file in repository.files(precision):
            assert file.read_bytes() == expected[str(file.relative_to(folder))], file


def test_a_kill_between_the_two_renames_loses_nothing(checkpoint, tmp_path):
    out, work = tmp_path / "out", tmp_path / ".out.export"
    (work / "old" / "transformer.opt" / "bf16").mkdir(parents=True)
    (work / "old" / "transformer.opt" / "bf16" / "model.onnx").write_bytes(b"before")
    (work / "old" / "openkontext.json").write_text('{"name": "before"}')
    with pytest.raises(InputError, match="add --overwrite"):
        export_repository(checkpoint, out)
    assert contents(out)["openkontext.json"] == b'{"name": "before"}'


def test_half_a_text_encoder_is_not_kept(checkpoint, tmp_path):
    def stop(_share: float, what: str) -> None:
        if what == "t5.opt":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_repository(checkpoint, tmp_path / "out", on_progress=stop)
    left = tmp_path / ".out.export" / "new" / "t5.opt" / ".backbone.onnx_data.a1"
    left.mkdir(parents=True)
    (left / "backbone.onnx_data").write_bytes(b"half")
    out = export_repository(checkpoint, tmp_path / "out").path
    assert sorted(path.name for path in (out / "t5.opt").iterdir()) == ["backbone.onnx_data", "model.onnx"]
