"""Which arithmetic "auto" stands for: what `doctor --tune` measured on this machine, else the safe choice.

Small models are computed as their files say, since nothing is felt there. Large ones on a CPU are computed by
what was the quickest here, or where nothing was measured by integers of 8 bits (`int8_weights`): they lie
nearer to bfloat16 than the published arithmetic of FP8 and FP4, and for files in bfloat16 nearer than FP8.
"""

import math
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from onnx import ModelProto, TensorProto
from pydantic import Field, TypeAdapter, ValidationError

from openkontext.files import write_whole
from openkontext.onnx_runtime import onnxruntime
from openkontext.places import cache_folder
from openkontext.runtime.lowering import ARITHMETICS, SMALL_BYTES, check_arithmetic, weight_bytes
from openkontext.runtime.model_file import read_model
from openkontext.runtime.processor import processor
from openkontext.version import __version__

AUTO = "auto"
"""An arithmetic to ask for that stands for one of `ARITHMETICS`."""

_GAIN = 0.95
"""Share of the time that an arithmetic may take at most to be chosen before one nearer to the file."""

_OPENVINO = ("onnxruntime-openvino", "onnxruntime-ep-openvino", "openvino")


@dataclass(frozen=True)
class TuningRow:
    """One candidate, measured."""

    file: Literal["bf16", "fp8", "fp4"]
    """What the layer's weights are stored in."""
    provider: str
    arithmetic: Literal["faithful", "fast", "int8"]
    threads: Annotated[int, Field(ge=0, le=4096)]
    """Of the CPU; 0 leaves it to ONNX Runtime, which takes one for each physical core."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Of one layer; None where it does not run."""
    failed: str = ""
    """Why it does not run."""


@dataclass(frozen=True)
class TuningMachine:
    """What a tuning holds for: another of any of these is another machine."""

    processor: str
    flags: tuple[str, ...]
    cores: int
    cpus: int
    onnxruntime: str
    openvino: str | None
    openkontext: str

    @classmethod
    def here(cls) -> "TuningMachine":
        """This machine with what is installed."""
        found = processor()
        versions = dict.fromkeys(_OPENVINO)
        for name in _OPENVINO:
            with suppress(PackageNotFoundError):
                versions[name] = f"{name} {version(name)}"
        return cls(
            processor=found.name,
            flags=found.flags,
            cores=found.cores,
            cpus=found.cpus,
            onnxruntime=onnxruntime.__version__,
            openvino=", ".join(filter(None, versions.values())) or None,
            openkontext=__version__,
        )


@dataclass(frozen=True)
class ComputeChoice:
    """How a transformer is computed."""

    arithmetic: str
    """One of `ARITHMETICS`."""
    threads: int = 0
    """See `TuningRow`."""


@dataclass(frozen=True)
class Tuning:
    """What was measured on a machine."""

    machine: TuningMachine
    rows: tuple[TuningRow, ...]

    def quickest(self, file: str, provider: str | None = None) -> TuningRow | None:
        """The quickest candidate of a kind of file, or one that is nearer to the file and nearly as quick.

        Args:
            file: "bf16", "fp8" or "fp4".
            provider: None for all of them.
        """
        rows = [row for row in self.rows if row.file == file and provider in (None, row.provider)]
        rows = sorted((row for row in rows if row.seconds is not None), key=_nearness)
        best = min((row.seconds or math.inf for row in rows), default=math.inf)
        return next((row for row in rows if (row.seconds or math.inf) * _GAIN <= best), None)


def _nearness(row: TuningRow) -> tuple[bool, int, int]:
    """Sorts the CPU first, then what is computed as its file says, then with ONNX Runtime's own threads."""
    return row.provider != "cpu", ARITHMETICS.index(row.arithmetic), row.threads


def tuning_file() -> Path:
    """Where a tuning is kept."""
    return cache_folder() / "tuning.json"


def remember(tuning: Tuning) -> None:
    """Keep a tuning in place of the one before.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(tuning_file(), TypeAdapter(Tuning).dump_json(tuning, indent=1))


def remembered() -> Tuning | None:
    """The tuning of this machine; one of another machine, or one that cannot be read, counts as none."""
    try:
        found = TypeAdapter(Tuning).validate_json(tuning_file().read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.machine == TuningMachine.here() else None


def forget() -> bool:
    """Remove the tuning; says whether there was one."""
    try:
        tuning_file().unlink()
    except OSError:
        return False
    return True


def check_asked(arithmetic: str) -> None:
    """Check that an arithmetic, or "auto", can be asked for.

    Raises:
        InputError: there is none of this name.
    """
    if arithmetic != AUTO:
        check_arithmetic(arithmetic, AUTO)


def choose(path: Path, provider: str = "cpu") -> ComputeChoice:
    """What "auto" stands for.

    Args:
        path: of the transformer's graph.
        provider: that runs it.

    Raises:
        InputError: the graph cannot be read.
    """
    faithful = ComputeChoice(ARITHMETICS[0])
    if provider != "cpu":
        return faithful
    model = read_model(path)
    return faithful if weight_bytes(model) <= SMALL_BYTES else of_large(_kind(model))


def of_large(file: str) -> ComputeChoice:
    """What "auto" stands for with a large model on the CPU.

    Args:
        file: "bf16", "fp8" or "fp4".
    """
    tuning = remembered()
    row = tuning.quickest(file, "cpu") if tuning else None
    return untuned() if row is None else ComputeChoice(row.arithmetic, row.threads)


def untuned() -> ComputeChoice:
    """The safe choice of a CPU by its flags: integers, with VNNI and without, where weights get 7 bits.

    An x86 without AVX2 has no kernels that are made for them.
    """
    flags, x86 = processor().flags, platform.machine().lower() in ("x86_64", "amd64")
    return ComputeChoice(ARITHMETICS[0] if x86 and flags and "avx2" not in flags else "int8")


def _kind(model: ModelProto) -> str:
    """What weights of a graph are stored in; integers of 8 bits count as bfloat16, which they replace."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.FLOAT4E2M1 in types:  # its scales are FP8
        return "fp4"
    return "fp8" if types & {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2} else "bf16"
