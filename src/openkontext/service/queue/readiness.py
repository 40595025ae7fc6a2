"""Whether edits can begin at once: some worker, on whichever machine, has its graphs and filters loaded.

Workers say so in the database, and say it again while they live; so a server knows of workers elsewhere, and
one that was killed is forgotten when its time is over, as its leases are.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import WorkerProcess, new_id

log = structlog.get_logger()


def is_ready(session: Session, settings: Settings) -> bool:
    """Whether a worker is ready for an edit."""
    alive = WorkerProcess.seen > now() - settings.lease_seconds
    return session.scalar(select(WorkerProcess.id).where(alive).limit(1)) is not None


@contextmanager
def saying_ready(database: Database, settings: Settings, name: str | None = None) -> Iterator[None]:
    """A worker of this process is ready, for as long as the block runs.

    Args:
        database: of the service.
        settings: of the service.
        name: of the worker; a new one when None.
    """
    id, done = name or new_id(), threading.Event()

    def say() -> None:
        with database.transaction() as session:
            session.execute(delete(WorkerProcess).where(WorkerProcess.seen < now() - settings.lease_seconds))
            session.merge(WorkerProcess(id=id, seen=session.scalar(select(now())) or 0.0))

    def beat() -> None:
        while not done.wait(settings.lease_seconds / 3):
            try:
                say()
            except SQLAlchemyError as error:  # such as a database that is away; the next beat says it again
                log.warning("readiness", error=type(error).__name__)

    say()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with database.transaction() as session:
            session.execute(delete(WorkerProcess).where(WorkerProcess.id == id))
