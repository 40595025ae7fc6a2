"""Figures for Prometheus, counted from the database: one truth for any number of processes and machines."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Account, Appeal, Job, JobState, Signal, Webhook

WINDOW = 300.0
"""Seconds that rates and waiting times look back."""

__all__ = ["CONTENT_TYPE", "render"]


def render(database: Database) -> bytes:
    """All figures in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(database))
    return generate_latest(registry)


class _Figures:
    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        with self._database.reading() as session:
            yield from _counts(session)
            yield from _times(session)

    def describe(self) -> list[Metric]:
        return []


def _counts(session: Session) -> Iterator[Metric]:
    for name, text, column in (
        ("openkontext_jobs", "Jobs by state, of all that are kept.", Job.state),
        ("openkontext_accounts", "Accounts by standing.", Account.standing),
        ("openkontext_signals", "Signs of misuse by kind.", Signal.kind),
    ):
        label = column.key
        family = GaugeMetricFamily(name, text, labels=[label])
        for value, count in session.execute(select(column, func.count()).group_by(column)):
            family.add_metric([str(value)], count)
        yield family
    undelivered = select(func.count()).select_from(Webhook).where(Webhook.next_attempt.is_not(None))
    yield GaugeMetricFamily(
        "openkontext_webhooks_waiting", "Webhooks not delivered yet.", session.scalar(undelivered) or 0
    )
    undecided = select(func.count()).select_from(Appeal).where(Appeal.decided.is_(None))
    yield GaugeMetricFamily(
        "openkontext_appeals_open", "Appeals not decided.", session.scalar(undecided) or 0
    )


def _times(session: Session) -> Iterator[Metric]:
    oldest = session.scalar(select(now() - func.min(Job.created)).where(Job.state == JobState.QUEUED))
    yield GaugeMetricFamily("openkontext_queue_age_seconds", "Age of the oldest waiting job.", oldest or 0.0)
    recent = GaugeMetricFamily(
        "openkontext_jobs_recent", "Jobs that ended in the last five minutes, by state.", labels=["state"]
    )
    ended = select(Job.state, func.count()).where(Job.finished > now() - WINDOW).group_by(Job.state)
    for state, count in session.execute(ended):
        recent.add_metric([str(state)], count)
    yield recent
    means = select(func.avg(Job.started - Job.created), func.avg(Job.finished - Job.started))
    waited, worked = session.execute(means.where(Job.finished > now() - WINDOW)).one()
    yield GaugeMetricFamily("openkontext_wait_seconds", "Mean time in the queue of those.", waited or 0.0)
    yield GaugeMetricFamily("openkontext_work_seconds", "Mean time at work of those.", worked or 0.0)
