import pytest
import torch

from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import PRESETS, AutoencoderConfig


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_are_those_of_diffusers(name, diffusers_autoencoder):
    config = PRESETS[name].autoencoder
    with torch.device("meta"):
        ours, theirs = Autoencoder(config), diffusers_autoencoder(config)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("config", "batch", "height", "width"),
    [
        (AutoencoderConfig((32, 64), layers_per_block=2, latent_channels=4), 1, 16, 16),
        (AutoencoderConfig((16, 32, 64, 64), layers_per_block=1, norm_num_groups=8), 2, 64, 96),
        (
            AutoencoderConfig((16, 16, 24), layers_per_block=3, latent_channels=3, norm_num_groups=4),
            3,
            20,
            12,
        ),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_same_weights_give_the_images_of_diffusers(
    config, batch, height, width, memory_format, diffusers_autoencoder, randomize, relative_error
):
    theirs = randomize(diffusers_autoencoder(config))
    ours = Autoencoder(config).to(memory_format=memory_format)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = theirs.encode(images).latent_dist
        mean, logvar = ours.encode(images.contiguous(memory_format=memory_format))
        assert relative_error(mean, expected.mean) < 1e-5
        assert relative_error(logvar, expected.logvar) < 1e-5
        decoded = ours.decode(expected.mean)
        assert relative_error(decoded, theirs.decode(expected.mean).sample) < 1e-5
    assert decoded.shape == images.shape


def test_log_variance_is_limited(small_autoencoder):
    model = Autoencoder(small_autoencoder)
    with torch.no_grad():
        model.encoder.conv_out.bias[4:] = torch.tensor([1e3, -1e3, 1e3, -1e3])
        logvar = model.encode(torch.zeros(1, 3, 8, 8))[1]
    assert logvar[0, :, 0, 0].tolist() == [20, -30, 20, -30]
