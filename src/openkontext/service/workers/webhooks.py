"""Webhooks: many delivered side by side, few to one receiver, so that one that hangs delays nobody else's."""

import collections
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
from openkontext.service.fetching import post
from openkontext.service.queue.job_results import describe
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Job, JobState, Webhook, receiver_of
from openkontext.service.storage.sealing import unseal

LOOK_SECONDS = 0.25
AT_ONCE = 32
"""Deliveries that one keeper tries side by side."""
OF_ACCOUNT = 24
"""Of these, for one account."""
OF_RECEIVER = 4
"""Of these, to one receiver that took the last one; one at a time to any other."""
REMEMBERED = 10_000
"""Receivers that are known to have taken the last one."""
CLAIM_SECONDS = 60.0
"""How long a delivery is another keeper's while one tries it, besides `fetch_seconds`."""
FIRST_RETRY = 2.0
"""Seconds to the second delivery; each further wait is twice as long, and varied by a quarter."""
LONGEST_RETRY = 3600.0

log = structlog.get_logger()


class Deliveries:
    """Delivers webhooks until told to stop. What is due lies in the database: retries outlive a keeper.

    Args:
        settings: of the service.
        database: where the webhooks are.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self._lock = threading.Lock()
        self._receivers: collections.Counter[str] = collections.Counter()
        self._accounts: collections.Counter[str] = collections.Counter()
        self._taking: set[str] = set()
        self._ended = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Begin what is due until `stopping` is set; then what is on its way has `fetch_seconds` at most."""
        on_the_way: list[threading.Thread] = []
        while not stopping.is_set():
            on_the_way = [thread for thread in on_the_way if thread.is_alive()]
            self._ended.clear()
            job = None
            if len(on_the_way) < AT_ONCE:
                try:
                    job = self._begin()
                except Exception as error:  # such as a database that is away
                    log.exception("webhooks", error=type(error).__name__)
                    stopping.wait(1)
            if job is None:
                self._ended.wait(LOOK_SECONDS)
                continue
            thread = threading.Thread(target=self._deliver, args=(job,), daemon=True)
            thread.start()
            on_the_way.append(thread)
        ends = time.monotonic() + self.settings.fetch_seconds
        for thread in on_the_way:
            thread.join(max(0.0, ends - time.monotonic()))

    def _begin(self) -> Job | None:
        """Take the delivery that is due and has room."""
        with self._lock:
            receivers = [name for name, count in self._receivers.items() if count >= self._most(name)]
            accounts = [name for name, count in self._accounts.items() if count >= OF_ACCOUNT]
        with self.database.transaction() as session:
            job = self._claim(session, receivers, accounts)
        if job is not None:
            self._count(job, 1)
        return job

    def _most(self, receiver: str) -> int:
        return OF_RECEIVER if receiver in self._taking else 1

    def _claim(self, session: Session, receivers: list[str], accounts: list[str]) -> Job | None:
        due = (
            select(Webhook)
            .join(Job, Job.id == Webhook.job_id)
            .where(Webhook.next_attempt < now(), Webhook.receiver.not_in(receivers))
            .where(Job.account_id.not_in(accounts))
            .order_by(Webhook.next_attempt)
            .limit(1)
        )
        webhook = session.scalar(due.with_for_update(skip_locked=True, of=Webhook))
        if webhook is None:
            return None
        webhook.attempts += 1
        session.flush()
        again = now() + self.settings.fetch_seconds + CLAIM_SECONDS
        claimed = update(Webhook).where(Webhook.job_id == webhook.job_id)
        session.execute(claimed.values(next_attempt=again))
        return session.get_one(Job, webhook.job_id)

    def _count(self, job: Job, change: int) -> None:
        with self._lock:
            for counts, name in (
                (self._receivers, receiver_of(job.webhook_url or "")),
                (self._accounts, job.account_id),
            ):
                counts[name] += change
                if counts[name] <= 0:
                    del counts[name]

    def _deliver(self, job: Job) -> None:
        """Try a delivery, once.

        It is noted as delivered after the receiver said so: a crash between the two delivers it again.
        """
        try:
            content, headers = self._message(job)
            try:
                status = post(job.webhook_url or "", content, headers, self.settings).status
                error = None if 200 <= status < 300 else f"answered {status}"
            except InputError as failure:
                error = str(failure)
            with self.database.transaction() as session:
                self._note(session, job.id, error)
            with self._lock:
                receiver = receiver_of(job.webhook_url or "")
                if error is not None:
                    self._taking.discard(receiver)
                elif len(self._taking) < REMEMBERED:
                    self._taking.add(receiver)
        except Exception as failure:  # it is tried again when its claim is over
            log.exception("webhook", job=job.id, error=type(failure).__name__)
        finally:
            self._count(job, -1)
            self._ended.set()

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
        if webhook.next_attempt is None:  # its job was deleted meanwhile
            return
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
