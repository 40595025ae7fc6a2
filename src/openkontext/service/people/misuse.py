"""Misuse over time: what accounts do is noted as signals, and rules turn signals into consequences.

Signals hold no instruction and no picture. A rule warns, suspends or bans; each consequence is in the audit
log with its rule, and an account may appeal to a person. Where an account says whom it asks for, the rules
look at that end user first, and at the account by what goes on over many of them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from openkontext.safety.verdict import UNCHECKED
from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import now
from openkontext.service.storage.models import Account, AuditRecord, EndUser, Job, Signal, Standing

DAY = 86400.0

REFUSED = "refused"
"""A filter refused a request or its result."""
FIXED_CATEGORY = "fixed category"
"""It was one of the categories that nothing loosens."""
KNOWN = "known material"
"""It was a match with known illegal material."""
PROBING = "probing"
"""A refused instruction came again, hardly changed."""
MANY_ACCOUNTS = "many accounts"
"""Several accounts were refused from one source."""

PROBE_BITS = 12
"""Of 64: two instructions whose SimHashes differ in no more are taken for near-duplicates."""


@dataclass(frozen=True)
class MisuseRule:
    """What follows from so many signals of one kind within a time."""

    kind: str
    count: int
    within: float
    """Seconds."""
    standing: Standing
    lasts: float | None
    """Seconds that a suspension lasts; None without end."""
    share: float = 0.0
    """Of the finished jobs that must have been refused so, that much use is no misuse."""
    end_users: int | None = None
    """For an account: how many end users its signals must come from at least. None looks only at what
    it asked for itself."""


KNOWN_RULES = (
    MisuseRule(KNOWN, 3, 30 * DAY, Standing.BANNED, None, end_users=0),
    MisuseRule(KNOWN, 1, 30 * DAY, Standing.SUSPENDED, 7 * DAY, end_users=0),
)
"""No setting and no end user's name softens these."""

FIXED_RULES = {
    "suspend": (
        MisuseRule(FIXED_CATEGORY, 3, 30 * DAY, Standing.BANNED, None),
        MisuseRule(FIXED_CATEGORY, 1, 30 * DAY, Standing.SUSPENDED, 7 * DAY),
    ),
    "warn": (
        MisuseRule(FIXED_CATEGORY, 4, 30 * DAY, Standing.BANNED, None),
        MisuseRule(FIXED_CATEGORY, 2, 30 * DAY, Standing.SUSPENDED, 7 * DAY),
        MisuseRule(FIXED_CATEGORY, 1, 30 * DAY, Standing.WARNED, None),
    ),
}
"""By `Settings.first_fixed_refusal`: with "warn" there is one step more."""

RULES = (
    MisuseRule(PROBING, 10, DAY, Standing.SUSPENDED, DAY),
    MisuseRule(MANY_ACCOUNTS, 1, DAY, Standing.SUSPENDED, DAY),
    MisuseRule(REFUSED, 30, DAY, Standing.SUSPENDED, DAY, share=0.2),
    MisuseRule(PROBING, 4, DAY, Standing.WARNED, None),
    MisuseRule(REFUSED, 10, DAY, Standing.WARNED, None, share=0.2),
)
"""For an end user, and for an account as far as it asks for itself."""

ACCOUNT_RULES = (
    MisuseRule(FIXED_CATEGORY, 5, 30 * DAY, Standing.SUSPENDED, 7 * DAY, share=0.05, end_users=3),
    MisuseRule(REFUSED, 100, DAY, Standing.SUSPENDED, DAY, share=0.2, end_users=5),
    MisuseRule(FIXED_CATEGORY, 3, 30 * DAY, Standing.WARNED, None, share=0.02, end_users=3),
    MisuseRule(REFUSED, 30, DAY, Standing.WARNED, None, share=0.2, end_users=3),
)
"""For an account over all its end users, new names for the same person among them."""

_SEVERITY = list(Standing)


def rules_for(session: Session, settings: Settings, who: Account | EndUser) -> list[MisuseRule]:
    """The rules that hold for someone, the strictest first; the first that holds counts.

    The owner of a service without keys concerns nobody else: they are warned before they are suspended.
    """
    step = settings.first_fixed_refusal
    if isinstance(who, Account) and who.name == accounts.LOCAL and not accounts.had_keys(session):
        step = "warn"
    over_all = ACCOUNT_RULES if isinstance(who, Account) else ()
    rules = (*KNOWN_RULES, *FIXED_RULES[step], *RULES, *over_all)
    return sorted(rules, key=lambda rule: -_SEVERITY.index(rule.standing))


def note_refusal(session: Session, job: Job, refusal: Mapping[str, Any]) -> None:
    """Note that a filter refused a job, and whether it looks like trying a filter's edges.

    A check that could not look refuses too; that is no doing of the account.
    """
    if refusal.get("category") == UNCHECKED:
        return
    at = session.scalar(select(now())) or 0.0
    print_ = simhash(job.asked["prompt"])
    before = select(Signal.detail).where(
        Signal.account_id == job.account_id,
        Signal.end_user.is_not_distinct_from(job.end_user),
        Signal.kind == REFUSED,
        Signal.at > at - DAY,
    )
    earlier = [int(detail["simhash"], 16) for detail in session.scalars(before) if "simhash" in detail]
    detail = {"job": job.id, "simhash": f"{print_:016x}"}
    kinds = [REFUSED]
    if refusal.get("fixed"):
        kinds.append(FIXED_CATEGORY)
    if refusal.get("category") == "known_material":
        kinds.append(KNOWN)
    if any((print_ ^ other).bit_count() <= PROBE_BITS for other in earlier):
        kinds.append(PROBING)
    for kind in kinds:
        session.add(Signal(account_id=job.account_id, end_user=job.end_user, kind=kind, detail=detail, at=at))
    if job.end_user and session.get(EndUser, (job.account_id, job.end_user)) is None:
        session.add(EndUser(account_id=job.account_id, id=job.end_user, created=at))
    session.flush()


def judge_all(session: Session, settings: Settings, audit: Audit) -> int:
    """Apply the rules to whoever has signals in the last month; returns how many they changed."""
    _note_shared_sources(session)
    month = Signal.at > now() - 30 * DAY
    recent = select(Signal.account_id, Signal.end_user).where(month).distinct()
    return sum(judge(session, settings, audit, *each) for each in session.execute(recent).all())


def judge(
    session: Session, settings: Settings, audit: Audit, account_id: str, end_user: str | None = None
) -> bool:
    """Apply the rules to an end user and their account; returns whether a standing changed.

    Signals from before a person last decided about them no longer count.
    """
    account = session.get_one(Account, account_id, with_for_update=True)
    found = session.get(EndUser, (account_id, end_user), with_for_update=True) if end_user else None
    judged = [_judge(session, settings, audit, who) for who in (found, account) if who is not None]
    return any(judged)


def _judge(session: Session, settings: Settings, audit: Audit, who: Account | EndUser) -> bool:
    account_id, end_user = _names(who)
    set_standing = partial(
        accounts.set_standing, session, audit, account_id, end_user=end_user, actor="rules"
    )
    at = session.scalar(select(now())) or 0.0
    if who.standing_until is not None and who.standing_until < at:
        set_standing(Standing.GOOD, "its time is over")
        session.refresh(who)
    for rule in rules_for(session, settings, who):
        if _SEVERITY.index(rule.standing) <= _SEVERITY.index(Standing(who.standing)):
            continue
        if _holds(session, who, rule, at):
            over = f" of {rule.end_users} end users or more" if rule.end_users else ""
            reason = f"{rule.kind}: {rule.count} in {rule.within / DAY:g} days{over}"
            set_standing(rule.standing, reason, until=at + rule.lasts if rule.lasts else None)
            session.refresh(who)
            return True
    return False


def _names(who: Account | EndUser) -> tuple[str, str | None]:
    """Account and end user."""
    return (who.id, None) if isinstance(who, Account) else (who.account_id, who.id)


def _of(who: Account | EndUser, rule: MisuseRule, table: type[Signal | Job]) -> ColumnElement[bool]:
    """The rows of a table that a rule counts for someone."""
    account_id, end_user = _names(who)
    if end_user is None and rule.end_users is not None:
        return table.account_id == account_id
    return and_(table.account_id == account_id, table.end_user.is_not_distinct_from(end_user))


def _holds(session: Session, who: Account | EndUser, rule: MisuseRule, at: float) -> bool:
    """Whether a rule holds, and something new happened since it, or a stricter one, last did."""
    since = at - rule.within
    counted = select(func.count(), func.max(Signal.at), func.count(Signal.end_user.distinct())).where(
        _of(who, rule, Signal), Signal.kind == rule.kind, Signal.at > max(since, who.judged_from)
    )
    count, newest, end_users = session.execute(counted).one()
    if count < rule.count or (isinstance(who, Account) and end_users < (rule.end_users or 0)):
        return False
    finished = select(func.count()).select_from(Job).where(_of(who, rule, Job), Job.finished > since)
    if rule.share and count < rule.share * (session.scalar(finished) or 0):
        return False
    as_strict = _SEVERITY[_SEVERITY.index(rule.standing) :]
    kind, subject = accounts.in_audit(*_names(who))
    applied = select(func.max(AuditRecord.at)).where(
        AuditRecord.subject == subject,
        AuditRecord.actor == "rules",
        AuditRecord.action.in_([f"{kind}.{each}" for each in as_strict]),
    )
    return newest > (session.scalar(applied) or 0.0)


def simhash(text: str) -> int:
    """64-bit SimHash (Charikar 2002) over the text's letter trigrams: alike texts differ in few bits."""
    letters = "".join(letter for letter in text.casefold() if letter.isalnum())
    grams = {letters[index : index + 3] for index in range(max(1, len(letters) - 2))}
    sums = [0] * 64
    for gram in grams:
        value = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
        for bit in range(64):
            sums[bit] += 1 if value >> bit & 1 else -1
    return sum(1 << bit for bit in range(64) if sums[bit] > 0)


def _note_shared_sources(session: Session) -> None:
    """Note accounts that came from one source and were each refused today: one person with many names."""
    refused = (
        select(Account.source, Account.id)
        .join(Signal, Signal.account_id == Account.id)
        .where(
            Signal.kind == REFUSED,
            Signal.end_user.is_(None),  # an account's end users come through its own machine
            Signal.at > now() - DAY,
            Account.source.is_not(None),
        )
        .distinct()
    )
    by_source: dict[str, list[str]] = {}
    for source, account_id in session.execute(refused):
        by_source.setdefault(str(source), []).append(account_id)
    at = session.scalar(select(now())) or 0.0
    for account_ids in by_source.values():
        if len(account_ids) < 3:
            continue
        for account_id in account_ids:
            known = select(Signal.id).where(
                Signal.account_id == account_id, Signal.kind == MANY_ACCOUNTS, Signal.at > at - DAY
            )
            if session.scalar(known.limit(1)) is None:
                detail = {"accounts": len(account_ids)}
                session.add(Signal(account_id=account_id, kind=MANY_ACCOUNTS, detail=detail, at=at))
    session.flush()
