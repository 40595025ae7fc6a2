"""The head that reads the scene out of the transformer's middle."""

import dataclasses

import numpy as np
import pytest
import torch

from openkontext.data.palette import COLORS
from openkontext.data.robots import BODIES, FEET, HEADS, TOPS, Robot
from openkontext.data.scenes import GROUND_SIZE, ROBOT_SIZE, SKY_SIZE, Scene, Thing
from openkontext.data.signs import LETTERS
from openkontext.data.things import ALL_SHAPES, ROBOT, SIGN, Form
from openkontext.model.config import PRESETS
from openkontext.model.transformer import FluxTransformer
from openkontext.train.readout import Readout, contents

# On 128 x 128 pixels the house's square is 41 pixels wide from (44, 72), the star's 32 from (10, 10).
HOUSE = Thing("house", "red", "middle", GROUND_SIZE)
STAR = Thing("star", "blue", "sky left", SKY_SIZE)
SCENE = Scene(128, 128, "meadow", "summer", "day", (HOUSE, STAR))


def names(scene: Scene) -> np.ndarray:
    """One word a token."""
    labels = contents(scene)[:, :2].reshape(scene.height // 16, scene.width // 16, 2)
    shapes, colors = ["-", *ALL_SHAPES], ["-", *COLORS]
    return np.array([[f"{colors[c]} {shapes[s]}" for s, c in row] for row in labels])


def test_things_are_read_where_they_stand() -> None:
    # Shares of columns and rows: house 4, 16, 16, 5 of 16 across and 8, 16, 16, 1 down; star 6, 16, 10 both
    # ways. A token counts where their product is over 0.3.
    read = names(SCENE)
    assert set(read.ravel()) == {"- -", "red house", "blue star"}
    house = [[4, 3], [4, 4], [5, 3], [5, 4], [5, 5], [6, 3], [6, 4], [6, 5]]
    assert np.argwhere(read == "red house").tolist() == house
    assert np.argwhere(read == "blue star").tolist() == [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


def test_no_color_is_to_be_read_without_color() -> None:
    gray = contents(dataclasses.replace(SCENE, look="sepia"))
    assert (gray[:, 1] == -100).all()
    np.testing.assert_array_equal(gray[:, 0], contents(SCENE)[:, 0])


@pytest.mark.parametrize("right", [0, 5])
def test_letters_are_read_where_they_stand(right: int) -> None:
    # The sign is 72 pixels wide; from (12, 36) its fields lie on the tokens from (16, 64). Letters are 12
    # pixels wide and 14 high in the middle of their fields: A from (18, 65), 7 and Z 16 pixels further each.
    # Five pixels to the right, 9 of the 12 are still on that token, 126 of its 256 pixels; 42 on the next.
    foot = ((48 + right) / 128 - 0.5, 108 / 128 - 0.88)
    sign = Thing(SIGN, "red", "middle", 72 / 128, *foot, form=Form(text="A7Z"))
    read = contents(dataclasses.replace(SCENE, things=(sign,)))[:, 3].reshape(8, 8)
    shown = ["".join("." if i < 0 else LETTERS[i] for i in row) for row in read]
    assert shown == [*["." * 8] * 4, ".A7Z....", *["." * 8] * 3]


def test_a_robot_s_parts_are_read_where_it_stands() -> None:
    robot = Thing(
        ROBOT, "red", "middle", ROBOT_SIZE, form=Form(robot=Robot("square", "hat", "cone", "legs", "blue"))
    )
    group = dataclasses.replace(STAR, form=Form(count=3))
    read = contents(dataclasses.replace(SCENE, things=(robot, group)))
    robots = read[:, 0] == 1 + ALL_SHAPES.index(ROBOT)
    answers = [
        group.index(part)
        for group, part in zip(
            (HEADS, TOPS, BODIES, FEET, tuple(COLORS)),
            ("square", "hat", "cone", "legs", "blue"),
            strict=True,
        )
    ]
    assert robots.any()
    assert (read[robots, 4:] == answers).all()
    assert (read[~robots, 4:] == -100).all()
    stars = read[:, 0] == 1 + ALL_SHAPES.index("star")
    assert set(read[stars, 2]) == {2}
    assert set(read[read[:, 0] == 0, 2]) == {-100}


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
    optimizer = torch.optim.Adam([*readout.norm.parameters(), *readout.head.parameters()], 0.01)
    losses = []
    for _ in range(60):
        readout._keep(transformer, (), tokens)
        read = readout.loss(scenes, changed, torch.ones(2, 64))
        # There are no signs and no robots here: nothing is to be told of them.
        assert read["letter"] == read["robot"] == 0
        loss = read["changed"] + read["thing"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # At first about ln 2 and the mean of ln 16 and ln 10; what the tokens tell can be read without doubt.
    assert losses[0] > 2
    assert losses[-1] < 0.1
