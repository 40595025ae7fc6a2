"""Misuse over time: what accounts do is noted as signals, and rules turn signals into consequences.

Signals hold no instruction and no picture. A rule warns, suspends or bans; each consequence is in the audit
log with its rule, and an account may appeal to a person.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openkontext.safety.verdict import UNCHECKED
from openkontext.service import accounts
from openkontext.service.audit import Audit
from openkontext.service.database import now
from openkontext.service.models import Account, AuditEntry, Job, JobState, Signal, Standing
from openkontext.service.settings import Settings

DAY = 86400.0

REFUSED = "refused"
"""A filter refused a request or its result."""
FIXED = "fixed category"
"""It was one of the categories that nothing loosens."""
PROBING = "probing"
"""A refused instruction came again, hardly changed."""
MANY_ACCOUNTS = "many accounts"
"""Several accounts were refused from one source."""

PROBE_BITS = 12
"""Of 64: two instructions whose SimHashes differ in no more are taken for near-duplicates."""


@dataclass(frozen=True)
class Rule:
    """What follows from so many signals of one kind within a time."""

    kind: str
    count: int
    within: float
    """Seconds."""
    standing: Standing
    lasts: float | None
    """Seconds that a suspension lasts; None without end."""
    share: float = 0.0
    """Of the account's finished jobs that must have been refused, so that much use is no misuse."""


RULES = (
    Rule(FIXED, 3, 30 * DAY, Standing.BANNED, None),
    Rule(FIXED, 1, 30 * DAY, Standing.SUSPENDED, 7 * DAY),
    Rule(PROBING, 10, DAY, Standing.SUSPENDED, DAY),
    Rule(MANY_ACCOUNTS, 1, DAY, Standing.SUSPENDED, DAY),
    Rule(REFUSED, 30, DAY, Standing.SUSPENDED, DAY, share=0.2),
    Rule(PROBING, 4, DAY, Standing.WARNED, None),
    Rule(REFUSED, 10, DAY, Standing.WARNED, None, share=0.2),
)
"""The strictest first; the first that holds counts."""

_SEVERITY = list(Standing)


def note_refusal(session: Session, job: Job, refusal: Mapping[str, Any]) -> None:
    """Note that a filter refused a job, and whether it looks like trying a filter's edges.

    A check that could not look refuses too; that is no doing of the account.
    """
    if refusal.get("category") == UNCHECKED:
        return
    account_id, prompt = job.account_id, job.asked["prompt"]
    at = session.scalar(select(now())) or 0.0
    print_ = simhash(prompt)
    before = select(Signal.detail).where(
        Signal.account_id == account_id, Signal.kind == REFUSED, Signal.at > at - DAY
    )
    earlier = [int(detail["simhash"], 16) for detail in session.scalars(before) if "simhash" in detail]
    detail = {"job": job.id, "simhash": f"{print_:016x}"}
    kinds = [REFUSED]
    if refusal.get("fixed"):
        kinds.append(FIXED)
    if any((print_ ^ other).bit_count() <= PROBE_BITS for other in earlier):
        kinds.append(PROBING)
    for kind in kinds:
        session.add(Signal(account_id=account_id, kind=kind, detail=detail, at=at))
    session.flush()


def judge_all(session: Session, settings: Settings, audit: Audit) -> int:
    """Apply the rules to every account with signals in the last month; returns how many they changed."""
    _note_shared_sources(session)
    recent = select(Signal.account_id).where(Signal.at > now() - 30 * DAY).distinct()
    return sum(judge(session, audit, account_id) for account_id in session.scalars(recent).all())


def judge(session: Session, audit: Audit, account_id: str) -> bool:
    """Apply the rules to one account; returns whether its standing changed.

    Signals from before a person last decided about the account no longer count.
    """
    account = session.get_one(Account, account_id, with_for_update=True)
    at = session.scalar(select(now())) or 0.0
    if account.standing_until is not None and account.standing_until < at:
        account.standing_until = None
        accounts.set_standing(session, audit, account_id, Standing.GOOD, "its time is over", actor="rules")
        session.refresh(account)
    for rule in RULES:
        if _SEVERITY.index(rule.standing) <= _SEVERITY.index(Standing(account.standing)):
            continue
        if _holds(session, account, rule, at):
            reason = f"{rule.kind}: {rule.count} in {rule.within / DAY:g} days"
            until = at + rule.lasts if rule.lasts else None
            accounts.set_standing(
                session, audit, account_id, rule.standing, reason, until=until, actor="rules"
            )
            return True
    return False


def _holds(session: Session, account: Account, rule: Rule, at: float) -> bool:
    """Whether a rule holds, and something new happened since it, or a stricter one, last did."""
    counted = select(func.count(), func.max(Signal.at)).where(
        Signal.account_id == account.id,
        Signal.kind == rule.kind,
        Signal.at > max(at - rule.within, account.judged_from),
    )
    count, newest = session.execute(counted).one()
    if count < rule.count:
        return False
    if rule.share and refusal_rate(session, account.id, rule.within) < rule.share:
        return False
    as_strict = [f"account.{each}" for each in _SEVERITY[_SEVERITY.index(rule.standing) :]]
    applied = select(func.max(AuditEntry.at)).where(
        AuditEntry.subject == account.id, AuditEntry.actor == "rules", AuditEntry.action.in_(as_strict)
    )
    return newest > (session.scalar(applied) or 0.0)


def refusal_rate(session: Session, account_id: str, within: float = DAY) -> float:
    """Share of an account's finished jobs that a filter refused."""
    finished = select(Job.state, func.count()).where(
        Job.account_id == account_id, Job.finished > now() - within
    )
    counts = dict(session.execute(finished.group_by(Job.state)).all())
    refused = counts.get(JobState.REQUEST_MODERATED, 0) + counts.get(JobState.CONTENT_MODERATED, 0)
    return refused / max(1, sum(counts.values()))


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
        .where(Signal.kind == REFUSED, Signal.at > now() - DAY, Account.source.is_not(None))
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
