"""Steps that are foreseen: how many, by which rule, and how near to the whole run."""

from typing import Any

import numpy as np
import pytest

import openkontext
from openkontext.evaluation.cases import draw_cases
from openkontext.sampling import TextEmbeds, denoise, randn, schedule
from openkontext.step_cache import StepCache

TEXT = TextEmbeds(np.zeros((1, 2, 4), np.float32), np.zeros((1, 4), np.float32))
NOISE = randn((1, 4, 4, 6), 3)


class Flow:
    """A transformer whose velocity follows the noise level alone: on a line, or on a curve."""

    def __init__(self, power: int) -> None:
        self.power, self.calls = power, 0

    def __call__(self, *, hidden_states, timestep, **_):
        self.calls += 1
        return np.full_like(hidden_states, 2.0) + timestep[0] ** self.power


def last_of(flow: Flow, cache: StepCache | None, steps: int = 20) -> np.ndarray:
    *_, last = denoise(flow, NOISE, TEXT, sigmas=schedule(steps, 6), cache=cache)
    return last.latents


def test_a_threshold_of_zero_computes_every_step_to_the_byte() -> None:
    flow, plain = Flow(2), Flow(2)
    assert last_of(flow, StepCache(0.0)).tobytes() == last_of(plain, None).tobytes()
    assert flow.calls == plain.calls == 20


def test_what_moves_on_a_line_is_foreseen_exactly() -> None:
    flow, whole = Flow(1), Flow(1)
    cache = StepCache(0.2)
    foreseen, computed = last_of(flow, cache), last_of(whole, None)
    assert cache.computed == flow.calls < 10
    np.testing.assert_allclose(foreseen, computed, atol=1e-5)  # float32 sums of 20 steps
    held = last_of(Flow(1), StepCache(0.2, extend=False))
    assert np.abs(held - computed).max() > 1e-3


def test_a_higher_threshold_computes_fewer_steps_and_never_less_than_three() -> None:
    calls = []
    for threshold in (0.0, 0.02, 0.1, 1.0):
        flow = Flow(2)
        last_of(flow, StepCache(threshold))
        calls.append(flow.calls)
    assert calls == sorted(calls, reverse=True)
    assert calls[-1] == 3  # two to know the rate, and the last


def test_the_rule_by_hand() -> None:
    """At rate 2 (velocity 0.2 for latents 0.1) and size 1.2, each further 0.1 moves 0.2 / 1.2."""
    cache, asked = StepCache(0.4), []

    def at(x: float, velocity: float, *, last: bool = False) -> float:
        def compute() -> np.ndarray:
            asked.append(x)
            return np.array([velocity], np.float32)

        return float(cache(np.array([x], np.float32), 1 - x, compute, last=last)[0])

    assert at(0.0, 1.0) == 1.0
    assert at(0.1, 1.2) == pytest.approx(1.2)
    assert at(0.2, 9.0) == pytest.approx(1.4)  # on the line; moved 1/6
    assert at(0.3, 9.0) == pytest.approx(1.6)  # moved 2/6
    assert at(0.4, 1.7) == pytest.approx(1.7)  # moved 3/6, above 0.4
    assert at(0.5, 3.0, last=True) == pytest.approx(3.0)
    assert asked == pytest.approx([0.0, 0.1, 0.4, 0.5])


def test_a_third_of_the_calls_makes_the_same_picture() -> None:
    editor = openkontext.load()
    calls = 0
    transformer = editor.components.transformer

    def counted(**inputs):
        nonlocal calls
        calls += 1
        return transformer(**inputs)

    editor.components.transformer = counted  # type: ignore[method-assign]
    for case in draw_cases(1, 2, editor.repository.config.kinds or ()):
        options = {"seed": case.index, "num_inference_steps": 28}
        whole, near = (
            np.asarray(editor.edit(case.before, case.instruction, cache=cache, **options).image, float)
            for cache in (0.0, 0.1)
        )
        # 40 dB: the eye tells such pictures apart only side by side.
        assert ((whole - near) ** 2).mean() < 255**2 / 10**4
    assert calls <= 2 * 28 * 1.36


@pytest.mark.parametrize(
    ("cache", "threshold"),
    [("off", 0.0), ("close", 0.1), ("quick", 0.2), (" quick ", 0.2), ("0.3", 0.3), (1, 1.0)],
)
def test_a_name_stands_for_a_threshold(cache: Any, threshold: float) -> None:
    assert openkontext.EditRequest(prompt="make it night", cache=cache).cache_threshold == threshold


def test_a_result_says_that_steps_were_foreseen() -> None:
    editor = openkontext.load()
    case = draw_cases(1, 1, editor.repository.config.kinds or ())[0]
    result = editor.edit(case.before, case.instruction, seed=0, num_inference_steps=4, cache="quick")
    assert result.metadata["cache"] == "0.2"
    plain = editor.edit(case.before, case.instruction, seed=0, num_inference_steps=2)
    assert "cache" not in plain.metadata
    with pytest.raises(openkontext.InputError, match=r"cache is 1\.5; it must be a number from 0 to 1"):
        editor.edit(case.before, case.instruction, cache=1.5)
