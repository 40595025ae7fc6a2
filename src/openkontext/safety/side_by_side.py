"""Checks that look at once, each in a thread of its own, within a budget."""

import atexit
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from openkontext.safety.verdict import Check, Opens, Subject

Scores = dict[str, float]

OPENING_SECONDS = 600.0
"""How long checks may open. Whoever still opens then has the rest of the budget, and is refused after it."""
_LEAVE_SECONDS = 5.0
"""How long a program that ends waits for checks: Python kills threads inside native code with an abort."""
_looking: set[threading.Thread] = set()


@atexit.register
def let_finish() -> bool:
    """Wait for checks that still look, for a while.

    Returns:
        Whether none looks any more. Where one does, Python's own way of ending may abort the process.
    """
    deadline = time.monotonic() + _LEAVE_SECONDS
    # One that was stopped before it began is not alive, and cannot be waited for.
    for thread in [each for each in list(_looking) if each.is_alive()]:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(each.is_alive() for each in list(_looking))


def look_side_by_side(
    chosen: Sequence[tuple[Check, int]], subjects: Sequence[Subject], deadline: float
) -> tuple[list[tuple[Scores | Exception, float] | None], float]:
    """Have checks look, all at once.

    Args:
        chosen: each with the place of what it looks at in `subjects`.
        subjects: of one stage.
        deadline: by `time.monotonic`, for those that are open.

    Returns:
        For each its scores, or what kept it from looking, with the milliseconds that it took; None for one
        that did not come back. And the deadline, later by what opening took.
    """
    opened = threading.Semaphore(0)
    answers: queue.SimpleQueue[tuple[int, Scores | Exception, float]] = queue.SimpleQueue()

    def look(number: int) -> None:
        check, at = chosen[number]
        if isinstance(check, Opens):
            with suppress(BaseException):  # it fails again where it looks, and is told there
                check.open()
        opened.release()
        started = time.perf_counter()
        answer: Scores | Exception
        try:
            answer = _sound(check.scores(subjects[at]))
        except Exception as error:  # whatever it is, nobody looked
            answer = error
        answers.put((number, answer, 1000 * (time.perf_counter() - started)))
        _looking.discard(threading.current_thread())

    for number in range(len(chosen)):
        # Daemons: one that never comes back must not keep the program from ending.
        thread = threading.Thread(target=look, args=(number,), daemon=True)
        _looking.add(thread)
        thread.start()
    began = time.monotonic()
    for _ in chosen:
        opened.acquire(timeout=max(0.0, began + OPENING_SECONDS - time.monotonic()))
    deadline += time.monotonic() - began
    found: list[tuple[Scores | Exception, float] | None] = [None] * len(chosen)
    for _ in chosen:
        try:
            number, answer, took = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[number] = answer, took
    return found, deadline


def _sound(scores: Mapping[str, float]) -> Scores:
    for name, score in scores.items():
        if not 0 <= score <= 1:  # NaN is neither
            raise ValueError(f"it scored {name} as {score}")
    return {name: float(score) for name, score in scores.items()}
