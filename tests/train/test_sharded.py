"""The settings for the 12B: checked on the meta device, and run by two processes on this CPU."""

import sys
from pathlib import Path

import pytest
import torch

from openkontext.model.config import PRESETS
from openkontext.model.transformer import FluxTransformer
from openkontext.train.lora import add_adapter
from openkontext.train.parallel import launch
from openkontext.train.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "flux1-kontext-dev"
SUPPORT = Path(__file__).parents[1] / "support"


def test_the_12b_with_its_adapter_is_spread_block_by_block() -> None:
    recipe = read_recipe(FOLDER / "lora.toml", "finetune").settings
    with torch.device("meta"):
        model = FluxTransformer(PRESETS["flux1-kontext-dev"].transformer).to(torch.bfloat16)
        add_adapter(model, rank=recipe.rank, alpha=recipe.alpha, targets=recipe.targets)
    assert read_recipe(FOLDER / "lora.toml").run.shard
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    assert len(blocks) == 19 + 38
    everything = sum(p.numel() for p in model.parameters())
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = everything - trained
    assert frozen == pytest.approx(11.9e9, rel=0.01)
    assert inside > 0.98 * everything
    # Rank 16 beside each layer of d in and e out: 16 (d + e). A double-stream block has 8 of 3072 x 3072, 4
    # of 3072 x 12288, a single-stream one 3, one and one of 15360 x 3072.
    width = 3072
    double, single = 8 * 2 * width + 4 * 5 * width, 3 * 2 * width + 5 * width + 6 * width
    assert trained == 16 * (19 * double + 38 * single)


def _alone(folder: Path, rank: int, steps: int, shard: bool) -> None:
    sys.path.insert(0, str(SUPPORT))
    from sharded import main

    main(folder, rank, steps, shard)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, 0])
def test_spread_weights_learn_what_whole_ones_learn(tmp_path: Path, rank: int) -> None:
    """FSDP with the 12B's settings, a copy in each process, and FSDP that goes on in copies: the same."""
    spread, copies = tmp_path / "spread", tmp_path / "copies"
    launch(_alone, 2, spread, rank, 3, True)
    for process in (torch.load(spread / f"process-{i}.pt") for i in range(2)):
        assert process["processes"] == 2
        assert process["share"] == pytest.approx(0.5, abs=0.05)
    launch(_alone, 2, copies, rank, 3, False)
    same(spread, copies)
    # What was spread goes on in copies, and the other way.
    launch(_alone, 2, spread, rank, 4, False)
    launch(_alone, 2, copies, rank, 4, True)
    same(spread, copies)


def same(one: Path, two: Path) -> None:
    states = [torch.load(folder / "state.pt", weights_only=False) for folder in (one, two)]
    assert states[0]["step"] == states[1]["step"]
    for part in ("model", "average"):
        ours, theirs = (state["parts"]["trained"][part] for state in states)
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-4)
