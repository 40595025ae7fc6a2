"""The inputs that layers are quantized by: made up, recorded, on file, and on their way through blocks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from openkontext.editor import load
from openkontext.errors import InputError
from openkontext.export.calibration import Calibration, record, synthetic
from openkontext.export.observing import CalibrationPass
from openkontext.model.checkpoints import Checkpoint
from openkontext.repository import Repository


@pytest.fixture
def transformer(pipeline) -> Checkpoint:
    return Checkpoint.of(pipeline.config.transformer, pipeline.transformer)


def block_weights(transformer: Checkpoint, block: str) -> dict[str, torch.Tensor]:
    return {name: transformer.read(name) for name in transformer.shapes if name.startswith(f"{block}.")}


def blocks(transformer: Checkpoint) -> list[str]:
    config = transformer.config
    double = [f"transformer_blocks.{i}" for i in range(config.num_layers)]
    return [*double, *(f"single_transformer_blocks.{i}" for i in range(config.num_single_layers))]


def test_what_is_observed_is_what_torch_feeds_each_layer(pipeline, transformer):
    """Against hooks on the whole model in one forward pass."""
    calibration = synthetic(transformer.config, text_length=12)
    seen: dict[str, torch.Tensor] = {}
    for name, module in pipeline.transformer.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.update({name: inputs[0].detach().flatten(0, -2)})
            )
    with torch.no_grad():
        pipeline.transformer(**calibration.batches[0])
    on_its_way = CalibrationPass(transformer, calibration)
    for block in blocks(transformer):
        observed = on_its_way.block(block, block_weights(transformer, block))
        assert observed.layers.keys() == {name for name in seen if name.startswith(f"{block}.")}
        for layer, inputs in observed.layers.items():
            torch.testing.assert_close(inputs.amax, seen[layer].abs().amax(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(inputs.mean, seen[layer].abs().mean(0), rtol=1e-4, atol=1e-5)
            nearest = torch.cdist(inputs.rows, seen[layer]).amin(1)
            assert nearest.max() < 0.01 * seen[layer].norm(dim=1).mean()
            top = observed.amax[f"{layer}.input_quantizer"]
            assert top == pytest.approx(seen[layer].abs().max().item(), rel=1e-4)
        operands = {name for name in observed.amax if name.endswith("_bmm_quantizer")}
        assert operands == {f"{block}.attn.{kind}_bmm_quantizer" for kind in "qkv"}


def test_a_pass_goes_on_from_its_file(transformer, tmp_path):
    calibration = synthetic(transformer.config, text_length=12)
    first, second, *_ = blocks(transformer)
    whole, begun = (CalibrationPass(transformer, calibration) for _ in range(2))
    whole.block(first, block_weights(transformer, first))
    begun.block(first, block_weights(transformer, first))
    begun.save(tmp_path / "state")
    resumed = CalibrationPass(transformer, calibration)
    resumed.load(tmp_path / "state")
    expected = whole.block(second, block_weights(transformer, second))
    assert resumed.block(second, block_weights(transformer, second)).amax == expected.amax


def test_made_up_inputs_cover_all_timesteps(transformer):
    (batch,) = synthetic(transformer.config, text_length=12).batches
    t = batch["timestep"]
    assert t.max() > 0.9
    assert t.min() < 0.1
    tokens = batch["hidden_states"].shape[1] // 2
    size = batch["hidden_states"][:, :tokens].std(dim=(1, 2))
    torch.testing.assert_close(size, (t**2 + (1 - t) ** 2).sqrt(), rtol=0.1, atol=0)
    assert set(batch["img_ids"][:, 0].tolist()) == {0, 1}


def test_a_calibration_on_file(transformer, tmp_path):
    calibration = synthetic(transformer.config, text_length=12)
    calibration.save(tmp_path / "c.npz")
    back = Calibration.load(tmp_path / "c.npz")
    assert back.origin == calibration.origin
    assert back.digest() == calibration.digest() != synthetic(transformer.config, 12, seed=1).digest()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-40])
    (tmp_path / "other.npz").write_bytes(b"no archive")
    for name in ("cut.npz", "other.npz"):
        with pytest.raises(InputError, match=f"{name} is no calibration file"):
            Calibration.load(tmp_path / name)
    with pytest.raises(InputError, match="no such calibration"):
        Calibration.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_states": torch.zeros(8, 32, 4)}, "hidden_states is 4 wide"),
        ({"timestep": torch.full((8,), float("nan"))}, "timestep holds values that are no numbers"),
        ({"guidance": None}, "lacks the input guidance"),
    ],
)
def test_inputs_that_do_not_suit_are_refused(transformer, change, said):
    (batch,) = synthetic(transformer.config, text_length=12).batches
    changed = {name: tensor for name, tensor in (dict(batch) | change).items() if tensor is not None}
    with pytest.raises(InputError, match=said):
        CalibrationPass(transformer, Calibration((changed,), "test"))


def test_damaged_weights_are_found_by_what_they_compute(transformer):
    pass_ = CalibrationPass(transformer, synthetic(transformer.config, text_length=12))
    first = blocks(transformer)[0]
    weights = {name: 1e38 * weight for name, weight in block_weights(transformer, first).items()}
    with pytest.raises(InputError, match=r"infinite, or not a number|no numbers after transformer_blocks\.0"):
        pass_.block(first, weights)


def test_recorded_inputs_are_those_of_edits():
    editor = load(Path(Repository.open("nano").path), precision="bf16")
    config = editor.repository.config
    calibration = record(editor, edits=2)
    count = sum(len(batch["timestep"]) for batch in calibration.batches)
    assert count == 2 * 14
    times = torch.cat([batch["timestep"] for batch in calibration.batches])
    assert times.max() == 1
    assert times.min() < 0.35
    for batch in calibration.batches:
        assert batch["hidden_states"].shape[2] == 4 * config.latent_channels
        assert batch["hidden_states"].shape[1] == len(batch["img_ids"])
        assert np.unique(batch["img_ids"][:, 0]).tolist() == [0, 1]
    assert "transformer" not in vars(editor.components)  # nothing is recorded any more
