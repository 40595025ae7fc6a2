"""Several processes that share each step: every one takes a part of the batch, all average their gradients.

On a CPU one thread a process is faster than one process with several threads: the operators of a small model
are too short to be worth waiting for each other's threads.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes

_BUCKET = 1 << 25
"""Values of which the processes agree at once: 128 MiB of float32."""


def launch(function: Callable[..., Any], processes: int, *args: Any) -> None:
    """Call a function in so many processes at once, which can then average gradients; return when all have.

    Args:
        function: what each process calls; it must be importable by name.
        processes: how many; 1 calls it here.
        *args: its arguments, which travel to the processes.
    """
    if processes == 1:
        function(*args)
        return
    # glibc gives large blocks back at once and asks for them again in the next step: a tenth of the time.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": f"{1 << 32}", "MALLOC_TRIM_THRESHOLD_": f"{1 << 33}"}
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "meeting").as_uri()
        start_processes(
            _work, args=(processes, meeting, function, args), nprocs=processes, start_method="spawn"
        )


def _work(
    rank: int, processes: int, meeting: str, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    threads = max((os.cpu_count() or 1) // processes, 1)
    torch.set_num_threads(threads)
    # What accelerate goes by; the processes meet in a file, so that no port is taken.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": str(threads),
        "ACCELERATE_USE_CPU": "true",
    }
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    try:
        function(*args)
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process among those of `launch`, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes share each step."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(model: nn.Module) -> None:
    """Give every process the mean of all processes' gradients, some megabytes of them at a time."""
    if world_size() == 1:
        return
    bucket: list[nn.Parameter] = []
    for parameter in [p for p in model.parameters() if p.requires_grad]:
        bucket.append(parameter)
        if sum(each.numel() for each in bucket) >= _BUCKET:
            _average(bucket)
            bucket = []
    if bucket:
        _average(bucket)


def _average(parameters: list[nn.Parameter]) -> None:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    together = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(together)
    together /= world_size()
    for parameter, mean in zip(parameters, together.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = mean.view_as(parameter)


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of their ranks; each process gets the whole list."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values
