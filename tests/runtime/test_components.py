"""The five graphs of a repository as functions, against the same formulas in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import POOLED_WIDTH, TEXT_WIDTH, TINY, tiny_weights, write_tiny_repository

from openkontext.repository import Repository
from openkontext.runtime import Components, components, graph

PRECISIONS = ["bf16", "fp16", "fp32"]
close = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=PRECISIONS)
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository.open(write_tiny_repository(tmp_path_factory.mktemp("tiny"), [request.param]))


def transformer_inputs(batch: int = 2, tokens: int = 10) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    return {
        "hidden_states": rng.standard_normal((batch, tokens, 64)),
        "encoder_hidden_states": rng.standard_normal((batch, TINY.text_length, TEXT_WIDTH)),
        "pooled_projections": rng.standard_normal((batch, POOLED_WIDTH)),
        "timestep": np.array([0.75, 0.5][:batch]),
        "img_ids": rng.integers(0, 9, (tokens, 3)),
        "txt_ids": np.zeros((TINY.text_length, 3)),
        "guidance": np.full(batch, 2.5),
    }


@pytest.mark.parametrize("low_memory", [False, True])
def test_every_graph_gives_what_its_formula_gives(repository: Repository, low_memory: bool) -> None:
    (precision,) = repository.precisions
    weights = tiny_weights(precision)
    parts = Components(repository, precision, low_memory=low_memory)
    ids = np.array([[1, 5, 2, 0, 15, 3], [4, 4, 4, 4, 4, 4]])
    np.testing.assert_allclose(parts.clip(ids), weights["clip"][ids].mean(axis=1), **close)
    ids = np.arange(8)[None]
    np.testing.assert_allclose(parts.t5(ids), weights["t5"][ids], **close)

    given = transformer_inputs()
    hidden, text, pooled = (
        given[name].astype(np.float32)
        for name in ("hidden_states", "encoder_hidden_states", "pooled_projections")
    )
    expected = (
        hidden @ weights["tokens"]
        + text.mean(axis=1, keepdims=True) @ weights["text"]
        + (pooled @ weights["pooled"])[:, None]
        + (given["timestep"] * given["guidance"])[:, None, None]
        + np.concatenate([given["img_ids"], given["txt_ids"]]).mean()
    )
    # The tiny transformer casts the mean of the ids to its own type and back, and fp16 inputs are rounded.
    np.testing.assert_allclose(parts.transformer(**given), expected, rtol=5e-3, atol=2e-2)

    images = np.random.default_rng(6).uniform(-1, 1, (1, 3, 16, 24)).astype(np.float32)
    latent = parts.encode(images)
    blocks = images.reshape(3, 2, 8, 3, 8)
    expected = np.einsum("chpwq,ocpq->ohw", blocks, weights["encoder"])[None]
    np.testing.assert_allclose(latent, expected, rtol=1e-3, atol=1e-3)
    expected = np.einsum("ohw,ocpq->chpwq", expected[0], weights["decoder"]).reshape(1, 3, 16, 24)
    np.testing.assert_allclose(parts.decode(latent), expected, rtol=1e-3, atol=5e-3)
    assert {array.dtype for array in (latent, parts.decode(latent))} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("low_memory", "opened"), [(False, 2), (True, 4)])
def test_graphs_open_when_first_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low_memory: bool, opened: int
) -> None:
    names: list[str] = []
    load_graph = components.load_graph

    def counted(path: Path, *args: Any, **kwargs: Any) -> Any:
        names.append(path.parent.name)
        return load_graph(path, *args, **kwargs)

    monkeypatch.setattr(components, "load_graph", counted)
    repository = Repository.open(write_tiny_repository(tmp_path))
    parts = Components(repository, "bf16", low_memory=low_memory)
    assert names == []
    images = np.zeros((1, 3, 16, 16), np.float32)
    for _ in range(2):
        parts.decode(parts.encode(images))
    assert len(names) == opened
    assert len(parts._open) == (1 if low_memory else 2)
    parts.close()
    assert parts.encode(images).shape == (1, 16, 2, 2)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("low_memory", [False, True])
def test_low_memory_lets_go_of_the_graph_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low_memory: bool
) -> None:
    monkeypatch.setattr(graph, "FOLDED_BYTES", 0)
    repository = Repository.open(write_tiny_repository(tmp_path))
    parts = Components(repository, "bf16", low_memory=low_memory)
    parts.encode(np.zeros((1, 3, 16, 16), np.float32))
    weights = str(repository.graph("vae_encoder", "bf16").parent)
    assert weights in Path("/proc/self/maps").read_text()
    parts.t5(np.zeros((1, 8), np.int64))
    assert (weights in Path("/proc/self/maps").read_text()) != low_memory
