"""The plain engine: a few processes on this machine."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from openkontext.curation.guarded import GuardedWorker
from openkontext.curation.looking import CurationJob
from openkontext.curation.outcomes import CurationRow
from openkontext.train.records import Span


@dataclass(frozen=True)
class RecordBlock:
    """Records that are looked at together, and written down together."""

    index: int
    span: Span
    first: int
    """Number of its first record in the source, from 0."""


def look_here(
    job: CurationJob, blocks: Iterable[RecordBlock], workers: int, tell: Callable[[CurationRow], None]
) -> Iterator[tuple[int, list[CurationRow]]]:
    """Look at blocks in processes of this machine.

    Args:
        job: what to do.
        blocks: to look at.
        workers: processes.
        tell: called with each row, in any order.

    Yields:
        The index of a block and its rows, as they are done.

    Raises:
        InputError: the source or the rules cannot be used.
    """
    waiting, done = (
        iter(blocks),
        queue.Queue[tuple[int, list[CurationRow]] | BaseException | None](2 * workers),
    )
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        worker = GuardedWorker(job)
        try:
            while not stopped.is_set():
                with lock:
                    block = next(waiting, None)
                if block is None:
                    break
                rows = []
                for row in worker.rows(block.span, block.first):
                    if stopped.is_set():
                        return
                    rows.append(row)
                    tell(row)
                done.put((block.index, rows))
        except BaseException as error:  # whoever asked for the blocks raises it
            done.put(error)
        finally:
            worker.close()
            done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    left = workers
    try:
        while left:
            found = done.get()
            if found is None:
                left -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found
    finally:
        stopped.set()
        while any(thread.is_alive() for thread in threads):
            try:
                done.get(timeout=0.1)  # one may wait for room
            except queue.Empty:
                continue
