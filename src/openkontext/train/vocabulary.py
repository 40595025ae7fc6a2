"""The two tokenizers of a small model, trained on its instructions: CLIP's byte pairs and T5's unigrams."""

import itertools
import json
import math
import string
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from openkontext.data.draws import random_edit
from openkontext.data.instructions import every_word, phrase
from openkontext.files import beside
from openkontext.folding import plain_text

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
T5_PAD, T5_END, T5_UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass(frozen=True)
class Taught:
    """What a model is taught, as the first stage settles it for all others."""

    kinds: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> "Taught":
        """Read what `save` wrote."""
        record = json.loads((folder / "taught.json").read_text(encoding="utf-8"))
        return cls(tuple(record["kinds"]), tuple(record["words"]))

    def save(self, folder: Path) -> None:
        """Write `taught.json` into a folder."""
        text = json.dumps({"kinds": self.kinds, "words": self.words}, indent=0)
        (folder / "taught.json").write_text(text + "\n", encoding="utf-8")


def instructions(seed: int, count: int, kinds: Collection[str]) -> Iterator[str]:
    """Instructions of every kind in turn."""
    rng = np.random.default_rng([seed, 3])
    for kind in itertools.islice(itertools.cycle(kinds), count):
        yield phrase(random_edit(rng, kind, unseen=False), rng)


def _corpus(seed: int, count: int, kinds: Collection[str]) -> Iterator[str]:
    yield from instructions(seed, count, kinds)
    # Every word often enough to become a token of its own, and every letter and digit at least once.
    for word in every_word(kinds):
        yield from [word] * 50
    yield " ".join(string.ascii_lowercase + string.digits + string.punctuation)


def train_clip_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Byte pairs with CLIP's splitting, marks and end-of-word suffix.

    Args:
        texts: what to learn from.
        vocab_size: tokens, the two marks included; they come last, as in CLIP.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = plain_text()
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    # Few words make fewer pairs than there is room for; the marks keep the numbers that presets give them.
    unused = range(vocab_size - 2 - tokenizer.get_vocab_size())
    tokenizer.add_special_tokens([*(f"<|unused{number}|>" for number in unused), CLIP_START, CLIP_END])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (CLIP_START, CLIP_END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_START} $A {CLIP_END}", special_tokens=marks
    )
    return tokenizer


def train_t5_tokenizer(texts: Iterator[str], vocab_size: int, known: Collection[str]) -> Tokenizer:
    """Unigrams with T5's marks, blind to case: whole words by frequency, and letters to spell the rest.

    So small a corpus has no use for parts of words, which is all that the usual training would look for.

    Args:
        texts: what to learn from.
        vocab_size: tokens at most.
        known: words that may become tokens; all others, such as what a sign says, are spelled.
    """
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text.lower()))
    letters = sorted({letter for piece in counts for letter in piece} | set(string.printable.strip().lower()))
    whole = {form for word in known for form in (word, f"▁{word}")}
    # Two letters without a space before them are part of what a sign says, even where they make a word.
    words = [
        (w, n)
        for w, n in counts.most_common()
        if (len(w) > 2 and w in whole) or (len(w) == 2 and w[0] == "▁")
    ]
    words = words[: vocab_size - 3 - len(letters)]
    total = sum(counts.values())
    rare = math.log(0.1 / total)  # a letter is worth less than any word seen once
    tokenizer = Tokenizer(
        models.Unigram(
            [
                *((mark, 0.0) for mark in (T5_PAD, T5_END, T5_UNKNOWN)),
                *((word, math.log(n / total)) for word, n in words),
                *((letter, rare) for letter in letters),
            ],
            unk_id=2,
        )
    )
    tokenizer.normalizer = plain_text()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([T5_PAD, T5_END, T5_UNKNOWN])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {T5_END}", special_tokens=[(T5_END, tokenizer.token_to_id(T5_END))]
    )
    return tokenizer


def train_tokenizers(
    folder: Path,
    kinds: Collection[str],
    *,
    lengths: tuple[int, int] = (32, 32),
    vocab_sizes: tuple[int, int] = (1024, 512),
    count: int = 10_000,
    seed: int = 0,
) -> None:
    """Write `tokenizer/` (CLIP), `tokenizer_2/` (T5) and `taught.json`: the kinds of edit and their words.

    Each tokenizer has the settings beside it that transformers and diffusers look for: padding, and the most
    tokens. `lengths` and `vocab_sizes` are CLIP's and T5's.
    """
    corpus, words = list(_corpus(seed, count, kinds)), every_word(kinds)
    trained = {
        "tokenizer": train_clip_tokenizer(iter(corpus), vocab_sizes[0]),
        "tokenizer_2": train_t5_tokenizer(iter(corpus), vocab_sizes[1], words),
    }
    for (name, tokenizer), pad, length in zip(trained.items(), (CLIP_END, T5_PAD), lengths, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with beside(folder / name / "tokenizer.json") as new:
            tokenizer.save(str(new))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": pad,
            "model_max_length": length,
            "split_special_tokens": True,
        }
        (folder / name / "tokenizer_config.json").write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
    Taught(tuple(kinds), tuple(words)).save(folder)
