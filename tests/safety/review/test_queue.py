"""The review queue: who may decide what, what expires, and an audit log that shows tampering."""

import hashlib
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import sobel
from sqlalchemy.exc import DatabaseError

from openkontext.errors import InputError
from openkontext.safety.review.queue import HeldRequest, ReviewQueue

VERDICT = {"allowed": False, "fixed": False, "category": "weapons"}


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def queue(database: Path, clock: Clock) -> ReviewQueue:
    return ReviewQueue(f"sqlite:///{database}", clock=clock)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def hold(queue: ReviewQueue, prompt: str = "add a sword", **changes: Any) -> HeldRequest:
    given: dict[str, Any] = {
        "options": {"seed": 1},
        "verdict": VERDICT,
        "pictures": {"input": picture()},
        "requester": "ann",
    }
    return queue.hold(prompt=prompt, **(given | changes))


def test_a_request_is_held_until_someone_approves(queue: ReviewQueue, clock: Clock) -> None:
    held = hold(queue)
    assert [each.id for each in queue.requests()] == [held.id]
    assert (held.state, held.prompt, held.verdict, held.pictures) == (
        "held",
        "add a sword",
        VERDICT,
        ("input",),
    )
    assert not queue.approved("add a sword", {"seed": 1}, {"input": picture()})
    decided = queue.decide(held.id[:6], "bob", approve=True, reason="a toy")
    assert decided.state == "approved"
    assert [(each.reviewer, each.approve, each.reason) for each in decided.decisions] == [
        ("bob", True, "a toy")
    ]
    assert queue.requests() == []
    assert queue.approved("add a sword", {"seed": 1}, {"input": picture()})


@pytest.mark.parametrize(
    ("prompt", "options", "pictures"),
    [
        ("add two swords", {"seed": 1}, {"input": picture()}),
        ("add a sword", {"seed": 2}, {"input": picture()}),
        ("add a sword", {"seed": 1}, {"input": picture(1)}),
        ("add a sword", {"seed": 1}, {"output": picture()}),
        ("add a sword", {"seed": 1}, {}),
    ],
)
def test_an_approval_is_for_that_very_request(
    queue: ReviewQueue, prompt: str, options: dict[str, Any], pictures: dict[str, np.ndarray]
) -> None:
    queue.decide(hold(queue).id, "bob", approve=True, reason="fine")
    assert not queue.approved(prompt, options, pictures)


def test_an_approval_ends(queue: ReviewQueue, clock: Clock) -> None:
    queue.decide(hold(queue).id, "bob", approve=True, reason="fine")
    clock.pass_days(6.9)
    assert queue.approved("add a sword", {"seed": 1}, {"input": picture()})
    clock.pass_days(0.2)
    assert not queue.approved("add a sword", {"seed": 1}, {"input": picture()})


def test_the_same_request_is_held_once(queue: ReviewQueue, clock: Clock) -> None:
    held = hold(queue)
    assert hold(queue).id == held.id
    queue.decide(held.id, "bob", approve=False, reason="no")
    assert hold(queue).state == "rejected"  # asking again does not wear the reviewer down
    clock.pass_days(8)
    assert hold(queue).state == "held"


def test_the_queue_takes_nothing_of_a_fixed_category(queue: ReviewQueue) -> None:
    with pytest.raises(ValueError, match="never reviewed"):
        hold(queue, verdict={"allowed": False, "fixed": True, "category": "known_material"})
    assert queue.requests(None) == []
    assert queue.audit() == []


def test_two_reviewers_must_approve(database: Path, clock: Clock) -> None:
    queue = ReviewQueue(f"sqlite:///{database}", reviewers=2, clock=clock)
    held = hold(queue)
    assert queue.decide(held.id, "bob", approve=True, reason="fine").state == "held"
    with pytest.raises(InputError, match="needs another reviewer"):
        queue.decide(held.id, "bob", approve=True, reason="really fine")
    lenient = ReviewQueue(f"sqlite:///{database}", reviewers=1, clock=clock)
    assert not lenient.approved("add a sword", {"seed": 1}, {"input": picture()})
    assert lenient.decide(held.id, "eve", approve=True, reason="fine").state == "approved"


def test_one_reviewer_rejects(database: Path, clock: Clock) -> None:
    queue = ReviewQueue(f"sqlite:///{database}", reviewers=2, clock=clock)
    held = hold(queue)
    queue.decide(held.id, "bob", approve=True, reason="fine")
    assert queue.decide(held.id, "eve", approve=False, reason="no").state == "rejected"


@pytest.mark.parametrize(
    ("reviewer", "reason", "message"),
    [("bob", " ", "needs a reason"), ("ann", "mine", "is your own")],
)
def test_who_may_not_decide(queue: ReviewQueue, reviewer: str, reason: str, message: str) -> None:
    held = hold(queue)
    with pytest.raises(InputError, match=message):
        queue.decide(held.id, reviewer, approve=True, reason=reason)
    assert queue.get(held.id).state == "held"


def test_a_decision_stands(queue: ReviewQueue) -> None:
    held = hold(queue)
    queue.decide(held.id, "bob", approve=False, reason="no")
    with pytest.raises(InputError, match="is rejected already"):
        queue.decide(held.id, "eve", approve=True, reason="yes")


def test_what_nobody_decides_expires_and_its_pictures_go(
    queue: ReviewQueue, clock: Clock, database: Path
) -> None:
    held = hold(queue)
    clock.pass_days(7.1)
    with pytest.raises(InputError, match="is expired already"):
        queue.decide(held.id, "bob", approve=True, reason="late")
    assert queue.expire() == 1
    assert queue.expire() == 0
    assert queue.get(held.id).state == "expired"
    assert queue.get(held.id).pictures == ()
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM review_picture").fetchone() == (0,)


def test_no_such_request(queue: ReviewQueue) -> None:
    for name in ("", "zz", "%"):
        with pytest.raises(InputError, match="no request begins"):
            queue.get(name)
    first, second = hold(queue), hold(queue, "another")
    if first.id[0] == second.id[0]:
        with pytest.raises(InputError, match="more than one"):
            queue.get(first.id[0])


def test_thumbnails_are_blurred_until_asked_for(queue: ReviewQueue) -> None:
    held = hold(queue, pictures={"input": skimage.data.astronaut(), "output": skimage.data.chelsea()})
    sharpness = {}
    for clear in (False, True):
        shown = np.asarray(queue.picture(held.id, "input", "bob", clear=clear).convert("L"), float)
        sharpness[clear] = np.abs(sobel(shown)).mean()
        assert shown.shape == (512, 512)
    assert sharpness[False] < sharpness[True] / 10
    with pytest.raises(InputError, match="it has input, output"):
        queue.picture(held.id, "mask", "bob")
    assert [(each.action, each.actor, each.detail) for each in queue.audit(held.id)] == [
        ("held", "ann", {"category": "weapons"}),
        ("seen", "bob", {"picture": "input"}),  # looking at the blurred one is no event
    ]


def test_the_database_is_for_its_owner_alone(queue: ReviewQueue, database: Path) -> None:
    hold(queue)
    assert database.stat().st_mode & 0o077 == 0


def test_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be opened"):
        ReviewQueue(f"sqlite:///{tmp_path}/file/queue.db")
    with pytest.raises(InputError) as caught:
        ReviewQueue("nosuch://bob:secret@host/db")
    assert "secret" not in str(caught.value)


def test_decisions_at_the_same_time_count_each_reviewer_once(database: Path) -> None:
    queue = ReviewQueue(f"sqlite:///{database}", reviewers=3)
    held = hold(queue)
    outcomes: list[str] = []

    def decide(name: str) -> None:
        mine = ReviewQueue(f"sqlite:///{database}", reviewers=3)
        try:
            outcomes.append(mine.decide(held.id, name, approve=True, reason="fine").state)
        except InputError as error:
            # Bob's second: before the last approval it is one too many of his, after it one too late.
            outcomes.append("refused" if "already" in str(error) else str(error))

    threads = [threading.Thread(target=decide, args=(name,)) for name in ("bob", "eve", "bob", "joe")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["approved", "held", "held", "refused"]
    assert queue.audit_faults() == []
    assert [entry.number for entry in queue.audit()] == [1, 2, 3, 4]


# The audit log


@pytest.fixture
def history(queue: ReviewQueue) -> ReviewQueue:
    for prompt in ("one", "two", "three"):
        held = hold(queue, prompt)
        queue.decide(held.id, "bob", approve=prompt != "two", reason="because")
    assert queue.audit_faults() == []
    return queue


def test_the_log_says_who_did_what_and_when(history: ReviewQueue) -> None:
    entries = history.audit()
    assert [entry.action for entry in entries] == ["held", "approved", "held", "rejected", "held", "approved"]
    assert {entry.actor for entry in entries[1::2]} == {"bob"}
    assert entries[3].detail == {"reason": "because", "state": "rejected"}
    assert all(abs(datetime.now(UTC) - entry.time) < timedelta(minutes=1) for entry in entries)


@pytest.mark.parametrize("statement", ["UPDATE review_audit SET body = 'x'", "DELETE FROM review_audit"])
def test_the_database_itself_refuses_to_change_the_log(
    history: ReviewQueue, database: Path, statement: str
) -> None:
    with sqlite3.connect(database) as connection, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(statement)
    assert history.audit_faults() == []


TAMPERING = {
    "changed": (
        "UPDATE review_audit SET body = replace(body, 'rejected', 'approved') WHERE number = 4",
        "entry 4",
    ),
    "renamed": ("UPDATE review_audit SET body = replace(body, 'bob', 'eve') WHERE number = 6", "entry 6"),
    "removed": ("DELETE FROM review_audit WHERE number = 3", "entry 3 is missing"),
    "cut off": ("DELETE FROM review_audit WHERE number > 4", "ends at entry 4"),
    "emptied": ("DELETE FROM review_audit", "ends at entry 0"),
    "damaged": ("UPDATE review_audit SET body = 'x' WHERE number = 1", "entry 1 was changed"),
    "swapped": (
        "UPDATE review_audit SET number = 99 WHERE number = 2;"
        "UPDATE review_audit SET number = 2 WHERE number = 4;"
        "UPDATE review_audit SET number = 4 WHERE number = 99",
        "entry 2",
    ),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_shows(history: ReviewQueue, database: Path, kind: str) -> None:
    statements, expected = TAMPERING[kind]
    with sqlite3.connect(database) as connection:
        connection.executescript("DROP TRIGGER review_audit_no_update; DROP TRIGGER review_audit_no_delete;")
        connection.executescript(statements)
    assert any(expected in fault for fault in history.audit_faults())
    history.audit()  # can still be read


def test_a_chain_that_was_computed_anew_is_not_the_one_that_was_witnessed(
    history: ReviewQueue, database: Path, tmp_path: Path
) -> None:
    forged = ReviewQueue(f"sqlite:///{tmp_path / 'forged.db'}")
    for prompt in ("one", "two", "three"):
        forged.decide(hold(forged, prompt).id, "bob", approve=True, reason="because")
    assert forged.audit_faults() == []
    (tmp_path / "forged.db").replace(database)
    reopened = ReviewQueue(f"sqlite:///{database}")
    assert reopened.audit_faults() == ["entry 6 is not the one that the witness has seen"]


def test_a_log_of_before_is_read_and_goes_on(queue: ReviewQueue, database: Path) -> None:
    """Rows as they always were: SHA-256 over the digest before, the number and the body, a line each."""
    body = (
        '{"action": "held", "actor": "Zoë", "detail": {"category": "x"}, "subject": "r1", '
        '"time": "2026-11-29T16:06:15.973263+00:00"}'
    )
    digest = hashlib.sha256(f"{'0' * 64}\n1\n{body}".encode()).hexdigest()
    hold(queue, "makes the tables")
    with sqlite3.connect(database) as connection:
        connection.executescript("DROP TRIGGER review_audit_no_update; DROP TRIGGER review_audit_no_delete;")
        connection.execute("DELETE FROM review_audit")
        connection.execute(
            "INSERT INTO review_audit (number, body, previous, digest) VALUES (?, ?, ?, ?)",
            (1, body, "0" * 64, digest),
        )
    database.with_name("queue.db.witness").write_text(f"1 {digest}\n")
    assert queue.audit_faults() == []
    (entry,) = queue.audit()
    assert (entry.actor, entry.action, entry.subject, entry.detail) == (
        "Zoë",
        "held",
        "r1",
        {"category": "x"},
    )
    assert entry.time == datetime(2026, 11, 29, 16, 6, 15, 973263, UTC)
    hold(queue, "goes on")
    assert queue.audit_faults() == []


@pytest.mark.parametrize(
    "statement", ["previous = digest WHERE number = 3", "digest = previous WHERE number = 6"]
)
def test_every_column_of_the_chain_is_watched(history: ReviewQueue, database: Path, statement: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.executescript("DROP TRIGGER review_audit_no_update; DROP TRIGGER review_audit_no_delete;")
        connection.execute(f"UPDATE review_audit SET {statement}")
    assert history.audit_faults()


def test_the_log_misses_its_witness(history: ReviewQueue, database: Path) -> None:
    witness = database.with_name("queue.db.witness")
    witness.write_text("nonsense")
    assert "damaged" in history.audit_faults()[0]
    witness.unlink()
    assert "missing" in history.audit_faults()[0]


def test_a_queue_that_cannot_be_logged_does_not_decide(history: ReviewQueue, database: Path) -> None:
    held = hold(history, "four")
    with sqlite3.connect(database) as connection:
        connection.executescript(
            "CREATE TRIGGER stop BEFORE INSERT ON review_audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(DatabaseError):
        history.decide(held.id, "bob", approve=True, reason="fine")
    assert history.get(held.id).state == "held"


def test_opening_the_queue_leaves_the_locks_of_other_connections(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    other = sqlite3.connect(path, isolation_level=None)  # in this process, as a service's own connections
    other.execute("pragma journal_mode = wal")
    other.execute("create table told (word)")
    ReviewQueue(f"sqlite:///{path}")

    def elsewhere(command: str) -> str:
        code = f"import sqlite3; print(sqlite3.connect({str(path)!r}).execute({command!r}).fetchall())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    elsewhere("select * from told")  # thinks itself the last when it closes, where our locks are gone
    other.execute("insert into told values ('kept')")
    assert "kept" in elsewhere("select * from told")
    other.close()
