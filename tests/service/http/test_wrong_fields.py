"""What a route cannot take is refused by the client's own name for it, before there is a job."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from running import DEV, EDITS, FILL, GENERATIONS, KONTEXT, b64, png


@pytest.mark.parametrize("path", [KONTEXT, FILL, DEV, EDITS, GENERATIONS])
@pytest.mark.parametrize(
    "name", ["image_prompt", "num_inference_steps", "input_image_5", "input_image_10", "x"]
)
def test_a_field_that_a_route_does_not_have_is_refused_by_its_name(
    strict: TestClient, path: str, name: str
) -> None:
    picture = {FILL: {"image": b64(png())}, EDITS: {"image": b64(png())}}.get(path, {})
    answer = strict.post(path, json={"prompt": "x", **picture, name: "1"})
    assert answer.status_code == 422
    told = answer.json()
    if path in (EDITS, GENERATIONS):
        assert (told["error"]["param"], told["error"]["message"].startswith(f"{name}: ")) == (name, True)
    else:
        assert told["message"].startswith(f"{name}: ")
        assert told["detail"][0]["loc"][-1] == name
    if path == KONTEXT:  # what is null is as good as left out
        assert strict.post(path, json={"prompt": "x", name: None}).status_code == 200


@pytest.mark.parametrize(
    ("path", "inputs", "name"),
    [
        (KONTEXT, {"image": "aGk="}, "image"),
        (KONTEXT, {"width": 64}, "height"),
        (KONTEXT, {"width": 3, "height": 64}, "width"),
        (KONTEXT, {"width": 640, "height": 64, "aspect_ratio": "1:1"}, "aspect_ratio"),
        (KONTEXT, {"aspect_ratio": "22:9"}, "aspect_ratio"),
        (KONTEXT, {"mask": b64(png())}, "mask"),
        (KONTEXT, {"strength": 0.5}, "strength"),
        (KONTEXT, {"input_image": b64(png()), "strength": 0}, "strength"),
        (KONTEXT, {"input_image": b64(png()), "crop_to_mask": True}, "crop_to_mask"),
        (KONTEXT, {"extend": {"left": 8}}, "extend"),
        (KONTEXT, {"input_image": b64(png()), "extend": {"middle": 8}}, "extend.middle"),
        (KONTEXT, {"input_image": b64(png()), "extend": {"left": 0}}, "extend.left"),
        (KONTEXT, {"input_image": b64(png()), "extend": {"left": True}}, "extend.left"),
        (KONTEXT, {"input_image": b64(png()), "extend": "[" * 10**5}, "extend"),
        (KONTEXT, {"cache": "fast"}, "cache"),
        (KONTEXT, {"cache": 1.5}, "cache"),
        (KONTEXT, {"cache": "nan"}, "cache"),
        (KONTEXT, {"cache": True}, "cache"),
        (KONTEXT, {"sigmas": [0.5, 1]}, "sigmas"),
        (KONTEXT, {"sigmas": [1, 0.5], "steps": 3}, "sigmas"),
        (KONTEXT, {"sigmas": [True]}, "sigmas.0"),
        (KONTEXT, {"max_sequence_length": 513}, "max_sequence_length"),
        (KONTEXT, {"steps": 0}, "steps"),
        (KONTEXT, {"guidance": 101}, "guidance"),
        (KONTEXT, {"true_cfg_scale": 0.5}, "true_cfg_scale"),
        (KONTEXT, {"negative_prompt": "x" * 4001}, "negative_prompt"),
        (KONTEXT, {"output_compression": 50}, "output_compression"),
        (KONTEXT, {"webhook_url": "ftp://example.org"}, "webhook_url"),
        (KONTEXT, {"parent_id": "none"}, "parent_id"),
        (KONTEXT, {"input_image": "?"}, "input_image"),
        (KONTEXT, {"input_image_2": b64(png()), "input_image_4": "aGk="}, "input_image_4"),
        (KONTEXT, {"input_image": b64(png()), "mask": "aGk="}, "mask"),
        (FILL, {}, "image"),
        (FILL, {"image": b64(png()), "input_image": b64(png())}, "image"),
        (FILL, {"input_image": "aGk="}, "input_image"),
        (FILL, {"image": b64(png())}, "image"),  # neither a mask nor a transparent part
        (DEV, {"height": 10**6, "width": 10**6}, "width"),
        (EDITS, {}, "images"),
        (EDITS, {"images": [{"file_id": "file-1"}]}, "images.0.file_id"),
        (EDITS, {"images": [{"image_url": "aGk="}]}, "images.0.image_url"),
        (EDITS, {"image": [b64(png()), "aGk="]}, "image (2)"),
        (EDITS, {"image": b64(png()), "mask": b64(png())}, "mask"),
        (EDITS, {"image": b64(png()), "mask": {"image_url": "aGk="}}, "mask.image_url"),
        (EDITS, {"image": [b64(png())] * 5}, "image (5)"),
        (EDITS, {"image": b64(png()), "mask": {"url": "aGk="}}, "mask.url"),
        (EDITS, {"image": ["aGk=", 3]}, "image.1"),
        (EDITS, {"images": [{}]}, "images.0.image_url"),
        (EDITS, {"image": b64(png()), "quality": "best"}, "quality"),
        (EDITS, {"image": b64(png()), "quality": "high", "steps": 4}, "quality"),
        (EDITS, {"image": b64(png()), "input_fidelity": "low"}, "input_fidelity"),
        (EDITS, {"image": b64(png()), "crop_to_mask": True}, "crop_to_mask"),
        (GENERATIONS, {"size": "99999x8"}, "size"),
        (GENERATIONS, {"size": "big"}, "size"),
        (GENERATIONS, {"background": "transparent"}, "background"),
        (GENERATIONS, {"style": "vivid"}, "style"),
        (GENERATIONS, {"output_format": "png", "output_compression": 10}, "output_compression"),
        (GENERATIONS, {"n": 11}, "n"),
        (GENERATIONS, {"seed": -1}, "seed"),
    ],
)
def test_errors_name_the_field_as_the_client_calls_it(
    strict: TestClient, path: str, inputs: dict[str, Any], name: str
) -> None:
    answer = strict.post(path, json={"prompt": "x", **inputs})
    assert answer.status_code == 422
    told = answer.json()
    openai = path in (EDITS, GENERATIONS)
    message = told["error"]["message"] if openai else told["message"]
    assert message.startswith(f"{name}: "), message
    assert ".".join(message.split("\n")) == message
    where = told["error"]["param"] if openai else ".".join(map(str, told["detail"][0]["loc"][1:]))
    assert where == name


@pytest.mark.parametrize("path", [KONTEXT, EDITS, GENERATIONS])
@pytest.mark.parametrize("body", ["", "no JSON", "[]", "3", "null"])
def test_a_body_that_is_no_object_is_said(strict: TestClient, path: str, body: str) -> None:
    answer = strict.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    told = answer.json()
    message = told["error"]["message"] if path != KONTEXT else told["message"]
    assert message.startswith("the body ")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_that_is_sent_as_something_else_is_told_how_to_send_it(strict: TestClient, kind: str) -> None:
    for path in (KONTEXT, GENERATIONS):
        answer = strict.post(path, content='{"prompt": "x"}', headers={"Content-Type": kind})
        assert answer.status_code == 422
        assert "send it with Content-Type: application/json" in answer.text


@pytest.mark.parametrize("path", [KONTEXT, GENERATIONS])
@pytest.mark.parametrize("name", ["seed", "steps", "guidance", "true_cfg_scale", "cache", "safety_tolerance"])
def test_true_is_no_number(strict: TestClient, path: str, name: str) -> None:
    answer = strict.post(path, json={"prompt": "x", name: True})
    assert answer.status_code == 422
    assert f"{name}: is true; it must be a number" in answer.text


def test_errors_of_a_form_name_its_own_fields(strict: TestClient) -> None:
    for files, name in (
        ([("image[]", ("a.png", png())), ("image[]", ("b.png", b"hello"))], "image[] (2)"),
        ([("image", ("a.png", b"hello"))], "image"),
        ([("image", ("a.png", b""))], "image"),
        ([("image", ("a.png", png())), ("mask", ("m.png", b""))], "mask"),
        ([("image", ("a.png", png())), ("markup", ("m.png", png()))], "markup"),
    ):
        answer = strict.post(EDITS, data={"prompt": "x"}, files=files)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, name)
    assert strict.post(EDITS, data={"prompt": "x"}).json()["error"]["param"] == "image"
    assert strict.post(EDITS, content=b"neither").status_code == 400
