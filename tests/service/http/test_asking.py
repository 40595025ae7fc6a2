"""What clients ask for: every field is honored, refused by its own name, or answered with a warning."""

import dataclasses
import io
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
from running import DEV, FILL, GENERATIONS, KONTEXT, b64, half_mask, hole, png
from sqlalchemy import select, update

from openkontext import EditRequest
from openkontext.service.http.app import create_app
from openkontext.service.http.routes.flux_inputs import KontextInputs
from openkontext.service.queue.job_options import BY_SERVICE, NOT_OVER_HTTP, edit_request
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job
from openkontext.service.workers.worker import Worker


@pytest.fixture
def settings(tmp_path: Path, copier: Path) -> Settings:
    return Settings(data=tmp_path, secret="s" * 32, model=str(copier), price=1)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = Database(settings.database)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://localhost") as made:
        yield made


@pytest.fixture
def worker(settings: Settings, database: Database) -> Worker:
    return Worker(settings, database)


def do(client: TestClient, worker: Worker, path: str, **inputs: Any) -> dict[str, Any]:
    """Have an edit done; its result."""
    answer = client.post(path, json={"prompt": "make it brighter", **inputs})
    assert answer.status_code == 200, answer.text
    assert worker.do_next()
    done = client.get(answer.json()["polling_url"]).json()
    assert done["status"] == "Ready", done
    return done["result"]


def sample(client: TestClient, result: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(client.get(result["sample"]).content))


def test_every_field_of_an_edit_is_reachable_over_http_or_named_as_not() -> None:
    common = {
        "prompt": "make it night", "negative_prompt": "rain", "steps": 7, "guidance": 3.5,
        "true_cfg_scale": 2, "seed": 2**64 - 1, "fit": "pad", "keep_unchanged": False, "safety_tolerance": 1,
        "cache": 0.1, "strength": 0.5, "max_sequence_length": 20,
    }  # fmt: skip
    reached, bare = set(), EditRequest(prompt="x")
    for shape in ({"width": 640, "height": 480}, {"size": "original"}, {"aspect_ratio": "3:2"}):
        asked = KontextInputs.model_validate(common | shape).asked("m", None)
        request = edit_request(asked.options, image=b"a", reference_images=[b"b"], mask_image=b"c")
        for field in dataclasses.fields(EditRequest):
            if getattr(request, field.name) != getattr(bare, field.name):
                reached.add(field.name)
    for more in ({"crop_to_mask": True}, {"extend": {"left": 8}}, {"sigmas": [1, 0.5]}):
        asked = KontextInputs.model_validate({"prompt": "x", **more}).asked("m", None)
        request_with = edit_request(asked.options, image=b"a", mask_image=b"c")
        (name,) = more
        assert getattr(request_with, name) == more[name]
        reached.add(name)
    stitched = KontextInputs.model_validate({"prompt": "x", "stitch": True}).asked("m", None)
    if edit_request(stitched.options, image=b"a", reference_images=[b"b"]).stitch:  # not with a mask
        reached.add("stitch")
    assert reached == {field.name for field in dataclasses.fields(EditRequest)} - {
        *BY_SERVICE,
        *NOT_OVER_HTTP,
    }
    assert (request.num_inference_steps, request.guidance_scale, request.aspect_ratio) == (7, 3.5, (3, 2))


def test_options_of_a_job_that_an_earlier_version_accepted_are_read() -> None:
    request = edit_request({"prompt": "x", "steps": 5, "guidance": 2.0, "aspect_ratio": [4, 3], "seed": None})
    assert (request.num_inference_steps, request.guidance_scale, request.aspect_ratio) == (5, 2.0, (4, 3))


def test_submitting_and_the_worker_ask_for_the_same(
    client: TestClient, worker: Worker, database: Database
) -> None:
    inputs = {
        "prompt": "x", "input_image": b64(png()), "steps": 2, "guidance": 2.0, "seed": 5,
        "safety_tolerance": 0,
        "negative_prompt": "y", "true_cfg_scale": 1.5, "keep_unchanged": False, "width": 64, "height": 48,
    }  # fmt: skip
    id = client.post(KONTEXT, json=inputs).json()["id"]
    with database.reading() as session:
        job = session.get_one(Job, id)
    request = worker._request(job)
    for name in ("seed", "safety_tolerance", "negative_prompt", "true_cfg_scale", "width", "height"):
        assert getattr(request, name) == inputs[name]
    assert (request.num_inference_steps, request.guidance_scale) == (2, 2.0)
    assert (request.keep_unchanged, request.image, request.requester) == (False, png(), job.account_id)
    told = client.get(f"/v1/jobs/{id}").json()["options"]  # under the client's names
    assert told.items() >= {"steps": 2, "guidance": 2.0, "width": 64, "negative_prompt": "y"}.items()


def test_what_has_no_effect_is_listed_in_warnings(client: TestClient, worker: Worker) -> None:
    inputs = {"prompt_upsampling": True, "image": b64(png()), "mask": b64(half_mask()), "guidance": 60}
    answer = client.post(FILL, json={"prompt": "make it brighter", **inputs}).json()
    assert [said.partition(":")[0] for said in answer["warnings"]] == ["prompt_upsampling", "guidance"]
    assert worker.do_next()
    done = client.get(answer["polling_url"]).json()["result"]
    assert done["warnings"][:2] == answer["warnings"]
    assert done["guidance"] == 1  # the copier's own
    assert "warnings" not in client.post(KONTEXT, json={"prompt": "x", "prompt_upsampling": False}).json()


def test_width_and_height_are_honored(client: TestClient, worker: Worker) -> None:
    for path, more in ((KONTEXT, {"input_image": b64(png())}), (DEV, {})):
        result = do(client, worker, path, width=160, height=80, **more)
        assert sample(client, result).size == (160, 80)
    # Clients that turn a size into a ratio send both.
    result = do(client, worker, KONTEXT, width=64, height=48, aspect_ratio="4:3")
    assert sample(client, result).size == (64, 48)


def test_fill_changes_the_picture_inside_its_mask_or_its_transparent_part(
    client: TestClient, worker: Worker
) -> None:
    for inputs in (
        {"image": b64(png()), "mask": b64(half_mask())},
        {"input_image": b64(png()), "mask": b64(half_mask())},
        {"image": b64(hole())},
    ):
        result = do(client, worker, FILL, output_format="png", **inputs)
        pixels = np.asarray(sample(client, result), float)
        assert (pixels[:, 70:] == 100).all()
        assert pixels[:, :50].mean() > 105


def test_formats_and_their_compression(client: TestClient, worker: Worker) -> None:
    assert sample(client, do(client, worker, DEV)).format == "JPEG"  # as the FLUX API's default for it
    noise = np.random.default_rng(1).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    picture = b64(encoded(Image.fromarray(noise)))
    sizes = [
        len(client.get(do(client, worker, KONTEXT, seed=1, input_image=picture, **how)["sample"]).content)
        for how in (
            {"output_format": "webp", "output_compression": 5},
            {"output_format": "webp"},
            {"output_format": "webp", "output_compression": 100},
        )
    ]
    assert sizes == sorted(set(sizes))


def test_a_result_of_ones_own_is_a_picture_to_edit(
    client: TestClient, worker: Worker, database: Database
) -> None:
    """It is resolved inside: private addresses cannot be fetched here, and nothing listens at this one."""
    first = do(client, worker, KONTEXT, input_image=b64(png()), output_format="png")
    address = first["sample"].partition("?")[0] + "?expires=1&signature=00"  # its time is over
    again = do(client, worker, KONTEXT, input_image=address, output_format="png")
    assert (
        np.asarray(sample(client, again), float).mean() > np.asarray(sample(client, first), float).mean() + 5
    )
    with database.reading() as session:
        jobs = session.scalars(select(Job).order_by(Job.created)).all()
        assert (jobs[1].parent_id, jobs[1].inputs) == (jobs[0].id, [jobs[0].output])
    for wrong in (address.replace(jobs[0].id, "another"), address.replace("localhost", "127.0.0.2")):
        told = client.post(KONTEXT, json={"prompt": "x", "input_image": wrong})
        assert told.status_code == 422
        assert told.json()["message"].startswith("input_image: ")


def test_another_accounts_result_is_none_of_ones_own(
    client: TestClient, worker: Worker, database: Database
) -> None:
    first = do(client, worker, KONTEXT, input_image=b64(png()))
    with database.transaction() as session:
        from openkontext.service.storage.models import Account

        session.add(Account(id="other", name="other", created=0.0))
        session.flush()
        for job in session.scalars(select(Job)):
            job.account_id = "other"
    told = client.post(KONTEXT, json={"prompt": "x", "input_image": first["sample"]})  # signed, and in time
    assert (told.status_code, "no result of yours" in told.json()["message"]) == (422, True)


def test_a_polling_url_works_without_a_key(client: TestClient, worker: Worker) -> None:
    first, second = (client.post(KONTEXT, json={"prompt": "make it"}).json() for _ in range(2))
    stranger = {"X-Forwarded-For": "192.0.2.1"}  # to whom the machine is not open
    assert client.get("/v1/get_result", params={"id": first["id"]}, headers=stranger).status_code == 403
    assert client.get(first["polling_url"], headers=stranger).json()["status"] == "Pending"
    assert worker.do_next()
    done = client.get(first["polling_url"], headers=stranger).json()
    assert done["status"] == "Ready"
    assert client.get(done["result"]["sample"], headers=stranger).status_code == 200
    signature = first["polling_url"].rpartition("=")[2]
    for id, signed in ((second["id"], signature), (first["id"], signature[:-1]), (first["id"], "")):
        params = {"id": id, "signature": signed}
        assert client.get("/v1/get_result", params=params, headers=stranger).status_code == 403


@pytest.mark.parametrize(
    ("ends", "message", "left"),
    [
        (("ready", "request_moderated"), "no", ("cancelled", "request_moderated")),
        (("queued", "content_moderated"), "no", ("cancelled", "content_moderated")),
        (("ready", "error"), "a defect", ("cancelled", "error")),
        (("held", "request_moderated"), "no", ("cancelled", "request_moderated")),
        (("ready", "held"), "a person's review", ("ready", "held")),
    ],
)
def test_results_of_one_request_end_together(
    client: TestClient, database: Database, ends: tuple[str, str], message: str, left: tuple[str, str]
) -> None:
    def made() -> list[Job]:
        with database.reading() as session:
            return list(session.scalars(select(Job).order_by(Job.created, Job.id)))

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, GENERATIONS, json={"prompt": "x", "n": 2})
        wait(lambda: asked.done() or len(made()) == 2)
        jobs = made()
        with database.transaction() as session:  # as workers would
            for job, state in zip(jobs, ends, strict=True):
                values = {"state": state, "refusal": {"message": "no"} if "moderated" in state else None}
                values["error"] = "a defect" if state == "error" else None
                session.execute(update(Job).where(Job.id == job.id).values(**values))
        answer = asked.result(DEAD)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert [job.state for job in made()] == list(left)
    if "held" in left:  # both can be had later
        assert all(job.id in answer.json()["error"]["message"] for job in jobs)


@pytest.mark.parametrize("model", ["flux-2-pro", "flux-pro-1.1", "flux-pro-1.0-canny", "flux-kontext"])
def test_a_model_that_is_not_here_is_answered_with_those_that_are(strict: TestClient, model: str) -> None:
    answer = strict.post(f"/v1/{model}", json={"prompt": "x"})
    assert answer.status_code == 404
    for there in (model, "flux-kontext-dev", "flux-kontext-pro", "flux-pro-1.0-fill", "flux-dev"):
        assert there in answer.json()["detail"]


def test_credits_are_a_number(client: TestClient) -> None:
    assert client.get("/v1/credits").json() == {"credits": 2**53 - 1}  # the local account has no limit
    assert client.post(KONTEXT, json={"prompt": "x"}).json()["credits"] == 2**53 - 1
