"""A moderation service of the profile, asked by the editor: what it refuses, and what its silence does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moderation import Server, hive_answer, serving

import openkontext
from openkontext import Editor
from openkontext.safety.verdict import UNCHECKED, FilterRefusalError, Stage, Verdict

PICTURE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def patience() -> float:
    """Seconds that the service is given."""
    return 60.0


@pytest.fixture
def editor(
    server: Server, copier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> Editor:
    monkeypatch.setenv("MODERATION_KEY", "sk-do-not-show-this")
    profile = tmp_path / "profile.toml"
    profile.write_text(
        'extends = "default"\nname = "with Hive"\n[[remote]]\nkind = "hive"\n'
        f'url = "{server.url}"\nkey_variable = "MODERATION_KEY"\ntimeout = {patience}\ndeadline = 0.2\n'
    )
    return openkontext.load(copier, profile=profile)


def refusal(editor: Editor) -> Verdict:
    with pytest.raises(FilterRefusalError) as caught:
        editor.edit(PICTURE, "make it night", seed=3)
    assert caught.value.exit_code == 3
    assert "sk-do-not-show-this" not in str(caught.value) + repr(caught.value.verdict)
    return caught.value.verdict


def failure(editor: Editor) -> str:
    """Why the service could not look, which is what the edit was refused for."""
    verdict = refusal(editor)
    assert (verdict.category, verdict.allowed) == (UNCHECKED, False)
    assert verdict.failure is not None
    assert verdict.failure.name == "hive"
    return verdict.failure.failure


def test_the_service_sees_the_input_and_the_result_and_lets_them_pass(server: Server, editor: Editor) -> None:
    server.answer((200, hive_answer()))
    result = editor.edit(PICTURE, "make it night", seed=3)
    assert result.image is not None
    assert len(server.requests) == 2


def test_what_the_service_finds_in_the_input_is_refused(server: Server, editor: Editor) -> None:
    server.answer((200, hive_answer(very_bloody=0.97)))
    verdict = refusal(editor)
    assert (verdict.category, verdict.stage, verdict.failure) == ("gore", Stage.INPUT, None)
    assert len(server.requests) == 1  # nothing was computed, so that there was no result to look at


def test_what_the_service_finds_in_the_result_is_refused(server: Server, editor: Editor) -> None:
    server.answer((200, hive_answer()), (200, hive_answer(yes_nazi=0.99)))
    verdict = refusal(editor)
    assert (verdict.category, verdict.stage) == ("hate_symbols", Stage.OUTPUT)
    assert len(server.requests) == 2


@pytest.mark.parametrize("patience", [0.3])
def test_a_service_that_is_too_slow_refuses(server: Server, editor: Editor) -> None:
    server.answer((200, hive_answer()))
    server.answering.clear()
    assert "ReadTimeout" in failure(editor)


def test_a_service_that_is_left_alone_refuses_without_being_asked(server: Server, editor: Editor) -> None:
    server.answer((401, {"message": "no such key"}))  # fails at once, and is not tried again
    for _ in range(5):
        assert "answered 401" in failure(editor)
    asked = len(server.requests)
    server.answer((200, hive_answer()))  # it would answer now, but for its rest
    assert "left alone" in failure(editor)
    assert len(server.requests) == asked == 5
