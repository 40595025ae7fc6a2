"""The queue on both databases: what is accepted is done once, by one worker at a time."""

import threading
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue import jobs
from openkontext.service.queue.jobs import JobOutcome, Submission
from openkontext.service.rejections import NotAccepted
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Account, ApiKey, Job, JobState, Webhook

DONE = JobOutcome(JobState.READY, output="0" * 64, result={"seed": 1})


@pytest.fixture
def account(database: Database, audit: Audit) -> str:
    with database.transaction() as session:
        return accounts.add_account(session, audit, "ann", credit=3).id


class Queue:
    """The calls of a test, each in its own transaction as in the service."""

    def __init__(self, database: Database, settings: Settings, account: str) -> None:
        self.database, self.settings, self.account = database, settings, account

    def submit(self, **values: Any) -> Job:
        submission = Submission(
            **{"account_id": self.account, "key_id": None, "model": "m", "asked": {"prompt": "p"}, **values}
        )
        with self.database.transaction() as session:
            return jobs.submit(session, self.settings, submission)

    def claim(self) -> jobs.Lease | None:
        with self.database.transaction() as session:
            return jobs.claim(session, self.settings)

    def report(self, lease: jobs.Lease, **values: Any) -> str | None:
        with self.database.transaction() as session:
            return jobs.report(session, self.settings, lease.job.id, lease.token, **values)

    def finish(self, lease: jobs.Lease, outcome: JobOutcome = DONE) -> bool:
        with self.database.transaction() as session:
            return jobs.finish(session, self.settings, lease.job.id, lease.token, outcome)

    def cancel(self, job: Job) -> bool:
        with self.database.transaction() as session:
            return jobs.cancel(session, job)

    def set(self, job: Job, **values: Any) -> None:
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.id == job.id).values(**values))

    def get(self, job: Job) -> Job:
        with self.database.reading() as session:
            return session.get_one(Job, job.id)

    def credit(self) -> int | None:
        with self.database.reading() as session:
            return session.get_one(Account, self.account).credit


@pytest.fixture
def queue(database: Database, settings: Settings, account: str) -> Queue:
    return Queue(database, settings.model_copy(update={"price": 1}), account)


def test_jobs_are_done_in_order_and_once(queue: Queue) -> None:
    first, second = queue.submit(), queue.submit()
    one, two = queue.claim(), queue.claim()
    assert one
    assert two
    assert (one.job.id, two.job.id) == (first.id, second.id)
    assert queue.claim() is None
    assert queue.report(one, progress=0.5, preview=b"p") is None
    assert queue.get(first).progress == 0.5
    assert queue.finish(one)
    assert not queue.finish(one)
    done = queue.get(first)
    assert (done.state, done.output, done.lease) == (JobState.READY, "0" * 64, None)
    assert done.finished >= done.started >= done.created


def test_many_workers_never_share_a_job(queue: Queue) -> None:
    queue.settings = queue.settings.model_copy(update={"price": 0, "concurrency": 100})
    asked = {queue.submit().id for _ in range(20)}
    taken: list[str] = []

    def work() -> None:
        while lease := queue.claim():
            taken.append(lease.job.id)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(asked)


def test_a_silent_workers_job_goes_to_another_and_the_first_can_no_longer_write(queue: Queue) -> None:
    job = queue.submit()
    dead = queue.claim()
    queue.set(job, leased_until=0)
    alive = queue.claim()
    assert dead
    assert alive
    assert alive.job.id == job.id
    assert alive.job.attempts == 2
    assert queue.report(dead, progress=0.9) == "lost"
    assert not queue.finish(dead, JobOutcome(JobState.ERROR, error="late"))
    assert queue.finish(alive)
    assert queue.get(job).state == JobState.READY


def test_a_job_that_kills_its_workers_ends_as_an_error_and_its_credit_returns(queue: Queue) -> None:
    job = queue.submit()
    assert queue.credit() == 2
    for _ in range(queue.settings.max_attempts):
        assert queue.claim()
        queue.set(job, leased_until=0)
    assert queue.claim() is None
    assert queue.get(job).state == JobState.ERROR
    assert "5 workers stopped" in queue.get(job).error
    assert queue.credit() == 3


def test_deadlines_hold_waiting_and_running(queue: Queue) -> None:
    late = queue.submit()
    queue.set(late, deadline=0)
    assert queue.claim() is None
    assert queue.get(late).error == "the deadline passed"
    running = queue.submit()
    lease = queue.claim()
    assert lease
    queue.set(running, deadline=0)
    assert queue.report(lease) == "deadline"


def test_cancelling(queue: Queue) -> None:
    waiting, running, done = queue.submit(), queue.submit(), queue.submit()
    assert queue.cancel(waiting)
    assert queue.get(waiting).state == JobState.CANCELLED
    lease = queue.claim()
    assert lease
    assert lease.job.id == running.id
    assert queue.cancel(running)
    assert queue.report(lease) == "cancelled"
    assert queue.finish(lease)  # too late to be delivered
    assert queue.get(running).state == JobState.CANCELLED
    assert queue.get(running).output is None
    other = queue.claim()
    assert other
    assert queue.finish(other)
    assert not queue.cancel(done)
    assert queue.credit() == 2  # only what was delivered is paid


def test_a_worker_told_to_stop_gives_its_job_back(queue: Queue) -> None:
    job = queue.submit()
    lease = queue.claim()
    assert lease
    with queue.database.transaction() as session:
        jobs.release(session, job.id, lease.token)
    again = queue.claim()
    assert again
    assert again.job.id == job.id
    assert again.job.attempts == 1


def test_credit_queue_and_concurrency_are_bounded(queue: Queue) -> None:
    for _ in range(3):
        queue.submit()
    with pytest.raises(NotAccepted) as refused:
        queue.submit()
    assert refused.value.status == 402
    queue.settings = queue.settings.model_copy(update={"price": 0, "concurrency": 3})
    with pytest.raises(NotAccepted, match="3 of your edits") as refused:
        queue.submit()
    assert (refused.value.status, refused.value.retry_after) == (429, 10)
    queue.settings = queue.settings.model_copy(update={"concurrency": 10, "queue_size": 3})
    with pytest.raises(NotAccepted, match="queue is full"):
        queue.submit()
    lease = queue.claim()
    assert lease
    assert queue.finish(lease)
    assert queue.submit()
    with pytest.raises(NotAccepted) as refused:
        queue.submit()
    assert refused.value.retry_after == 60  # one ended in the last ten minutes; at most a minute is said


def test_what_is_withdrawn_costs_nothing_also_when_it_is_done(queue: Queue) -> None:
    done, working, waiting = queue.submit(), queue.submit(), queue.submit()
    first, second = queue.claim(), queue.claim()  # the oldest first
    assert first
    assert second
    assert queue.finish(first)
    with pytest.raises(NotAccepted):  # all credit is spent
        queue.submit()
    for job in (done, waiting, working):
        for _ in range(2):  # a second time changes nothing
            with queue.database.transaction() as session:
                jobs.withdraw(session, session.get_one(Job, job.id))
    assert queue.get(done).output is None
    assert [queue.get(job).state for job in (done, waiting)] == [JobState.CANCELLED] * 2
    assert queue.finish(second)  # as soon as its worker looks up
    assert queue.get(working).state == JobState.CANCELLED
    for _ in range(3):
        queue.submit()


def test_an_idempotency_key_makes_one_job(queue: Queue) -> None:
    made: list[str] = []

    def ask() -> None:
        made.append(queue.submit(idempotency_key="k", fingerprint="f").id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert queue.credit() == 2
    with pytest.raises(NotAccepted, match="another request"):
        queue.submit(idempotency_key="k", fingerprint="g")


def test_a_key_has_its_rate(queue: Queue, audit: Audit) -> None:
    with queue.database.transaction() as session:
        ann = session.get_one(Account, queue.account)
        key = accounts.make_key(session, audit, ann, requests_per_minute=2)

    def ask() -> None:
        with queue.database.transaction() as session:
            jobs.take_turn(session, queue.settings, key.id)

    began = time.monotonic()
    ask()
    ask()
    with pytest.raises(NotAccepted) as refused:
        ask()
    assert refused.value.status == 429
    assert 29 - (time.monotonic() - began) < refused.value.retry_after <= 30
    with queue.database.transaction() as session:
        session.execute(update(ApiKey).values(tokens_at=now() - 31))
    ask()


def test_a_held_job_ends_once_by_decision(queue: Queue) -> None:
    job = queue.submit(webhook_url="https://example.org/hook")
    lease = queue.claim()
    assert lease
    assert queue.finish(lease, JobOutcome(JobState.HELD, refusal={"category": "nudity"}))
    assert queue.claim() is None

    def decide() -> bool:
        with queue.database.transaction() as session:
            return jobs.decide(session, queue.settings, job.id, DONE)

    assert [decide(), decide()] == [True, False]
    assert queue.get(job).state == JobState.READY
    with queue.database.reading() as session:
        assert session.scalars(select(Webhook.job_id)).all() == [job.id]


def test_instructions_are_erased_after_the_retention_time(queue: Queue) -> None:
    old, new = queue.submit(), queue.submit()
    for _ in range(2):
        lease = queue.claim()
        assert lease
        assert queue.finish(lease)
    queue.set(old, finished=1.0)
    with queue.database.transaction() as session:
        assert jobs.erase(session, queue.settings) == 1
        assert jobs.erase(session, queue.settings) == 0
    assert (queue.get(old).asked, queue.get(old).output) == ({}, None)
    assert queue.get(new).asked == {"prompt": "p"}


def test_keys_open_only_as_they_were_shown(database: Database, audit: Audit, account: str) -> None:
    with database.transaction() as session:
        made = accounts.make_key(session, audit, session.get_one(Account, account))
        assert accounts.keys_exist(session)
        stored = session.get_one(ApiKey, made.id)
        assert made.key not in str(vars(stored))
        for wrong in (made.key[:-1], made.key + "a", f"ok_{made.id}_", "ok__", "", "a_b_c"):
            assert accounts.check_key(session, wrong) is None
        assert accounts.check_key(session, made.key).account.name == "ann"
        accounts.revoke_key(session, audit, made.id)
    with database.transaction() as session:
        assert accounts.check_key(session, made.key) is None
        assert not accounts.keys_exist(session)
