import numpy as np
import torch

from openkontext.safety.prompt.classifier import BENIGN, CLASSES, Classifier
from openkontext.train.prompt_classifier import Network, batches, pack, table_of
from openkontext.train.prompts import Example, examples


def test_numpy_computes_what_torch_trained() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    table = table_of(rng.normal(size=(len(words), 70)).astype(np.float32))
    network = Network(table).eval()
    model = Classifier(pack(network, words, table))
    for length in (1, 3, 12):
        text = [str(word) for word in rng.choice([*words, "unknown"], length)]
        inputs, _ = batches([Example(" ".join(text), None)], {w: i + 1 for i, w in enumerate(words)})
        expected = torch.softmax(network(inputs), dim=1)[0, 1:].tolist()
        assert np.allclose(list(model.scores(text).values()), expected, atol=0.02)  # the table has 8 bits


def test_the_prompts_are_the_same_for_a_seed_and_of_the_classes() -> None:
    lines = examples(seed=3, a_line=4)
    assert lines == examples(seed=3, a_line=4)
    assert lines != examples(seed=4, a_line=4)
    texts = [example.text for line in lines for example in line.examples]
    assert not [text for text in texts if set(text) & set("{}<>|")]
    assert {e.category or BENIGN for line in lines for e in line.examples} == set(CLASSES)
