"""The keeper: delivers webhooks, deletes what is past its time, watches for misuse."""

import threading
import time

import structlog

from openkontext.service.people import misuse
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue import jobs, recovery
from openkontext.service.queue.reviews import Reviews
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.store import ImageStore, sweep
from openkontext.service.workers.webhooks import Deliveries

LOOK_SECONDS = 0.25
SWEEP_SECONDS = 60.0
REVIEW_SECONDS = 1.0

log = structlog.get_logger()


class Keeper:
    """Does what has to be done beside edits, until it is told to stop. Several may run at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.store, self.audit = ImageStore(settings), Audit(settings)
        self.reviews = Reviews(settings, database)
        self.deliveries = Deliveries(settings, database)
        self.stopping = threading.Event()

    def run(self) -> None:
        """Work until `stopping` is set."""
        delivering = threading.Thread(target=self.deliveries.run, args=(self.stopping,))
        delivering.start()
        self._look_around()
        delivering.join()

    def _look_around(self) -> None:
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
