"""Edits of a part of a picture over HTTP, of more than the picture, and with less noise than all."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from patience import DEAD, wait
from pictures import encoded
from PIL import Image
from running import b64, half_mask, hole, png

from openkontext.images import read_metadata
from openkontext.service.http.app import create_app
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.workers.worker import Worker

KONTEXT, EDITS = "/v1/flux-kontext-pro", "/v1/images/edits"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> Settings:
    return Settings(
        data=tmp_path_factory.mktemp("service"),
        secret="s" * 32,
        model=str(copier),
        max_pixels=10**6,
    )


@pytest.fixture(scope="module")
def worker(settings: Settings) -> Iterator[Worker]:
    database = Database(settings.database)
    database.migrate()
    yield Worker(settings, database)
    database.close()


@pytest.fixture(scope="module")
def client(settings: Settings, worker: Worker) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://localhost") as made:
        yield made


def edited(client: TestClient, worker: Worker, **inputs: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The result of the FLUX API's address: pixels as numbers, the task, and how the file was made."""
    answer = client.post(KONTEXT, json={"prompt": "make it brighter", "steps": 1, **inputs})
    assert answer.status_code == 200, answer.text
    assert worker.do_next()
    done = client.get(answer.json()["polling_url"]).json()
    assert done["status"] == "Ready", done
    picture = client.get(done["result"]["sample"]).content
    task = client.get(f"/v1/jobs/{done['id']}").json()
    return np.asarray(Image.open(io.BytesIO(picture)), float), task | {"metadata": read_metadata(picture)}


def by_openai(client: TestClient, worker: Worker, **request: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The same of OpenAI's address, which answers when the edit is done."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, EDITS, **request)
        wait(lambda: worker.do_next() or asked.done())
        answer = asked.result(DEAD)
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    return np.asarray(picture, float), answer.json()


def test_a_picture_is_extended_at_its_sides(client: TestClient, worker: Worker) -> None:
    pixels, told = edited(client, worker, input_image=b64(png()), extend={"left": 32, "bottom": 16})
    assert pixels.shape == (112, 160, 3)
    assert (pixels[:96, 32:] == 100).all()  # the picture itself is as it was
    assert told["options"]["extend"] == {"left": 32, "bottom": 16}


def test_the_part_around_a_mask_alone_is_edited(client: TestClient, worker: Worker) -> None:
    mask = np.zeros((400, 500), np.uint8)
    mask[40:80, 60:120] = 255
    mask_file = b64(encoded(Image.fromarray(mask)))
    pixels, told = edited(client, worker, input_image=b64(png(500, 400)), mask=mask_file, crop_to_mask=True)
    assert pixels.shape == (400, 500, 3)
    assert (pixels[mask == 0] == 100).all()
    assert pixels[mask > 0].mean() > 101
    assert told["options"]["crop_to_mask"] is True


def test_the_noise_that_a_picture_is_under_is_asked_for(client: TestClient, worker: Worker) -> None:
    _, told = edited(client, worker, input_image=b64(png()), strength=0.5)
    assert told["metadata"]["strength"] == "0.5"
    assert told["options"]["strength"] == 0.5


def test_noise_levels_are_the_steps(client: TestClient, worker: Worker) -> None:
    picture = {"input_image": b64(png()), "steps": None, "max_sequence_length": 3}
    _, told = edited(client, worker, **picture, sigmas=[1, 0.6, 0.2])
    assert told["metadata"]["num_inference_steps"] == "3"
    assert json.loads(told["metadata"]["sigmas"]) == [1, 0.6, 0.2]
    assert told["metadata"]["max_sequence_length"] == "3"


def test_what_would_be_too_large_is_refused(client: TestClient) -> None:
    told = client.post(
        KONTEXT, json={"prompt": "x", "input_image": b64(png()), "extend": {"left": 4000, "top": 4000}}
    )
    assert told.status_code == 422
    assert told.json()["message"].startswith("extend: makes 4128x4096 pixels; at most 1000000")


def test_a_form_sends_them_as_json(client: TestClient, worker: Worker) -> None:
    form = {"prompt": "make it brighter", "steps": "1", "extend": '{"right": 32}'}
    pixels, _ = by_openai(client, worker, data=form, files={"image": ("a.png", png())})
    assert pixels.shape == (96, 160, 3)
    wrong = client.post(EDITS, data=form | {"extend": "left=8"}, files={"image": ("a.png", png())})
    assert wrong.status_code == 422
    assert wrong.json()["error"]["message"].startswith("extend: must be JSON")


@pytest.mark.parametrize("sent", ["form", "json"])
def test_a_transparent_part_is_the_mask_where_none_is_handed_in(
    client: TestClient, worker: Worker, sent: str
) -> None:
    fields = {"prompt": "make it brighter", "steps": 1}
    request: dict[str, Any] = {"data": fields, "files": {"image": ("a.png", hole())}}
    if sent == "json":
        request = {"json": {**fields, "image": b64(hole()), "crop_to_mask": True}}
    pixels, told = by_openai(client, worker, **request)
    assert (pixels[:, 70:] == 100).all()
    assert pixels[:, :50].mean() > 105
    assert any("the mask was read by its transparency" in note for note in told["notes"])


def test_transparency_is_no_mask_beside_one_nor_where_it_is_everywhere(
    client: TestClient, worker: Worker
) -> None:
    everywhere = encoded(Image.new("RGBA", (128, 96), (100, 100, 100, 0)))
    for picture, mask in ((hole(), half_mask()), (everywhere, None)):
        files = {"image": ("a.png", picture)} | ({"mask": ("m.png", mask)} if mask else {})
        _, told = by_openai(client, worker, data={"prompt": "make it brighter", "steps": 1}, files=files)
        said = [note for note in told["notes"] if note.startswith("the mask was read")]
        assert [note.partition(":")[0] for note in said] == (
            ["the mask was read by its brightness"] if mask else []
        )


def test_a_page_after_no_task_is_an_error_of_the_address(client: TestClient) -> None:
    told = client.get("/v1/jobs", params={"after": "nothing"})
    assert told.status_code == 422
    assert told.json()["detail"][0]["loc"] == ["query", "after"]
