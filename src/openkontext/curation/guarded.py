"""A process that looks at records. One that it hangs at, or dies of, costs that record alone."""

import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from PIL import Image

from openkontext.curation.looking import CurationJob, Looker, look_safely
from openkontext.curation.outcomes import CurationRow
from openkontext.curation.stages import HUNG
from openkontext.errors import InputError, OpenKontextError
from openkontext.images.fitting import Pixels
from openkontext.train.records import PairRecord, Skipped, Span, read_span

_SHOWN = 240
"""Pixels of the longer side of a picture that is shown."""
_START_SECONDS = 600.0
"""For a process to begin: it imports the filters, on a machine that may be busy."""


@dataclass(frozen=True, eq=False)
class ShownPair:
    """A pair as the data card shows it."""

    instruction: str
    pictures: tuple[tuple[str, Pixels], ...]
    """Role and uint8 [h, w, 3] of each."""


class GuardedWorker:
    """Looks at spans of records in a process of its own."""

    def __init__(self, job: CurationJob) -> None:
        """Start nothing yet.

        Args:
            job: what to do.
        """
        self._job = job
        self._process: Any = None
        self._connection: Connection | None = None

    def rows(self, span: Span, first: int) -> Iterator[CurationRow]:
        """The rows of a span, in its order.

        Args:
            span: to look at.
            first: number of its first record in the source, from 0.

        Raises:
            InputError: the source or the rules cannot be used.
        """
        at = 0
        while at < span.count:
            connection = self._started()
            connection.send((span, first, at, False))
            lost = ""
            while at < span.count and not lost:
                try:
                    if connection.poll(self._job.seconds):
                        answer = connection.recv()
                    else:
                        lost = f"it took longer than {self._job.seconds:g} s"
                        continue
                except (EOFError, OSError):
                    lost = "it ended the process that looked at it"
                    continue
                if isinstance(answer, OpenKontextError):
                    self.close()
                    raise answer
                yield answer
                at += 1
            if lost:
                self.close()
                record = next(itertools.islice(read_span(span), at, None))
                yield CurationRow(record.name, b"", HUNG, lost)
                at += 1

    def shown(self, span: Span, at: int, number: int) -> ShownPair | None:
        """A record as it may be shown.

        Args:
            span: that holds it.
            at: its place there, from 0.
            number: of it in the source, from 0.

        Returns:
            None where anything in it is refused, cannot be decoded, or hangs.

        Raises:
            InputError: the source or the rules cannot be used.
        """
        connection = self._started()
        connection.send((span, number, at, True))
        try:
            answer = connection.recv() if connection.poll(self._job.seconds) else None
        except (EOFError, OSError):
            answer = None
        if isinstance(answer, OpenKontextError):
            raise answer
        if answer is None:
            self.close()
        return answer or None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        # Not forked: a process with threads of ONNX Runtime in it cannot be.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._job), daemon=True)
        self._process.start()
        theirs.close()
        try:
            begun = self._connection.poll(_START_SECONDS) and self._connection.recv()
        except EOFError:
            begun = None
        if begun is not True:
            self.close()
            raise (
                begun
                if isinstance(begun, OpenKontextError)
                else InputError(
                    "a process that looks at records cannot start; is there memory for it? Take fewer. "
                    'A script must call curate() below `if __name__ == "__main__":`'
                )
            )
        return self._connection


def _serve(connection: Connection, job: CurationJob) -> None:
    """What the process does: answer spans with their rows, until whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends it
    try:
        try:
            looker = Looker(job)
            looker.warm()  # before the time of the first record runs
            connection.send(True)
            while True:
                span, first, at, show = connection.recv()
                if show:
                    record = next(itertools.islice(read_span(span), at, None))
                    connection.send(_shown(looker, record, first))
                else:
                    _look(connection, looker, span, first, at)
        except OpenKontextError as error:
            connection.send(error)
    except (EOFError, OSError):
        return


def _look(connection: Connection, looker: Looker, span: Span, first: int, begin: int) -> None:
    count = 0
    for count, record in enumerate(read_span(span), 1):
        if count > begin:
            connection.send(look_safely(looker, record, first + count - 1))
    if count < span.count:
        raise InputError(f"{span.file}: was changed while it was read; run the same again")


def _shown(looker: Looker, record: PairRecord | Skipped, number: int) -> ShownPair | bool:
    pair = looker.shows(record, number)
    if pair is None:
        return False
    pictures = []
    for each in pair:
        small = Image.fromarray(each.picture.pixels)
        small.thumbnail((_SHOWN, _SHOWN))
        pictures.append((each.role, np.asarray(small)))
    return ShownPair(pair.record.instruction, tuple(pictures))
