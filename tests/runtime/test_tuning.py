"""What "auto" computes: small models as published, large ones by what was measured, else by the flags."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import openkontext
from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.runtime import Components, processor, tuning, tuning_trial
from openkontext.runtime.layer_graphs import one_layer
from openkontext.runtime.lowering import SMALL_BYTES
from openkontext.runtime.tuning import ComputeChoice, Tuning, TuningMachine, TuningRow, choose, remember


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENKONTEXT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def large(tmp_path: Path) -> dict[str, Path]:
    """Graphs whose weights are said to take more than 1 GiB in float32, by what these are stored in."""
    graphs = {file: one_layer(tmp_path / file, file, 512, SMALL_BYTES) for file in ("bf16", "fp8", "fp4")}
    for name, dtype in (("fp32", TensorProto.FLOAT), ("int8", TensorProto.INT8)):
        weight = TensorProto(name="w", data_type=dtype, dims=[20_000, 20_000])
        graphs[name] = tmp_path / f"{name}.onnx"
        model = helper.make_model(helper.make_graph([], "g", [], [], [weight]))
        graphs[name].write_bytes(model.SerializeToString())
    return graphs


def row(file: str, arithmetic: str, seconds: float | None, threads: int = 0, provider: str = "cpu") -> Any:
    return TuningRow(file, provider, arithmetic, threads, seconds)  # type: ignore[arg-type]


ROWS = (
    row("bf16", "faithful", 0.100),
    row("bf16", "int8", 0.096),  # a gain too small to leave the file's own values for
    row("fp8", "faithful", 0.2),
    row("fp8", "fast", 0.1, threads=8),
    row("fp8", "int8", None),
    row("fp4", "faithful", 0.3),
    row("fp4", "int8", 0.05, threads=8),
    row("fp4", "int8", 0.0499),
    row("fp4", "fast", 0.01, provider="openvino"),
)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_a_small_model_is_computed_as_published_whatever_was_measured(precision: str) -> None:
    remember(Tuning(TuningMachine.here(), ROWS))
    path = Repository.open("nano").graph("transformer", precision)
    assert choose(path) == ComputeChoice("faithful")


@pytest.mark.parametrize("file", ["bf16", "fp8", "fp4", "fp32", "int8"])
def test_a_large_one_is_computed_in_integers_on_a_cpu_alone(large: dict[str, Path], file: str) -> None:
    assert choose(large[file]) == ComputeChoice("int8")
    for provider in ("cuda:1", "openvino", "directml"):
        assert choose(large[file], provider) == ComputeChoice("faithful")


def test_what_was_measured_goes_before(large: dict[str, Path]) -> None:
    remember(Tuning(TuningMachine.here(), ROWS))
    found = {file: choose(path) for file, path in large.items()}
    faithful = ComputeChoice("faithful")
    assert found == {
        "bf16": faithful,
        "fp32": faithful,
        "int8": faithful,
        "fp8": ComputeChoice("fast", 8),
        "fp4": ComputeChoice("int8"),
    }
    best = Tuning(TuningMachine.here(), ROWS).quickest("fp4")
    assert best is not None
    assert (best.provider, best.arithmetic) == ("openvino", "fast")
    assert tuning.forget()
    assert not tuning.forget()
    assert choose(large["fp8"]) == ComputeChoice("int8")


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"flags": ["avx2"]},
        {"cpus": 1000},
        {"onnxruntime": "1.0.0"},
        {"openvino": "openvino 1.0"},
        {"openkontext": "0.0.1"},
        {"more": 1},
        "cut",
        "empty",
        "a list",
        {"seconds": -1},
        {"seconds": "nan"},
        {"threads": -2},
        {"arithmetic": "auto"},
    ],
    ids=str,
)
def test_a_tuning_of_another_machine_or_none_that_can_be_read_counts_as_none(
    large: dict[str, Path], change: Any
) -> None:
    remember(Tuning(TuningMachine.here(), ROWS))
    file = tuning.tuning_file()
    whole = file.read_text()
    found = json.loads(whole)
    if isinstance(change, dict) and change.keys() <= {"seconds", "threads", "arithmetic"}:
        found["rows"][0] |= change
    elif isinstance(change, dict):
        found["machine"] |= change
    file.write_text({"cut": whole[:-9], "empty": "", "a list": "[]"}.get(str(change), json.dumps(found)))
    if change == {"more": 1}:  # what a later version adds harms nothing
        assert choose(large["bf16"]) == ComputeChoice("faithful")
    else:
        assert choose(large["bf16"]) == ComputeChoice("int8")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ("avx2",), "int8"),
        ("AMD64", (), "int8"),  # Windows tells nothing
        ("x86_64", ("avx512f", "avx2", "avx512_vnni"), "int8"),
        ("x86_64", ("bf16",), "faithful"),
        ("aarch64", ("asimddp",), "int8"),
    ],
)
def test_the_safe_choice_by_the_flags(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(tuning, "platform", SimpleNamespace(machine=lambda: machine))
    monkeypatch.setattr(tuning, "processor", lambda: processor.Processor("one", flags, 2, 2))
    assert tuning.untuned().arithmetic == expected


CPUINFO = "\n\n".join(
    f"processor\t: {number}\nmodel name\t: A Processor @ 2 GHz\nphysical id\t: {number // 4}\nsiblings\t: 4\n"
    f"core id\t\t: {number % 2}\ncpu cores\t: 2\nflags\t\t: fpu avx2 sse avx512_vnni"
    for number in range(8)
)


@pytest.mark.parametrize(
    ("bound", "cpus", "expected"),
    [("", 8, (4, 8)), ("max 100000\n", 8, (4, 8)), ("250000 100000\n", 8, (3, 3)), ("", 2, (2, 2))],
)
def test_cores_that_are_there_and_that_may_be_used(bound: str, cpus: int, expected: tuple[int, int]) -> None:
    found = processor.described(CPUINFO, bound, cpus)
    assert (found.name, found.flags) == ("A Processor @ 2 GHz", ("avx2", "avx512_vnni"))
    assert (found.cores, found.cpus) == expected
    assert processor.described("", bound, cpus).cores == expected[1]


def test_a_result_says_what_auto_stood_for(copier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    small = openkontext.load(copier).edit(picture, "make it brighter", num_inference_steps=1, seed=1)
    assert (small.arithmetic, "arithmetic" in small.metadata) == ("faithful", False)
    monkeypatch.setattr(tuning, "SMALL_BYTES", -1)
    large = openkontext.load(copier).edit(picture, "make it brighter", num_inference_steps=1, seed=1)
    assert (large.arithmetic, large.metadata["arithmetic"]) == ("int8", "int8")
    asked = openkontext.load(copier, arithmetic="fast")
    assert asked.components.arithmetic == "fast"
    with pytest.raises(InputError, match="unknown arithmetic 'quick': choose one of auto, faithful, fast"):
        openkontext.load(copier, arithmetic="quick")


def test_without_room_for_weights_auto_computes_as_published_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SMALL_BYTES", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    repository = Repository.open("nano")
    parts = Components(repository, "bf16")
    assert (parts.arithmetic, parts.warnings) == ("int8", [])
    parts._graph("transformer")
    assert parts.arithmetic == "faithful"
    (warning,) = parts.warnings
    assert "weights of 8 bits" in warning
    assert "No space left" in warning
    assert list((home / "weights").iterdir()) == []
    with pytest.raises(InputError, match="No space left"):
        Components(repository, "bf16", arithmetic="int8")._graph("transformer")


def test_threads_that_were_the_quickest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SMALL_BYTES", 0)
    remember(
        Tuning(TuningMachine.here(), (row("bf16", "faithful", 0.1), row("bf16", "int8", 0.01, threads=3)))
    )
    given: list[int] = []
    monkeypatch.setattr(
        "openkontext.runtime.components.load_graph", lambda *_, threads, **__: given.append(threads)
    )
    for threads in (0, 1):
        Components(Repository.open("nano"), "bf16", threads=threads)._graph("transformer")
    assert given == [3, 1]


def test_lines_that_a_library_prints_and_an_engine_that_dies_are_told_from_figures() -> None:
    first, *others = tuning_trial.candidates("cpu")
    lines = [
        "a greeting of a library",
        json.dumps({"candidate": first, "seconds": 0.2}),
        json.dumps({"candidate": first, "seconds": 0.1}),
        json.dumps({"candidate": others[0], "failed": "no kernel"}),
        '{"candidate": ["bf16", "int8',
    ]
    rows = tuning_trial._rows("cpu", lines, "it ends the process (signal 11)")
    assert [(each.seconds, each.failed) for each in rows[:3]] == [
        (0.1, ""),
        (None, "no kernel"),
        (None, "it ends the process (signal 11)"),
    ]
    assert len(rows) == len(others) + 1
