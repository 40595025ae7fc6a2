"""Text of every kind through the running service: taken, done, and given back as it came."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import Service, b64, png, poll
from sqlalchemy import select

from openkontext.safety.review.queue import ReviewQueue
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Account

TEXTS = [
    "don’t “make it” — brighter… ½ £5 café",
    "make it brighter 🌙👍🏽🇫🇷",
    "夜にして",
    "اجعلها أكثر إشراقا",
    "make it\x00 brighter",
    "\ufeffmake it\u200b \u202ebrighter\x1b[0m",
    "\ue000 make it\nbrighter\t\u2028 </s> <|endoftext|>",
]


def test_text_with_nul_is_kept_and_asked_for_in_either_database(
    database_url: str, database: Database
) -> None:
    text = "make it\x00 夜"
    queue = ReviewQueue(database_url)
    held = queue.hold(
        prompt=text,
        options={"negative_prompt": text},
        verdict={},
        pictures={"image": np.zeros((8, 8, 3), np.uint8)},
        requester=text,
    )
    queue.decide(held.id, reviewer=text, approve=False, reason=text)
    assert queue.get(held.id).prompt == "make it␀ 夜"
    with database.transaction() as session:
        session.add(Account(name=text, created=0.0, source=text))
    with database.reading() as session:
        assert session.get(Account, "\x00") is None
        (account,) = session.scalars(select(Account).where(Account.name == text))
        assert account.name == "make it␀ 夜"


@pytest.fixture
def service(tmp_path: Path, copier: Path) -> Iterator[Service]:
    made = Service(tmp_path, copier, price=1)
    made.run("accounts", "add", "Ann 夜", "--credit", "1000")
    made.key = made.run("keys", "create", "Ann 夜")["key"]
    made.start()
    yield made
    made.stop()


def test_any_text_is_an_instruction_and_comes_back_as_it_was(service: Service) -> None:
    with service.client(service.key) as client:
        client.post("/v1/consent", json={"version": "1"})
        tasks = {}
        for text in TEXTS:
            body = {"prompt": text, "input_image": b64(png()), "steps": 1, "user": f"{text[:20]}\x00"}
            answer = client.post("/v1/flux-kontext-pro", json=body)
            assert answer.status_code == 200, (text, answer.text)
            tasks[text] = answer.json()["id"]
        for text, task in tasks.items():
            done = poll(client, task)
            assert done["status"] == "Ready", (text, done)
            assert done["result"]["prompt"] == text
        for text in TEXTS[:2]:
            answer = client.post(
                "/v1/images/edits",
                data={"prompt": text},
                files={"image": (f"{text}.png", png(), "image/png")},
            )
            assert answer.status_code == 200, (text, answer.text)
        for text in ("a\ud800b", "\u200b\u3000", "\x00"):
            body = json.dumps({"prompt": text, "input_image": b64(png())})
            answer = client.post(
                "/v1/flux-kontext-pro", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422, ascii(text)
            assert answer.json()["detail"][0]["loc"][-1] == "prompt"
    assert not [entry for entry in service.logs() if entry.get("level") == "error"]
