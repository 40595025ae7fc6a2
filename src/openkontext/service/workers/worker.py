"""A worker: takes jobs under a lease and has an engine do them."""

import threading
import time
from dataclasses import replace

import structlog

from openkontext.errors import InputError
from openkontext.request import EditRequest
from openkontext.service.people.misuse import judge, note_refusal
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue import jobs
from openkontext.service.queue.job_options import edit_request
from openkontext.service.queue.jobs import JobOutcome, Lease
from openkontext.service.queue.readiness import saying_ready
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState, new_id
from openkontext.service.storage.store import ImageStore, keep
from openkontext.service.workers.edit_engine import Delivery, Engine, EngineLostError, Stop
from openkontext.service.workers.engine_choice import open_engine

IDLE_SECONDS = (0.02, 0.1)
"""How long an idle worker waits before it looks again: at first, and after a while."""

log = structlog.get_logger()


class Worker:
    """Does the jobs of a service until it is told to stop.

    Args:
        settings: of the service.
        database: where the jobs are.
        engine: what edits; opened from the settings when None.
        name: by which its supervisor knows what it holds; a new one when None.
    """

    def __init__(
        self, settings: Settings, database: Database, engine: Engine | None = None, name: str | None = None
    ) -> None:
        self.settings, self.database = settings, database
        self.store, self.audit = ImageStore(settings), Audit(settings)
        self.stopping = threading.Event()
        self.name = name or new_id()
        self.engine = engine or open_engine(settings, self.stopping)

    def run(self) -> None:
        """Do jobs until `stopping` is set, once graphs and filters are loaded.

        Raises:
            InputError: the model repository or the signing key cannot be used.
        """
        self.engine.preload()
        threads = [threading.Thread(target=self._run) for _ in range(self.engine.concurrency)]
        with saying_ready(self.database, self.settings, self.name):
            log.info("ready", role="worker")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _run(self) -> None:
        idle = IDLE_SECONDS[0]
        while not self.stopping.is_set():
            try:
                did = self.do_next()
            except Exception as error:  # such as a database that is away; the lease ends by itself
                log.exception("worker", error=type(error).__name__)
                did = self.stopping.wait(1)
            if did:
                idle = IDLE_SECONDS[0]
            else:
                self.stopping.wait(idle)
                idle = min(idle * 1.5, IDLE_SECONDS[1])

    def do_next(self) -> bool:
        """Do one job; returns whether there was one."""
        with self.database.transaction() as session:
            lease = jobs.claim(session, self.settings, self.name)
        if lease is None:
            return False
        started = time.monotonic()
        heart = _Heart(self, lease)
        try:
            outcome = self._do(lease, heart)
        except Stop as stop:
            if str(stop) == "stopping":
                self._release(lease)
            if str(stop) not in _STOPPED:
                return True
            outcome = _STOPPED[str(stop)]
        except EngineLostError:
            self._release(lease, failed=True)
            return True
        finally:
            heart.stop()
        with self.database.transaction() as session:
            kept = jobs.finish(session, self.settings, lease.job.id, lease.token, outcome)
            if kept and outcome.refusal is not None and outcome.review is None:
                note_refusal(session, lease.job, outcome.refusal)
                judge(session, self.settings, self.audit, lease.job.account_id, lease.job.end_user)
        seconds = round(time.monotonic() - started, 3)
        log.info("job", id=lease.job.id, state=str(outcome.state), kept=kept, seconds=seconds)
        return True

    def _do(self, lease: Lease, heart: "_Heart") -> JobOutcome:
        try:
            request = self._request(lease.job)
        except InputError as error:
            return JobOutcome(JobState.ERROR, error=str(error))
        done = self.engine.edit(request, Delivery.of(lease.job.asked), heart.report)
        if done.content is None:
            return done.outcome
        return replace(done.outcome, output=keep(self.database, self.store, done.content))

    def _release(self, lease: Lease, *, failed: bool = False) -> None:
        with self.database.transaction() as session:
            jobs.release(session, lease.job.id, lease.token, failed=failed)

    def _request(self, job: Job) -> EditRequest:
        try:
            pictures = [self.store.get(digest) for digest in job.inputs]
            mask = self.store.get(job.mask) if job.mask else None
        except KeyError as error:
            raise InputError("a picture of this edit is no longer there; hand it in again") from error
        return edit_request(
            job.asked,
            image=pictures[0] if pictures else None,
            reference_images=pictures[1:],
            mask_image=mask,
            requester=job.account_id,
        )


_STOPPED = {
    "cancelled": JobOutcome(JobState.CANCELLED),
    "deadline": JobOutcome(JobState.ERROR, error="the deadline passed"),
}


class _Heart:
    """Renews a lease while an edit runs, also through long steps, and hears of the wish to stop."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker, self._lease = worker, lease
        self._why: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def report(self, progress: float, preview: bytes | None) -> None:
        """Tell how far the edit is.

        Raises:
            Stop: the edit is not wanted any more.
        """
        self._report(progress, preview)
        if self._worker.stopping.is_set():
            raise Stop("stopping")
        if self._why is not None:
            raise Stop(self._why)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._worker.settings.lease_seconds / 3):
            self._report()

    def _report(self, progress: float | None = None, preview: bytes | None = None) -> None:
        worker, lease = self._worker, self._lease
        with worker.database.transaction() as session:
            why = jobs.report(session, worker.settings, lease.job.id, lease.token, progress, preview)
        self._why = why or self._why
