"""Jobs that nobody works on: they end in time without a worker, and a dead worker's go on at once."""

import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from patience import wait
from running import Service, b64, png
from sqlalchemy import select, update

from openkontext.service.http.app import create_app
from openkontext.service.queue import jobs, recovery
from openkontext.service.queue.readiness import is_ready
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState, Webhook, WorkerProcess
from openkontext.service.workers.keeper import Keeper

EDIT = {"prompt": "make it brighter", "input_image": b64(png())}


@pytest.fixture
def settings(tmp_path: Path, database_url: str, copier: Path) -> Settings:
    return Settings(
        data=tmp_path, secret="s" * 32, database_url=database_url, model=str(copier), deadline_seconds=0.2,
        lease_seconds=600, allowed_hosts=("testserver",), allow_private_addresses=True, price=1,
    )  # fmt: skip


@pytest.fixture
def client(settings: Settings, database: Database) -> TestClient:
    return TestClient(create_app(settings))


def submit(client: TestClient, **inputs: Any) -> str:
    return client.post("/v1/flux-kontext-dev", json=EDIT | inputs).json()["id"]


def state(database: Database, id: str) -> tuple[str, str | None]:
    with database.reading() as session:
        job = session.get_one(Job, id)
        return job.state, job.error


def set_deadline(database: Database, at: float) -> None:
    """Of all jobs: a test then waits for none, however slow the machine is."""
    with database.transaction() as session:
        session.execute(update(Job).values(deadline=at))


def test_who_looks_at_a_late_edit_sees_it_ended(client: TestClient, database: Database) -> None:
    polled, followed = submit(client), submit(client, webhook_url="http://127.0.0.1:9/hook")
    set_deadline(database, time.time() + 600)
    assert client.get("/v1/get_result", params={"id": polled}).json()["status"] == "Pending"
    set_deadline(database, 0)
    shown = client.get("/v1/get_result", params={"id": polled}).json()
    assert (shown["status"], shown["details"]["error"]) == ("Error", "the deadline passed")
    assert "event: done" in client.get(f"/v1/jobs/{followed}/events").text
    assert state(database, followed) == (JobState.ERROR, "the deadline passed")
    with database.reading() as session:
        assert session.scalars(select(Webhook.job_id)).all() == [followed]  # it is told of
    answer = client.post("/v1/images/edits", data={"prompt": "make it"}, files={"image": png()})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the deadline passed")


def test_the_keeper_ends_late_and_abandoned_edits(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(update={"deadline_seconds": 600})
    client = TestClient(create_app(settings))
    late, abandoned, cancelled, worked_on = (submit(client) for _ in range(4))
    with database.transaction() as session:
        leases = [jobs.claim(session, settings) for _ in range(4)]
        assert leases[0]
        jobs.release(session, late, leases[0].token)
        session.execute(update(Job).where(Job.id.in_([abandoned, cancelled])).values(leased_until=0.0))
        session.execute(update(Job).where(Job.id != cancelled).values(deadline=0.0))
        session.execute(update(Job).where(Job.id == cancelled).values(cancelling=True))
    Keeper(settings, database).end_late()
    assert state(database, late) == state(database, abandoned) == (JobState.ERROR, "the deadline passed")
    assert state(database, cancelled)[0] == JobState.CANCELLED
    assert state(database, worked_on)[0] == JobState.RUNNING  # its worker hears of it


def test_what_a_dead_worker_held_waits_again_at_once(
    client: TestClient, database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"deadline_seconds": 600})
    client = TestClient(create_app(settings))
    first, second = submit(client), submit(client)
    with database.transaction() as session:
        dead = jobs.claim(session, settings, "dead")
        alive = jobs.claim(session, settings, "alive")
        session.add(WorkerProcess(id="dead", seen=session.scalar(select(recovery.now()))))
    assert dead
    assert alive
    with database.transaction() as session:
        assert is_ready(session, settings)
        assert recovery.give_up(session, "dead") == 1
        assert not is_ready(session, settings)
        assert jobs.report(session, settings, first, dead.token) == "lost"
        again = jobs.claim(session, settings, "alive")
        assert again
        assert (again.job.id, again.job.attempts) == (first, 2)
        assert jobs.report(session, settings, second, alive.token) is None


def test_a_killed_workers_edit_goes_on_before_its_lease_ends(tmp_path: Path, slow_copier: Path) -> None:
    service = Service(tmp_path, slow_copier, lease_seconds=1000).start()
    try:
        with service.client() as client:
            inputs = EDIT | {"steps": 1000}
            id = client.post("/v1/flux-kontext-dev", json=inputs).json()["id"]
            database = Database(f"sqlite:///{tmp_path / 'service.db'}")

            def attempts() -> int:
                with database.reading() as session:
                    return session.get_one(Job, id).attempts

            wait(lambda: attempts() == 1)
            (worker,) = (
                child
                for child in psutil.Process(service.process.pid).children()
                if "worker" in child.cmdline()
            )
            worker.send_signal(signal.SIGKILL)
            wait(lambda: attempts() == 2)  # by the worker that was started again
            client.post("/v1/cancel", params={"id": id})
            wait(lambda: state(database, id)[0] == JobState.CANCELLED)
            database.close()
    finally:
        service.stop()
