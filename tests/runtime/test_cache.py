"""Rewritten graphs on disk: taken again, never half there, bounded, shared, and cleared."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from quantized_graphs import Draft

from openkontext.errors import InputError
from openkontext.runtime import cache, graph, load_graph

X = np.random.default_rng(5).standard_normal((3, 32)).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def quantized(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    draft = Draft(rng, "bf16", {"x": X})
    w = rng.standard_normal((16, 32)).astype(np.float32)
    return draft.save(folder, draft.linear("x", w, "fp4"), {"x": ["B", 32]})


def entries(home: Path) -> list[Path]:
    return sorted((home / "graphs").glob("*"))


def test_a_graph_is_rewritten_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = quantized(tmp_path / "a")
    first = load_graph(path).run(x=X)["y"]
    assert len(entries(home)) == 1
    monkeypatch.setattr(graph, "lower", None)  # calling it would fail
    np.testing.assert_array_equal(load_graph(path).run(x=X)["y"], first)
    moved = Path(shutil.copytree(tmp_path / "a", tmp_path / "b")) / "model.onnx"
    np.testing.assert_array_equal(load_graph(moved).run(x=X)["y"], first)  # what counts is the content


def laid_out(how: str, plain: Path, root: Path) -> Path:
    """The same files as a download tool, a disk that is full, or a tidy person lays them."""
    if how == "plain":
        return plain
    folder, store = root / how, root / f"{how}-store"
    if how == "linked folder":
        folder.symlink_to(plain, target_is_directory=True)
        return folder
    folder.mkdir()
    store.mkdir()
    for file in plain.iterdir():
        name = hashlib.sha256(how.encode() + file.read_bytes()).hexdigest() if "hub" in how else file.name
        if how == "linked data" and file.suffix == ".onnx":
            shutil.copy(file, folder)
            continue
        shutil.copy(file, store / name)
        (folder / file.name).symlink_to(os.path.relpath(store / name, folder))
    return folder


LAYOUTS = ["plain", "hub", "another hub", "linked data", "linked folder"]


@pytest.mark.parametrize("order", [LAYOUTS, LAYOUTS[::-1], [*LAYOUTS[2:], *LAYOUTS[:2]]])
def test_where_the_data_lie_does_not_matter(
    tmp_path: Path, home: Path, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = quantized(tmp_path / "a").parent
    expected = load_graph(plain / "model.onnx").run(x=X)["y"]
    cache.clear()
    for how in order:
        folder = laid_out(how, plain, tmp_path)
        for _ in range(2):  # as rewritten, and as taken from disk
            np.testing.assert_array_equal(load_graph(folder / "model.onnx").run(x=X)["y"], expected)
            monkeypatch.chdir(folder)
            np.testing.assert_array_equal(load_graph("model.onnx").run(x=X)["y"], expected)
    assert len(entries(home)) == 1


def test_what_is_another_graph_or_asked_otherwise_is_another_entry(tmp_path: Path, home: Path) -> None:
    for seed in range(2):
        for arithmetic in ("faithful", "fast"):
            load_graph(quantized(tmp_path / str(seed), seed), arithmetic=arithmetic)
    assert len(entries(home)) == 4


def test_graphs_that_need_no_rewriting_leave_no_entry(tmp_path: Path, home: Path) -> None:
    draft = Draft(np.random.default_rng(0), "fp32", {"x": X}, listed=False)
    load_graph(draft.save(tmp_path, draft("Neg", ["x"]), {"x": ["B", 32]}))
    assert entries(home) == []


def test_another_rewriter_takes_nothing_of_an_older_one(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantized(tmp_path / "a")
    load_graph(path)
    monkeypatch.setattr(cache, "_rewriter", lambda: "newer")
    load_graph(path)
    assert len(entries(home)) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, home: Path, damage: str) -> None:
    path = quantized(tmp_path / "a")
    expected = load_graph(path).run(x=X)["y"]
    (entry,) = entries(home)
    whole = entry.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    entry.write_bytes({"cut": whole[:-7], "changed": bytes(changed), "empty": b""}[damage])
    np.testing.assert_array_equal(load_graph(path).run(x=X)["y"], expected)
    assert entries(home) == [entry]
    assert entry.read_bytes() == whole


def test_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [quantized(tmp_path / str(seed), seed) for seed in range(3)]
    for age, path in zip((30, 20), paths, strict=False):
        load_graph(path)
        newest = max(entries(home), key=lambda entry: entry.stat().st_mtime)
        os.utime(newest, times=(time.time() - age, time.time() - age))
    first, second = sorted(entries(home), key=lambda entry: entry.stat().st_mtime)
    load_graph(paths[0])  # used again
    size = first.stat().st_size
    monkeypatch.setattr(cache, "CACHE_BYTES", int(2.5 * size))
    load_graph(paths[2])
    left = entries(home)
    assert len(left) == 2
    assert first in left
    assert second not in left
    assert sum(entry.stat().st_size for entry in left) <= cache.CACHE_BYTES


def test_a_graph_larger_than_the_bound_is_not_kept(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CACHE_BYTES", 100)
    assert load_graph(quantized(tmp_path / "a")).run(x=X)["y"].shape == (3, 16)
    assert entries(home) == []


def test_a_home_that_cannot_be_written_to_costs_only_time(tmp_path: Path, home: Path) -> None:
    home.write_bytes(b"in the way")
    assert load_graph(quantized(tmp_path / "a")).run(x=X)["y"].shape == (3, 16)


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        os.ftruncate(descriptor, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.onnx"
    cache.write(home / "graphs" / path.name, graph.read_model(quantized(tmp_path / "a")))
    assert entries(home) == []


def test_what_is_not_understood_is_not_kept(tmp_path: Path, home: Path) -> None:
    draft = Draft(np.random.default_rng(0), "fp32", {"x": X})
    y = draft.fp4("x", 0.01)
    next(node for node in draft.nodes if node.domain).attribute[1].i = 12
    path = draft.save(tmp_path, y, {"x": ["B", 32]})
    for _ in range(2):
        with pytest.raises(InputError, match="expected a block size"):
            load_graph(path)
    assert entries(home) == []


def test_half_written_files_of_the_dead_go_and_of_the_living_stay(tmp_path: Path, home: Path) -> None:
    (home / "graphs").mkdir(parents=True)
    old, new = home / "graphs" / ".a.onnx.1", home / "graphs" / ".b.onnx.2"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, times=(time.time() - 7200, time.time() - 7200))
    load_graph(quantized(tmp_path / "a"))
    assert [path.name for path in entries(home) if path.name.startswith(".")] == [new.name]


def test_processes_share_it(tmp_path: Path, home: Path) -> None:
    path = quantized(tmp_path / "a")
    code = (
        "import sys, numpy as np; from openkontext.runtime import load_graph;"
        "print(load_graph(sys.argv[1]).run(x=np.ones((1, 32)))['y'].tobytes().hex())"
    )
    command = [sys.executable, "-c", code, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert results == {load_graph(path).run(x=np.ones((1, 32)))["y"].tobytes().hex() + "\n"}
    assert len(entries(home)) == 1


def test_clearing(tmp_path: Path, home: Path) -> None:
    load_graph(quantized(tmp_path / "a"))
    size = entries(home)[0].stat().st_size
    assert cache.usage() == (1, size)
    assert cache.clear() == (1, size)
    assert cache.usage() == (0, 0)
    assert entries(home) == []
    assert cache.clear() == (0, 0)
