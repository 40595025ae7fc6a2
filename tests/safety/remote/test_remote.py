"""Moderation services, played by a local server that answers as Hive documents, or fails as it may."""

import io
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from moderation import Server, hive_answer, serving
from patience import DEAD, wait
from PIL import Image
from pydantic import SecretStr

from openkontext.errors import InputError
from openkontext.safety.remote.client import RemoteError
from openkontext.safety.remote.generic import GenericModerator
from openkontext.safety.remote.hive import Hive, by_category

KEY = "sk-do-not-show-this"
PICTURE = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def hive(server: Server) -> Callable[..., Hive]:
    def make(**limits: float) -> Hive:
        patient = {"timeout": DEAD, "deadline": DEAD, "rest": DEAD}
        return Hive(SecretStr(KEY), url=server.url, **(patient | limits))

    return make


def test_sends_what_hive_documents_and_reads_its_answer(server: Server, hive: Callable[..., Hive]) -> None:
    server.answer((200, hive_answer(very_bloody=0.93, yes_child_present=0.7)))
    classes = hive().classes(PICTURE)
    assert classes["yes_child_present"] == 0.7
    assert by_category(classes)["gore"] == 0.93
    assert by_category(classes)["nudity"] == 0.01
    ((headers, fields),) = server.requests
    assert headers["authorization"] == f"token {KEY}"
    with Image.open(io.BytesIO(fields["media"])) as sent:
        assert (sent.format, sent.size) == ("JPEG", (120, 90))


def test_large_pictures_are_sent_smaller(server: Server, hive: Callable[..., Hive]) -> None:
    server.answer((200, hive_answer()))
    hive().classes(np.zeros((3000, 1500, 3), np.uint8))
    with Image.open(io.BytesIO(server.requests[0][1]["media"])) as sent:
        assert sent.size == (512, 1024)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tries_again_where_that_may_help(server: Server, hive: Callable[..., Hive], status: int) -> None:
    server.answer((status, {}), (status, {}), (200, hive_answer()))
    hive().classes(PICTURE)
    assert len(server.requests) == 3


def test_waits_as_long_as_it_is_asked_to(server: Server, hive: Callable[..., Hive]) -> None:
    server.answer((429, {}, {"Retry-After": "0.4"}), (200, hive_answer()))
    started = time.perf_counter()
    hive().classes(PICTURE)
    assert time.perf_counter() - started >= 0.4


@pytest.mark.parametrize(
    ("status", "message"), [(401, "check its key"), (403, "check its key"), (400, "400"), (302, "302")]
)
def test_does_not_try_again_in_vain(
    server: Server, hive: Callable[..., Hive], status: int, message: str
) -> None:
    server.answer((status, {"message": f"Invalid token {KEY}"}))
    with pytest.raises(RemoteError, match=message):
        hive().classes(PICTURE)
    assert len(server.requests) == 1


MALFORMED = {
    "not JSON": b"<html>busy</html>",
    "empty": {},
    "null": None,
    "no status": {"status": []},
    "no output": {"status": [{"status": {"code": 0}, "response": {"output": []}}]},
    "failed": hive_answer(code=1),
    "above one": hive_answer(very_bloody=1.2),
    "not a number": hive_answer(very_bloody=float("nan")),
    "another project": {
        "status": [
            {
                "status": {"code": 0},
                "response": {"output": [{"time": 0, "classes": [{"class": "acme_logo", "score": 0.9}]}]},
            }
        ]
    },
    "endless": b" " * (2 << 20),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_an_answer_of_another_form_is_no_verdict(
    server: Server, hive: Callable[..., Hive], kind: str
) -> None:
    server.answer((200, MALFORMED[kind]))
    with pytest.raises(RemoteError):
        hive().classes(PICTURE)


def test_a_service_that_is_too_slow_is_no_verdict(server: Server, hive: Callable[..., Hive]) -> None:
    server.answer((200, hive_answer()))
    server.answering.clear()
    with pytest.raises(RemoteError, match="ReadTimeout"):
        hive(timeout=0.1, attempts=2).classes(PICTURE)
    wait(lambda: len(server.requests) >= 2)
    assert len(server.requests) == 2


def test_no_attempt_begins_after_the_deadline(server: Server, hive: Callable[..., Hive]) -> None:
    server.answer((500, {}))
    with pytest.raises(RemoteError):
        hive(attempts=50, deadline=0.3).classes(PICTURE)
    assert len(server.requests) < 5


def test_a_service_that_keeps_failing_is_left_alone_and_then_asked_again(
    server: Server, hive: Callable[..., Hive]
) -> None:
    server.answer((500, {}))
    moderator, quick = (hive(attempts=1, failures=2, rest=rest) for rest in (DEAD, 0.3))
    for each in (moderator, quick):
        for _ in range(2):
            with pytest.raises(RemoteError, match="answered 500"):
                each.classes(PICTURE)
    server.answer((200, hive_answer()))
    for _ in range(3):
        with pytest.raises(RemoteError, match="left alone"):
            moderator.classes(PICTURE)
    assert len(server.requests) == 4

    def answers() -> bool:
        try:
            return bool(quick.classes(PICTURE))
        except RemoteError:
            return False

    wait(answers)
    assert quick.classes(PICTURE)


def test_nobody_listens() -> None:
    with pytest.raises(RemoteError, match="cannot be reached"):
        Hive(SecretStr(KEY), url="http://127.0.0.1:9/", attempts=1, timeout=1).classes(PICTURE)


def test_a_key_goes_nowhere_unencrypted() -> None:
    for url in ("http://api.thehive.ai/", "ftp://127.0.0.1/", "api.thehive.ai"):
        with pytest.raises(InputError, match="https://"):
            Hive(SecretStr(KEY), url=url)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_keys_and_pictures_are_in_no_log(
    server: Server, hive: Callable[..., Hive], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    server.answer((status, hive_answer()))
    moderator = hive(attempts=2)
    if status == 200:
        moderator.classes(PICTURE)
    else:
        with pytest.raises(RemoteError) as caught:
            moderator.classes(PICTURE)
        assert KEY not in repr(caught.value)
        assert "answered" in caplog.text
    assert KEY not in caplog.text + repr(vars(moderator))
    assert "JFIF" not in caplog.text


def test_a_service_of_ones_own(server: Server) -> None:
    moderator = GenericModerator(server.url, ["public_figures", "marks"], key=SecretStr(KEY), timeout=DEAD)
    server.answer((200, {"scores": {"public_figures": 0.8, "marks": 0, "other": 1}}))
    assert moderator.scores(PICTURE, "with a hat") == {"public_figures": 0.8, "marks": 0}
    headers, fields = server.requests[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert fields["prompt"] == b"with a hat"
    assert fields["image"][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "answer", [{"scores": {"marks": 0.1}}, {"scores": {"public_figures": 2, "marks": 0}}, {"scores": []}, []]
)
def test_a_service_of_ones_own_must_answer_in_full(server: Server, answer: Any) -> None:
    moderator = GenericModerator(server.url, ["public_figures", "marks"], timeout=DEAD)
    server.answer((200, answer))
    with pytest.raises(RemoteError):
        moderator.scores(PICTURE)
