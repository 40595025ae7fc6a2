"""An instruction in words -> the token ids that the two text encoders read.

CLIP's ids give the pooled embedding, T5's the sequence of text tokens. Both come as int64 of shape
[1, length], padded to the length that the model's graphs expect.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from openkontext.errors import InputError
from openkontext.folding import fold, plain_text, unknown_words

if TYPE_CHECKING:
    from openkontext.repository import Repository

# What CLIP splits a lower-cased text into before the byte pairs are merged (Radford et al. 2021).
_CLIP_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


_SHOWN, _SHOWN_LETTERS = 20, 40
"""Unknown words that a warning names, and letters of each: a text in a script without spaces is one word."""
_SHOWN_OF_END = 200
"""Letters that a warning shows of what the model does not see."""


@dataclass(frozen=True)
class EncodedText:
    """An instruction as the text encoders take it."""

    clip_ids: NDArray[np.int64]
    """CLIP tokens, int64 [1, clip_length]."""
    t5_ids: NDArray[np.int64]
    """T5 tokens, int64 [1, text_length]."""
    cut: str = ""
    """The end of the instruction that T5 will not see since it is too long; empty when all fits."""


class Tokenizers:
    """The two tokenizers of a model repository, opened when first used."""

    def __init__(self, repository: "Repository") -> None:
        self._path = repository.path
        self._clip_length = repository.config.clip_length
        self._t5_length = repository.config.text_length
        words = repository.config.words
        self._words = None if words is None else frozenset(map(fold, words))
        self._plain = words is not None and all(word.isascii() for word in words)

    def encode(self, prompt: str, max_sequence_length: int | None = None) -> EncodedText:
        """Turn an instruction into both encoders' token ids.

        Args:
            prompt: the instruction.
            max_sequence_length: T5 tokens after which it is cut; None for all that the model takes.

        Raises:
            InputError: a tokenizer is missing from the repository or cannot be read.
        """
        clip_ids, _ = _encode(self._clip, prompt)  # CLIP needs only the gist; T5 carries the details
        length = min(max_sequence_length or self._t5_length, self._t5_length)
        self._t5.enable_truncation(length)
        t5_ids, cut = _encode(self._t5, prompt)
        return EncodedText(clip_ids, t5_ids, cut)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the instruction that the model was never taught, each once, in their order.

        Empty for a model whose repository lists no words: such a model was trained on open text.
        """
        return [] if self._words is None else unknown_words(prompt, self._words)

    def one_token_words(self, words: Sequence[str] | None = None) -> list[str]:
        """Words that each encoder reads as a single token, sorted.

        Args:
            words: to choose from; None for the lower-case words of T5's own vocabulary.

        Raises:
            InputError: as `encode`.
        """
        own = (piece[1:] for piece in self._t5.get_vocab() if piece.startswith("▁"))
        chosen = set(own if words is None else words)

        def is_one(tokenizer: Tokenizer, word: str) -> bool:
            return tokenizer.encode(word).special_tokens_mask.count(0) == 1

        return sorted(
            word
            for word in chosen
            if word.isascii()
            and word.isalpha()
            and word.islower()
            and all(is_one(each, word) for each in (self._t5, self._clip))
        )

    def warnings(
        self, prompts: Sequence[str], model: str, max_sequence_length: int | None = None
    ) -> list[str]:
        """What of an instruction the model will not see or not know, for the user.

        Args:
            prompts: the instruction, and the negative prompt where it counts.
            model: what to call it.
            max_sequence_length: as for `encode`.

        Raises:
            InputError: as `encode`.
        """
        said = []
        for where, prompt in zip(("instruction", "negative prompt"), prompts, strict=False):
            of = "" if where == "instruction" else f" of the {where}"
            if unknown := self.unknown_words(prompt):
                said.append(f"{model} was never taught {_named(unknown)}{of}; it may ignore or misread that")
            if cut := self.encode(prompt, max_sequence_length).cut:
                cut = cut if len(cut) <= _SHOWN_OF_END else cut[:_SHOWN_OF_END] + "…"
                said.append(f"the {where} is too long for {model}, which does not see its end: '{cut}'")
        return said

    @cached_property
    def _clip(self) -> Tokenizer:
        folder = self._path / "tokenizer"
        if (folder / "merges.txt").exists() and not (folder / "tokenizer.json").exists():
            return self._ready(_clip_from_vocabulary(folder), self._clip_length, folder)
        return self._ready(_load(folder), self._clip_length, folder)

    @cached_property
    def _t5(self) -> Tokenizer:
        folder = self._path / "tokenizer_2"
        return self._ready(_load(folder), self._t5_length, folder)

    def _ready(self, tokenizer: Tokenizer, length: int, folder: Path) -> Tokenizer:
        """A tokenizer of the asked length; of a model that was taught plain words, one that reads these."""
        if self._plain:
            read_plainly(tokenizer)
        return _with_length(tokenizer, length, folder)


def _named(words: Sequence[str]) -> str:
    """Words in quotes, as many and as much of each as fits a line that is read."""
    shown = [word if len(word) <= _SHOWN_LETTERS else word[:_SHOWN_LETTERS] + "…" for word in words[:_SHOWN]]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(f"'{word}'" for word in shown) + more


def read_plainly(tokenizer: Tokenizer) -> None:
    """Have a tokenizer fold any text to plain ASCII first, and take a mark that is typed as letters.

    `<|endoftext|>` in an instruction would else end it for CLIP, which pools where the first one stands.
    """
    then = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([plain_text(), *then])
    tokenizer.encode_special_tokens = True


def t5_tokens(folder: Path, prompts: Sequence[str], length: int) -> NDArray[np.int64]:
    """T5's token ids [len(prompts), length] of some texts, without a repository.

    Args:
        folder: of the tokenizer.
        prompts: the texts.
        length: that each is cut or padded to.

    Raises:
        InputError: the tokenizer is missing or cannot be read.
    """
    tokenizer = _with_length(_load(folder), length, folder)
    return np.concatenate([_encode(tokenizer, prompt)[0] for prompt in prompts])


def _encode(tokenizer: Tokenizer, prompt: str) -> tuple[NDArray[np.int64], str]:
    """Token ids [1, length], and the part of the prompt that did not fit."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text has bytes that are no UTF-8 at character {error.start + 1}") from error
    try:
        encoding = tokenizer.encode(prompt)
    except Exception as error:  # the library raises a plain Exception for what a vocabulary cannot spell
        raise InputError(f"the model's tokenizer cannot read the text ({error}); fetch it again") from error
    cut = ""
    if encoding.overflowing:
        cut = prompt[max(end for _, end in encoding.offsets) :].strip()
    return np.array([encoding.ids], dtype=np.int64), cut


def _with_length(tokenizer: Tokenizer, length: int, folder: Path) -> Tokenizer:
    """Set a tokenizer to give exactly `length` ids, padded as it says itself or as its kind does."""
    token = tokenizer.padding["pad_token"] if tokenizer.padding else "<pad>"
    if tokenizer.token_to_id(token) is None:
        token = "<|endoftext|>"  # CLIP has no padding of its own
    model = tokenizer.model
    if isinstance(model, models.BPE) and model.unk_token and model.token_to_id(model.unk_token) is None:
        model.unk_token = None  # what the vocabulary cannot spell is left out; else that were an error
    pad_id = tokenizer.token_to_id(token)
    if pad_id is None:
        raise InputError(f"the tokenizer in {folder} has no padding token; fetch the repository again")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=pad_id, pad_token=token, length=length)
    return tokenizer


def _load(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise InputError(
            f"no {folder.name}/tokenizer.json in the model repository {folder.parent}; "
            f"copy the {folder.name} folder of the model's main repository there"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a plain Exception for a broken file
        raise InputError(f"cannot read the tokenizer {file} ({error}); fetch it again") from error


def _clip_from_vocabulary(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from `vocab.json` and `merges.txt`: FLUX.1's main repository has it so."""
    try:
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [_pair(line) for line in lines if line and not line.startswith("#version")]
        tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>")
        )
        start, end = ((mark, vocabulary[mark]) for mark in ("<|startoftext|>", "<|endoftext|>"))
    except Exception as error:  # unreadable, not JSON, or (a plain Exception of the library) inconsistent
        raise InputError(f"cannot read CLIP's vocabulary in {folder} ({error}); fetch it again") from error
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", special_tokens=[start, end]
    )
    tokenizer.add_special_tokens([start[0], end[0]])
    return tokenizer


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split(" ")
    return first, second
