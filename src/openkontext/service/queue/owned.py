"""Jobs as their account sees them: one, page by page, and deleted at its wish."""

from collections.abc import Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from openkontext.service.queue import jobs
from openkontext.service.rejections import WrongInputError
from openkontext.service.storage.database import now
from openkontext.service.storage.erasing import wipe
from openkontext.service.storage.models import Job, JobState


def find(session: Session, job_id: str) -> Job | None:
    """A job by its id; None where there is none, or its account deleted it."""
    job = session.get(Job, job_id) if "\0" not in job_id else None
    return job if job is not None and job.deleted is None else None


def own(session: Session, account_id: str, job_id: str) -> Job | None:
    """A job of this account; None where it has no such job."""
    job = find(session, job_id)
    return job if job is not None and job.account_id == account_id else None


def newest(session: Session, account_id: str, limit: int, after: str | None = None) -> Sequence[Job]:
    """Jobs of an account that still have their content, the newest first.

    Args:
        session: to read in.
        account_id: whose.
        limit: how many at most.
        after: id of the last job that was seen.

    Raises:
        WrongInputError: the account never had a job `after`.
    """
    mine = select(Job).where(Job.account_id == account_id, Job.erased.is_(None), Job.deleted.is_(None))
    if after is not None:
        last = session.get(Job, after) if "\0" not in after else None  # it may be deleted meanwhile
        if last is None or last.account_id != account_id:
            raise WrongInputError("after", "you have no such task; give the `next` of a page", "query")
        older = or_(Job.created < last.created, and_(Job.created == last.created, Job.id > last.id))
        mine = mine.where(older)
    return session.scalars(mine.order_by(Job.created.desc(), Job.id).limit(limit)).all()


def delete(session: Session, job: Job) -> None:
    """Delete an edit; what is at work is cancelled, and deleted when its worker looks up.

    Its row stays without content: how it ended, for credits and for the rules about misuse.
    """
    jobs.cancel(session, job)
    job = session.get_one(Job, job.id, populate_existing=True)
    job.deleted = session.scalar(select(now()))
    session.flush()
    if job.state != JobState.RUNNING:
        wipe(session, job)
