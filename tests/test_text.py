"""Token ids against transformers' own tokenizers, and what is said of words that do not get through."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from openkontext.errors import InputError
from openkontext.text import Tokenizers

CORPUS = [
    "make the ball red",
    "replace the small blue house with a tree",
    "remove the cat's hat",
    "it's a winter night; don't move the 2 boats",
]
PROMPTS = [
    "make the ball red",
    "  Make THE ball\n\tred!! ",
    "it's 2024, don't: they'll've",
    "über café — naïve 🦊 日本語",
    "a" * 40,
    "x",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's two tokenizers: CLIP as vocabulary and merges, T5 as tokenizer.json."""
    root = tmp_path_factory.mktemp("repository")
    _make_clip(root / "tokenizer")
    _make_t5(root / "tokenizer_2")
    return root


def _make_clip(folder: Path) -> None:
    """A byte-level BPE with end-of-word marks, trained here, in CLIP's file format."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = [
        ("r", "e"),
        ("re", "d</w>"),
        ("t", "h"),
        ("th", "e</w>"),
        ("b", "a"),
        ("l", "l</w>"),
        ("ba", "ll</w>"),
    ]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )


def _make_t5(folder: Path) -> None:
    folder.mkdir()
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def tokenizers(folder: Path, clip_length: int = 24, text_length: int = 48, words: Any = None) -> Tokenizers:
    config = SimpleNamespace(clip_length=clip_length, text_length=text_length, words=words)
    return Tokenizers(SimpleNamespace(path=folder, config=config))  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_clip_ids_are_those_of_transformers(folder: Path, prompt: str) -> None:
    from transformers import CLIPTokenizer

    reference = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    expected = reference(prompt, padding="max_length", truncation=True, max_length=24).input_ids
    ids = tokenizers(folder).encode(prompt).clip_ids
    assert ids.dtype == "int64"
    assert ids.tolist() == [expected]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_t5_ids_are_those_of_transformers(folder: Path, prompt: str) -> None:
    from transformers import PreTrainedTokenizerFast

    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer_2" / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    expected = reference(prompt, padding="max_length", truncation=True, max_length=16).input_ids
    ids = tokenizers(folder, text_length=16).encode(prompt).t5_ids
    assert ids.dtype == "int64"
    assert ids.tolist() == [expected]


@settings(max_examples=50)
@given(prompt=st.text(max_size=200))
def test_any_text_gives_ids_of_the_asked_length(folder: Path, prompt: str) -> None:
    encoded = tokenizers(folder).encode(prompt)
    assert encoded.clip_ids.shape == (1, 24)
    assert encoded.t5_ids.shape == (1, 48)
    assert encoded.cut in prompt


def test_what_is_too_long_is_named(folder: Path) -> None:
    long = "make the ball red and " + "replace the small blue house with a tree " * 20
    cut = tokenizers(folder).encode(long).cut
    assert cut
    assert long.strip().endswith(cut)
    kept = long.strip().removesuffix(cut)
    assert tokenizers(folder).encode(kept).cut == ""
    assert tokenizers(folder).encode("make the ball red").cut == ""


def test_words_never_taught_are_named_once_in_order(folder: Path) -> None:
    taught = tokenizers(folder, words=["make", "the", "ball", "red", "cat's"])
    assert taught.unknown_words("Make the zebra red, the Zebra; and the cat’s ball") == ["zebra", "and"]
    assert tokenizers(folder, words=None).unknown_words("anything goes") == []


def test_a_tokenizer_that_carries_its_own_padding_keeps_it(tmp_path: Path) -> None:
    _make_clip(tmp_path / "tokenizer")
    _make_t5(tmp_path / "tokenizer_2")
    file = tmp_path / "tokenizer_2" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_padding(pad_id=2, pad_token="<unk>")
    tokenizer.save(str(file))
    assert tokenizers(tmp_path).encode("red").t5_ids[0, -1] == 2


def test_a_missing_or_broken_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer/tokenizer\.json in the model repository"):
        tokenizers(tmp_path).encode("red")
    _make_clip(tmp_path / "tokenizer")
    (tmp_path / "tokenizer_2").mkdir()
    (tmp_path / "tokenizer_2" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        tokenizers(tmp_path).encode("red")
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match="cannot read CLIP's vocabulary"):
        tokenizers(tmp_path).encode("red")
