"""What accounts do over time, on both databases: warnings, suspensions, bans, appeals, and their record."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from openkontext import InputError
from openkontext.service.people import accounts, misuse
from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import (
    Account,
    Appeal,
    AuditRecord,
    EndUser,
    Job,
    JobState,
    Signal,
    Standing,
)

PLAIN = {"category": "gore", "stage": "prompt", "fixed": False}
FIXED = {"category": "ncii", "stage": "prompt", "fixed": True}
KNOWN = {"category": "known_material", "stage": "input", "fixed": True}
DIFFERENT = [
    "turn the sky into a storm", "paint all houses green", "add nine balloons", "remove that tree",
    "let it snow over the lake", "make the moon larger", "change boats to ducks", "a desert at noon",
    "replace the fence by flowers", "put fog on the hills", "give the cat a hat", "draw it in charcoal",
]  # fmt: skip

Refuse = Callable[..., None]


@pytest.fixture
def refuse(database: Database) -> Refuse:
    """Has a job of an account refused, or done when there is no refusal."""

    def act(account_id: str, prompt: str, refusal: dict | None = PLAIN, end_user: str | None = None) -> None:
        with database.transaction() as session:
            at = session.scalar(select(now()))
            state = JobState.REQUEST_MODERATED if refusal else JobState.READY
            job = Job(
                account_id=account_id, end_user=end_user, model="m", asked={"prompt": prompt}, inputs=[],
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
        actions = session.scalars(select(AuditRecord.action).where(AuditRecord.subject == ann)).all()
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


def standings(database: Database, account_id: str) -> tuple[str, dict[str, str]]:
    """Of an account, and of its end users."""
    with database.reading() as session:
        known = session.scalars(select(EndUser).where(EndUser.account_id == account_id))
        return session.get_one(Account, account_id).standing, {one.id: one.standing for one in known}


def test_the_first_fixed_refusal_warns_where_the_operator_says_so(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    mild, ann = settings.model_copy(update={"first_fixed_refusal": "warn"}), add("ann")
    seen = []
    for prompt in "abcd":
        refuse(ann, prompt, FIXED)
        seen.append(judge(database, mild, audit, ann)[0])
    assert seen == [Standing.WARNED, Standing.SUSPENDED, Standing.SUSPENDED, Standing.BANNED]


def test_the_owner_of_a_service_without_keys_is_warned_first(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse
) -> None:
    with database.transaction() as session:
        owner = accounts.local_account(session).id
    refuse(owner, "a", FIXED)
    assert judge(database, settings, audit, owner)[0] == Standing.WARNED
    refuse(owner, "b", FIXED)
    assert judge(database, settings, audit, owner)[0] == Standing.SUSPENDED


@pytest.mark.parametrize("step", ["warn", "suspend"])
def test_a_match_with_known_material_suspends_whoever_and_whatever_is_set(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str], step: str
) -> None:
    settings = settings.model_copy(update={"first_fixed_refusal": step})
    with database.transaction() as session:
        owner = accounts.local_account(session).id
    refuse(owner, "a", KNOWN)
    assert judge(database, settings, audit, owner)[0] == Standing.SUSPENDED
    shop = add("shop")
    for count, standing in ((1, Standing.SUSPENDED), (3, Standing.BANNED)):
        for index in range(count):
            refuse(shop, DIFFERENT[index], KNOWN, f"{count} {index}")
        assert judge(database, settings, audit, shop)[0] == standing
    assert set(standings(database, shop)[1].values()) == {Standing.SUSPENDED}


def test_an_account_answers_for_its_end_users_when_many_of_them_are_refused(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    shop, careless = add("shop"), add("careless")
    for _ in range(12):  # one of them, over and over
        refuse(shop, DIFFERENT[0], PLAIN, "bob")
    refuse(shop, DIFFERENT[1], FIXED, "eve")
    judge(database, settings, audit, shop)
    account, of = standings(database, shop)
    assert (account, of) == (Standing.GOOD, {"bob": Standing.SUSPENDED, "eve": Standing.SUSPENDED})

    for index in range(3):
        refuse(careless, DIFFERENT[index], FIXED, f"name {index}")
    assert judge(database, settings, audit, careless)[0] == Standing.WARNED
    for index in range(3, 5):
        refuse(careless, DIFFERENT[index], FIXED, f"name {index}")
    standing, reason = judge(database, settings, audit, careless)
    assert (standing, reason) == (
        Standing.SUSPENDED,
        "fixed category: 5 in 30 days of 3 end users or more",
    )

    busy = add("busy")  # the same five among a hundred and fifty edits
    for index in range(5):
        refuse(busy, DIFFERENT[index], FIXED, f"name {index}")
    for index in range(146):
        refuse(busy, "make it night", None, f"name {index}")
    assert judge(database, settings, audit, busy)[0] == Standing.WARNED
    assert set(standings(database, busy)[1].values()) == {Standing.SUSPENDED}


def test_what_an_end_user_did_says_nothing_of_another_or_of_the_account_itself(
    database: Database, settings: Settings, audit: Audit, refuse: Refuse, add: Callable[[str], str]
) -> None:
    shop = add("shop")
    probe = "cover the floor of the whole hall with something that the filter does not like"
    for change, end_user in zip(("", "!", " pls", " now", "  again"), "abcde", strict=True):
        refuse(shop, probe + change, PLAIN, end_user)
    refuse(shop, probe + " for me", PLAIN)
    judge(database, settings, audit, shop)
    assert standings(database, shop) == (Standing.GOOD, dict.fromkeys("abcde", Standing.GOOD))
    with database.reading() as session:
        assert set(session.scalars(select(Signal.kind))) == {misuse.REFUSED}


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
        session.add(Appeal(account_id=ann, text="that was the museum's own catalog", created=1.0))
    with database.transaction() as session:
        appeal = session.scalars(select(Appeal)).one()
        accounts.decide_appeal(session, audit, appeal.id, grant=True, reason="so it was", actor="rita")
    assert judge(database, settings, audit, ann) == (Standing.GOOD, "appeal: so it was")
    with database.transaction() as session, pytest.raises(InputError, match="no open appeal"):
        accounts.decide_appeal(session, audit, appeal.id, grant=False, reason="again")
    refuse(ann, "b", FIXED)
    assert judge(database, settings, audit, ann)[0] == Standing.SUSPENDED  # what comes later counts
    with database.reading() as session:
        row = session.scalars(select(AuditRecord).where(AuditRecord.action == "appeal.grant")).one()
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
