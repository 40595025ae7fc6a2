"""`kill -9` of any process at any moment: nothing accepted is lost, nothing delivered twice, webhooks arrive.

The short run is part of the fast tests; the long one prints its figures:
`python -m pytest -m slow -s tests/service/test_crash.py [--kills 300]`.
"""

import collections
import hashlib
import hmac
import json
import random
import signal
import threading
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from patience import DEAD
from running import Receiver, Service, b64, brightness, get, png
from sqlalchemy import func, select

from openkontext import provenance
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState

SECRET = "between us"
BREATH = 20.0
"""At most so many seconds the service is given to finish an edit before the next kill."""
INPUTS = {"prompt": "make it brighter", "input_image": b64(png()), "steps": 60, "webhook_secret": SECRET}


class Client(threading.Thread):
    """Submits one edit after another, and asks again with the same idempotency key until it is accepted."""

    def __init__(self, service: Service, key: str, hook: str, number: int) -> None:
        super().__init__(daemon=True)
        self.client, self.hook, self.number = service.client(key), hook, number
        self.accepted: list[str] = []
        self.failures = 0
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            self.accepted.append(self.submit(f"{self.number}: {len(self.accepted)}"))
            self.ending.wait(0.05)
        self.client.close()

    def submit(self, name: str) -> str:
        while True:
            try:
                answer = self.client.post(
                    "/v1/flux-kontext-dev",
                    json=INPUTS | {"webhook_url": self.hook},
                    headers={"Idempotency-Key": name},
                )
                if answer.status_code == 200:
                    return answer.json()["id"]
                assert answer.status_code == 429, answer.text
            except httpx2.TransportError:
                self.failures += 1
            time.sleep(0.1)


def finished(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).where(Job.finished.is_not(None))) or 0


def kill_one(service: Service, random_: random.Random) -> str:
    """Kill a random process of the service; a whole service that is killed is started anew."""
    supervisor = psutil.Process(service.process.pid)
    children = [child for child in supervisor.children() if child.status() != psutil.STATUS_ZOMBIE]
    victim = random_.choice([*children, *children, supervisor])
    line = victim.cmdline()
    victim.send_signal(signal.SIGKILL)
    if victim.pid != supervisor.pid:
        return line[line.index("--role") + 1] if "--role" in line else "not yet begun"
    service.process.wait()
    psutil.wait_procs(children, timeout=DEAD)  # they notice that they are orphans
    service.start()
    return "supervisor"


def crash(service: Service, url: str, kills: int, pause: float) -> str:
    service.run("accounts", "add", "ann")
    key = service.run("keys", "create", "ann")["key"]
    service.start()
    service.environment["OPENKONTEXT_PORT"] = service.url.rpartition(":")[2]
    with service.client(key) as client:
        client.post("/v1/consent", json={"version": "1"})
    receiver, random_ = Receiver(), random.Random(kills)
    receiver.answers = [random_.choice([204, 500]) for _ in range(kills)]
    clients = [Client(service, key, receiver.url, number) for number in range(3)]
    for client in clients:
        client.start()
    killed: collections.Counter[str] = collections.Counter()
    database = Database(url)
    for _ in range(kills):
        # Where a busy machine starts processes slowly, some work is let through between two kills.
        before, ends = finished(database), time.monotonic() + BREATH
        while finished(database) == before and time.monotonic() < ends:
            time.sleep(0.1)
        time.sleep(random_.uniform(0, 2 * pause))
        killed[kill_one(service, random_)] += 1
    for client in clients:
        client.ending.set()
    for client in clients:
        client.join()
    accepted = [id for client in clients for id in client.accepted]
    assert len(set(accepted)) == len(accepted)

    ends = time.monotonic() + 3 * DEAD
    while True:
        with database.reading() as session:
            counts = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        told = {json.loads(body)["id"] for _, body in receiver.got}
        if counts == {JobState.READY: len(accepted)} and told >= set(accepted):
            break
        assert time.monotonic() < ends, (counts, len(accepted), len(told))
        time.sleep(0.1)

    # Each was delivered once: whoever was told of it, and however often, was told of the same end.
    told_of: dict[str, set[str]] = collections.defaultdict(set)
    for headers, body in receiver.got:
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["X-BFL-Signature"] == f"sha256={signature}"
        message = json.loads(body)
        assert message["status"] == "Ready"
        told_of[message["id"]].add(f"{message['timestamp']} {message['result']['end_time']}")
    assert set(told_of) == set(accepted)
    assert all(len(ends_told) == 1 for ends_told in told_of.values())
    with service.client(key) as asking:
        for id in accepted:
            done = asking.get("/v1/get_result", params={"id": id}).json()
            picture = get(done["result"]["sample"])
            assert abs(brightness(picture.content) - 112.75) < 1.5  # it went through the editor
            assert provenance.verify(picture.content).valid  # and is signed
    with database.reading() as session:
        attempts = session.scalar(select(func.sum(Job.attempts))) or 0
    database.close()
    receiver.close()
    service.stop()
    return (
        f"{database.engine.dialect.name}: {kills} kills ({dict(killed)}), {len(accepted)} edits "
        f"accepted and delivered, all signed, {attempts - len(accepted)} done again after a crash, "
        f"{sum(client.failures for client in clients)} requests cut off and asked again, "
        f"{len(receiver.got)} webhook deliveries of {len(accepted)}"
    )


def test_nothing_is_lost_in_a_few_crashes(tmp_path: Path, copier: Path) -> None:
    crash_service(f"sqlite:///{tmp_path / 'service.db'}", tmp_path, copier, kills=4, pause=0.4)


@pytest.mark.slow
def test_nothing_is_lost_in_many_crashes(
    database_url: str, tmp_path: Path, copier: Path, pytestconfig: pytest.Config
) -> None:
    crash_service(database_url, tmp_path, copier, kills=pytestconfig.getoption("kills"), pause=0.3)


def crash_service(database_url: str, tmp_path: Path, copier: Path, kills: int, pause: float) -> None:
    service = Service(
        tmp_path,
        copier,
        database_url=database_url,
        workers=2,
        lease_seconds=1.5,
        max_attempts=1000,
        deadline_seconds=3600,
        queue_size=20,  # clients wait their turn: a long queue would only be waited for at the end
        concurrency=1000,
        webhook_attempts=100,
    )
    try:
        print(crash(service, database_url, kills, pause))
    finally:
        service.process.terminate()  # where it failed; `crash` has ended it already where not
