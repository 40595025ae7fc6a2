"""The keeper: delivers webhooks, deletes what is past its time, watches for misuse."""

import hmac
import json
import random
import threading
import time
from datetime import UTC, datetime

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from openkontext.errors import InputError
from openkontext.service import jobs, misuse, recovery
from openkontext.service.audit import Audit
from openkontext.service.database import Database, now
from openkontext.service.fetching import post
from openkontext.service.models import Job, JobState, Webhook
from openkontext.service.results import describe
from openkontext.service.reviews import Reviews
from openkontext.service.sealing import unseal
from openkontext.service.settings import Settings
from openkontext.service.store import ImageStore, sweep

LOOK_SECONDS = 0.25
SWEEP_SECONDS = 60.0
REVIEW_SECONDS = 1.0
CLAIM_SECONDS = 60.0
"""How long a delivery is another keeper's while one tries it."""
FIRST_RETRY = 2.0
"""Seconds to the second delivery; each further wait is twice as long, and varied by a quarter."""
LONGEST_RETRY = 3600.0

log = structlog.get_logger()


class Keeper:
    """Does what has to be done beside edits, until it is told to stop. Several may run at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.store, self.audit = ImageStore(settings), Audit(settings)
        self.reviews = Reviews(settings, database)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Work until `stopping` is set."""
        next_tidy = next_review = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() >= next_tidy:
                    self.tidy()
                    next_tidy = time.monotonic() + SWEEP_SECONDS
                if time.monotonic() >= next_review:
                    self.reviews.follow()
                    self.end_late()
                    next_review = time.monotonic() + REVIEW_SECONDS
                if not self.deliver_next():
                    self.stopping.wait(LOOK_SECONDS)
            except Exception as error:  # what failed is tried again; the keeper must not end
                log.exception("keeper", error=type(error).__name__)
                self.stopping.wait(1)

    def tidy(self) -> None:
        """Delete what is past its time, keep what waits for a person, judge accounts by what they did."""
        with self.database.transaction() as session:
            erased = jobs.erase(session, self.settings)
        with self.database.transaction() as session:
            jobs.keep_held(session, self.settings)
        with self.database.transaction() as session:
            deleted = sweep(session, self.store)
        with self.database.transaction() as session:
            judged = misuse.judge_all(session, self.settings, self.audit)
        if erased or deleted or judged:
            log.info("tidied", erased=erased, deleted=deleted, judged=judged)

    def end_late(self) -> None:
        """End what is past its deadline, also where there is no worker."""
        with self.database.transaction() as session:
            ended = recovery.expire(session, self.settings)
        if ended:
            log.info("ended", jobs=ended)

    def deliver_next(self) -> bool:
        """Try the delivery that is due; returns whether there was one.

        It is noted as delivered after the receiver said so: a crash between the two delivers it again.
        """
        with self.database.transaction() as session:
            job = self._claim(session)
            if job is None:
                return False
            content, headers = self._message(job)
        try:
            status = post(job.webhook_url or "", content, headers, self.settings).status
            error = None if 200 <= status < 300 else f"answered {status}"
        except InputError as failure:
            error = str(failure)
        with self.database.transaction() as session:
            self._note(session, job.id, error)
        return True

    def _claim(self, session: Session) -> Job | None:
        due = select(Webhook).where(Webhook.next_attempt < now()).order_by(Webhook.next_attempt).limit(1)
        webhook = session.scalar(due.with_for_update(skip_locked=True))
        if webhook is None:
            return None
        webhook.attempts += 1
        session.flush()
        claimed = update(Webhook).where(Webhook.job_id == webhook.job_id)
        session.execute(claimed.values(next_attempt=now() + CLAIM_SECONDS))
        return session.get_one(Job, webhook.job_id)

    def _message(self, job: Job) -> tuple[bytes, dict[str, str]]:
        """The body of `get_result` and a time, signed as the FLUX API signs its webhooks."""
        body = describe(job, self.settings).model_dump(exclude={"preview", "progress"})
        if job.state != JobState.READY:
            body["error"] = job.state
            body["message"] = (job.refusal or {}).get("message") or job.error or str(job.state)
        finished = datetime.fromtimestamp(job.finished or 0.0, UTC)
        body["timestamp"] = finished.isoformat(timespec="seconds").replace("+00:00", "Z")
        content = json.dumps(body).encode()
        headers = {"X-Webhook-Id": job.id}
        secret = unseal(self.settings, job.webhook_secret) if job.webhook_secret else None
        if secret is not None:
            signature = hmac.new(secret.encode(), content, "sha256").hexdigest()
            headers["X-BFL-Signature"] = f"sha256={signature}"
        return content, headers

    def _note(self, session: Session, job_id: str, error: str | None) -> None:
        webhook = session.get_one(Webhook, job_id, with_for_update=True)
        webhook.error = error
        if error is None:
            webhook.next_attempt = None
            webhook.delivered = session.scalar(select(now()))
        elif webhook.attempts >= self.settings.webhook_attempts:
            webhook.next_attempt = None
            log.warning("webhook given up", job=job_id, attempts=webhook.attempts, error=error)
        else:
            wait = min(FIRST_RETRY * 2 ** (webhook.attempts - 1), LONGEST_RETRY)
            at = session.scalar(select(now())) or 0.0
            webhook.next_attempt = at + wait * random.uniform(0.75, 1.25)
