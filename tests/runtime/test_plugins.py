"""Providers that are plugins are found, put into ONNX Runtime and given graphs; one of them runs on a CPU."""

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from patience import DEAD

from openkontext.errors import InputError
from openkontext.onnx_runtime import onnxruntime
from openkontext.places import cache_folder
from openkontext.runtime import cache, plugins, providers
from openkontext.runtime import provider_trial as trial
from openkontext.runtime.graph import load_graph
from openkontext.runtime.providers import available_providers, check_provider

needs_ggml = pytest.mark.skipif(not plugins.installed("ggml"), reason="onnxruntime-ggml is not installed")


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A graph with weights: y = x @ w."""
    weights = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    return path


@needs_ggml
def test_an_installed_plugin_runs_a_graph(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: it computes what the CPU provider computes, and it is the plugin that was given the graph."""
    assert "ggml" in available_providers()
    check_provider("ggml")
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    opened = load_graph(product, "ggml")
    assert opened._session.get_providers() == ["ggml", "CPUExecutionProvider"]
    np.testing.assert_allclose(opened.run(x=x)["y"], load_graph(product).run(x=x)["y"], atol=1e-5)
    # Once it is in ONNX Runtime it is listed there, and still is a plugin: a session needs its device.
    assert "ggml" in onnxruntime.get_available_providers()
    assert [device.ep_name for device in providers.plugin_devices("ggml")] == ["ggml"]


@needs_ggml
def test_a_plugin_is_tried_in_a_process_of_its_own() -> None:
    assert trial.why_absent("ggml") is None


class Device:
    """Stands for an `OrtEpDevice` of hardware that is not here."""

    def __init__(self, name: str, kind: str) -> None:
        self.ep_name = name
        self.device = types.SimpleNamespace(type=types.SimpleNamespace(name=kind))


@pytest.mark.parametrize(
    ("kinds", "best"), [(["NPU", "CPU", "GPU"], "GPU"), (["NPU", "CPU"], "CPU"), (["NPU"], "NPU")]
)
def test_a_plugin_with_devices_is_handed_the_best_one_and_its_options(
    product: Path, monkeypatch: pytest.MonkeyPatch, kinds: list[str], best: str
) -> None:
    module = types.ModuleType("onnxruntime_ep_openvino")
    module.get_library_path = lambda: "libplugin.so"  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace(name=module.__name__)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registered: list[tuple[str, str]] = []
    given: dict[str, Any] = {}
    devices = [
        Device("CPUExecutionProvider", "CPU"),
        *(Device("OpenVINOExecutionProvider", k) for k in kinds),
    ]

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            given.update(devices=devices, options=options)

    def session(source: Any, options: Any, **arguments: Any) -> Any:
        given.update(arguments)
        names = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
        return types.SimpleNamespace(get_providers=lambda: names, get_inputs=list, get_outputs=list)

    monkeypatch.setattr(plugins, "loaded", set())
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *pair: registered.append(pair)
    )
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load_graph(product, "openvino")
    load_graph(product, "openvino")
    assert registered == [("OpenVINOExecutionProvider", "libplugin.so")]  # once
    assert [device.device.type.name for device in given["devices"]] == [best]
    assert given["options"] == {
        "load_config": f'{{"{best}": {{"CACHE_DIR": "{cache_folder() / "openvino"}"}}}}'
    }
    assert "providers" not in given


def test_a_plugin_without_a_device_or_that_does_not_load_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime_ep_mlx.py").write_text("def library_path():\n    return 'nowhere.so'\n")
    (tmp_path / "onnxruntime_ep_webgpu.py").write_text("raise OSError('no Vulkan\\nhere')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError, match=r"provider 'mlx': the plugin onnxruntime_ep_mlx does not load: .*nowhere"
    ):
        check_provider("mlx")
    with pytest.raises(InputError, match="onnxruntime_ep_webgpu does not load: no Vulkan here"):
        check_provider("webgpu")
    assert not {"mlx", "webgpu"} & set(available_providers())
    monkeypatch.setattr(plugins, "devices", lambda name, provider: [])
    with pytest.raises(
        InputError, match="'webgpu': its plugin onnxruntime_ep_webgpu finds nothing to run on"
    ):
        check_provider("webgpu")


@pytest.mark.parametrize("reads", [True, False])
def test_openvino_keeps_what_it_compiled_where_it_can_read_it(
    reads: bool, product: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "capi").mkdir()
    if reads:
        (tmp_path / "capi" / "libopenvino_ir_frontend.so.2541").touch()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    given: dict[str, Any] = {}

    def session(source: Any, options: Any, **arguments: Any) -> Any:
        given.update(arguments)
        return types.SimpleNamespace(
            get_providers=lambda: ["OpenVINOExecutionProvider"], get_inputs=list, get_outputs=list
        )

    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load_graph(product, "openvino")
    assert given["providers"] == ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    kept = {"cache_dir": str(cache_folder() / "openvino")} if reads else {}
    assert given["provider_options"] == [kept, {}]
    monkeypatch.undo()
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(InputError, match="does not start"):
        load_graph(product, "cpu")
    assert given["providers"] == ["CPUExecutionProvider"]
    assert given["provider_options"] == [{}]


def test_what_providers_compiled_is_counted_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path))
    assert cache.compiled() == (0, 0)
    for name in ("openvino/1.blob", "tensorrt/1.engine", "models/kept"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "openvino/1.blob").chmod(0o440)  # as OpenVINO leaves it
    assert cache.compiled() == cache.compiled(clear=True) == (2, 6)
    assert cache.compiled() == (0, 0)
    assert (tmp_path / "models/kept").exists()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "cpu"])
def test_the_cuda_of_pip_packages_is_loaded_for_those_that_need_it(
    product: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    loaded = []
    names = [providers.PROVIDERS[name] for name in ("tensorrt", "cuda", "cpu")]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append(print("Failed to load libcublas")))
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *_, **__: types.SimpleNamespace(
            get_providers=lambda: names, get_inputs=list, get_outputs=list
        ),
    )
    providers._find_cuda.cache_clear()
    load_graph(product, provider)
    load_graph(product, provider)
    assert len(loaded) == (provider != "cpu")
    providers._find_cuda.cache_clear()


CUDA_LOG = (
    "\x1b[1;31m2026-11-29 16:00:49.412420779 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
    "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
    "/v/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: "
    "libcuda.so.1: cannot open shared object file: No such file or directory\n\x1b[m\n"
    "\x1b[0;93m2026-11-29 16:00:49.412458675 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 "
    "CreateExecutionProviderFactoryInstance] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and "
    "CUDA 13.*. Please install all dependencies as mentioned in the GPU requirements page (https://...), "
    "make sure they're in the PATH, and that your GPU is supported.\x1b[m\n"
)
"""What onnxruntime-gpu 1.31.1 logged on a machine without a GPU."""


def test_the_reason_is_what_onnx_runtime_says() -> None:
    assert trial.reason(CUDA_LOG) == (
        "Failed to load library libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open "
        "shared object file: No such file or directory; Failed to create CUDAExecutionProvider. Require "
        "cuDNN 9.* and CUDA 13.*"
    )
    assert trial.reason("Traceback ...\n  File\nRuntimeError: no device\n") == "RuntimeError: no device"
    assert trial.reason("") == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", None),
        ("cat >&2 <<'END'\n" + CUDA_LOG + "END\nexit 3", "Require cuDNN 9.* and CUDA 13.*"),
        ("kill -SEGV $$", "ends the process (signal 11)"),
        ("exec sleep 600", "did not start in 1 seconds"),
        ("exit 3", "gives no reason (exit code 3)"),
    ],
)
def test_whatever_a_provider_does_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str | None
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(trial, "_SECONDS", 1 if "sleep" in script else DEAD)
    found = trial.why_absent("cuda")
    if said is None:
        assert found is None
    else:
        assert said in str(found)
        assert len(str(found).splitlines()) == 1


def test_a_provider_that_starts_is_said_to_start() -> None:
    assert trial.why_absent("cpu") is None
    absent = subprocess.run(
        [sys.executable, "-P", "-c", trial._CODE, "coreml"], check=False, capture_output=True
    )
    assert absent.returncode != 0
