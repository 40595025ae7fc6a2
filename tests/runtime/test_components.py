"""The five graphs of a repository as functions, against the same formulas in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import POOLED_WIDTH, TEXT_WIDTH, TINY, tiny_weights, write_tiny_repository

from openkontext.errors import InputError
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
    for shade in (0, 1):
        parts.decode(parts.encode(np.full((1, 3, 16, 16), shade, np.float32)))
    assert len(names) == opened
    assert len(parts._open) == (1 if low_memory else 2)
    parts.close()
    assert parts.encode(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 16, 2, 2)


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


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Roles of the graphs that are opened from now on."""
    found: list[str] = []

    def load(*arguments: Any, **named: Any) -> Any:
        found.append(named["role"])
        return graph.load_graph(*arguments, **named)

    monkeypatch.setattr(components, "load_graph", load)
    return found


def test_graphs_opened_ahead_give_the_same_and_each_is_opened_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, ids = transformer_inputs(), np.arange(8)[None]
    alone = Components(repository, repository.precision())
    expected = alone.t5(ids), alone.transformer(**given)
    roles = opened(monkeypatch)
    parts = Components(repository, repository.precision())
    parts.open_ahead()
    parts.open_ahead()
    np.testing.assert_array_equal(parts.t5(ids), expected[0])
    np.testing.assert_array_equal(parts.transformer(**given), expected[1])
    parts.preload()
    parts.open_ahead()
    assert sorted(roles) == ["clip", "t5", "transformer", "vae", "vae_encoder"]


def test_what_was_opened_ahead_of_a_refusal_is_kept_and_the_rest_opened_when_called(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = opened(monkeypatch)
    parts = Components(repository, repository.precision())
    parts.open_ahead()
    parts.stop_ahead()
    parts.preload()
    parts.stop_ahead()
    assert sorted(roles) == ["clip", "t5", "transformer", "vae", "vae_encoder"]
    parts.open_ahead()
    parts.close()
    parts.preload()
    assert roles.count("t5") == 2


def test_some_graphs_are_closed_alone(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    roles, ids = opened(monkeypatch), np.arange(8)[None]
    parts = Components(repository, repository.precision())
    parts.open_ahead()
    text = parts.t5(ids)
    parts.close("t5", "clip")
    np.testing.assert_array_equal(parts.t5(ids), text)  # what was encoded is kept
    parts.preload()
    assert sorted(roles) == ["clip", "t5", "t5", "transformer", "vae", "vae_encoder"]


def test_a_large_model_and_one_with_little_memory_open_nothing_ahead(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = opened(monkeypatch)
    sparing = Components(repository, repository.precision(), low_memory=True)
    sparing.open_ahead()
    monkeypatch.setattr(components, "_SMALL", 100)
    large = Components(repository, repository.precision())
    large.open_ahead()
    large.stop_ahead()
    assert (sparing.is_small, large.is_small, roles) == (False, False, [])


def test_a_graph_that_cannot_be_opened_ahead_is_told_of_by_its_call(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **named: Any) -> Any:
        raise InputError(f"no {named['role']}")

    monkeypatch.setattr(components, "load_graph", load)
    parts = Components(repository, repository.precision())
    parts.open_ahead()
    with pytest.raises(InputError, match="no t5"):
        parts.t5(np.arange(8)[None])
    parts.stop_ahead()
    with pytest.raises(InputError, match="no vae"):
        parts.decode(np.zeros((1, 16, 4, 4), np.float32))


def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders of the graphs that run from now on."""
    found: list[str] = []
    run = graph.Graph.run

    def recorded(self: graph.Graph, **arrays: Any) -> Any:
        found.append(self.path.parent.name)
        return run(self, **arrays)

    monkeypatch.setattr(graph.Graph, "run", recorded)
    return found


def test_what_was_encoded_lately_is_not_encoded_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Components(repository, repository.precision())
    roles = ran(monkeypatch)
    ids, others = np.arange(8)[None], np.arange(8)[None, ::-1]
    first = parts.t5(ids)
    expected = first.copy()
    first[:] = 0  # what a caller does with it is no matter of the next
    np.testing.assert_array_equal(parts.t5(ids), expected)
    picture = np.linspace(-1, 1, 3 * 16 * 24, dtype=np.float32).reshape(1, 3, 16, 24)
    np.testing.assert_array_equal(parts.encode(picture), parts.encode(picture.copy()))
    assert roles == ["t5.opt", "vae_encoder.opt"]
    assert not np.array_equal(parts.t5(others), expected)  # the same numbers in another order
    assert not np.array_equal(parts.encode(picture[..., ::-1]), parts.encode(picture))
    assert roles == ["t5.opt", "vae_encoder.opt", "t5.opt", "vae_encoder.opt"]


def test_few_encodings_are_kept_and_none_of_other_loras(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Components(repository, repository.precision(), low_memory=True)
    roles = ran(monkeypatch)
    texts = [np.full((1, 8), number) for number in range(9)]
    for ids in (*texts, texts[8], texts[0]):
        parts.t5(ids)
    assert len(roles) == 10  # the ninth was there, the first was not any more
    parts.set_loras([])
    parts.t5(texts[0])
    assert len(roles) == 11
