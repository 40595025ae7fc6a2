"""Clients of other makers, unmodified, and requests as others send them, against a running service."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from copier import STEP
from patience import DEAD, wait
from PIL import Image
from running import Service, b64, brightness, get, half_mask, hole, png, poll

STEPS = 3
"""The copier's own number of steps."""
REFUSED = "add the coca cola logo"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, slow_copier: Path) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), slow_copier, price=1, concurrency=4).start_for("ann")
    yield made
    made.stop()


@pytest.fixture
def ours(service: Service) -> openai.OpenAI:
    return openai.OpenAI(api_key=service.key, base_url=f"{service.url}/v1", max_retries=0)


def opened(text: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text or "")))


def credit(client: httpx2.Client) -> float:
    return client.get("/v1/credits").json()["credits"]


def states(client: httpx2.Client) -> list[str]:
    return [edit["details"]["state"] for edit in client.get("/v1/jobs").json()["edits"]]


# OpenAI's own client


def test_openai_generates_and_lists_models(ours: openai.OpenAI) -> None:
    made = ours.images.generate(
        prompt="make the picture", model="flux-dev", n=2, size="160x96", output_format="webp", quality="high",
        extra_body={"seed": 2**64 - 1},
    )  # fmt: skip
    assert [opened(item.b64_json).format for item in made.data or []] == ["WEBP", "WEBP"]
    assert (made.size, made.output_format, made.quality) == ("160x96", "webp", "high")
    listed = ours.models.list().data
    assert {"copier", "flux-kontext-dev", "flux-pro-1.0-fill"} <= {model.id for model in listed}
    assert ours.models.retrieve("flux-kontext-max") == next(m for m in listed if m.id == "flux-kontext-max")
    with pytest.raises(openai.NotFoundError, match="flux-kontext-dev") as missing:
        ours.models.retrieve("gpt-image/1")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        ours.with_options(api_key="no").models.list()


@pytest.mark.parametrize(("quality", "steps"), [("low", 2), ("medium", STEPS), ("high", 2 * STEPS)])
def test_quality_is_a_share_of_the_models_own_steps(
    ours: openai.OpenAI, client: httpx2.Client, quality: Any, steps: int
) -> None:
    ours.images.edit(image=png(), prompt="make it", quality=quality, model="copier")
    newest = client.get("/v1/jobs").json()["edits"][0]
    assert newest["result"]["steps"] == steps


def test_openai_seeds_variants_one_after_the_other_and_says_what_has_no_effect(
    ours: openai.OpenAI, client: httpx2.Client
) -> None:
    answer = ours.images.edit(
        image=png(),
        prompt="make it",
        model="gpt-image-2",
        n=3,
        partial_images=1,
        extra_body={"seed": 2**64 - 2},
    )
    warnings = [said.partition(":")[0] for said in answer.model_extra["warnings"]]
    assert warnings[:2] == ["model", "partial_images"]
    seeds = [edit["result"]["seed"] for edit in client.get("/v1/jobs").json()["edits"][:3]]
    assert sorted(seeds) == [0, 2**64 - 2, 2**64 - 1]


def test_openai_streams_results(ours: openai.OpenAI) -> None:
    (last,) = list(
        ours.images.edit(image=png(), prompt="make it brighter", stream=True, output_format="webp")
    )
    assert (last.type, last.size, last.output_format) == ("image_edit.completed", "128x96", "webp")
    assert last.usage.total_tokens == 0
    assert abs(np.asarray(opened(last.b64_json)).mean() - 100 - STEP) < 1.5
    events = list(ours.images.generate(prompt="make the picture", stream=True, n=2))
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    with pytest.raises(openai.APIError, match="logo") as refused:
        list(ours.images.generate(prompt=REFUSED, stream=True))
    assert refused.value.code == "moderation_blocked"


def test_openai_streams_partial_images_and_cancels_what_it_leaves(
    ours: openai.OpenAI, client: httpx2.Client
) -> None:
    stream = ours.images.edit(
        image=png(), prompt="make it", stream=True, partial_images=3, output_format="jpeg",
        extra_body={"steps": 1000},
    )  # fmt: skip
    event = next(iter(stream))
    assert (event.type, event.partial_image_index) == ("image_edit.partial_image", 0)
    assert (opened(event.b64_json).format, event.output_format) == ("JPEG", "jpeg")
    stream.close()
    wait(lambda: states(client)[0] != "running")
    assert states(client)[0] == "cancelled"


# All results, or none


def test_n_results_are_all_accepted_or_none(ours: openai.OpenAI, service: Service) -> None:
    service.run("accounts", "add", "bob", "--credit", "2")
    bob = ours.with_options(api_key=(key := service.run("keys", "create", "bob")["key"]))
    with service.client(key) as client:
        assert client.post("/v1/consent", json={"version": "1"}).status_code == 200
        for refuse in (
            lambda: bob.images.edit(image=png(), prompt="make it", n=3),  # has credit for two
            lambda: bob.images.generate(prompt="make it", n=3),
            lambda: bob.images.generate(prompt="make it", n=5),  # four may be unfinished
        ):
            with pytest.raises(openai.APIStatusError) as refused:
                refuse()
            assert refused.value.status_code in (402, 429)
            assert (credit(client), states(client)) == (2, [])
        with pytest.raises(openai.BadRequestError) as refused:  # by a filter, after they were accepted
            bob.images.edit(image=png(), prompt=REFUSED, n=2)
        assert refused.value.code == "moderation_blocked"
        assert credit(client) == 2
        assert "queued" not in states(client)
        assert len(bob.images.generate(prompt="make it", n=2).data or []) == 2
        assert credit(client) == 0


def test_an_idempotency_key_stands_for_all_results(client: httpx2.Client) -> None:
    key, inputs = {"Idempotency-Key": "several"}, {"prompt": "make it", "n": 2}
    first = client.post("/v1/images/generations", json=inputs, headers=key).json()
    count = len(states(client))
    assert client.post("/v1/images/generations", json=inputs, headers=key).json()["data"] == first["data"]
    assert len(states(client)) == count
    for other in ({"n": 1}, {"n": 3}, {"seed": 1}):
        answer = client.post("/v1/images/generations", json=inputs | other, headers=key)
        assert (answer.status_code, "Idempotency-Key" in answer.json()["error"]["message"]) == (422, True)


# JSON edits, as OpenAI's reference has them


def test_edits_in_json(client: httpx2.Client) -> None:
    uri = f"data:image/png;base64,{b64(png())}"
    for pictures, mask in (
        (
            {"images": [{"image_url": uri}, {"image_url": b64(png(value=0))}]},
            {"image_url": b64(hole())},
        ),
        ({"image": uri}, b64(hole())),
        ({"image": [uri, b64(png())]}, f"data:;base64,{b64(hole())}"),
    ):
        body = {"prompt": "brighter", "mask": mask, "user": None, **pictures}
        answer = client.post("/v1/images/edits", json=body)
        assert answer.status_code == 200, answer.text
        picture = opened(answer.json()["data"][0]["b64_json"])
        assert picture.getpixel((100, 50)) == (100, 100, 100)
        assert abs(picture.getpixel((10, 50))[0] - 100 - STEP) < 1.5


def test_the_form_of_open_webui(service: Service) -> None:
    """backend/open_webui/routers/images.py: fields as text, `image[]` for several, a bearer token."""
    data = {"model": "gpt-image-1", "prompt": "make it brighter", "n": "1", "size": "64x48",
            "background": "opaque", "response_format": "b64_json"}  # fmt: skip
    files = [
        ("image[]", ("image.png", png(), "image/png")),
        ("image[]", ("b.png", png(value=0), "image/png")),
    ]
    with service.client() as client:
        answer = client.post(
            "/v1/images/edits?api-version=1", data=data, files=files,
            headers={"Authorization": f"Bearer {service.key}"},
        )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert opened(answer.json()["data"][0]["b64_json"]).size == (64, 48)


# Clients of the FLUX API


def test_blackforest_fills_and_creates(service: Service) -> None:
    blackforest = pytest.importorskip("blackforest", reason="pip install --no-deps blackforest==0.1.3")
    from blackforest.types.general.client_config import ClientConfig

    official = blackforest.BFLClient(api_key=service.key, base_url=service.url, timeout=DEAD)
    config = ClientConfig(sync=True, polling_interval=0.1, max_retries=10 * int(DEAD))
    inputs = {
        "prompt": "brighter",
        "image": b64(png()),
        "mask": b64(half_mask()),
        "output_format": "png",
    }
    done = official.generate("flux-pro-1.0-fill", inputs, config)
    picture = Image.open(io.BytesIO(get(done.result["sample"]).content))
    assert picture.getpixel((100, 50)) == (100, 100, 100)
    assert abs(picture.getpixel((10, 50))[0] - 100 - STEP) < 1.5
    inputs = {"prompt": "make the picture", "width": 256, "height": 288, "steps": 2}
    done = official.generate("flux-dev", inputs, config)
    picture = Image.open(io.BytesIO(get(done.result["sample"]).content))
    assert (picture.size, picture.format, done.result["steps"]) == ((256, 288), "JPEG", 2)
    with pytest.raises(blackforest.BFLError, match=r"no model flux-pro-1\.1 here.*flux-kontext-dev"):
        official.generate("flux-pro-1.1", {"prompt": "x"})


def test_the_requests_of_the_ai_sdk(client: httpx2.Client, service: Service) -> None:
    """@ai-sdk/black-forest-labs 1.0.33: a size becomes a ratio, and is sent besides."""
    body = {"prompt": "make it brighter", "seed": 3, "aspect_ratio": "4:3", "width": 128, "height": 96,
            "input_image": b64(png()), "output_format": "png"}  # fmt: skip
    accepted = client.post("/v1/flux-kontext-pro", json=body).json()
    assert isinstance(accepted["cost"], (int, float))
    wait(lambda: client.get(accepted["polling_url"]).json()["status"] != "Pending")
    told = client.get(accepted["polling_url"]).json()
    assert told["status"] == "Ready"
    assert {type(told["result"][name]) for name in ("start_time", "end_time", "duration")} == {float}
    assert told["result"]["seed"] == 3
    picture = client.get(told["result"]["sample"])  # it sends its key along
    assert abs(brightness(picture.content) - 100 - STEP) < 1.5
    mask = {"input_image": b64(png()), "mask": b64(half_mask()), "prompt": "make it brighter"}
    assert client.post("/v1/flux-pro-1.0-fill", json=mask).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/flux-kontext-pro",
            {"prompt": "make it", "input_image": b64(png()), "seed": 1234, "guidance": 1.0, "steps": 4,
             "safety_tolerance": 2, "output_format": "png", "aspect_ratio": "16:9",
             "prompt_upsampling": None},
        ),
        (
            "/v1/flux-pro-1.0-fill",
            {"prompt": "make it", "image": b64(png()), "mask": b64(half_mask()), "seed": 0, "guidance": 60,
             "steps": 15, "safety_tolerance": 6, "output_format": "png", "prompt_upsampling": False},
        ),
    ],
)  # fmt: skip
def test_the_requests_of_comfyuis_nodes(client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    """comfy_api_nodes/nodes_bfl.py polls and fetches without a key; any status but 200 is a failure there."""
    accepted = client.post(path, json=body).json()
    answers = []

    def done() -> bool:
        answers.append(get(accepted["polling_url"]))
        return answers[-1].json()["status"] != "Pending"

    wait(done)
    answer = answers[-1]
    assert {each.status_code for each in answers} == {200}
    assert answer.json()["status"] == "Ready", answer.text
    assert Image.open(io.BytesIO(get(answer.json()["result"]["sample"]).content)).format == "PNG"


def test_the_requests_of_litellm(client: httpx2.Client) -> None:
    """litellm/llms/black_forest_labs: the picture is always `input_image`, also for Fill."""
    for path, more in (
        ("/v1/flux-kontext-max", {}),
        ("/v1/flux-pro-1.0-fill", {"mask": b64(half_mask())}),
    ):
        body = {"prompt": "make it brighter", "input_image": b64(png()), "output_format": "png", **more}
        done = poll(client, client.post(path, json=body).json()["id"])
        sample = Image.open(io.BytesIO(get(done["result"]["sample"]).content))
        assert abs(sample.getpixel((10, 50))[0] - 100 - STEP) < 1.5
