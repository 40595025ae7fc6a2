"""The head that reads the scene out of the transformer's middle."""

import dataclasses

import numpy as np
import pytest
import torch

from openkontext.data.palette import COLOURS
from openkontext.data.scenes import GROUND_SIZE, SKY_SIZE, Scene, Thing
from openkontext.data.things import ALL_SHAPES
from openkontext.model.config import PRESETS
from openkontext.model.transformer import FluxTransformer
from openkontext.train.readout import Readout, contents

# On 128 x 128 pixels the house's square is 41 pixels wide from (44, 72), the star's 32 from (10, 10).
HOUSE = Thing("house", "red", "middle", GROUND_SIZE)
STAR = Thing("star", "blue", "sky left", SKY_SIZE)
SCENE = Scene(128, 128, "meadow", "summer", "day", (HOUSE, STAR))


def names(scene: Scene) -> np.ndarray:
    """One word a token."""
    labels = contents(scene).reshape(scene.height // 16, scene.width // 16, 2)
    shapes, colours = ["-", *ALL_SHAPES], ["-", *COLOURS]
    return np.array([[f"{colours[c]} {shapes[s]}" for s, c in row] for row in labels])


def test_things_are_read_where_they_stand() -> None:
    # Shares of columns and rows: house 4, 16, 16, 5 of 16 across and 8, 16, 16, 1 down; star 6, 16, 10 both
    # ways. A token counts where their product is over 0.3.
    read = names(SCENE)
    assert set(read.ravel()) == {"- -", "red house", "blue star"}
    house = [[4, 3], [4, 4], [5, 3], [5, 4], [5, 5], [6, 3], [6, 4], [6, 5]]
    assert np.argwhere(read == "red house").tolist() == house
    assert np.argwhere(read == "blue star").tolist() == [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


def test_no_colour_is_to_be_read_without_colour() -> None:
    grey = contents(dataclasses.replace(SCENE, look="sepia"))
    assert (grey[:, 1] == -100).all()
    np.testing.assert_array_equal(grey[:, 0], contents(SCENE)[:, 0])


@pytest.mark.parametrize("with_context", [False, True])
def test_it_learns_to_read_what_the_tokens_say(with_context: bool) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(PRESETS["nano"].transformer, num_layers=1, num_single_layers=1)
    transformer = FluxTransformer(config)
    readout = Readout(transformer, block=0)
    bare = dataclasses.replace(SCENE, things=())
    scenes = [[SCENE, bare], [bare, SCENE]] if with_context else [[SCENE], [bare]]
    # Tokens that say outright what is there: one direction for every label, behind text that says nothing.
    labels = np.stack([np.concatenate([contents(s) for s in images]) for images in scenes])
    directions = torch.randn(200, config.hidden_size)
    tokens = directions[labels[..., 0]] + directions[100 + labels[..., 1]]
    tokens = torch.cat((torch.zeros(2, 5, config.hidden_size), tokens), dim=1)
    changed = torch.from_numpy(labels[:, :64, 0] > 0)
    optimiser = torch.optim.Adam([*readout.norm.parameters(), *readout.head.parameters()], 0.01)
    losses = []
    for _ in range(60):
        readout._keep(transformer, (), tokens)
        loss = readout.loss(scenes, changed, torch.ones(2, 64))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # At first about the mean of ln 16, ln 10 and ln 2; what the tokens tell can be read without doubt.
    assert losses[0] > 1
    assert losses[-1] < 0.1
