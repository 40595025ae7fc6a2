"""A small network over words and the groups they belong to, for what the rules have no patterns for.

Trained by `python -m openkontext.train.prompt_classifier`; what it is made of is said there.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.mending import mender

BENIGN = "benign"
CLASSES = (
    BENIGN,
    "ncii",
    "nudity",
    "sexual",
    "gore",
    "violence",
    "hate_symbols",
    "self_harm",
    "weapons",
)
"""What it tells apart, in the order of its output."""
MAX_WORDS = 256
"""Words that are looked at together; longer texts are read in overlapping windows."""


class Classifier:
    """Scores words by class. Has no state; one serves all threads.

    Args:
        arrays: what `classifier.npz` holds: words (utf-8, one a line), table int8 [words + 1, size], row 0
            for unknown words, and its scale; groups (utf-8, one a line): those of the lexicon that it sees;
            per width N, filters_N float32 [N, size + groups, filters] and bias_N; head_weight float32
            [classes, filters of all widths], head_bias.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        # It begins with the words that the mender has at hand: a second table of them would take 5 MB.
        ordinary = mender().ordinary
        words, begin = bytes(arrays["words"]).decode(), "".join(f"{word}\n" for word in ordinary)
        self._ordinary = ordinary if words.startswith(begin) else {}
        further = words.removeprefix(begin).split("\n")
        self._further = {word: row for row, word in enumerate(further, len(self._ordinary) + 1)}
        self._groups = bytes(arrays["groups"]).decode().split("\n")
        self._table = arrays["table"]
        self._scale = float(arrays["scale"][0])
        widths = sorted(int(name.removeprefix("filters_")) for name in arrays if name.startswith("filters_"))
        self._filters = [(arrays[f"filters_{width}"], arrays[f"bias_{width}"]) for width in widths]
        self._head = arrays["head_weight"], arrays["head_bias"]

    def scores(self, words: list[str]) -> dict[str, float]:
        """Probability of each class but the benign one; 0 for all where no word is known."""
        found = dict.fromkeys(CLASSES[1:], 0.0)
        for start in range(0, len(words), MAX_WORDS // 2):
            seen = words[start : start + MAX_WORDS]
            ids, groups = list(map(self._row, seen)), tagged(seen, self._groups)
            if any(ids) or groups.any():
                for name, probability in zip(CLASSES[1:], self._probabilities(ids, groups)[1:], strict=True):
                    found[name] = max(found[name], float(probability))
        return found

    def _row(self, word: str) -> int:
        """Of the table; 0 for an unknown word."""
        return self._further.get(word) or self._ordinary.get(word, -1) + 1

    def _probabilities(self, ids: list[int], groups: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors = np.concatenate([self._table[ids].astype(np.float32) * self._scale, groups], axis=1)
        pooled = []
        for filters, bias in self._filters:
            width, size, count = filters.shape
            padded = np.pad(vectors, ((width - 1, width - 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)  # [places, size, width]
            answers = windows.transpose(0, 2, 1).reshape(-1, width * size) @ filters.reshape(-1, count)
            pooled.append(np.maximum(answers.max(axis=0) + bias, 0))
        weight, bias = self._head
        logits = weight @ np.concatenate(pooled) + bias
        odds: NDArray[np.float32] = np.exp(logits - logits.max())
        return odds / odds.sum()


def tagged(words: list[str], groups: list[str]) -> NDArray[np.float32]:
    """Which of some groups of the lexicon each word belongs to: 0 or 1, float32 [words, groups]."""
    found = np.zeros((len(words), len(groups)), np.float32)
    spans = lexicon().find(words)
    for column, group in enumerate(groups):
        for start, ends in spans.get(group, {}).items():
            found[start : max(ends), column] = 1
    return found


@lru_cache(maxsize=1)
def classifier() -> Classifier:
    """The one that the package ships."""
    file = resources.files("openkontext.safety.prompt") / "classifier.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        return Classifier(dict(arrays))
