"""Training stages at toy size: they learn, resume to the step, and their caches hold what they say."""

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from openkontext.data.edits import FIRST_KINDS, IMPOSSIBLE, KINDS
from openkontext.data.families import family
from openkontext.data.instructions import every_word, phrase
from openkontext.data.scenes import render
from openkontext.data.signs import LETTERS
from openkontext.model.autoencoder import Autoencoder
from openkontext.model.config import PRESETS, AutoencoderConfig
from openkontext.repository import Repository, RepositoryConfig
from openkontext.text import Tokenizers
from openkontext.train import latent_cache
from openkontext.train.autoencoder import AutoencoderRecipe, train_autoencoder
from openkontext.train.flow import FlowRecipe, train_flow
from openkontext.train.latent_cache import PairCache, encode, write_chunk
from openkontext.train.loop import RunRecipe
from openkontext.train.text_encoders import TextEncoders, TextRecipe, train_text
from openkontext.train.vocabulary import Taught, train_tokenizers

TINY_AUTOENCODER = AutoencoderConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)
FAMILIES = 10
"""In the chunk of latents; nano's have 50."""
NANO = PRESETS["nano"]
TINY = dataclasses.replace(
    NANO,
    transformer=dataclasses.replace(
        NANO.transformer, num_layers=1, num_single_layers=1, num_attention_heads=2
    ),
    autoencoder=TINY_AUTOENCODER,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with tokenizers and one chunk of latents of an untrained autoencoder."""
    folder = tmp_path_factory.mktemp("work")
    train_tokenizers(folder / "text", FIRST_KINDS, count=300)
    torch.manual_seed(0)
    model = Autoencoder(TINY_AUTOENCODER).eval()
    torch.save(model.state_dict(), folder / "autoencoder.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_cache, "FAMILIES", FAMILIES)
        write_chunk(folder / "latents", 0, lambda images: encode(model, images), FIRST_KINDS)
    return folder


@pytest.fixture
def cache(work: Path, monkeypatch: pytest.MonkeyPatch) -> PairCache:
    monkeypatch.setattr(latent_cache, "FAMILIES", FAMILIES)
    return PairCache(work / "latents", FIRST_KINDS)


def test_tokenizers_know_every_taught_word_whole(work: Path) -> None:
    encoders = TextEncoders(TINY, work / "text")
    clip, t5 = encoders.tokenizers
    for word in every_word(FIRST_KINDS):
        assert len(t5.encode(word).tokens[: t5.encode(word).tokens.index("</s>")]) == 1, word
    assert clip.token_to_id("<|endoftext|>") == clip.get_vocab_size() - 1 == TINY.clip.eos_token_id
    config = RepositoryConfig(clip_length=32, text_length=32, words=tuple(every_word(FIRST_KINDS)))
    for name, tokenizer in (("tokenizer", clip), ("tokenizer_2", t5)):
        theirs = PreTrainedTokenizerFast.from_pretrained(work / "text" / name)
        for text in ("a red car", "don’t “make” it 🌙 夜…", "сделай", "\x00\ufeff½", "a <|endoftext|> </s>"):
            ids = Tokenizers(Repository(work / "text", config)).encode(text)
            read = (ids.clip_ids if tokenizer is clip else ids.t5_ids)[0].tolist()
            assert theirs(text, padding="max_length")["input_ids"] == read
            assert not set(read[1 : read.index(read[-1] or 1)]) & set(theirs.all_special_ids)


def test_what_a_sign_says_is_spelled(tmp_path: Path) -> None:
    kinds = (*KINDS, IMPOSSIBLE)
    train_tokenizers(tmp_path, kinds, vocab_sizes=(1024, 512), count=2000)
    assert Taught.load(tmp_path) == Taught(kinds, tuple(every_word(kinds)))
    t5 = TextEncoders(TINY, tmp_path).tokenizers[1]
    pairs = [a + b for a in LETTERS for b in LETTERS]
    assert all(t5.encode(f'say "{pair}"').tokens[3:5] == list(pair.lower()) for pair in pairs)
    for text in ("OPEN", "B7X"):
        tokens = t5.encode(f'make the sign say "{text}"').tokens
        spelled = "".join(tokens).lower()
        assert f'"{text.lower()}"' in spelled
        assert all(letter in tokens for letter in text.lower())
    for word in every_word(kinds):
        assert t5.encode(word).tokens[:2] == [f"▁{word}", "</s>"], word


def test_cached_latents_are_those_of_the_pictures(work: Path, cache: PairCache) -> None:
    model = Autoencoder(TINY_AUTOENCODER).eval()
    model.load_state_dict(torch.load(work / "autoencoder.pt"))
    pairs = cache.draw(np.random.default_rng(0), 4, dict.fromkeys(FlowRecipe().kinds, 1.0))
    for pair in pairs:
        for scene, tokens in zip((pair.edit.before, pair.edit.after), pair.tokens(), strict=True):
            picture = torch.from_numpy(render(scene))[None].permute(0, 3, 1, 2).float() / 127.5 - 1
            expected = encode(model, picture)[0]
            # float16 storage, and bfloat16 arithmetic that depends on the batch.
            np.testing.assert_allclose(tokens, expected, atol=0.03 * np.abs(expected).max())


def test_families_of_one_kind_alone_lie_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "FAMILIES", 2)

    def means(images: torch.Tensor) -> np.ndarray:
        """Of every token's square the mean brightness, 64 times."""
        squares = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 16)
        return squares.flatten(1)[..., None].repeat(1, 1, 64).numpy()

    kinds = ("recolour", "text")
    write_chunk(tmp_path, 0, means, kinds)
    cache = PairCache(tmp_path, kinds)
    first = [pair.edit for of_kinds in cache.pairs.values() for pair in of_kinds.get("text", [])]
    write_chunk(tmp_path, 0, means, kinds, only="text")
    cache.refresh()
    cache.refresh()
    after = [pair for of_kinds in cache.pairs.values() for pair in of_kinds.get("text", [])]
    alone = [e for number in range(2) for e in family(np.random.default_rng([0, 5, number]), ("text",))]
    assert Counter(pair.edit for pair in after) == Counter(first) + Counter(alone)
    for pair in after:
        for scene, tokens in zip((pair.edit.before, pair.edit.after), pair.tokens(), strict=True):
            picture = torch.from_numpy(render(scene))[None].permute(0, 3, 1, 2).float() / 127.5 - 1
            # Stored as float16, of values up to 1.
            np.testing.assert_allclose(tokens, means(picture)[0], atol=1e-3)


def test_the_autoencoder_learns(tmp_path: Path) -> None:
    recipe = AutoencoderRecipe(steps=30, batch_size=4, crop=32, pictures=12, warm_up=5)
    model = train_autoencoder(recipe, TINY_AUTOENCODER, FIRST_KINDS, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    assert state["step"] == 30
    latents = model.encode(torch.zeros(1, 3, 32, 32))[0]
    assert latents.shape == (1, 16, 4, 4)
    assert model.config.scaling_factor != TINY_AUTOENCODER.scaling_factor


def test_the_autoencoder_begins_with_the_weights_it_is_given(tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = Autoencoder(TINY_AUTOENCODER)
    recipe = AutoencoderRecipe(steps=0, crop=32, pictures=6)
    model = train_autoencoder(recipe, TINY_AUTOENCODER, (*KINDS, IMPOSSIBLE), tmp_path, begin=given)
    picture = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    torch.testing.assert_close(model.encode(picture), given.eval().encode(picture))


def test_flow_resumes_to_the_step(work: Path, cache: PairCache, tmp_path: Path) -> None:
    recipe = FlowRecipe(steps=4, batch_size=4, warm_up=2)

    def run(steps: int, folder: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        text = TextEncoders(TINY, work / "text")
        # The rates follow the whole stage's length: only the number of steps done may differ.
        model = train_flow(recipe, TINY, text, cache, folder, stop=steps)
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    whole = run(4, tmp_path / "whole")
    run(2, tmp_path / "halves")
    resumed = run(4, tmp_path / "halves")
    start = run(0, tmp_path / "start")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=0)


def test_text_encoders_learn_to_read(work: Path, tmp_path: Path) -> None:
    recipe = TextRecipe(steps=40, batch_size=24, learning_rate=3e-3, kinds=FIRST_KINDS, warm_up=5)
    train_text(recipe, TINY, work / "text", tmp_path, RunRecipe(log_steps=10))
    last = list(csv.DictReader((tmp_path / "metrics.csv").open()))[-1]
    # Chance is below 0.2 for every question; with other seeds 0.59 to 0.66.
    assert float(last["right"]) > 0.5


def test_text_encoders_keep_what_another_model_goes_by(work: Path, tmp_path: Path) -> None:
    """While they learn new kinds, instructions of the known ones keep their features, as none at all does."""
    recipe = TextRecipe(steps=15, batch_size=16, kinds=FIRST_KINDS, warm_up=5)
    known = FIRST_KINDS[:2]
    rng = np.random.default_rng(0)
    told = ["", *(phrase(edit, rng) for edit in family(rng, known)[:20])]

    def moved(known: tuple[str, ...], folder: Path) -> float:
        torch.manual_seed(1)
        begun = TextEncoders(TINY, work / "text").state_dict()
        encoders = train_text(
            recipe, TINY, work / "text", folder, begin=lambda made: made.load_state_dict(begun), known=known
        )
        before = TextEncoders(TINY, work / "text")
        before.load_state_dict(begun)
        with torch.no_grad():
            pairs = zip(encoders(told), before(told), strict=True)
            return sum((now - was).square().mean().item() for now, was in pairs)

    assert moved(known, tmp_path / "kept") < 0.2 * moved((), tmp_path / "free")


def test_a_fresh_t5_answers_as_the_one_before_and_knows_order(tmp_path: Path) -> None:
    """It learns what a sign says, so that order is asked for: without that, training may well forget it."""
    known = FIRST_KINDS[:1]
    kinds = (*known, "text")
    train_tokenizers(tmp_path / "text", kinds, count=300)
    torch.manual_seed(0)
    begun = TextEncoders(TINY, tmp_path / "text")
    begun.t5.get_parameter(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ).data.zero_()
    recipe = TextRecipe(batch_size=16, kinds=kinds, warm_up=5, fresh_t5=True)

    def trained(steps: int) -> TextEncoders:
        return train_text(
            dataclasses.replace(recipe, steps=steps),
            TINY,
            tmp_path / "text",
            tmp_path / str(steps),
            begin=lambda made: made.load_state_dict(begun.state_dict()),
            known=known,
        )

    rng = np.random.default_rng(0)
    told = ["", *(phrase(edit, rng) for edit in family(rng, known)[:20])]

    def apart(encoders: TextEncoders) -> float:
        with torch.no_grad():
            return (encoders(told)[1] - begun(told)[1]).square().mean().item()

    def moved_by_order(encoders: TextEncoders) -> float:
        """How far another order of letters moves the sum of all tokens; 1 is as far as other letters do."""
        with torch.no_grad():
            one, order, letters = encoders([f'say "{sign}" now' for sign in ("AB", "BA", "CD")])[1].sum(1)
        return ((order - one).square().sum() / (letters - one).square().sum()).item()

    new = trained(20)
    # With other seeds 0.11 to 0.14.
    assert apart(new) < 0.5 * apart(trained(1))
    # The same bag of words, up to rounding; with other seeds 1e-11.
    assert moved_by_order(begun) < 1e-8
    # With other seeds 0.07 to 0.5.
    assert moved_by_order(new) > 0.01
