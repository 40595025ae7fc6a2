"""Webhooks side by side, on both databases: who hangs is waited for alone, and nothing is forgotten."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import DEAD, wait
from running import Receiver
from sqlalchemy import update

from openkontext import InputError
from openkontext.service.fetching import fetch, post
from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue.jobs import JobOutcome, Submission, claim, finish, submit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import JobState, Webhook
from openkontext.service.workers import webhooks
from openkontext.service.workers.webhooks import OF_RECEIVER, Deliveries


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path, secret="s" * 32, allow_private_addresses=True, fetch_seconds=1000, concurrency=1000
    )


class Hanging:
    """A server that takes connections and never answers, or answers a byte now and then."""

    def __init__(self, drip: bytes = b"") -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/hook"
        self.drip, self.open = drip, []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self.listening.accept()
            except OSError:
                return
            self.open.append(taken)
            if self.drip:
                threading.Thread(target=self._answer, args=(taken,), daemon=True).start()

    def _answer(self, taken: socket.socket) -> None:
        for index in range(len(self.drip)):
            try:
                taken.sendall(self.drip[index : index + 1])
            except OSError:
                return
            time.sleep(0.05)

    def close(self) -> None:
        self.listening.close()
        for taken in self.open:
            taken.close()


@pytest.fixture
def hanging() -> Iterator[list[Hanging]]:
    made = [Hanging() for _ in range(6)]
    yield made
    for each in made:
        each.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def tell(database: Database, settings: Settings, audit: Audit) -> Callable[[str], str]:
    """Has a job end whose end is told to an address."""
    with database.transaction() as session:
        ann = accounts.add_account(session, audit, "ann").id

    def act(url: str) -> str:
        asked = Submission(account_id=ann, key_id=None, model="m", asked={"prompt": "p"}, webhook_url=url)
        with database.transaction() as session:
            id = submit(session, settings, asked).id
            lease = claim(session, settings)
            assert lease
            assert finish(session, settings, id, lease.token, JobOutcome(JobState.ERROR, error="no luck"))
        return id

    return act


@contextmanager
def keeping(settings: Settings, database: Database) -> Iterator[None]:
    stopping, deliveries = threading.Event(), Deliveries(settings, database)
    thread = threading.Thread(target=deliveries.run, args=(stopping,), daemon=True)
    thread.start()
    yield
    stopping.set()
    deliveries.settings = settings.model_copy(update={"fetch_seconds": 0.1})  # who hangs is left
    thread.join(DEAD)


def test_receivers_that_hang_delay_nobody_elses(
    settings: Settings,
    database: Database,
    hanging: list[Hanging],
    receiver: Receiver,
    tell: Callable[[str], str],
) -> None:
    for each in hanging:
        for _ in range(3):
            tell(each.url)
    told = [tell(receiver.url) for _ in range(12)]  # after all the others
    with keeping(settings, database):
        receiver.wait(len(told))
        wait(lambda: all(each.open for each in hanging))
        assert sorted(json.loads(body)["id"] for _, body in receiver.got) == sorted(told)
        assert [len(each.open) for each in hanging] == [1] * 6  # and these are asked one at a time


def test_no_receiver_gets_many_at_once(
    settings: Settings, database: Database, tell: Callable[[str], str]
) -> None:
    several, gate, lock, at_once, most = threading.Event(), threading.Event(), threading.Lock(), 0, 0
    receiver = Receiver()
    real = receiver.server.RequestHandlerClass.do_POST

    def slow(handler: object) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            if most > 1:
                several.set()
        if len(receiver.got) > 3:
            several.wait(DEAD)
            gate.wait(0.3)
        real(handler)
        with lock:
            at_once -= 1

    receiver.server.RequestHandlerClass.do_POST = slow
    told = [tell(receiver.url) for _ in range(20)]
    with keeping(settings, database):
        receiver.wait(len(told))
    receiver.close()
    assert 1 < most <= OF_RECEIVER


def test_what_was_not_taken_comes_again_from_another_keeper(
    settings: Settings,
    database: Database,
    receiver: Receiver,
    tell: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "FIRST_RETRY", 1000.0)
    receiver.answers = [500]
    id = tell(receiver.url)

    def row() -> Webhook:
        with database.reading() as session:
            return session.get_one(Webhook, id)

    before = time.time()
    with keeping(settings, database):
        wait(lambda: row().error is not None)
    assert (row().attempts, row().error, row().delivered) == (1, "answered 500", None)
    assert before + 749 < row().next_attempt < time.time() + 1251
    with database.transaction() as session:
        session.execute(update(Webhook).values(next_attempt=1.0))
    with keeping(settings, database):
        wait(lambda: row().delivered is not None)
    assert (row().attempts, row().error, row().next_attempt) == (2, None, None)
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    "drip", [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000]
)
def test_an_answer_that_drips_is_left_in_time(tmp_path: Path, drip: bytes) -> None:
    site = Hanging(drip)
    settings = Settings(data=tmp_path, allow_private_addresses=True, fetch_seconds=0.5)
    with pytest.raises(InputError, match="does not answer"):
        post(site.url, b"{}", {}, settings)
    with pytest.raises(InputError, match=r"does not answer|takes too long"):
        fetch(site.url, settings, 1000)
    site.close()
