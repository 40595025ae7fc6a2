"""The processor of this machine: its name, and what it has for products of numbers."""

import math
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",  # x86
    "asimddp", "i8mm", "bf16", "sve",  # ARM
)  # fmt: skip
"""What Linux calls instructions that bear on products of integers and floats."""

_CPUINFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Processor:
    """A processor as the system tells of it."""

    name: str
    """As its maker calls it; the kind of machine where the system does not tell."""
    flags: tuple[str, ...]
    """Those of `FLAGS` that it has; none where the system does not tell."""
    cores: int
    """Physical cores; as many as `cpus` where the system does not tell."""
    cpus: int
    """Logical cores that this process may use, within the bounds of its container."""


@cache
def processor() -> Processor:
    """This machine's processor; flags and physical cores are known on Linux alone."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return described(_text(_CPUINFO), _text(_QUOTA), cpus)


def described(text: str, bound: str, cpus: int) -> Processor:
    """What Linux says of a processor.

    Args:
        text: of /proc/cpuinfo; empty where there is none.
        bound: what a container may use, as in its `cpu.max`: microseconds of a core, and in how many.
        cpus: logical cores that the process may run on.
    """
    if share := re.match(r"(\d+) (\d+)", bound):
        cpus = max(1, min(cpus, math.ceil(int(share[1]) / int(share[2]))))
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    has = set((re.search(r"^(?:flags|Features)\s*: (.*)", text, re.MULTILINE) or ["", ""])[1].split())
    cores = set(re.findall(r"^physical id\s*: (\d+)(?:\n.+)*?\ncore id\s*: (\d+)", text, re.MULTILINE))
    return Processor(
        name=name[1].strip() if name else platform.processor() or platform.machine(),
        flags=tuple(flag for flag in FLAGS if flag in has),
        cores=min(len(cores), cpus) or cpus,
        cpus=cpus,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
