"""The guard: order, budget, failures, review, quarantine; with small checks whose answers are known."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from patience import DEAD

from openkontext.errors import RefusedError
from openkontext.safety import guard as guard_module
from openkontext.safety import side_by_side
from openkontext.safety.checks import TogetherCheck
from openkontext.safety.guard import Guard, ScreeningRequest, Shown
from openkontext.safety.hints import hints
from openkontext.safety.policy import Policy, load_policy
from openkontext.safety.review.queue import ReviewQueue
from openkontext.safety.verdict import UNCHECKED, CheckTurn, FilterRefusalError, HeldError, Stage, Subject

PICTURE = np.random.default_rng(3).integers(0, 256, (32, 48, 3), dtype=np.uint8)
OTHER = PICTURE[::-1]


@dataclass
class Saying:
    """A check that says what it was told to, and remembers what it was asked."""

    answer: Mapping[str, float] | Callable[[Subject], Mapping[str, float]]
    stages: frozenset[Stage] = frozenset(Stage)
    turn: CheckTurn = CheckTurn.CHEAP
    name: str = "saying"
    version: str = "1"
    asked: list[Subject] = field(default_factory=list)

    def scores(self, subject: Subject) -> Mapping[str, float]:
        self.asked.append(subject)
        return self.answer(subject) if callable(self.answer) else self.answer


def at(*stages: Stage) -> frozenset[Stage]:
    return frozenset(stages)


def policy(folder: Path, text: str) -> Policy:
    path = folder / "profile.toml"
    path.write_text(f'extends = "default"\nname = "test"\n{text}')
    return load_policy(path)


def run(guard: Guard) -> None:
    screening = guard.screen(asked())
    screening.admit()
    screening.release(PICTURE)


def asked(prompt: str = "make it night", **more: object) -> ScreeningRequest:
    return ScreeningRequest(prompt, pictures=(Shown(PICTURE),), options={"seed": 7}, **more)  # type: ignore[arg-type]


def test_what_nothing_speaks_against_is_let_through() -> None:
    screening = Guard(load_policy("default"), [Saying({"nudity": 0.2})]).screen(asked())
    screening.admit()
    verdict = screening.release(PICTURE)
    assert verdict.allowed
    assert (verdict.category, verdict.stage, verdict.fixed, verdict.message) == (None, None, False, "")
    assert [check.stage for check in verdict.checks] == [Stage.PROMPT, Stage.INPUT, Stage.PAIR, Stage.OUTPUT]
    assert verdict.record()["checks"][0]["findings"][0]["threshold"] == 0.5


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(("category", "fixed"), [("gore", False), ("csam", True)])
def test_a_score_at_its_threshold_refuses_at_every_stage(stage: Stage, category: str, fixed: bool) -> None:
    threshold = load_policy("default").threshold(category, stage)
    assert threshold is not None
    for score, refused in [(threshold, True), (threshold - 1e-6, False)]:
        guard = Guard(load_policy("default"), [Saying({category: score}, at(stage))])
        if not refused:
            run(guard)
            continue
        with pytest.raises(FilterRefusalError) as error:
            run(guard)
        verdict = error.value.verdict
        assert (verdict.category, verdict.stage, verdict.fixed) == (category, stage, fixed)
        assert error.value.exit_code == RefusedError.exit_code == 3
        assert "\n" not in str(error.value)
        assert str(threshold) not in str(error.value)  # it does not say how to get round it


def test_the_gravest_category_decides() -> None:
    guard = Guard(load_policy("default"), [Saying({"weapons": 1.0, "ncii": 0.6, "nudity": 0.9})])
    assert guard.screen(asked()).judge_request().category == "ncii"


def test_what_a_cheap_check_refuses_no_costly_one_sees() -> None:
    costly = Saying({}, at(Stage.INPUT), CheckTurn.COSTLY)
    cheap = Saying({"known_material": 1.0}, at(Stage.INPUT))
    Guard(load_policy("default"), [costly, cheap]).screen(asked()).judge_request()
    assert cheap.asked
    assert not costly.asked


def test_a_refused_instruction_ends_it_before_the_pictures() -> None:
    pictures = Saying({}, at(Stage.INPUT))
    guard = Guard(load_policy("default"), [Saying({"gore": 1.0}, at(Stage.PROMPT)), pictures])
    guard.screen(asked()).judge_request()
    assert not pictures.asked


def test_the_last_turn_sees_what_all_others_scored() -> None:
    last = Saying({}, at(Stage.OUTPUT), CheckTurn.LAST)
    checks = [
        last,
        Saying({"minor": 0.9}, at(Stage.PROMPT)),
        Saying({"person": 0.8, "nudity": 0.1}, at(Stage.INPUT, Stage.OUTPUT), CheckTurn.COSTLY),
        Saying({"nudity": 0.3}, at(Stage.OUTPUT)),
    ]
    screening = Guard(load_policy("default"), checks).screen(asked())
    screening.admit()
    screening.release(PICTURE)
    seen = last.asked[0].scores
    assert seen[Stage.PROMPT] == {"minor": 0.9}
    assert seen[Stage.INPUT] == {"person": 0.8, "nudity": 0.1}
    assert seen[Stage.OUTPUT] == {"person": 0.8, "nudity": 0.3}  # the highest of both


def test_costly_checks_run_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=DEAD)  # it opens only where both wait at once

    def wait(subject: Subject) -> Mapping[str, float]:
        both.wait()
        return {}

    checks = [Saying(wait, at(Stage.INPUT), CheckTurn.COSTLY) for _ in range(2)]
    patient = policy(tmp_path, f"budget_seconds = {DEAD}\n")
    assert Guard(patient, checks).screen(asked()).judge_request().allowed


def test_what_a_check_opens_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    for module in (guard_module, side_by_side):
        monkeypatch.setattr(module, "time", clock)

    class Opening(Saying):
        def open(self) -> None:
            now[0] += 1000

    checks = [
        Opening({"gore": 0.1}, at(Stage.INPUT), name="cheap"),
        Opening({"gore": 0.2}, at(Stage.INPUT), CheckTurn.COSTLY, "costly"),
        Saying({"gore": 0.3}, at(Stage.INPUT), CheckTurn.LAST, "last"),
    ]
    verdict = Guard(load_policy("default"), checks).screen(asked()).judge_request()
    assert verdict.allowed
    assert [each.findings[0].score for each in verdict.checks] == [0.1, 0.2, 0.3]


def test_a_check_that_cannot_open_refuses_where_it_looks() -> None:
    class Closed(Saying):
        def open(self) -> None:
            raise OSError("the model's file is gone")

    verdict = Guard(load_policy("default"), [Closed(broken, at(Stage.INPUT))]).screen(asked()).judge_request()
    assert verdict.message.startswith("refused: the check saying could not look at ")


def test_a_check_that_never_opens_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "OPENING_SECONDS", 0.1)
    never = threading.Event()

    class Hanging(Saying):
        def open(self) -> None:
            never.wait(2 * DEAD)

    guard = Guard(policy(tmp_path, "budget_seconds = 0.2\n"), [Hanging({}, at(Stage.INPUT), name="slow")])
    with pytest.raises(FilterRefusalError, match="the check slow could not look"):
        guard.screen(asked()).admit()
    never.set()


def broken(subject: Subject) -> Mapping[str, float]:
    raise OSError("the model's file\nis gone")


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(
    "answer",
    [broken, {"gore": float("nan")}, {"gore": 1.5}, lambda subject: None],
    ids=["broken", "not a number", "beyond 1", "nothing"],
)
def test_a_check_that_cannot_look_refuses(
    stage: Stage, answer: Callable[[Subject], Mapping[str, float]]
) -> None:
    guard = Guard(load_policy("permissive"), [Saying(answer, at(stage), name="broken")])
    with pytest.raises(FilterRefusalError, match="the check broken could not look at") as error:
        run(guard)
    assert error.value.verdict.category == UNCHECKED
    assert error.value.verdict.stage == stage
    assert not error.value.verdict.fixed
    assert "\n" not in str(error.value)


def test_a_check_that_takes_too_long_refuses(tmp_path: Path) -> None:
    never = threading.Event()

    def hang(subject: Subject) -> Mapping[str, float]:
        never.wait(2 * DEAD)
        return {}

    slow = Saying(hang, at(Stage.INPUT), CheckTurn.COSTLY, "slow")
    checks = [slow, Saying({}, at(Stage.INPUT), CheckTurn.COSTLY, "quick")]
    started = time.monotonic()
    with pytest.raises(FilterRefusalError, match=r"the check slow could not look .*longer than 0.2 s"):
        Guard(policy(tmp_path, "budget_seconds = 0.2\n"), checks).screen(asked()).admit()
    assert time.monotonic() - started < DEAD
    never.set()


def test_a_preview_that_would_be_refused_is_not_shown() -> None:
    bare = Saying(lambda subject: {"nudity": float((subject.pixels == PICTURE).all())}, at(Stage.OUTPUT))
    screening = Guard(load_policy("default"), [bare]).screen(asked())
    assert not screening.may_preview(PICTURE)
    assert screening.may_preview(OTHER)


class TestReview:
    """What an adjustable filter refuses waits for a person; what a fixed one refuses never does."""

    def guard(self, folder: Path, *checks: Saying, mode: str = "refused", reviewers: int = 1) -> Guard:
        reviews = ReviewQueue(f"sqlite:///{folder / 'queue.db'}", reviewers=reviewers, keep=timedelta(days=1))
        return Guard(policy(folder, f'[review]\nmode = "{mode}"\n'), checks, reviews=reviews)

    def test_an_approved_request_goes_on_and_only_that_one(self, tmp_path: Path) -> None:
        guard = self.guard(tmp_path, Saying({"weapons": 0.9}, at(Stage.PROMPT)), reviewers=2)
        assert guard.reviews is not None
        with pytest.raises(HeldError, match="held for review") as error:
            guard.screen(asked(requester="ann")).admit()
        assert error.value.exit_code == 3
        held = guard.reviews.get(error.value.request)
        assert (held.requester, held.prompt, held.pictures) == ("ann", "make it night", ("input",))
        assert held.verdict["category"] == "weapons"
        for reviewer in ("bob", "cy"):
            with pytest.raises(HeldError):
                guard.screen(asked()).admit()
            guard.reviews.decide(held.id, reviewer, approve=True, reason="a toy")
        guard.screen(asked()).admit()
        with pytest.raises(HeldError) as error:
            guard.screen(asked("make it day")).admit()
        assert error.value.request != held.id

    def test_a_rejected_request_stays_refused(self, tmp_path: Path) -> None:
        guard = self.guard(tmp_path, Saying({"weapons": 0.9}, at(Stage.PROMPT)))
        assert guard.reviews is not None
        with pytest.raises(HeldError) as error:
            guard.screen(asked()).admit()
        guard.reviews.decide(error.value.request, "bob", approve=False, reason="no toy")
        with pytest.raises(FilterRefusalError, match="a reviewer rejected"):
            guard.screen(asked()).admit()

    @pytest.mark.parametrize("mode", ["refused", "every"])
    @pytest.mark.parametrize("stage", Stage)
    def test_no_approval_lets_a_fixed_category_through(self, tmp_path: Path, mode: str, stage: Stage) -> None:
        checks = Saying({"gore": 1.0}, at(Stage.PROMPT)), Saying({"ncii": 1.0}, at(stage))
        guard = self.guard(tmp_path, *checks, mode=mode)
        assert guard.reviews is not None
        # Reviewers may have approved what goes with it: the fixed category is refused all the same.
        for picture in ({"input": PICTURE}, {"input": PICTURE, "output": PICTURE}):
            held = guard.reviews.hold(
                prompt="make it night", options={"seed": 7}, verdict={}, pictures=picture
            )
            guard.reviews.decide(held.id, "bob", approve=True, reason="looks fine")
        with pytest.raises(FilterRefusalError) as error:
            run(guard)
        assert error.value.verdict.category == "ncii"
        assert not isinstance(error.value, HeldError)
        assert len(guard.reviews.requests(None)) == 2

    def test_a_check_that_cannot_look_is_not_made_up_for_by_a_person(self, tmp_path: Path) -> None:
        guard = self.guard(tmp_path, Saying(broken, at(Stage.INPUT)), Saying({"gore": 1.0}, at(Stage.PROMPT)))
        with pytest.raises(FilterRefusalError) as error:
            guard.screen(asked()).admit()
        assert not isinstance(error.value, HeldError)

    def test_where_every_result_is_reviewed_none_goes_out_unseen(self, tmp_path: Path) -> None:
        guard = self.guard(tmp_path, Saying({}), mode="every")
        assert guard.reviews is not None
        screening = guard.screen(asked())
        screening.admit()
        assert not screening.may_preview(PICTURE)
        with pytest.raises(HeldError) as error:
            screening.release(PICTURE)
        assert error.value.seed == 7
        assert guard.reviews.get(error.value.request).pictures == ("input", "output")
        guard.reviews.decide(error.value.request, "bob", approve=True, reason="fine")
        assert screening.release(PICTURE).allowed
        with pytest.raises(HeldError):
            screening.release(OTHER)


class TestTogether:
    """Instruction and picture together."""

    def verdict(
        self, words: dict[str, float], before: dict[str, float], after: dict[str, float]
    ) -> str | None:
        checks = [
            Saying(words, at(Stage.PROMPT)),
            Saying(before, at(Stage.INPUT)),
            Saying(after, at(Stage.OUTPUT)),
            TogetherCheck(),
        ]
        screening = Guard(load_policy("permissive"), checks).screen(asked())
        try:
            screening.admit()
            screening.release(PICTURE)
        except FilterRefusalError as error:
            return f"{error.verdict.category} {error.verdict.stage}"
        return None

    @pytest.mark.parametrize(
        ("words", "before", "after", "expected"),
        [
            ({"nudity": 0.47}, {}, {}, None),  # no person in the picture, and below the threshold
            ({"nudity": 0.47}, {"person": 0.6}, {}, "ncii pair"),
            ({"nudity": 0.1}, {"person": 0.6}, {}, None),
            (
                {},
                {"person": 0.6, "nudity": 0.1},
                {"nudity": 0.5},
                "ncii output",
            ),  # undressed whatever was said
            ({}, {"person": 0.6, "nudity": 0.5}, {"nudity": 0.5}, None),  # as bare as before, permissive
            ({"minor": 0.9}, {"person": 0.6}, {}, None),
            ({"suggestive": 0.6}, {}, {}, None),
            ({"suggestive": 0.6}, {"person": 0.6}, {}, "sexual pair"),
            ({"suggestive": 0.6, "minor": 0.5}, {"person": 0.6}, {}, "csam pair"),
            ({"suggestive": 0.3, "minor": 0.9}, {"person": 0.6}, {}, "csam pair"),
            ({"minor": 0.9}, {"person": 0.6, "nudity": 0.25}, {}, "csam pair"),
            ({"minor": 0.9}, {}, {"nudity": 0.25}, "csam output"),
            ({}, {"child": 0.9, "nudity": 0.25}, {}, "csam pair"),
        ],
    )
    def test_each_may_be_innocent_and_both_not(
        self, words: dict[str, float], before: dict[str, float], after: dict[str, float], expected: str | None
    ) -> None:
        assert self.verdict(words, before, after) == expected


@pytest.mark.parametrize(
    ("text", "minor", "suggestive"),
    [
        ("make it night", 0.0, 0.0),
        ("remove her sunglasses", 0.0, 0.0),
        ("give her a red coat", 0.0, 0.0),
        ("make the coffee steam", 0.0, 0.0),
        ("make it spicier", 0.0, 0.6),
        ("show more skin", 0.0, 0.6),
        ("put a swimsuit on", 0.0, 0.3),
        ("the child flies a kite", 0.9, 0.0),
        ("a boat of a 9 year old", 0.9, 0.0),
        ("the student reads", 0.5, 0.0),
    ],
)
def test_signs_are_read_from_the_words(text: str, minor: float, suggestive: float) -> None:
    assert hints(text) == {"minor": minor, "suggestive": suggestive}


STUCK = """
import ctypes, sys, threading
from openkontext import cli
from openkontext.safety import side_by_side

side_by_side._LEAVE_SECONDS = 0.2
begun = threading.Event()
def look():
    begun.set()
    ctypes.CDLL(None).pause()  # native code that never comes back
stuck, stopped = (threading.Thread(target=look, daemon=True) for _ in range(2))
side_by_side._looking |= {stuck, stopped}  # the second was stopped by Ctrl-C before it began
stuck.start()
begun.wait()
cli.main = lambda: print("all of the output") or 130
cli.run()
"""


def test_a_check_that_never_comes_back_changes_no_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=DEAD)
    assert (done.returncode, done.stdout, done.stderr) == (130, "all of the output\n", "")
