"""Weights of 8 bits on disk: made once, told from damaged ones, and never in the way."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peer_exports import PEER_EXPORTS, relative_error
from quantized_graphs import layers

from openkontext.errors import InputError
from openkontext.lora import LowRank
from openkontext.runtime import cache, int8_weights, load_graph


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


WEIGHT = np.random.default_rng(1).standard_normal((32, 48)).astype(np.float32)
X = np.random.default_rng(2).standard_normal((5, 32)).astype(np.float32)
ONE = "g (float[B, 32] x) => (float[B, 48] y) { z = Neg (x) y = MatMul (z, w) }"


def kept(home: Path) -> list[Path]:
    return sorted((home / "weights").glob("*"))


def test_weights_are_made_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = layers(tmp_path / "a", ONE, w=WEIGHT)
    first = load_graph(path, arithmetic="int8").run(x=X)["y"]
    assert len(kept(home)) == 1
    monkeypatch.setattr(int8_weights, "quantize", None)  # calling it would fail
    np.testing.assert_array_equal(load_graph(path, arithmetic="int8").run(x=X)["y"], first)
    moved = Path(shutil.copytree(tmp_path / "a", tmp_path / "b")) / "model.onnx"  # dates go along
    np.testing.assert_array_equal(load_graph(moved, arithmetic="int8").run(x=X)["y"], first)
    cache.clear()  # the graph is rewritten again, for the same weights
    np.testing.assert_array_equal(load_graph(path, arithmetic="int8").run(x=X)["y"], first)
    assert len(kept(home)) == 1


def test_a_lora_beside_takes_the_same_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PEER_EXPORTS.is_dir():
        pytest.skip("set OPENKONTEXT_PEER_EXPORTS to their folder")
    path = PEER_EXPORTS / "fp8" / "model.onnx"
    cases = np.load(PEER_EXPORTS / "fp8" / "cases.npz")
    rng = np.random.default_rng(0)
    change = LowRank(
        down=rng.standard_normal((4, 128)).astype(np.float32) * 0.3,
        up=rng.standard_normal((128, 4)).astype(np.float32) * 0.3,
        alpha=4.0,
    )
    lora = {
        "transformer_blocks.0.attn.to_q.weight": change,
        "transformer_blocks.0.attn.to_out.0.weight": change,
    }

    def run(arithmetic: str, *adapters: Any) -> NDArray[Any]:
        graph = load_graph(
            path,
            role="transformer",
            arithmetic=arithmetic,
            adapters=adapters,
            strengths=[1.0] * len(adapters),
        )
        return graph.run(**{key: cases[f"in0_{key}"] for key in graph.inputs})["latent"]

    plain = run("int8")
    monkeypatch.setattr(int8_weights, "quantize", None)
    changed = run("int8", lora)
    assert len(kept(home)) == 1
    exact = run("fast", lora)
    assert relative_error(changed, exact) < 0.012
    assert relative_error(plain, exact) > 3 * relative_error(changed, exact)  # the LoRA does something


@pytest.mark.parametrize("rewritten", [True, False])
@pytest.mark.parametrize("damage", ["changed", "gone", "short", "long", "empty", "a bit", "zeros", "a step"])
def test_weights_that_changed_or_went_are_made_again(
    tmp_path: Path, home: Path, damage: str, rewritten: bool
) -> None:
    path = layers(tmp_path / "a", ONE, w=WEIGHT)
    first = load_graph(path, arithmetic="int8").run(x=X)["y"]
    if damage == "changed":  # retrained: the same graph and sizes
        layers(tmp_path / "b", ONE, w=-2 * WEIGHT)
        before = path.with_name("weights").stat()
        shutil.copyfile(tmp_path / "b" / "weights", path.with_name("weights"))
        os.utime(path.with_name("weights"), ns=(before.st_atime_ns, before.st_mtime_ns))  # not even the date
        first = -2 * first
    elif damage == "gone":
        kept(home)[0].unlink()
    else:
        content = kept(home)[0].read_bytes()
        spoiled = {
            "short": content[:100],
            "long": content + b"x",
            "empty": b"",
            "a bit": bytes([content[0] ^ 1]) + content[1:],
            "zeros": bytes(len(content)),
            "a step": content[: 32 * 48] + b"\x7f" + content[32 * 48 + 1 :],
        }
        kept(home)[0].write_bytes(spoiled[damage])
    if not rewritten:
        cache.clear()
    np.testing.assert_allclose(load_graph(path, arithmetic="int8").run(x=X)["y"], first, rtol=1e-6)


def test_large_weights_are_told_by_samples(tmp_path: Path) -> None:
    file = tmp_path / "weights.int8"
    every, sample = int8_weights._EVERY, int8_weights._SAMPLE
    end = 2 * every + 5 * sample
    with file.open("wb") as stream:
        stream.truncate(end)
        stream.seek(end)
        stream.write(int8_weights._samples(file, end))
    assert int8_weights._is_whole(file)
    for place in (0, sample - 1, every, 2 * every + sample - 1, end - sample, end - 1, end, end + 31):
        with file.open("r+b") as stream:
            stream.seek(place)
            before = stream.read(1)
            stream.seek(place)
            stream.write(bytes([before[0] ^ 128]))
            stream.flush()
            assert not int8_weights._is_whole(file), place
            stream.seek(place)
            stream.write(before)
    assert int8_weights._is_whole(file)


def test_what_died_half_written_makes_room_first(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = home / "weights" / ".openkontext-0123456789abcdef.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if part.exists() else 10_000))
    load_graph(layers(tmp_path / "a", ONE, w=WEIGHT), arithmetic="int8")
    assert [each.suffix for each in kept(home)] == [".int8"]


def test_two_that_open_a_file_at_once_make_its_weights_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layers(tmp_path / "a", ONE, w=WEIGHT)
    waits, made = threading.Event(), []
    quantize = int8_weights.quantize

    def slow(*given: Any) -> Any:
        made.append(given)
        assert waits.wait(600)
        return quantize(*given)

    def on_stage(text: str, *_: Any) -> None:
        if text.startswith("waiting for another process"):
            waits.set()

    monkeypatch.setattr(int8_weights, "quantize", slow)
    monkeypatch.setattr(cache, "stage", on_stage)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: load_graph(path, arithmetic="int8").run(x=X)["y"], range(2))
    np.testing.assert_array_equal(one, other)
    assert (len(made), len(kept(home))) == (1, 1)


def test_clearing_leaves_what_is_being_made(tmp_path: Path, home: Path) -> None:
    with cache.writing_weights():
        part = home / "weights" / ".openkontext-0123456789abcdef.part"
        part.write_bytes(b"half")
        assert cache.weights(clear=True) == (0, 0)
        assert part.exists()
    assert cache.weights(clear=True) == (0, 0)
    assert kept(home) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    (home / "weights").write_text("a file, not a folder")
    path = layers(tmp_path / "a", ONE, w=WEIGHT)
    with pytest.raises(
        InputError, match=r"model.onnx: its weights of 8 bits .* cannot be kept in .*weights: "
    ):
        load_graph(path, arithmetic="int8")


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path, home: Path) -> None:
    weight = WEIGHT.copy()
    weight[3, 5] = np.nan
    path = layers(tmp_path / "a", ONE, w=weight)
    with pytest.raises(
        InputError, match=r"model.onnx: layer '.*': a weight holds values that are infinite, or"
    ):
        load_graph(path, arithmetic="int8")
    assert kept(home) == []  # nothing half-written


def test_old_weights_make_room(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WEIGHTS_BYTES", 2 * (32 * 48 + 4 * 48 + 32) + 100)
    for number in range(3):
        load_graph(layers(tmp_path / str(number), ONE, w=(number + 1) * WEIGHT), arithmetic="int8")
        if number == 0:
            (first,) = kept(home)
            os.utime(first, (1, 1))
    assert len(kept(home)) == 2
    assert first not in kept(home)
    assert cache.weights() == (2, 2 * (32 * 48 + 4 * 48 + 32))
    assert cache.weights(clear=True)[0] == 2
    assert cache.weights() == (0, 0)
