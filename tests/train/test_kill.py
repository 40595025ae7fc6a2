"""A stage that is killed, again and again, at random moments ends as one that was not."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import stages_to_kill
import torch
from forked import forking_from
from patience import wait
from stages_to_kill import STEPS

from openkontext.train.metrics_log import Metrics


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    imported = ("openkontext.train.scratch", "openkontext.train.distill", "openkontext.train.finetune")
    models = (f"transformers.models.{name}.modeling_{name}" for name in ("t5", "clip"))
    with forking_from(*imported, *models) as context:
        yield context


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of the metrics but for the time."""
    rows = Metrics(folder, STEPS).rows()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(one: object, two: object) -> bool:
    """Whether two states hold the same numbers, to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one if k != "seconds")
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def check(processes: ForkServerContext, tmp_path: Path, stage: str, kills: int) -> None:
    """Compares a run with kills to one without."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    def start(folder: Path) -> ForkServerProcess:
        process = processes.Process(target=stages_to_kill.main, args=(folder, [stage]))
        process.start()
        return process

    unbroken = start(whole)
    unbroken.join()
    assert unbroken.exitcode == 0
    chance = random.Random(stage)
    done, stopped = 0, 0
    while done < 20:
        process = start(broken)
        try:
            if stopped < kills:
                _wait_for_steps(broken / stage, process)
                time.sleep(chance.uniform(0, 0.5))
                process.kill()
            process.join()
            code = process.exitcode
        finally:
            process.kill()
        if code == 0 and stopped == 0:  # this test stood still while it should have killed
            shutil.rmtree(broken)
        elif code == 0:
            break
        stopped += code == -signal.SIGKILL
        done += 1
    assert code == 0
    assert stopped > 0
    one, two = (torch.load(folder / stage / "state.pt", weights_only=False) for folder in (whole, broken))
    assert one["step"] == two["step"] == STEPS
    assert same(one, two)
    assert len(curve(whole / stage)) == STEPS // 3
    assert curve(broken / stage) == curve(whole / stage)


def _wait_for_steps(folder: Path, process: ForkServerProcess) -> None:
    """Waits until the process has written a new row, so that the kill falls among its steps."""
    file = folder / "metrics.csv"
    before = file.stat().st_mtime_ns if file.exists() else None
    wait(lambda: not process.is_alive() or (file.exists() and file.stat().st_mtime_ns != before))


def test_a_killed_distillation_goes_on_as_if_nothing_had_been(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    """The stage with two models, their optimizers and averages in its state."""
    check(processes, tmp_path, "ladd", kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "text", "flow", "finetune", "guidance", "ladd"])
def test_every_stage_killed_at_random_ends_the_same(
    processes: ForkServerContext, tmp_path: Path, stage: str
) -> None:
    check(processes, tmp_path, stage, kills=2)


def test_metrics_after_the_state_are_taken_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    for step in (1, 3, 5):
        metrics.add(step, {"loss": step / 10})
    metrics.add(7, {"loss": 0.7, "norm": 1.0})  # a metric that is new
    with metrics.file.open("a") as file:
        file.write("9,0.")  # a row that a kill has cut short
    again = Metrics(tmp_path, 6)  # the state knows of six steps
    again.add(6, {"loss": 0.6, "norm": 2.0})
    assert [(row["step"], row["loss"], row["norm"]) for row in again.rows()] == [
        ("1", "0.1", ""),
        ("3", "0.3", ""),
        ("5", "0.5", ""),
        ("6", "0.6", "2.0"),
    ]
