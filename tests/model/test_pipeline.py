import dataclasses

import pytest
import torch
from diffusers import FluxKontextPipeline
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openkontext.errors import InputError
from openkontext.export.loading import load_checkpoint
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import ClipTextConfig, T5EncoderConfig
from openkontext.model.pipeline import Pipeline, save_pipeline
from openkontext.model.text_encoders import build_clip, build_t5
from openkontext.model.transformer import FluxTransformer

CLIP = ClipTextConfig(40, 20, 32, num_layers=1, num_heads=2, bos_token_id=38, eos_token_id=39, length=16)
T5 = T5EncoderConfig(40, 24, 8, 32, num_layers=2, num_heads=2, length=12)


@pytest.fixture
def pipeline(small_transformer, small_autoencoder, randomize, tmp_path):
    for name in ("tokenizer", "tokenizer_2"):
        words = {word: i for i, word in enumerate(["<pad>", "</s>", "make", "it", "red"])}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(
            tmp_path / name
        )
    torch.manual_seed(0)
    return Pipeline(
        transformer=randomize(FluxTransformer(small_transformer)),
        autoencoder=randomize(Autoencoder(small_autoencoder)),
        clip=build_clip(CLIP).eval(),
        t5=build_t5(T5).eval(),
        tokenizer=tmp_path / "tokenizer",
        tokenizer_2=tmp_path / "tokenizer_2",
        max_shift=0.9,
    )


def assert_same(pipeline, other):
    for part in ("transformer", "autoencoder", "clip", "t5"):
        state, expected = getattr(pipeline, part).state_dict(), getattr(other, part).state_dict()
        assert state.keys() == expected.keys()
        for name, value in state.items():
            assert torch.equal(value, expected[name]), (part, name)


def test_a_pipeline_comes_back_whole(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model")
    assert_same(loaded, pipeline)
    assert loaded.config == pipeline.config
    assert (loaded.base_shift, loaded.max_shift) == (0.5, 0.9)
    save_pipeline(loaded, tmp_path / "model")  # over the files that it is mapped from
    assert_same(load_checkpoint(tmp_path / "model"), pipeline)


def test_diffusers_and_we_read_each_others_pipelines(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "ours")
    theirs = FluxKontextPipeline.from_pretrained(tmp_path / "ours")
    assert theirs.scheduler.config.max_shift == 0.9
    assert theirs.tokenizer("make it red").input_ids == [2, 3, 4]
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert_same(loaded, pipeline)
    assert loaded.config == pipeline.config


def test_own_theta_comes_back(pipeline, tmp_path, small_transformer):
    transformer = FluxTransformer(dataclasses.replace(small_transformer, theta=100))
    save_pipeline(dataclasses.replace(pipeline, transformer=transformer), tmp_path / "model")
    assert load_checkpoint(tmp_path / "model").transformer.config.theta == 100


@pytest.mark.parametrize(
    "part",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer_2",
        "text_encoder/config.json",
        "text_encoder_2/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_part_is_named(part, pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "model")
    path = tmp_path / "model" / part
    path.rename(tmp_path / "gone")
    with pytest.raises(InputError, match=part.partition("/")[0]) as caught:
        load_checkpoint(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.pop(name),
        lambda tensors, name: tensors.update({name: torch.ones(3)}),
        lambda tensors, name: tensors.update({"final_layer_norm.weight2": torch.ones(3)}),
    ],
)
def test_a_damaged_text_encoder_is_refused(change, pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    change(tensors, next(name for name in tensors if name.endswith("final_layer_norm.weight")))
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"text_encoder.*final_layer_norm"):
        load_checkpoint(tmp_path / "model")


def test_another_pipeline_is_refused(pipeline, tmp_path):
    save_pipeline(pipeline, tmp_path / "model")
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="StableDiffusionPipeline"):
        load_checkpoint(tmp_path / "model")
