import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from openkontext.model.config import PRESETS
from openkontext.model.text_encoders import build_clip, build_t5, clip_config, encode_text, t5_config


def test_nano_encoders_have_the_preset_numbers():
    nano = PRESETS["nano"]
    assert clip_config(build_clip(nano.clip)) == nano.clip
    assert t5_config(build_t5(nano.t5)) == nano.t5


def test_published_sizes():
    preset = PRESETS["flux1-kontext-dev"]
    with torch.device("meta"):
        clip, t5 = build_clip(preset.clip), build_t5(preset.t5)
    # The files text_encoder/model.safetensors and text_encoder_2/ of FLUX.1 hold so many numbers.
    assert sum(parameter.numel() for parameter in clip.parameters()) == 123_060_480
    assert sum(parameter.numel() for parameter in t5.parameters()) == 4_762_310_656


def test_old_clip_configurations_are_understood():
    """FLUX.1's text_encoder/config.json says 0 and 2 where the vocabulary has 49406 and 49407."""
    old = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        config = clip_config(CLIPTextModel(old))
    assert (config.bos_token_id, config.eos_token_id) == (49406, 49407)


@pytest.mark.parametrize("end", [1, 4, 31])
def test_pooled_embedding_is_read_at_the_first_end_token(end):
    nano = PRESETS["nano"]
    torch.manual_seed(0)
    clip, t5 = build_clip(nano.clip).eval(), build_t5(nano.t5).eval()
    ids = torch.randint(0, nano.clip.bos_token_id, (2, nano.clip.length))
    ids[:, 0] = nano.clip.bos_token_id
    ids[0, end:] = nano.clip.eos_token_id  # ends and pads
    ids[1, -1] = nano.clip.eos_token_id
    t5_ids = torch.randint(0, nano.t5.vocab_size, (2, nano.t5.length))
    with torch.no_grad():
        pooled, text = encode_text(clip, t5, ids, t5_ids)
        states = clip(input_ids=ids).last_hidden_state
    assert torch.equal(pooled[0], states[0, end])
    assert torch.equal(pooled[1], states[1, -1])
    assert text.shape == (2, nano.t5.length, nano.t5.d_model)
