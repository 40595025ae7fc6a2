"""Token ids against transformers' own tokenizers, and what is said of words that do not get through."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

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
# What SentencePiece's nmt_nfkc does, in the library's own steps.
T5_NORMALIZER = normalizers.Sequence(
    [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
)


def ids_of(tokenizers: Tokenizers, prompt: str) -> tuple[list[int], list[int]]:
    encoded = tokenizers.encode(prompt)
    return encoded.clip_ids[0].tolist(), encoded.t5_ids[0].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's two tokenizers: CLIP as vocabulary and merges, T5 as tokenizer.json."""
    root = tmp_path_factory.mktemp("repository")
    _make_clip(root / "tokenizer")
    _make_t5(root / "tokenizer_2")
    return root


def _make_clip(folder: Path) -> None:
    """A byte-level BPE with end-of-word marks, trained here, in CLIP's order and file format."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    pieces += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n", encoding="utf-8"
    )


def _make_t5(folder: Path) -> None:
    """Unigrams trained here, put into T5's own form by transformers."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = T5_NORMALIZER
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    _as_t5(tokenizer).save_pretrained(str(folder))


def _as_t5(tokenizer: Tokenizer) -> Any:
    from transformers import T5TokenizerFast

    t5 = T5TokenizerFast(vocab=[tuple(row) for row in json.loads(tokenizer.to_str())["model"]["vocab"]])
    t5.backend_tokenizer.normalizer = T5_NORMALIZER
    return t5


def tokenizers(folder: Path, clip_length: int = 24, text_length: int = 48, words: Any = None) -> Tokenizers:
    config = SimpleNamespace(clip_length=clip_length, text_length=text_length, words=words)
    return Tokenizers(SimpleNamespace(path=folder, config=config))  # type: ignore[arg-type]


def random_texts(count: int) -> list[str]:
    """Texts of characters of every plane, and of the kinds of which texts are made."""
    rng = random.Random(22)
    ranges = [(0x20, 0x7F), (0, 0x250), (0x300, 0x370), (0x370, 0x1000), (0x1100, 0x3200), (0xAC00, 0xD7B0)]
    ranges += [(0xE000, 0x10000), (0x1D400, 0x1D800), (0x1F1E6, 0x1FB00), (0x10000, 0x110000)]
    return [
        "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 40)))
        for _ in range(count)
    ]


TEXTS = [
    *PROMPTS,
    "don’t “HI” — … £5 ½ 100° café night🌙 夜にして сделай ночь",
    "a\x00b\x1b[31m \ufeff\u200b\u202e \ue000 e\u0301\u0300",
    "👨\u200d👩\u200d👧 🇫🇷 1\ufe0f\u20e3 שלום रात ทำ İı ﬁ ſ ẞ ǅ",
    "it <|endoftext|> ends </s> <pad> <extra_id_0> <|startoftext|>",
    "\u3000\u00a0",
    *random_texts(500),
]


def test_clip_ids_are_those_of_transformers(folder: Path) -> None:
    from transformers import CLIPTokenizer

    reference = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    ours = tokenizers(folder)
    for text in TEXTS:
        ids = ours.encode(text).clip_ids
        assert ids.dtype == "int64"
        expected = reference(text, padding="max_length", truncation=True, max_length=24).input_ids
        assert ids.tolist() == [expected], ascii(text)


def test_t5_ids_are_those_of_transformers(folder: Path) -> None:
    reference = _as_t5(Tokenizer.from_file(str(folder / "tokenizer_2" / "tokenizer.json")))
    ours = tokenizers(folder, text_length=16)
    for text in TEXTS:
        ids = ours.encode(text).t5_ids
        assert ids.dtype == "int64"
        expected = reference(text, padding="max_length", truncation=True, max_length=16).input_ids
        assert ids.tolist() == [expected], ascii(text)


@settings(max_examples=50)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
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
    assert taught.unknown_words("make the rédbäll “ＲＥＤ”") == ["rédbäll"]
    assert tokenizers(folder, words=None).unknown_words("anything goes") == []


def test_plain_words_are_read_from_any_text_where_these_were_taught(folder: Path) -> None:
    taught, open_text = tokenizers(folder, words=["make", "red"]), tokenizers(folder)
    for typed, plain in (("mäke “it” re\u200bd🌙", 'make "it" red'), ("夜", "."), ("夜 red", "red")):
        assert ids_of(taught, typed) == ids_of(taught, plain) == ids_of(open_text, plain)
        assert ids_of(open_text, typed) != ids_of(open_text, plain)
    # A model of words that are not plain reads them as its tokenizer does.
    assert ids_of(tokenizers(folder, words=["größer"]), "größer") == ids_of(open_text, "größer")


def test_a_mark_that_is_typed_ends_nothing(folder: Path) -> None:
    for text in ("a <|endoftext|> b", "<|startoftext|>", "＜|endoftext|＞"):
        clip, t5 = ids_of(tokenizers(folder, words=["a"]), text + " </s> <pad>")
        vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
        end = clip.index(vocabulary["<|endoftext|>"])
        assert vocabulary["<|startoftext|>"] not in clip[1:end]
        assert end > 6
        assert 0 not in t5[: t5.index(1)]
        assert t5.index(1) > 10


def test_what_a_vocabulary_cannot_spell_is_left_out(tmp_path: Path) -> None:
    """A vocabulary without its own unknown token, and without most bytes as the last of a word."""
    _make_t5(tmp_path / "tokenizer_2")
    model = models.BPE({"a": 0, "b": 1, "b</w>": 2}, [], unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert tokenizers(tmp_path, clip_length=5).encode("ab’éb").clip_ids.tolist() == [[0, 2, 2, 3, 3]]


def test_bytes_that_are_no_text_are_an_input_error(folder: Path) -> None:
    with pytest.raises(InputError, match="no UTF-8 at character 3"):
        tokenizers(folder).encode("ab\ud800")


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
