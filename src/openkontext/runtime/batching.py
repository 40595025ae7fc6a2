"""Edits that run side by side and share the calls of their graphs.

Each edit runs in a thread of its own, but only one thread has its turn at a time: what is around the graphs
needs to know nothing of threads. A call of a graph gives the turn away. When every edit waits at a call, the
oldest of these runs together with the others that fit it: the same graph, the same sizes. As the noise level
is an input per picture, edits at different steps, and of different numbers of steps, go together.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openkontext.runtime.components import Components, Float
from openkontext.runtime.tuning import AUTO

if TYPE_CHECKING:
    from openkontext.repository import Repository

SHARED = ("img_ids", "txt_ids")
"""Inputs without a batch axis: all pictures of a call have the same."""


@dataclass(eq=False)
class _Call:
    """A call that waits, and what came of it."""

    role: str
    output: str
    arrays: dict[str, NDArray[Any]]
    result: Float | None = None
    error: Exception | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Calls with the same key can run as one."""
        parts = [
            (name, array.tobytes() if name in SHARED else (array.shape[1:], array.dtype.str))
            for name, array in sorted(self.arrays.items())
        ]
        return self.role, self.output, *parts


class BatchingComponents(Components):
    """The graphs of a repository for several edits at once, each within `member`.

    A picture that was made beside others may differ from one made alone in the last bits of its numbers.

    Args:
        repository: where the graphs are.
        precision: of the transformer.
        provider: what runs the graphs.
        arithmetic: see `Components`.
        low_memory: keep at most one graph open.
        threads: CPU threads of one operator; 0 leaves it to ONNX Runtime.
        offload: leave all but the transformer to the CPU.
        batch: calls that are run as one at most.
    """

    def __init__(
        self,
        repository: "Repository",
        precision: str,
        provider: str = "cpu",
        *,
        arithmetic: str = AUTO,
        low_memory: bool = False,
        threads: int = 0,
        offload: bool = False,
        batch: int = 4,
    ) -> None:
        super().__init__(
            repository,
            precision,
            provider,
            arithmetic=arithmetic,
            low_memory=low_memory,
            threads=threads,
            offload=offload,
        )
        self.batch = batch
        self._turn = threading.Condition()
        self._counting = threading.Lock()
        self._members = 0
        self._waiting: list[_Call] = []

    @contextmanager
    def member(self) -> Iterator[None]:
        """An edit runs in this thread, for as long as the block does."""
        with self._counting:  # before its turn: whoever has it waits for this edit at its next call
            self._members += 1
        with self._turn:
            try:
                yield
            finally:
                with self._counting:
                    self._members -= 1
                self._run_when_all_wait()

    def _call(self, role: str, output: str, **arrays: NDArray[Any]) -> Float:
        call = _Call(role, output, arrays)
        self._waiting.append(call)
        self._run_when_all_wait()
        while call.result is None and call.error is None:
            self._turn.wait()
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _run_when_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._members:
            return
        key = self._waiting[0].key
        group = [call for call in self._waiting if call.key == key][: self.batch]
        self._waiting = [call for call in self._waiting if call not in group]
        try:
            self._run(group)
        except Exception as error:
            for call in group:
                call.error = error
        self._turn.notify_all()

    def _run(self, group: list[_Call]) -> None:
        first = group[0]
        arrays = {
            name: array if name in SHARED else np.concatenate([call.arrays[name] for call in group])
            for name, array in first.arrays.items()
        }
        joined = super()._call(first.role, first.output, **arrays)
        start = 0
        for call in group:
            size = next(len(array) for name, array in call.arrays.items() if name not in SHARED)
            call.result = joined[start : start + size]
            start += size
