"""What admins are told of days, categories and accounts, on both databases."""

import time
from typing import Any

from openkontext.service.people import accounts, trends
from openkontext.service.people.misuse import DAY
from openkontext.service.people.service_audit import Audit
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Account, Job, JobState, Signal, Standing


def job(account: Account, state: JobState, at: float, **values: Any) -> Job:
    given = {"model": "m", "asked": {}, "inputs": [], "deadline": at, "base_url": "", "finished": at + 1}
    return Job(account_id=account.id, state=state, created=at, **given | values)


def test_days_categories_and_conduct(database: Database, audit: Audit) -> None:
    today = time.time() // DAY * DAY + 1
    with database.transaction() as session:
        ann = accounts.add_account(session, audit, "ann")
        bob = accounts.add_account(session, audit, "bob")
        accounts.make_key(session, audit, ann)
        weapons, nudity = {"category": "weapons"}, {"category": "nudity"}
        session.add_all(
            [
                job(ann, JobState.READY, today),
                job(ann, JobState.READY, today - DAY),
                job(ann, JobState.READY, today - 2 * DAY),
                job(ann, JobState.CONTENT_MODERATED, today, refusal=nudity),
                job(bob, JobState.REQUEST_MODERATED, today - DAY, refusal=weapons),
                job(bob, JobState.REQUEST_MODERATED, today - DAY, refusal=weapons),
                job(bob, JobState.READY, today - 30 * DAY),
                job(bob, JobState.QUEUED, today, finished=None),
                Signal(account_id=bob.id, kind="probing", detail={}, at=today - DAY),
                Signal(account_id=bob.id, kind="refused", detail={}, at=today - DAY),
                Signal(account_id=ann.id, kind="refused", detail={}, at=today - DAY),
            ]
        )
    with database.transaction() as session:  # a person decided: what ann did before no longer counts
        accounts.set_standing(session, audit, ann.id, Standing.GOOD, "a slip")
    with database.reading() as session:
        days = trends.by_day(session, 3)
        assert [day.begins for day in days] == [today - 1 - 2 * DAY, today - 1 - DAY, today - 1]
        assert [day.jobs for day in days] == [
            {"ready": 1},
            {"ready": 1, "request_moderated": 2},
            {"ready": 1, "content_moderated": 1, "queued": 1},
        ]
        assert [day.signals for day in days] == [{}, {"probing": 1, "refused": 2}, {}]
        assert trends.refused_categories(session, 3) == {"weapons": 2, "nudity": 1}
        first, second = trends.conduct(session, 14)
        assert (first.account.name, first.edits, first.refused, first.signals, first.keys) == (
            "bob",
            2,
            2,
            {"probing": 1, "refused": 1},
            0,
        )
        assert (second.account.name, second.edits, second.refused, second.signals, second.keys) == (
            "ann",
            4,
            1,
            {},
            1,
        )
