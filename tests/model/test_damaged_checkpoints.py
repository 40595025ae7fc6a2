"""Files that are damaged, of another network or of none are refused, and a failed save changes nothing."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openkontext.errors import InputError
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.checkpoints import (
    load_autoencoder,
    load_transformer,
    save_autoencoder,
    save_transformer,
)
from openkontext.model.config import AutoencoderConfig


def edit(file, change):
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    change(tensors)
    save_file(tensors, file, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("single_blocks.1.linear1.bias"), r"single_blocks\.1\.linear1\.bias is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "unknown tensor extra"),
        (
            lambda t: t.update({"img_in.weight": torch.ones(64, 9)}),
            r"img_in\.weight has the shape \[64, 9\], .* \[64, 8\]",
        ),
        (
            lambda t: t.update({"txt_in.weight": torch.ones(64, 24, dtype=torch.int8)}),
            r"txt_in\.weight is quantized \(torch\.int8\)",
        ),
        (lambda t: t.pop("img_in.weight"), r"no FLUX\.1 transformer"),
    ],
)
def test_a_damaged_transformer_is_refused(change, message, transformer, tmp_path):
    file = tmp_path / "a.safetensors"
    save_transformer(transformer, file, "bfl")
    edit(file, change)
    with pytest.raises(InputError, match=message) as caught:
        load_transformer(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_configuration_that_suits_none_is_refused(autoencoder, randomize, tmp_path):
    file = tmp_path / "ae.safetensors"
    odd = Autoencoder(AutoencoderConfig((8, 16), latent_channels=4, norm_num_groups=8))
    save_file(odd.state_dict(), file)
    with pytest.raises(InputError, match=r"ae\.safetensors.*norm_num_groups"):
        load_autoencoder(file)
    state = autoencoder.state_dict()
    del state["decoder.conv_in.weight"]
    save_file(state, file)
    with pytest.raises(InputError, match=r"decoder\.conv_in\.weight is missing"):
        load_autoencoder(file)
    save_file(state | {"decoder.conv_in.weight": torch.ones(3)}, file)
    with pytest.raises(InputError, match=r"ae\.safetensors.*suit none"):
        load_autoencoder(file)


def test_an_autoencoder_is_no_transformer(autoencoder, tmp_path):
    save_autoencoder(autoencoder, tmp_path / "vae")
    with pytest.raises(InputError, match="of class AutoencoderKL, not FluxTransformer2DModel"):
        load_transformer(tmp_path / "vae")


def test_files_that_are_no_checkpoint_are_refused(transformer, tmp_path):
    file = tmp_path / "a.safetensors"
    save_transformer(transformer, file, "bfl")
    whole = file.read_bytes()
    for content in (b"", b"PK\x03\x04 not safetensors", whole[:100], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.safetensors cannot be read as safetensors"):
            load_transformer(file)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_transformer(tmp_path / "nowhere")


def test_incomplete_folders_are_refused(transformer, diffusers_transformer, tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_transformer(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json has a damaged"):
        load_transformer(folder)
    save_transformer(transformer, folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors: no such file"):
        load_transformer(folder)
    diffusers_transformer(transformer.config).save_pretrained(folder, max_shard_size="100KB")
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(InputError, match=last.name):
        load_transformer(folder)


def test_an_index_that_lies_is_refused(transformer, tmp_path):
    save_transformer(transformer, tmp_path)
    index = {"weight_map": {"ghost": "diffusion_pytorch_model.safetensors"}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="ghost"):
        load_transformer(tmp_path)


def test_path_must_suit_the_format(transformer, tmp_path):
    with pytest.raises(InputError, match=r"\.safetensors"):
        save_transformer(transformer, tmp_path / "folder", "bfl")
    with pytest.raises(InputError, match="folder"):
        save_transformer(transformer, tmp_path / "file.safetensors", "diffusers")
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_transformer(transformer, tmp_path / "taken" / "a.safetensors", "bfl")


def test_a_failed_save_leaves_the_old_file(transformer, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_transformer(transformer, file, "bfl")
    before = file.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "cat", fail)  # reached in the middle, at the first fused tensor
    with pytest.raises(KeyboardInterrupt):
        save_transformer(transformer, file, "bfl")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
