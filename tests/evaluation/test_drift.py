"""Drift: chains hang together, a perfect editor keeps all, and a worse one keeps less with every turn."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from openkontext.cli import main
from openkontext.data.edits import FIRST_KINDS, unseen
from openkontext.data.scenes import render
from openkontext.data.things import ROBOT
from openkontext.evaluation.drift import CHAINABLE, Chain, DriftReport, Kept, draw_chain, follow, psnr
from openkontext.evaluation.plots import line_plot
from openkontext.images.fitting import Pixels


@pytest.fixture(scope="module")
def chain() -> Chain:
    return draw_chain(seed=3, index=1)


def darker(picture: Pixels, *_: object) -> Pixels:
    return (picture * 0.97).astype(np.uint8)


def knowing(chain: Chain):
    """An editor that knows the outcome of every turn."""
    outcomes = iter([render(turn.edit.after) for turn in chain.turns])
    return lambda *_: next(outcomes)


def test_every_edit_begins_where_the_one_before_ended(chain: Chain):
    assert len(chain.turns) == 6
    for one, other in pairwise(chain.turns):
        assert one.edit.after == other.edit.before
    for index in range(8):
        turns = draw_chain(4, index).turns
        assert {turn.edit.kind for turn in turns} <= set(CHAINABLE)
        assert not any(unseen(turn.edit) for turn in turns)
        robots = {tuple(t for t in turn.edit.after.things if t.shape == ROBOT) for turn in turns}
        assert len(robots) == 1  # the character is there, and no turn is about it
        assert len(next(iter(robots))) == 1
    assert draw_chain(3, 1) == chain
    assert all(t.shape != ROBOT for t in draw_chain(3, 1, FIRST_KINDS).start.things)


def test_an_editor_that_knows_keeps_everything(chain: Chain):
    kept = [k for k, _ in follow(chain, knowing(chain), lambda picture: picture)]
    assert [k.turn for k in kept] == [1, 2, 3, 4, 5, 6]
    # Shadows reach a little beyond an edit's region, which is all that can differ.
    assert all(k.psnr > 40 for k in kept)
    assert all(k.autoencoder == 99 for k in kept)
    assert all(k.recognized for k in kept)


def test_an_editor_that_darkens_loses_with_every_turn(chain: Chain):
    kept = [k for k, _ in follow(chain, darker, darker)]
    assert all(a.psnr > b.psnr for a, b in pairwise(kept))
    assert kept[-1].psnr == pytest.approx(kept[-1].autoencoder, abs=1.5)
    black = next(follow(chain, lambda picture, *_: picture * 0, darker))[0]
    assert black.recognized is False


def test_psnr_is_what_it_says():
    black, gray = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    everywhere = np.ones((4, 4), bool)
    assert psnr(black, gray, everywhere) == pytest.approx(20 * math.log10(5))
    assert psnr(black, gray, ~everywhere) == psnr(black, black, everywhere) == 99


def test_the_report_takes_medians_and_counts_the_last_turn():
    kept = [
        Kept(chain, turn, 30 - turn + chain, 35 - turn, recognized=(chain, turn) != (1, 2))
        for chain in range(3)
        for turn in (1, 2)
    ]
    report = DriftReport.of(kept)
    assert (report.psnr, report.autoencoder) == ((30, 29), (34, 33))
    assert (report.recognized.success, report.recognized.count) == (pytest.approx(2 / 3), 3)


def test_a_plot_shows_its_lines():
    plain, steep = (line_plot({"a": values}, "title", "turns", "dB") for values in ([3, 3, 3], [3, 2, 1]))
    assert plain.shape == steep.shape
    assert plain.shape[2] == 3
    assert (plain != steep).sum() > 500


def test_the_command_measures_a_model(tmp_path, copier, capsys: pytest.CaptureFixture[str]):
    plot = tmp_path / "drift.png"
    command = ["evaluate", "drift", "--model", str(copier), "--count", "1", "--turns", "2", "--steps", "1"]
    assert main([*command, "--plot", str(plot), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    # The copier copies: after every turn it has lost what its autoencoder loses, no more.
    assert record["psnr"] == pytest.approx(record["autoencoder"], abs=0.6)
    assert record["recognized"]["count"] == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(command) == 0
    assert "autoencoder alone" in capsys.readouterr().out
