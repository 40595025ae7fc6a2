"""Requests: what is wrong with one is said in one line, before anything is opened."""

from typing import Any

import pytest
from copier import blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from openkontext import EditRequest, InputError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "instruction is empty"),
    ({"prompt": " \n\t"}, "instruction is empty"),
    ({"prompt": "x" * 10_000}, "10000 characters; shorten it to 4000"),
    ({"prompt": None}, "must be text, not NoneType"),
    ({"prompt": "a\udcff"}, "no UTF-8 text at character 2"),
    ({"negative_prompt": "x" * 10_000}, "negative prompt has 10000 characters"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"num_inference_steps": -3}, "num_inference_steps is -3"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; it must be a whole number from 1 to 1000"),
    ({"num_inference_steps": 10**6}, "num_inference_steps is 1000000"),
    ({"num_inference_steps": True}, "num_inference_steps is True"),
    ({"guidance_scale": -1}, "guidance_scale is -1"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ({"guidance_scale": "much"}, "guidance_scale is 'much'; it must be a number from 0 to 100"),
    ({"true_cfg_scale": 0.5}, "true_cfg_scale is 0.5"),
    ({"cache": float("nan")}, "cache is nan; it must be a number from 0 to 1, or one of off, close, quick"),
    ({"cache": 1.01}, "cache is 1.01"),
    ({"cache": -1e-9}, "cache is -1e-09"),
    ({"cache": ""}, "cache is ''"),
    ({"cache": "Close"}, "cache is 'Close'"),
    ({"cache": True}, "cache is True"),
    ({"cache": None}, "cache is None"),
    ({"true_cfg_scale": None}, "true_cfg_scale is None; it must be a number from 1 to 100"),
    ({"strength": None}, "strength is None"),
    ({"num_images_per_prompt": None}, "num_images_per_prompt is None"),
    ({"aspect_ratio": (None, 1)}, "a side of aspect_ratio is None"),
    ({"extend": {"left": None}}, "extend left is None"),
    ({"cache": [0.1]}, "cache is [0.1]"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"width": 64}, "both width and height"),
    ({"width": 0, "height": 64}, "width is 0; it must be a whole number from 16 to 4096"),
    ({"width": 64, "height": 10**9}, "height is 1000000000"),
    ({"width": 1000, "height": 20}, "1000:20 is too narrow; at most 20:1"),
    ({"width": 64, "height": 64, "aspect_ratio": (1, 1)}, "not both"),
    ({"aspect_ratio": (0, 1)}, "a side of aspect_ratio is 0"),
    ({"aspect_ratio": (1, 2, 3)}, "must be two numbers"),
    ({"fit": "squash"}, "fit 'squash' is unknown; choose stretch, crop or pad"),
    ({"image": None, "mask_image": blocks()}, "a mask needs a picture"),
    ({"reference_images": "a.png"}, "must be a list"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_bad_request_says_why_in_one_line(fields: dict[str, Any], message: str) -> None:
    good = {"prompt": "make it night", "image": blocks()}
    EditRequest(**good)
    with pytest.raises(InputError) as caught:
        EditRequest(**(good | fields))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=200)
@given(
    field=st.sampled_from(
        ["num_inference_steps", "guidance_scale", "true_cfg_scale", "cache", "seed", "width", "height", "fit"]
    ),
    value=st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.integers())),
)
def test_a_request_is_good_or_an_input_error(field: str, value: Any) -> None:
    message = ""
    try:
        EditRequest(**({"prompt": "make it night"} | {field: value}))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
