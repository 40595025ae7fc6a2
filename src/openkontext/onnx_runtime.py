"""ONNX Runtime, of which an environment has one: all that runs a graph imports it from here.

It is published as several packages (onnxruntime, onnxruntime-gpu, ...) that bring the same files. pip
installs two of them without a word: each overwrites files of the other, and taking one away leaves neither
whole.
"""

import ctypes
import importlib
import importlib.util
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from openkontext.errors import InputError, how_to_install

__all__ = ["give_back", "onnxruntime"]

_EXTRAS = {
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
    "onnxruntime-migraphx": "migraphx",
    "onnxruntime-openvino": "openvino",
}
"""Package with ONNX Runtime in it -> our group that brings it; all others are in place of `cpu`."""


def installed_runtimes() -> dict[str, str]:
    """Name and version of each package that brings files of the imported ONNX Runtime; plugins do not."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = dict.fromkeys(
        Path(folder).parent for folder in (spec and spec.submodule_search_locations) or ()
    )
    # By the names beside the files: `metadata.distributions` would read what every package says of itself.
    found = [
        metadata.Distribution.at(path)
        for folder in folders
        for path in sorted(folder.glob("*-info"))
        if path.name.lower().startswith(("onnxruntime", "ort-", "ort_"))
    ]
    return {
        each.name.lower().replace("_", "-"): each.version
        for each in found
        if any(file.as_posix() == "onnxruntime/__init__.py" for file in each.files or ())
    }


def give_back() -> None:
    """Give memory that is free back to the system: opening a graph leaves as much free as the graph takes.

    It takes some milliseconds. Where there is another C library than glibc, nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def how_to_get(extra: str) -> str:
    """What to type for a group that brings ONNX Runtime; another one goes first, which pip would leave.

    Args:
        extra: name of the group in `pyproject.toml`, such as "cuda".
    """
    wanted = next((name for name, group in _EXTRAS.items() if group == extra), "onnxruntime")
    others = [name for name in sorted(installed_runtimes()) if name != wanted]
    remove = f"pip uninstall -y {' '.join(others)}, then " if others else ""
    return remove + how_to_install(extra)


def import_runtime() -> Any:
    """The module `onnxruntime`.

    Raises:
        InputError: none is installed, or more than one, or files of it are missing.
    """
    found = installed_runtimes()
    taken = " ".join(sorted(found))
    again = how_to_install(next((_EXTRAS[name] for name in found if name in _EXTRAS), "cpu"))
    if len(found) > 1:
        both = " and ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise InputError(
            f"{len(found)} packages of ONNX Runtime are installed, {both}, and each overwrites files "
            f"of the other: pip uninstall -y {taken}, then {again}"
        )
    try:
        module = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise InputError(f"ONNX Runtime needs {error.name}: {again}") from error
        raise InputError(
            f"no ONNX Runtime is installed: {how_to_install('cpu')} (docs/providers.md has those for GPUs)"
        ) from None
    except Exception as error:  # files of two versions fail in many ways
        raise InputError(
            f"ONNX Runtime does not start ({' '.join(str(error).split())[:200]}): pip install "
            f"--force-reinstall {taken or 'onnxruntime'}"
        ) from error
    if not hasattr(module, "InferenceSession"):  # an empty folder of this name is a module, too
        raise InputError(
            "ONNX Runtime is not whole, as where two were installed and one was taken away: "
            + (f"pip uninstall -y {taken}, then " if taken else "")
            + again
        )
    return module


onnxruntime = import_runtime()
