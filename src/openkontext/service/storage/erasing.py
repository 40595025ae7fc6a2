"""What becomes of a job's content: by the retention time, or at once where its account deletes it."""

from typing import Any

from sqlalchemy import String, cast, or_, select, update
from sqlalchemy.orm import Session

from openkontext.service.storage.database import now
from openkontext.service.storage.models import Job, StoredImage, Webhook

IN_FLIGHT = 300.0
"""Seconds that files outlive a deleted job: a request with the same picture may be on its way."""


def erasure() -> dict[str, Any]:
    """What is left of a job's content: nothing. How it ended, and what a filter said, stay for the record."""
    return {
        "asked": {}, "inputs": [], "mask": None, "output": None, "result": None, "erased": now(),
        "webhook_secret": None, "preview": None, "fingerprint": None,
    }  # fmt: skip


def wipe(session: Session, job: Job) -> None:
    """Delete the instruction, pictures and notice of a job that is at its end.

    What others hold stays: pictures that another job uses, the copies of the review queue and of quarantine.
    """
    digests = sorted({digest for digest in (*job.inputs, job.mask, job.output) if digest})
    session.execute(update(Job).where(Job.id == job.id).values(**erasure(), idempotency_key=None))
    session.execute(update(Webhook).where(Webhook.job_id == job.id).values(next_attempt=None))
    soon = now() + IN_FLIGHT
    for digest in digests:
        uses = or_(Job.output == digest, Job.mask == digest, cast(Job.inputs, String).contains(digest))
        if session.scalar(select(Job.id).where(Job.erased.is_(None), uses).limit(1)) is None:
            held = update(StoredImage).where(StoredImage.digest == digest, StoredImage.expires > soon)
            session.execute(held.values(expires=soon))
