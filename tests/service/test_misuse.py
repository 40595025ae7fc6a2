"""What accounts do over time, on both databases: warnings, suspensions, bans, appeals, and their record."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from openkontext import InputError
from openkontext.service import accounts, misuse
from openkontext.service.audit import Audit
from openkontext.service.database import Database, now
from openkontext.service.models import Account, Appeal, AuditEntry, Job, JobState, Signal, Standing
from openkontext.service.settings import Settings

PLAIN = {"category": "gore", "stage": "prompt", "fixed": False}
FIXED = {"category": "known_material", "stage": "input", "fixed": True}
DIFFERENT = [
    "turn the sky into a storm", "paint all houses green", "add nine balloons", "remove that tree",
    "let it snow over the lake", "make the moon larger", "change boats to ducks", "a desert at noon",
    "replace the fence by flowers", "put fog on the hills", "give the cat a hat", "draw it in charcoal",
]  # fmt: skip

Refuse = Callable[..., None]


@pytest.fixture
def refuse(database: Database) -> Refuse:
    """Has a job of an account refused, or done when there is no refusal."""

    def act(account_id: str, prompt: str, refusal: dict | None = PLAIN) -> None:
        with database.transaction() as session:
            at = session.scalar(select(now()))
            state = JobState.REQUEST_MODERATED if refusal else JobState.READY
            job = Job(
                account_id=account_id, model="m", asked={"prompt": prompt}, inputs=[],
                deadline=at, base_url="", created=at, finished=at, state=state,
            )  # fmt: skip
            session.add(job)
            session.flush()
            if refusal:
                misuse.note_refusal(session, job, refusal)

    return act


@pytest.fixture
def add(database: Database, audit: Audit) -> Callable[[str], str]:
    def act(name: str) -> str:
        with database.transaction() as session:
            return accounts.add_account(session, audit, name).id

    return act


def judge(database: Database, settings: Settings, audit: Audit, account_id: str) -> tuple[str, str | None]:
    with database.transaction() as session:
        misuse.judge_all(session, settings, audit)
    with database.reading() as session:
        account = session.get_one(Account, account_id)
        return account.standing, account.standing_reason


def test_many_refusals_warn_then_suspend_unless_most_is_good(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    ann, bob = add("ann"), add("bob")
    for prompt in DIFFERENT[:9]:
        refuse(ann, prompt)
    assert judge(database, settings, audit, ann)[0] == Standing.GOOD
    for prompt in DIFFERENT[:10]:
        refuse(bob, prompt)
    for _ in range(41):
        refuse(bob, "make it night", None)
    refuse(ann, DIFFERENT[9])
    assert judge(database, settings, audit, ann) == (Standing.WARNED, "refused: 10 in 1 days")
    assert judge(database, settings, audit, bob)[0] == Standing.GOOD  # 10 of 51 only
    for index in range(20):
        refuse(ann, f"{index} " + DIFFERENT[index % 12])
    standing, reason = judge(database, settings, audit, ann)
    assert standing == Standing.SUSPENDED
    assert reason
    with database.reading() as session:
        actions = session.scalars(select(AuditEntry.action).where(AuditEntry.subject == ann)).all()
        assert actions == ["account.add", "account.warned", "account.suspended"]
        assert audit.broken_at(session) is None


def test_fixed_categories_suspend_at_once_and_ban_at_the_third(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    ann = add("ann")
    refuse(ann, "a", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED
    with database.reading() as session:
        left = session.get_one(Account, ann).standing_until - session.scalar(select(now()))
        assert 6.9 < left / misuse.DAY <= 7
    refuse(ann, "b", FIXED)
    refuse(ann, "c", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.BANNED


def test_slightly_changed_instructions_are_seen_as_probing(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    ann, bob = add("ann"), add("bob")
    probe = "cover the floor of the whole hall with something that the filter does not like"
    for change in ("", "!", " pls", " now", "  again"):
        refuse(ann, probe + change)
    assert judge(database, settings, audit, ann) == (Standing.WARNED, "probing: 4 in 1 days")
    for prompt in DIFFERENT[:6]:
        refuse(bob, prompt)
    with database.reading() as session:
        kinds = session.scalars(select(Signal.kind).where(Signal.account_id == bob)).all()
        assert set(kinds) == {misuse.REFUSED}
        told = str(session.scalars(select(Signal.detail)).all())
        assert "filter" not in told  # a signal tells nothing of the instruction


def test_many_accounts_from_one_source(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    made = [add(f"account {index}") for index in range(4)]
    addresses = ["203.0.114.7", "203.0.114.8", "203.0.114.200", "198.51.99.1"]
    for account_id, address in zip(made, addresses, strict=True):
        with database.transaction() as session:
            accounts.note_source(session, settings, account_id, address)
            accounts.note_source(session, settings, account_id, "127.0.0.1")  # a proxy's says nothing
        refuse(account_id, DIFFERENT[0])
    standings = [judge(database, settings, audit, account_id)[0] for account_id in made]
    assert standings == [Standing.SUSPENDED] * 3 + [Standing.GOOD]
    with database.reading() as session:
        assert "203" not in str(session.get_one(Account, made[0]).source)[:3]


def test_a_check_that_could_not_look_is_no_doing_of_the_account(
    database: Database, refuse: Refuse, add: Callable[[str], str]
) -> None:
    refuse(add("ann"), "a", {"category": "unchecked", "fixed": False})
    with database.reading() as session:
        assert session.scalars(select(Signal)).all() == []


def test_an_appeal_restores_and_what_came_before_no_longer_counts(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    ann = add("ann")
    refuse(ann, "a", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED
    with database.transaction() as session:
        session.add(Appeal(account_id=ann, text="that was the museum's own catalogue", created=1.0))
    with database.transaction() as session:
        appeal = session.scalars(select(Appeal)).one()
        accounts.decide_appeal(session, audit, appeal.id, grant=True, reason="so it was", actor="rita")
    assert judge(database, settings, audit, ann) == (Standing.GOOD, "appeal: so it was")
    with database.transaction() as session, pytest.raises(InputError, match="no open appeal"):
        accounts.decide_appeal(session, audit, appeal.id, grant=False, reason="again")
    refuse(ann, "b", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED  # what comes later counts
    with database.reading() as session:
        row = session.scalars(select(AuditEntry).where(AuditEntry.action == "appeal.grant")).one()
        assert (row.actor, row.subject, row.detail["reason"]) == ("rita", ann, "so it was")


def test_a_suspension_ends_by_itself_and_only_something_new_brings_another(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    ann = add("ann")

    def end() -> None:
        with database.transaction() as session:
            session.execute(update(Account).values(standing_until=1.0))

    refuse(ann, "a", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED
    end()
    assert judge(database, settings, audit, ann) == (Standing.GOOD, "its time is over")
    assert judge(database, settings, audit, ann)[0] == Standing.GOOD
    refuse(ann, "b", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED
    end()
    assert judge(database, settings, audit, ann)[0] == Standing.GOOD
    refuse(ann, "c", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.BANNED  # the earlier ones count too
