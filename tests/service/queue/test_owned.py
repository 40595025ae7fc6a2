"""An account's own edits, on both databases: page by page, and deleted when it wishes."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from running import b64, png
from sqlalchemy import select, update

from openkontext.service.http.app import create_app
from openkontext.service.queue import jobs
from openkontext.service.queue.jobs import JobOutcome
from openkontext.service.settings import Settings
from openkontext.service.storage import erasing, store
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState, Signal, StoredImage, Webhook
from openkontext.service.workers.worker import Worker

EDIT = {"prompt": "make it brighter", "input_image": b64(png())}


@pytest.fixture
def settings(tmp_path: Path, database_url: str, copier: Path) -> Settings:
    return Settings(
        data=tmp_path, secret="s" * 32, database_url=database_url, model=str(copier),
        allowed_hosts=("testserver",), allow_private_addresses=True,
    )  # fmt: skip


@pytest.fixture
def client(settings: Settings, database: Database) -> TestClient:
    """Of a service without keys: the machine's owner."""
    return TestClient(create_app(settings))


@pytest.fixture
def worker(settings: Settings, database: Database) -> Worker:
    return Worker(settings, database)


def submit(client: TestClient, **inputs: Any) -> str:
    return client.post("/v1/flux-kontext-dev", json=EDIT | inputs).json()["id"]


def files(settings: Settings) -> int:
    return sum(path.is_file() for path in (settings.data / "images").rglob("*"))


def sweep(database: Database, worker: Worker) -> None:
    """As the keeper does, after the minutes that a deleted file has left."""
    with database.transaction() as session:
        soon = update(StoredImage).where(StoredImage.expires < store.now() + erasing.IN_FLIGHT + 1)
        session.execute(soon.values(expires=1.0))
        store.sweep(session, worker.store)


def test_all_edits_are_seen_once_page_by_page(client: TestClient, database: Database) -> None:
    made = [submit(client) for _ in range(7)]
    with database.transaction() as session:  # some within one tick of a clock
        session.execute(update(Job).where(Job.id.in_(made[2:5])).values(created=1.0))
    seen: list[str] = []
    after = None
    for index in range(5):
        page = client.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [edit["id"] for edit in page["edits"]]
        if index == 0:
            made.append(submit(client))  # shifts no page
            assert client.delete(f"/v1/jobs/{seen[-1]}").status_code == 204  # nor does this
        after = page["next"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert set(seen) == set(made[:7])
    assert client.get("/v1/jobs", params={"limit": 6}).json()["next"] is not None
    assert client.get("/v1/jobs", params={"limit": 7}).json()["next"] is None
    assert client.get("/v1/jobs", params={"after": "another's"}).status_code == 422


def test_a_deleted_edit_is_gone_with_its_pictures_and_words(
    client: TestClient, database: Database, worker: Worker, settings: Settings
) -> None:
    id = submit(client, webhook_url="http://127.0.0.1:9/hook")
    assert worker.do_next()
    sample = client.get("/v1/get_result", params={"id": id}).json()["result"]["sample"]
    assert client.get(sample).status_code == 200
    assert files(settings) == 2
    assert client.delete(f"/v1/jobs/{id}").status_code == 204
    assert client.get("/v1/jobs").json() == {"edits": [], "next": None}
    for address in (f"/v1/jobs/{id}", f"/v1/jobs/{id}/pictures/input", f"/v1/jobs/{id}/file", sample):
        assert client.get(address).status_code == 404, address
    assert client.get("/v1/get_result", params={"id": id}).json()["status"] == "Task not found"
    assert client.post("/v1/cancel", params={"id": id}).json()["cancelled"] is False
    edit = EDIT | {"input_image": None, "parent_id": id}
    assert client.post("/v1/flux-kontext-dev", json=edit).status_code == 422
    assert client.delete(f"/v1/jobs/{id}").status_code == 404
    assert client.delete("/v1/jobs/another").status_code == 404
    sweep(database, worker)
    assert files(settings) == 0
    with database.reading() as session:
        row = session.get_one(Job, id)
        assert "brighter" not in str(vars(row))
        assert (row.state, row.inputs, row.output) == (JobState.READY, [], None)
        assert session.get_one(Webhook, id).next_attempt is None


def test_pictures_that_another_edit_uses_stay(
    client: TestClient, database: Database, worker: Worker, settings: Settings
) -> None:
    first, second = submit(client), submit(client)
    assert worker.do_next()
    assert worker.do_next()
    child = submit(client, input_image=None, parent_id=first)
    assert client.delete(f"/v1/jobs/{first}").status_code == 204
    sweep(database, worker)
    assert worker.do_next()
    for id in (second, child):
        assert client.get("/v1/get_result", params={"id": id}).json()["status"] == "Ready"
        assert client.get(f"/v1/jobs/{id}/pictures/input").status_code == 200


def test_an_unfinished_edit_that_is_deleted_is_cancelled(
    client: TestClient, database: Database, worker: Worker, settings: Settings
) -> None:
    waiting = submit(client)
    assert client.delete(f"/v1/jobs/{waiting}").status_code == 204
    assert not worker.do_next()
    running = submit(client)
    with database.transaction() as session:
        lease = jobs.claim(session, settings)
    assert lease
    assert client.delete(f"/v1/jobs/{running}").status_code == 204
    assert client.get(f"/v1/jobs/{running}").status_code == 404
    with database.transaction() as session:
        assert jobs.report(session, settings, running, lease.token) == "cancelled"
        outcome = JobOutcome(JobState.READY, output="0" * 64)
        assert jobs.finish(session, settings, running, lease.token, outcome)
    with database.reading() as session:
        for id in (waiting, running):
            row = session.get_one(Job, id)
            assert (row.state, row.asked, row.output) == (JobState.CANCELLED, {}, None)


def test_deleting_takes_nothing_from_the_rules(
    client: TestClient, database: Database, worker: Worker
) -> None:
    id = submit(client, prompt="add the coca cola logo")
    assert worker.do_next()
    assert client.delete(f"/v1/jobs/{id}").status_code == 204
    with database.reading() as session:
        assert session.scalars(select(Signal.kind)).all() == ["refused"]
        assert session.get_one(Job, id).state == JobState.REQUEST_MODERATED


def test_an_idempotency_key_is_free_again(client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = client.post("/v1/flux-kontext-dev", json=EDIT, headers=key).json()["id"]
    assert client.delete(f"/v1/jobs/{first}").status_code == 204
    assert client.post("/v1/flux-kontext-dev", json=EDIT, headers=key).json()["id"] != first
