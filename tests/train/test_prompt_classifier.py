import time
from pathlib import Path

import numpy as np
import pytest
import torch

from openkontext.safety.prompt.classifier import BENIGN, CLASSES, Classifier
from openkontext.train import prompt_classifier, prompts
from openkontext.train.prompt_classifier import Network, batches, pack, table_of, write
from openkontext.train.prompts import Example, examples


def test_numpy_computes_what_torch_trained() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    table = table_of(rng.normal(size=(len(words), 70)).astype(np.float32))
    groups = ["garment", "remove"]
    network = Network(table, len(groups)).eval()
    model = Classifier(pack(network, words, groups, table))
    for length in (1, 3, 12):
        text = [str(word) for word in rng.choice([*words, "unknown", "shirt", "remove"], length)]
        inputs, tags, _ = batches(
            [Example(" ".join(text), None)], {w: i + 1 for i, w in enumerate(words)}, groups
        )
        expected = torch.softmax(network(inputs, tags), dim=1)[0, 1:].tolist()
        assert np.allclose(list(model.scores(text).values()), expected, atol=0.02)  # the table has 8 bits


def test_the_same_arrays_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: dict[str, np.ndarray] = {"a": np.arange(5000, dtype=np.int8), "b": np.eye(3, dtype=np.float32)}
    write(tmp_path / "first.npz", arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write(tmp_path / "second.npz", arrays)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    with np.load(tmp_path / "second.npz", allow_pickle=False) as read:
        assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.npz", "second.npz"]


def test_training_is_the_same_for_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(words: list[str]) -> np.ndarray:  # in place of MiniLM's vectors, which take minutes
        return np.random.default_rng(len(words)).normal(size=(len(words), 70)).astype(np.float32)

    few = list(prompts._suites())[::50]  # the rest would take minutes, too
    monkeypatch.setattr(prompts, "_suites", lambda: few)
    monkeypatch.setattr(prompt_classifier, "embed", drawn)
    for name in ("first.npz", "second.npz"):
        write(tmp_path / name, prompt_classifier.train(seed=1, epochs=1, a_line=1, cache=None))
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_the_prompts_are_the_same_for_a_seed_and_of_the_classes() -> None:
    lines = examples(seed=3, a_line=4)
    assert lines == examples(seed=3, a_line=4)
    assert lines != examples(seed=4, a_line=4)
    texts = [example.text for line in lines for example in line.examples]
    assert not [text for text in texts if set(text) & set("{}<>|")]
    assert {e.category or BENIGN for line in lines for e in line.examples} == set(CLASSES)
