"""A request that is held waits for a person: an approval has it done, a rejection ends it, once."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import png
from sqlalchemy import select, update

from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue import jobs
from openkontext.service.queue.job_results import describe
from openkontext.service.queue.jobs import Submission
from openkontext.service.queue.reviews import Reviews
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Job, JobState, Signal, StoredImage
from openkontext.service.storage.store import keep
from openkontext.service.workers.worker import Worker

PROFILE = """
extends = "default"
name = "everything is looked at"
[review]
mode = "every"
"""


@pytest.fixture
def settings(tmp_path: Path, database_url: str, copier: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "profile.toml").write_text(PROFILE)
    monkeypatch.setenv("OPENKONTEXT_PROFILE", str(tmp_path / "profile.toml"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return Settings(data=tmp_path, secret="s" * 32, database_url=database_url, model=str(copier))


@pytest.fixture
def worker(settings: Settings, database: Database) -> Worker:
    return Worker(settings, database)


@pytest.fixture
def job(settings: Settings, database: Database, worker: Worker, audit: Audit) -> Job:
    picture = keep(database, worker.store, png())
    with database.transaction() as session:
        account = accounts.add_account(session, audit, "ann")
        asked = Submission(
            account_id=account.id,
            key_id=None,
            model="m",
            asked={"prompt": "make it brighter"},
            inputs=[picture],
        )
        made = jobs.submit(session, settings, asked)
    assert worker.do_next()
    return made


def get(database: Database, job: Job) -> Job:
    with database.reading() as session:
        return session.get_one(Job, job.id)


def test_a_held_job_shows_as_pending_review_and_an_approval_has_it_done(
    settings: Settings, database: Database, worker: Worker, job: Job
) -> None:
    held = get(database, job)
    shown = describe(held, settings)
    assert (shown.status, shown.details["state"], shown.details["review"]) == ("Pending", "held", "pending")
    assert held.asked["seed"] is not None
    assert held.refusal["checks"]  # the whole verdict, for the record
    reviews = Reviews(settings, database)
    assert not worker.do_next()
    assert reviews.follow() == 0
    with database.transaction() as session:  # the reviewer takes longer than the deadline and the retention
        session.execute(update(Job).values(deadline=1.0))
        session.execute(update(StoredImage).values(expires=1.0))
        jobs.keep_held(session, settings)
        assert session.scalar(select(StoredImage.expires)) > session.scalar(select(now()))

    reviews.queue.decide(held.review, "rita", approve=True, reason="a toy")
    assert (reviews.follow(), reviews.follow()) == (1, 0)
    assert worker.do_next()
    done = get(database, job)
    assert (done.state, done.refusal) == (JobState.READY, None)
    assert done.result["seed"] == held.asked["seed"]
    picture = Image.open(io.BytesIO(worker.store.get(done.output)))
    assert abs(np.asarray(picture.convert("RGB")).mean() - 112.75) < 1.5
    with database.reading() as session:
        assert session.scalars(select(Signal)).all() == []  # to be held is no misuse


def test_a_rejection_ends_it_as_moderated(
    settings: Settings, database: Database, worker: Worker, job: Job
) -> None:
    reviews = Reviews(settings, database)
    reviews.queue.decide(get(database, job).review, "rita", approve=False, reason="no toy")
    assert (reviews.follow(), reviews.follow()) == (1, 0)
    done = get(database, job)
    shown = describe(done, settings)
    assert (done.state, shown.status) == (JobState.CONTENT_MODERATED, "Content Moderated")
    assert shown.details["message"] == "a person looked at it: rejected"
    assert "no toy" not in shown.model_dump_json()  # the reviewer's reason stays inside
    assert not worker.do_next()


def test_a_held_job_takes_no_place_and_can_be_cancelled(
    settings: Settings, database: Database, worker: Worker, job: Job
) -> None:
    one = settings.model_copy(update={"concurrency": 1})
    with database.transaction() as session:
        jobs.check_room(session, one, job.account_id)
        assert jobs.cancel(session, job)
    reviews = Reviews(settings, database)
    reviews.queue.decide(get(database, job).review, "rita", approve=True, reason="fine")
    assert reviews.follow() == 0
    assert get(database, job).state == JobState.CANCELLED
