"""A request that is held waits for a person: an approval has it done, a rejection ends it, once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service.running import png
from sqlalchemy import select, update

import openkontext
from openkontext.editor import Editor
from openkontext.request import EditRequest, EditResult
from openkontext.safety.review.queue import ReviewQueue
from openkontext.safety.verdict import CheckResult, Finding, HeldError, Stage, Verdict
from openkontext.service import accounts, jobs
from openkontext.service.audit import Audit
from openkontext.service.database import Database, now
from openkontext.service.jobs import Submission
from openkontext.service.models import Job, JobState, Signal, StoredImage
from openkontext.service.results import describe
from openkontext.service.reviews import Reviews, queue_url
from openkontext.service.settings import Settings
from openkontext.service.store import keep
from openkontext.service.worker import Worker

FINDING = Finding("weapons", 0.8, 0.6, Stage.PROMPT, "rules", "1")
VERDICT = Verdict((CheckResult("rules", "1", Stage.PROMPT, (FINDING,)),))


class Holding(Editor):
    """An editor whose policy has a person look at every request."""

    queue: ReviewQueue

    def run(self, request: EditRequest, on_step: Any = None) -> EditResult:
        pictures = {"input": np.zeros((64, 64, 3), np.uint8)}
        seed = 7 if request.seed is None else request.seed
        if not self.queue.approved(request.prompt, {"seed": seed}, pictures):
            held = self.queue.hold(
                prompt=request.prompt, options={"seed": seed}, verdict=VERDICT.record(), pictures=pictures
            )
            raise HeldError(VERDICT, held.id, seed)
        return super().run(request, on_step)


@pytest.fixture
def settings(tmp_path: Path, database_url: str, copier: Path) -> Settings:
    return Settings(data=tmp_path, secret="s" * 32, database_url=database_url, model=str(copier))


@pytest.fixture
def worker(settings: Settings, database: Database, copier: Path) -> Worker:
    editor = Holding(openkontext.load(copier).repository)
    editor.queue = ReviewQueue(queue_url(settings))
    return Worker(settings, database, editor)


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
    assert held.asked["seed"] == 7
    assert held.refusal["checks"][0]["findings"][0]["category"] == "weapons"
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
    assert (done.state, done.result["seed"], done.refusal) == (JobState.READY, 7, None)
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
    assert (done.state, shown.status) == (JobState.REQUEST_MODERATED, "Request Moderated")
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
