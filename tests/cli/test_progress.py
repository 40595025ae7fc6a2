"""What is shown while an edit is on its way: what is done, and from the first step on the time left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from openkontext.cli import console, main
from openkontext.errors import InputError


class Clock:
    """Stands for the module `time`; goes on by itself by so many seconds each time that it is read."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 1000.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def test_seconds_a_step_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    pace = console.Pace()
    clock.now += 300
    pace.stage()  # opened after five minutes, which are no part of a step
    clock.now += 40
    assert pace.step(1, 28) == "step 1/28, 40 s each, 0:18:00 left"
    pace.stage()  # a decoder opens for a preview
    clock.now += 2
    assert pace.step(2, 28) == "step 2/28, 21 s each, 0:09:06 left"  # foreseen by the cache
    clock.now += 26 * 0.25
    assert pace.step(28, 28) == "step 28/28, 1.7 s each"


def test_a_long_edit_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(console, "time", Clock(61))
    picture = tmp_path / "in.png"
    Image.new("RGB", (128, 128), "green").save(picture)
    arguments = ["edit", str(picture), "make it night", "-o", str(tmp_path / "out.png"), "--seed", "1"]
    assert main([*arguments, "--steps", "2", "--arithmetic", "int8"]) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [line.removeprefix("editing: ") for line in lines if line.startswith("editing: ")]
    assert "opening the transformer" in told
    assert any(line.startswith("weights in 8 bits, layer 1 of ") for line in told)
    (first,) = (line for line in told if line.startswith("step 1/2, "))
    assert first.endswith(" left")
    assert any("step 2/2" in line for line in lines)


def test_a_short_edit_leaves_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "time", Clock())
    with console.progress("editing") as on_step:
        console.LOG.debug("opening the %s", "transformer")
        for index in (1, 2):
            on_step(type("Step", (), {"index": index, "count": 2})())  # all that is read of an EditStep
    (line,) = capsys.readouterr().err.splitlines()
    assert "step 2/2, 0.0 s each" in line
    with console.progress("editing"):  # refused before its first step
        console.LOG.debug("opening the %s", "transformer")
    assert capsys.readouterr().err == ""
    assert not console.LOG.handlers


def test_what_ends_before_its_first_item_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def items(good: int) -> Iterator[int]:
        yield from range(good)
        raise InputError("steps is 0")

    for good, lines in ((0, 0), (1, 1)):
        seen = []
        with pytest.raises(InputError):
            seen += console.track(items(good), "attacking", 3)
        found = capsys.readouterr().err.splitlines()
        assert len(found) == lines
        assert all("attacking" in line and "33%" in line for line in found)
    assert list(console.track(iter("abc"), "attacking", 3)) == ["a", "b", "c"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "100%" in line
