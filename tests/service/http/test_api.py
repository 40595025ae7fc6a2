"""The running service as its clients meet it, existing clients of other makers among them."""

import dataclasses
import hashlib
import hmac
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from copier import CONFIG, STEP
from patience import DEAD, wait
from PIL import Image
from running import Receiver, Service, b64, brightness, get, png, poll

from openkontext import provenance


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, slow_copier: Path) -> Iterator[Service]:
    # What differs by less than a fifth of a "brighter" keeps the input's pixels.
    model = shutil.copytree(slow_copier, tmp_path_factory.mktemp("models") / "slow-keeper")
    dataclasses.replace(CONFIG, keep_below=0.002).save(model)
    made = Service(tmp_path_factory.mktemp("service"), model, price=1, encrypt=True).start_for("ann")
    yield made
    made.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_the_official_client_works_with_its_address_changed(service: Service, tmp_path: Path) -> None:
    blackforest = pytest.importorskip("blackforest", reason="pip install --no-deps blackforest==0.1.3")
    from blackforest.types.general.client_config import ClientConfig

    (tmp_path / "photo.png").write_bytes(png())
    official = blackforest.BFLClient(api_key=service.key, base_url=service.url, timeout=DEAD)
    inputs = {"prompt": "make it brighter", "input_image": str(tmp_path / "photo.png"), "seed": 42}
    done = official.generate("flux-kontext-pro", inputs, ClientConfig(sync=True, polling_interval=0.1))
    picture = get(done.result["sample"])  # signed: no key is sent
    assert picture.headers["content-type"] == "image/png"
    assert abs(brightness(picture.content) - 100 - STEP) < 1.5
    assert done.result["seed"] == 42
    task = official.generate("flux-kontext-pro", {"prompt": "make it", "aspect_ratio": "16:9"})
    assert task.polling_url.startswith(service.url)
    with pytest.raises(blackforest.BFLError, match="Not authenticated"):
        blackforest.BFLClient("wrong", service.url).generate("flux-kontext-pro", {"prompt": "make it"})


def test_the_example_for_curl_takes_a_picture_of_any_size(service: Service, tmp_path: Path) -> None:
    for tool in ("curl", "sh", "base64", "tr"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    page = (Path(__file__).parents[3] / "docs/service.md").read_text()
    [example] = re.findall(r"^\{ printf .*?--data-binary @-$", page, re.DOTALL | re.MULTILINE)
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg", "PNG")
    assert (tmp_path / "photo.jpg").stat().st_size > 3_000_000  # more than a command line may hold
    command = example.replace("http://127.0.0.1:8000", service.url)
    environment = os.environ | {"KEY": service.key}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with service.client(service.key) as client:
        assert client.post("/v1/cancel", params={"id": json.loads(done.stdout)["id"]}).json()["cancelled"]


def test_openais_client_works_with_its_address_changed(service: Service) -> None:
    import openai

    ours = openai.OpenAI(api_key=service.key, base_url=f"{service.url}/v1")
    answer = ours.images.edit(
        image=("photo.png", png()), prompt="make it brighter", model="flux-kontext-dev", n=2, size="64x64"
    )
    import base64

    pictures = [base64.b64decode(item.b64_json) for item in answer.data]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(64, 64)] * 2
    assert abs(brightness(pictures[0]) - 100 - STEP) < 1.5

    hole = Image.new("RGBA", (128, 96), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 64, 96))  # transparent where it may change
    buffer = io.BytesIO()
    hole.save(buffer, "PNG")
    answer = ours.images.edit(
        image=[("a.png", png()), ("b.png", png(value=0))],
        mask=("mask.png", buffer.getvalue()),
        prompt="brighter",
        response_format="url",
    )
    picture = Image.open(io.BytesIO(get(answer.data[0].url).content))
    assert picture.getpixel((100, 50)) == (100, 100, 100)
    assert abs(picture.getpixel((10, 50))[0] - 100 - STEP) < 1.5
    # The same mask in the other form is read the same way here as everywhere.
    white = io.BytesIO()
    hole.getchannel("A").point(lambda alpha: 255 - alpha).save(white, "PNG")
    answer = ours.images.edit(image=png(), mask=("mask.png", white.getvalue()), prompt="brighter")
    picture = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert picture.getpixel((100, 50)) == (100, 100, 100)
    assert abs(picture.getpixel((10, 50))[0] - 100 - STEP) < 1.5
    nothing = io.BytesIO()
    Image.new("RGBA", (128, 96)).save(nothing, "PNG")
    with pytest.raises(openai.UnprocessableEntityError, match="transparent everywhere"):
        ours.images.edit(image=png(), mask=("mask.png", nothing.getvalue()), prompt="brighter")

    with pytest.raises(openai.AuthenticationError, match="valid key"):
        openai.OpenAI(api_key="no", base_url=f"{service.url}/v1").images.edit(image=png(), prompt="x")
    with pytest.raises(openai.UnprocessableEntityError, match="size"):
        ours.images.edit(image=png(), prompt="brighter", size="huge")


def test_a_task_from_submission_to_signed_result(client: httpx2.Client, service: Service) -> None:
    before, asked_at = client.get("/v1/credits").json()["credits"], int(time.time())
    inputs = {
        "prompt": "make it brighter",
        "input_image": "data:image/png;base64," + b64(png()),
        "input_image_2": b64(png(value=0)),
        "output_format": "jpeg",
        "aspect_ratio": "1:1",
        "seed": 7,
    }
    accepted = client.post("/v1/flux-kontext-dev", json=inputs).json()
    assert accepted["polling_url"].startswith(f"{service.url}/v1/get_result?id={accepted['id']}&signature=")
    done = poll(client, accepted["id"])
    assert (done["status"], done["progress"], done["result"]["seed"]) == ("Ready", 1.0, 7)
    sample = get(done["result"]["sample"])
    assert sample.headers["content-type"] == "image/jpeg"
    assert provenance.verify(sample.content).valid
    assert Image.open(io.BytesIO(sample.content)).size == (128, 128)
    assert client.get("/v1/credits").json()["credits"] == before - 1

    address = httpx2.URL(done["result"]["sample"])
    expires, signature = address.params["expires"], address.params["signature"]
    assert asked_at + 600 <= int(expires) <= time.time() + 600
    for wrong in (
        {"expires": str(int(expires) + 1), "signature": signature},
        {"expires": expires, "signature": signature[:-1] + ("0" if signature[-1] != "0" else "1")},
        {"expires": str(int(time.time()) - 1), "signature": signature},
    ):
        assert get(address.copy_with(params=wrong)).status_code == 403
    assert "make it brighter" not in (service.data / "log").read_text()


@pytest.mark.parametrize("keep", [True, False])
def test_what_the_model_leaves_alone_keeps_its_pixels_unless_told(client: httpx2.Client, keep: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    inputs = {"prompt": "the picture", "input_image": b64(file.getvalue()), "keep_unchanged": keep}
    done = poll(client, client.post("/v1/flux-kontext-dev", json=inputs).json()["id"])
    sample = get(done["result"]["sample"]).content
    assert (np.asarray(Image.open(io.BytesIO(sample))) == noise).all() == keep


def test_the_original_size_and_what_is_noted(client: httpx2.Client, service: Service) -> None:
    import openai

    noise = np.random.default_rng(1).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    asked = {"prompt": "the picture", "input_image": b64(file.getvalue())}
    small = poll(client, client.post("/v1/flux-kontext-dev", json=asked).json()["id"])["result"]
    assert (small["width"], small["height"]) == (128, 96)
    assert "the picture of 400x300 comes back as 128x96" in small["notes"][0]
    done = poll(client, client.post("/v1/flux-kontext-dev", json=asked | {"size": "original"}).json()["id"])
    sample = get(done["result"]["sample"]).content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample))), noise)
    refused = client.post("/v1/flux-kontext-dev", json={"prompt": "x", "size": "original"})
    assert refused.status_code == 422
    assert "size" in refused.text

    ours = openai.OpenAI(api_key=service.key, base_url=f"{service.url}/v1")
    answer = ours.images.edit(image=file.getvalue(), prompt="the picture", size="original")
    picture = Image.open(io.BytesIO(httpx2_data(f"data:image/png;base64,{answer.data[0].b64_json}")))
    np.testing.assert_array_equal(np.asarray(picture), noise)


def test_a_picture_by_its_address(client: httpx2.Client, receiver: Receiver) -> None:
    accepted = client.post("/v1/flux-kontext-max", json={"prompt": "make it", "input_image": receiver.url})
    done = poll(client, accepted.json()["id"])
    assert abs(brightness(get(done["result"]["sample"]).content) - 50) < 1.5


@pytest.mark.parametrize("preview", [True, False])
def test_progress_previews_and_end_as_server_sent_events(client: httpx2.Client, preview: bool) -> None:
    for steps in (300, 1000):  # what this test slept through is not told
        events = events_of_edit(client, steps=steps, preview=preview)
        if len(events) > 3:
            break
    assert [name for name, _ in events[:-1]] == ["progress"] * (len(events) - 1)
    progress = [event["progress"] for _, event in events]
    assert progress == sorted(progress)
    assert len(progress) > 3
    name, last = events[-1]
    assert (name, last["status"]) == ("done", "Ready")
    previews = [event["preview"]["image"] for _, event in events if event["preview"]]
    assert bool(previews) == preview  # they cost time: only where someone wants them
    if previews:
        picture = Image.open(io.BytesIO(httpx2_data(previews[-1])))
        assert max(picture.size) <= 48


def events_of_edit(client: httpx2.Client, **more: Any) -> list[tuple[str, dict]]:
    """Names and contents of what is sent while an edit runs."""
    inputs = {"prompt": "make it brighter", "input_image": b64(png())} | more
    id = client.post("/v1/flux-kontext-dev", json=inputs).json()["id"]
    events: list[tuple[str, dict]] = []
    with client.stream("GET", f"/v1/jobs/{id}/events") as stream:
        name = ""
        for line in stream.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                events.append((name, json.loads(value)))
    return events


def httpx2_data(url: str) -> bytes:
    import base64

    return base64.b64decode(url.partition(",")[2])


@pytest.mark.parametrize("address", ["/v1/jobs/", "/v1/jobs//events", "/v1/jobs//file"])
def test_a_task_whose_id_is_left_out_is_none(client: httpx2.Client, address: str) -> None:
    assert client.get(address).status_code == 404


def test_cancelling_a_running_task(client: httpx2.Client) -> None:
    inputs = {"prompt": "make it", "input_image": b64(png()), "steps": 1000}
    id = client.post("/v1/flux-kontext-dev", json=inputs).json()["id"]
    wait(lambda: client.get("/v1/get_result", params={"id": id}).json()["progress"])
    assert client.post("/v1/cancel", params={"id": id}).json() == {"id": id, "cancelled": True}
    done = poll(client, id)
    assert (done["status"], done["details"]["state"], done["result"]) == ("Error", "cancelled", None)
    assert client.post("/v1/cancel", params={"id": id}).json()["cancelled"] is False


def test_webhooks_are_signed_and_come_again_until_they_are_taken(
    client: httpx2.Client, receiver: Receiver
) -> None:
    receiver.answers = [500]
    inputs = {"prompt": "make it", "webhook_url": receiver.url, "webhook_secret": "between us"}
    id = client.post("/v1/flux-kontext-dev", json=inputs).json()["id"]
    receiver.wait(2)
    for headers, body in receiver.got:
        expected = hmac.new(b"between us", body, hashlib.sha256).hexdigest()
        assert headers["X-BFL-Signature"] == f"sha256={expected}"
        told = json.loads(body)
        assert (told["id"], told["status"]) == (id, "Ready")
        assert get(told["result"]["sample"]).status_code == 200


def test_an_idempotency_key_gives_the_same_task(client: httpx2.Client) -> None:
    inputs, key = {"prompt": "make it", "input_image": b64(png())}, {"Idempotency-Key": "once"}
    first = client.post("/v1/flux-kontext-dev", json=inputs, headers=key).json()
    assert client.post("/v1/flux-kontext-dev", json=inputs, headers=key).json() == first
    other = client.post("/v1/flux-kontext-dev", json=inputs | {"prompt": "the"}, headers=key)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "instruction is empty"),
        ({"prompt": "x" * 4001}, "4001 characters"),
        ({"prompt": "x", "aspect_ratio": "22:9"}, "21:9"),
        ({"prompt": "x", "aspect_ratio": "0:1"}, "21:9"),
        ({"prompt": "x", "aspect_ratio": "wide"}, "21:9"),
        ({"prompt": "x", "safety_tolerance": 7}, "safety_tolerance"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "input_image": "no base64!"}, "neither base64 nor an address"),
        ({"prompt": "x", "input_image": "aGVsbG8="}, "input_image"),
        ({"prompt": "x", "input_image": "", "mask": "aGVsbG8="}, "mask"),
        ({"prompt": "x", "webhook_url": "ftp://example.org"}, "webhook_url"),
        ({"prompt": "x", "output_format": "bmp"}, "output_format"),
    ],
)
def test_bad_input_is_said_in_words(client: httpx2.Client, inputs: dict, said: str) -> None:
    answer = client.post("/v1/flux-kontext-dev", json=inputs)
    assert answer.status_code == 422
    assert said in answer.json()["message"]
    assert isinstance(answer.json()["detail"], list)


def test_others_see_nothing_of_a_task(client: httpx2.Client, service: Service) -> None:
    id = client.post("/v1/flux-kontext-dev", json={"prompt": "make it"}).json()["id"]
    service.run("accounts", "add", "eve")
    key = service.run("keys", "create", "eve", "--scope", "read")["key"]
    with service.client(key) as eve:
        refused = eve.get("/v1/get_result", params={"id": id})
        assert (refused.status_code, "terms" in refused.json()["detail"]) == (403, True)
        eve.post("/v1/consent", json={"version": "1"})
        assert eve.get("/v1/get_result", params={"id": id}).json()["status"] == "Task not found"
        assert eve.post("/v1/flux-kontext-dev", json={"prompt": "x"}).status_code == 403  # its scope
        assert eve.get(f"/v1/jobs/{id}/events").text.count("Task not found") == 1
    poll(client, id)


def test_requests_are_bounded_and_headers_safe(client: httpx2.Client, service: Service) -> None:
    huge = client.post("/v1/flux-kontext-dev", content=b"x" * (65 * 2**20))
    assert huge.status_code == 413
    answer = client.get("/healthz")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 400
    foreign = client.post(
        "/v1/flux-kontext-dev", json={"prompt": "x"}, headers={"Origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    assert client.get("/nothing").json()["detail"] == "Not Found"
    assert client.post("/v1/flux-kontext-dev", json={"prompt": "make it"}).status_code == 200  # to be counted
    assert "openkontext_jobs{" in client.get("/metrics").text
    assert client.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}).status_code == 403
