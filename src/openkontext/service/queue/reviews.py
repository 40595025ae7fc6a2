"""Requests that wait for a person: the review queue of a service, and what its decisions do to jobs."""

from datetime import timedelta
from functools import cached_property

from sqlalchemy import make_url, select

from openkontext.errors import InputError
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.review.queue import APPROVED, HELD, ReviewQueue
from openkontext.safety.verdict import Stage
from openkontext.service.queue import jobs
from openkontext.service.queue.jobs import JobOutcome
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState


def open_queue(settings: Settings, policy: Policy) -> ReviewQueue:
    """The review queue: where the risk profile says, else in the service's own database.

    Raises:
        InputError: it cannot be opened.
    """
    review = policy.profile.review
    url = make_url(review.database or settings.database)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    address = url.render_as_string(hide_password=False)
    return ReviewQueue(address, reviewers=review.reviewers, keep=timedelta(days=review.days))


class Reviews:
    """Carries decisions of reviewers over to the jobs that wait for them."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database

    @cached_property
    def queue(self) -> ReviewQueue:
        """The queue, opened when a job first waits."""
        return open_queue(self.settings, load_policy())

    def follow(self) -> int:
        """Have approved jobs done and end rejected ones; returns how many were decided."""
        with self.database.reading() as session:
            waiting = session.scalars(select(Job).where(Job.state == JobState.HELD)).all()
        return sum(self._decide(job) for job in waiting)

    def _decide(self, job: Job) -> bool:
        try:
            state = self.queue.get(job.review or "").state
        except InputError:
            state = "lost"
        if state == HELD:
            return False
        with self.database.transaction() as session:
            if state == APPROVED:  # it goes through the editor and its filters like any other
                return jobs.requeue(session, self.settings, job.id)
            refusal = {**(job.refusal or {}), "message": f"a person looked at it: {state}"}
            # What no filter stopped was held for its result.
            by_output = (refusal.get("stage") or Stage.OUTPUT) == Stage.OUTPUT
            ended = JobState.CONTENT_MODERATED if by_output else JobState.REQUEST_MODERATED
            return jobs.decide(session, self.settings, job.id, JobOutcome(ended, refusal=refusal))
