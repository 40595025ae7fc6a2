"""What went on in a service: edits and refusals by day, accounts with what speaks for and against them."""

import time
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.orm import Session

from openkontext.service.people.misuse import DAY
from openkontext.service.storage.database import now
from openkontext.service.storage.models import Account, ApiKey, EndUser, Job, JobState, Signal

REFUSED = (JobState.REQUEST_MODERATED, JobState.CONTENT_MODERATED)


@dataclass(frozen=True)
class Day:
    """One day, UTC."""

    begins: float
    """Seconds since 1970."""
    jobs: dict[str, int]
    """How many of each state were submitted on it."""
    signals: dict[str, int]
    """How many signs of misuse of each kind there were."""


@dataclass(frozen=True)
class Conduct:
    """How an account behaved."""

    account: Account
    keys: int
    """That are not revoked."""
    last_used: float | None
    """When one of its keys was."""
    edits: int
    """Finished within the time looked at."""
    refused: int
    """Of those."""
    signals: dict[str, int]
    """By kind, since a person last decided about it; those of its end users among them."""
    end_users: list[tuple[EndUser, dict[str, int]]]
    """Whom it asked for and a filter refused, with their signals by kind: the most first."""


def by_day(session: Session, days: int) -> list[Day]:
    """The last days, today last."""
    today = time.time() // DAY * DAY
    begins = [today - (days - 1 - index) * DAY for index in range(days)]
    jobs: list[dict[str, int]] = [{} for _ in begins]
    signals: list[dict[str, int]] = [{} for _ in begins]
    for at, kind, found in ((Job.created, Job.state, jobs), (Signal.at, Signal.kind, signals)):
        day: ColumnElement[int] = case(*((at < begin + DAY, index) for index, begin in enumerate(begins)))
        # A subquery, as PostgreSQL takes two parameters of the same value for two expressions.
        rows = select(day.label("day"), kind.label("kind")).where(at >= begins[0]).subquery()
        counted = select(rows.c.day, rows.c.kind, func.count()).group_by(rows.c.day, rows.c.kind)
        for index, name, count in session.execute(counted):
            if index is not None:
                found[index][str(name)] = count
    return [Day(*values) for values in zip(begins, jobs, signals, strict=True)]


def refused_categories(session: Session, days: int) -> dict[str, int]:
    """How many jobs of the last days were refused for each category, the most first."""
    category = Job.refusal["category"].as_string()
    rows = select(category.label("category")).where(Job.state.in_(REFUSED), Job.created > now() - days * DAY)
    found = rows.subquery()
    counted = select(found.c.category, func.count()).group_by(found.c.category)
    counts = {str(name or "unknown"): count for name, count in session.execute(counted)}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def conduct(session: Session, days: int, limit: int = 500) -> list[Conduct]:
    """Accounts, those with signs of misuse first."""
    accounts = session.scalars(select(Account).order_by(Account.created.desc()).limit(limit)).all()
    ended = select(Job.account_id, Job.state, func.count()).where(Job.finished > now() - days * DAY)
    jobs: dict[str, dict[str, int]] = {}
    for account_id, state, count in session.execute(ended.group_by(Job.account_id, Job.state)):
        jobs.setdefault(account_id, {})[state] = count
    signs = (
        select(Signal.account_id, Signal.kind, func.count())
        .join(Account)
        .where(Signal.at > Account.judged_from)
    )
    signals: dict[str, dict[str, int]] = {}
    for account_id, kind, count in session.execute(signs.group_by(Signal.account_id, Signal.kind)):
        signals.setdefault(account_id, {})[kind] = count
    valid = select(ApiKey.account_id, func.count(), func.max(ApiKey.last_used)).where(
        ApiKey.revoked.is_(None)
    )
    keys = {row[0]: row for row in session.execute(valid.group_by(ApiKey.account_id))}
    end_users = _end_users(session)
    found = []
    for account in accounts:
        states = jobs.get(account.id, {})
        _, count, last_used = keys.get(account.id, ("", 0, None))
        refused = sum(states.get(state, 0) for state in REFUSED)
        signs_of = signals.get(account.id, {})
        edits = sum(states.values())
        found.append(
            Conduct(account, count, last_used, edits, refused, signs_of, end_users.get(account.id, []))
        )
    return sorted(found, key=lambda each: -sum(each.signals.values()))


def _end_users(session: Session, limit: int = 20) -> dict[str, list[tuple[EndUser, dict[str, int]]]]:
    """End users that a filter refused, by their account, at most so many of each."""
    signs = select(EndUser.account_id, EndUser.id, Signal.kind, func.count()).join(
        Signal,
        and_(
            Signal.account_id == EndUser.account_id,
            Signal.end_user == EndUser.id,
            Signal.at > EndUser.judged_from,
        ),
    )
    signals: dict[tuple[str, str], dict[str, int]] = {}
    for account_id, id, kind, count in session.execute(
        signs.group_by(EndUser.account_id, EndUser.id, Signal.kind)
    ):
        signals.setdefault((account_id, id), {})[kind] = count
    rows = [(one, signals.get((one.account_id, one.id), {})) for one in session.scalars(select(EndUser))]
    found: dict[str, list[tuple[EndUser, dict[str, int]]]] = {}
    for one, signs_of in sorted(rows, key=lambda row: -sum(row[1].values())):
        of_account = found.setdefault(one.account_id, [])
        if len(of_account) < limit:
            of_account.append((one, signs_of))
    return found
