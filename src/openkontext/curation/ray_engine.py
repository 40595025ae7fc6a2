"""The engine for many machines: Ray Data. On one machine it does the same.

Every block is looked at in an actor, which has a guarded process of its own as the plain engine has. All
machines must reach the source and the folder of the output under the same paths.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from openkontext.curation.guarded import GuardedWorker
from openkontext.curation.local_engine import RecordBlock
from openkontext.curation.looking import CurationJob
from openkontext.curation.outcomes import CurationRow, row_bytes, rows_of
from openkontext.errors import InputError, OpenKontextError, how_to_install


def require_ray() -> Any:
    """Ray, with its part for data.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError(f"--engine ray needs Ray Data; {how_to_install('ray')}") from None
    return ray


class BlockActor:
    """Looks at blocks, one after the other."""

    def __init__(self, job: CurationJob) -> None:
        """Start nothing yet."""
        self._worker = GuardedWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rows of the blocks of a batch, each as a Parquet file; or the error that ends the run."""
        rows, errors = [], []
        for block in batch["block"]:
            try:
                rows.append(row_bytes(list(self._worker.rows(block.span, block.first))))
                errors.append("")
            except OpenKontextError as error:
                rows.append(b"")
                errors.append(str(error))
        return {"index": [block.index for block in batch["block"]], "rows": rows, "error": errors}


def look_on_ray(
    job: CurationJob, blocks: Iterable[RecordBlock], workers: int, tell: Callable[[CurationRow], None]
) -> Iterator[tuple[int, list[CurationRow]]]:
    """Look at blocks on the machines of a Ray cluster; see `local_engine.look_here`.

    The cluster is the one that $RAY_ADDRESS names, else this machine.
    """
    ray = require_ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, configure_logging=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        blocks = list(blocks)
        data = ray.data.from_items([{"block": each} for each in blocks], override_num_blocks=len(blocks) or 1)
        looked = data.map_batches(
            BlockActor,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        for found in looked.iter_rows():
            if found["error"]:
                raise InputError(found["error"])
            rows = rows_of(found["rows"])
            for row in rows:
                tell(row)
            yield int(found["index"]), rows
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"Ray could not look at the records: {last}") from error
    finally:
        if ours:
            ray.shutdown()
