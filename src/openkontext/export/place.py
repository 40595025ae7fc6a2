"""The folder that a repository is put in: whether it may be, whether there is room, and how."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openkontext.errors import InputError
from openkontext.export.quantizers.selection import is_quantized
from openkontext.export.source import Source
from openkontext.model.checkpoints import Checkpoint
from openkontext.repository import SETTINGS

_SPARE_BYTES = 256 << 20  # that a disk must have beyond what the weights take


def check_out(out: Path, overwrite: bool) -> None:
    """See that a repository may be put in a folder.

    Raises:
        InputError: there is one already, or something else.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / SETTINGS).exists()):
        raise InputError(f"{out} exists and is no model repository; give another folder")
    if not overwrite and any(out.iterdir()):
        raise InputError(f"{out} exists; add --overwrite to replace it")


def check_room(source: Source, precisions: Sequence[str], folder: Path, *, t5_fp8: bool = False) -> None:
    """See that the disk can hold what will be written, before hours are spent on it.

    Args:
        source: the model.
        precisions: of the transformer.
        folder: where it is written; what is there already counts as room.
        t5_fp8: whether T5 comes in FP8, too.

    Raises:
        InputError: there is no room.
    """

    def numbers(network: Checkpoint[Any]) -> int:
        return sum(math.prod(shape) for shape in network.shapes.values())

    whole = numbers(source.transformer)
    quantized = sum(
        math.prod(shape)
        for name, shape in source.transformer.shapes.items()
        if len(shape) == 2 and is_quantized(name)
    )
    per_number = {
        "bf16": (2.0, 2.0),
        "fp32": (4.0, 4.0),
        "fp8": (1.0, 2.0),
        "fp4": (0.6, 2.0),
        "int8": (1.0, 1.0),  # all but a hundredth of a large model
    }
    needed = sum(
        int(quantized * each + (whole - quantized) * other)
        for each, other in (per_number[precision] for precision in precisions)
    )
    needed += int(1.1 * numbers(source.t5)) if t5_fp8 else 0
    needed += 2 * (numbers(source.t5) + numbers(source.clip) + numbers(source.autoencoder)) + _SPARE_BYTES
    here = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free + here < needed:
        raise InputError(
            f"the disk of {folder.parent} has {free / 1e9:.1f} GB free, and the repository takes about "
            f"{needed / 1e9:.1f} GB: make room, or give a folder on another disk"
        )


def put_in_place(made: Path, out: Path, old: Path) -> None:
    """Rename a new folder to its place, and the one that was there to `old`, or leave all as it was."""
    if not out.exists():
        made.rename(out)
        return
    out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        old.rename(out)
        raise


def put_back(out: Path, old: Path) -> None:
    """Undo half of `put_in_place`, where a kill came between its two renames."""
    if old.is_dir() and not out.exists():
        old.rename(out)
