"""Edits that share their graph calls give what each gives alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import wait

import openkontext
from openkontext import EditRequest, InputError
from openkontext.runtime.batching import BatchingComponents
from openkontext.runtime.components import Components


def request(value: int, size: tuple[int, int], steps: int, prompt: str = "make it brighter") -> EditRequest:
    picture = np.full((size[1], size[0], 3), value, np.uint8)
    return EditRequest(prompt=prompt, image=picture, seed=value, num_inference_steps=steps)


def together(editor: openkontext.Editor, requests: list[EditRequest], batch: int) -> list[Any]:
    """All edits at once; an edit that fails gives its error."""
    shared = BatchingComponents(editor.repository, editor.components.precision, batch=batch)
    editor.components = shared

    def run(asked: EditRequest) -> Any:
        with shared.member():
            try:
                return np.asarray(editor.run(asked).image)
            except InputError as error:
                return error

    with ThreadPoolExecutor(len(requests)) as pool:
        with shared._turn:  # none begins before all are there, however slowly their threads start
            begun = [pool.submit(run, asked) for asked in requests]
            wait(lambda: shared._members == len(requests))
        return [each.result() for each in begun]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every call of a graph that is really made: its role, and for how many pictures."""
    made: list[tuple[str, int]] = []
    plain = Components._call

    def call(self: Components, role: str, output: str, **arrays: Any) -> Any:
        made.append((role, len(next(iter(arrays.values())))))
        return plain(self, role, output, **arrays)

    monkeypatch.setattr(Components, "_call", call)
    return made


def test_equal_sizes_share_calls_and_every_picture_is_its_own(
    copier: Path, calls: list[tuple[str, int]]
) -> None:
    editor = openkontext.load(copier)
    square, wide = (128, 128), (160, 96)
    requests = [request(20, square, 3), request(60, square, 5), request(90, wide, 4), request(120, square, 3)]
    alone = [np.asarray(editor.run(asked).image) for asked in requests]
    calls.clear()
    for one, other in zip(alone, together(editor, requests, batch=4), strict=True):
        assert np.array_equal(one, other)
    sizes = [size for role, size in calls if role == "transformer"]
    assert sum(sizes) == 3 + 5 + 4 + 3
    assert max(sizes) == 3  # the three squares, at steps of their own
    assert len(sizes) <= 3 + 2 + 4 + 2  # the wide one goes alone; the threads may begin a step apart


def test_a_batch_is_no_larger_than_allowed(copier: Path, calls: list[tuple[str, int]]) -> None:
    editor = openkontext.load(copier)
    together(editor, [request(value, (128, 128), 3) for value in (10, 20, 30)], batch=2)
    assert max(size for _, size in calls) == 2


def test_what_fails_fails_for_its_edits_and_no_others(copier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = openkontext.load(copier)
    plain = Components._call

    def call(self: Components, role: str, output: str, **arrays: Any) -> Any:
        if role == "vae_encoder" and arrays["images"].shape[2:] == (96, 160):
            raise InputError("this size cannot be encoded")
        return plain(self, role, output, **arrays)

    monkeypatch.setattr(Components, "_call", call)
    sizes = [(160, 96), (128, 128), (160, 96)]
    first, second, third = together(editor, [request(10, size, 3) for size in sizes], batch=4)
    assert [str(first), str(third)] == ["this size cannot be encoded"] * 2
    assert second.shape == (128, 128, 3)
