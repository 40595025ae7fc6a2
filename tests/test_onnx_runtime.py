"""An environment has one ONNX Runtime: our groups bring one each; what else is found is one line."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from openkontext import onnx_runtime
from openkontext.errors import InputError
from openkontext.onnx_runtime import how_to_get, import_runtime, installed_runtimes
from openkontext.runtime.providers import PROVIDERS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIMES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "directml": "onnxruntime-directml",
    "migraphx": "onnxruntime-migraphx",
    "openvino": "onnxruntime-openvino",
}


def packages(requirements: list[str]) -> set[str]:
    """Names of what a list of requirements brings, through our own groups."""
    found = set()
    for requirement in requirements:
        name, groups = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()
        if name == "openkontext":
            for group in groups.split(","):
                found |= packages(PROJECT["optional-dependencies"][group])
        else:
            found.add(name)
    return found


def test_what_is_always_installed_brings_no_runtime() -> None:
    assert not packages(PROJECT["dependencies"]) & set(RUNTIMES.values())


@pytest.mark.parametrize("extra", [*RUNTIMES, "ggml", "mlx", "nvtensorrtrtx", "webgpu", "test", "dev"])
def test_each_group_brings_one_runtime(extra: str) -> None:
    runtimes = packages(PROJECT["optional-dependencies"][extra]) & set(RUNTIMES.values())
    assert runtimes == {RUNTIMES.get(extra, "onnxruntime")}


@pytest.mark.parametrize("extra", ["train", "service", "s3", "report", "ray", "load"])
def test_the_other_groups_leave_the_choice(extra: str) -> None:
    assert not packages(PROJECT["optional-dependencies"][extra]) & set(RUNTIMES.values())


def test_each_provider_has_a_group_of_its_name() -> None:
    """But for two that come inside another's package."""
    assert set(PROVIDERS) - set(PROJECT["optional-dependencies"]) == {"tensorrt", "coreml"}


def package(folder: Path, name: str, version: str, *files: str) -> None:
    """An installed package as pip leaves it: its name, its version and the list of its files."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def environment(folder: Path, *names: str) -> None:
    """Packages of ONNX Runtime side by side: of what they share, one was taken away."""
    (folder / "onnxruntime" / "capi").mkdir(parents=True)
    for index, name in enumerate(names):
        package(folder, name, f"1.3{index}.0", "onnxruntime/__init__.py", "onnxruntime/capi/_ld_preload.py")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["onnxruntime", "onnxruntime-gpu"],
            "2 packages of ONNX Runtime are installed, onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0, .*"
            r": pip uninstall -y onnxruntime onnxruntime-gpu, then run .* pip install '\.\[cuda\]'",
        ),
        (
            ["onnxruntime-directml", "onnxruntime"],
            r"onnxruntime 1.31.0 and onnxruntime-directml 1.30.0, .*pip install '\.\[directml\]'",
        ),
        (
            ["onnxruntime_openvino", "onnxruntime", "onnxruntime-training"],
            r"3 packages .*onnxruntime-training 1.32.0.*pip install '\.\[openvino\]'",
        ),
        (["onnxruntime-gpu"], r"not whole.*: pip uninstall -y onnxruntime-gpu, then .*'\.\[cuda\]'"),
        ([], r"not whole, as where two were installed and one was taken away: run .*'\.\[cpu\]'"),
    ],
)
def test_more_than_one_runtime_or_the_rest_of_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], said: str
) -> None:
    environment(tmp_path, *names)
    package(tmp_path, "onnxruntime-ep-webgpu", "0.4.0", "onnxruntime_ep_webgpu/__init__.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=said) as caught:
        import_runtime()
    assert "\n" not in str(caught.value)
    assert "webgpu" not in str(caught.value)


def test_no_runtime_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r"^no ONNX Runtime is installed: run .* pip install '\.\[cpu\]'"):
        import_runtime()


def test_a_runtime_elsewhere_on_the_path_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an environment sees the system's packages behind its own."""
    package(tmp_path, "onnxruntime-gpu", "1.0.0", "onnxruntime/__init__.py")
    before = installed_runtimes()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert installed_runtimes() == before
    assert list(before) == ["onnxruntime"]


def test_another_runtime_is_taken_away_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "installed_runtimes", lambda: {"onnxruntime": "1.32.0"})
    assert how_to_get("cuda").startswith(
        "pip uninstall -y onnxruntime, then run in the checkout: pip install"
    )
    assert "uninstall" not in how_to_get("webgpu") + how_to_get("cpu")
    monkeypatch.setattr(onnx_runtime, "installed_runtimes", lambda: {"onnxruntime-gpu": "1.31.1"})
    assert "uninstall" not in how_to_get("cuda")
    assert "uninstall -y onnxruntime-gpu" in how_to_get("ggml")


@pytest.mark.parametrize(
    "command", [["edit", "photo.png", "make it night"], ["doctor"], ["generate", "a ball"]]
)
def test_commands_say_it_in_one_line(tmp_path: Path, command: list[str]) -> None:
    environment(tmp_path, "onnxruntime", "onnxruntime-gpu")
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "openkontext", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])},
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "2 packages of ONNX Runtime are installed, onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in line
