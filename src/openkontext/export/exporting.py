"""A checkpoint -> a model repository of ONNX graphs in the published layout."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from openkontext.editor import Editor
from openkontext.errors import InputError
from openkontext.export.autoencoder import decoder_graph, encoder_graph
from openkontext.export.calibration import Calibration, record, synthetic
from openkontext.export.loading import open_model
from openkontext.export.origin import keep_terms, said_config
from openkontext.export.place import check_out, check_room, put_back, put_in_place
from openkontext.export.precisions import (
    CALIBRATED,
    CALIBRATION_FILE,
    DTYPES,
    FLOATS,
    QUANTIZED,
    OnProgress,
    QuantRecipe,
    data_file,
    write_weights,
)
from openkontext.export.source import Source
from openkontext.export.t5_fp8 import DATA_FILE as T5_FP8_DATA
from openkontext.export.t5_fp8 import prompts, write_t5
from openkontext.export.text_encoders import clip_graph, t5_graph
from openkontext.export.transformer import transformer_graph
from openkontext.export.weights import lazy_tensors
from openkontext.export.work import Work
from openkontext.files import beside
from openkontext.model.checkpoints import Checkpoint
from openkontext.model.pipeline import Pipeline
from openkontext.repository import Repository, RepositoryConfig
from openkontext.version import __version__

PRECISIONS = (*FLOATS, *QUANTIZED)
"""What a transformer can be exported in."""

_GRAPH_FILE = "model.onnx"
_DATA_FILE = "backbone.onnx_data"
_QUANTIZATION_KEY = "openkontext.quantization"  # in a quantized graph's metadata: how it was made
_NEW = "new"  # folder of the repository while it is made
_OLD = "old"  # folder of the one that it replaces, until that is deleted


@dataclass(frozen=True)
class _Part:
    """A graph other than the transformer's."""

    folder: str
    build: Callable[..., ir.Model]  # from (config, weights, type)
    network: Checkpoint[Any]
    external: bool = False  # weights in a file beside the graph


def export_repository(
    source: Source | Pipeline | str | Path,
    out: str | Path,
    precisions: Sequence[str] = ("bf16",),
    config: RepositoryConfig | None = None,
    overwrite: bool = False,
    *,
    recipe: QuantRecipe | None = None,
    calibration: Calibration | None = None,
    t5_fp8: bool = False,
    name: str | None = None,
    license: str | None = None,
    on_progress: OnProgress = lambda _share, _what: None,
) -> Repository:
    """Write a model repository: the graphs in the published layout, the tokenizers and `openkontext.json`.

    The repository is made in a hidden folder beside `out` and takes its name at the very end: `out` holds a
    whole one, or what it held before. The transformer's weights are read block by block, so that a model need
    not fit in memory. An export from files that is stopped goes on where it was when it is called again.

    Args:
        source: the model, or where it is, as in `open_model`.
        out: folder of the repository.
        precisions: of the transformer, some of `PRECISIONS`; the other graphs come in the first of them that
            is not quantized, or in bf16.
        config: name, license, sizes, steps and the like; what the checkpoint knows is taken from it. None
            takes the checkpoint's own `openkontext.json` or, without one, its name and its card's license.
        name: what to call it in place of that.
        license: of its weights, in place of the one that it comes with.
        overwrite: replace the repository that `out` holds.
        recipe: how to quantize; None for how the published files are.
        calibration: inputs to quantize by. None records edits of a model of drawn scenes (one with `words`),
            and makes inputs up for any other.
        t5_fp8: write T5 in FP8, too, as `t5-fp8.opt`.
        on_progress: told what is being done, and the share of the transformer that is.

    Raises:
        InputError: a precision is unknown; the checkpoint cannot be read, or a weight is not finite; `out`
            exists or cannot be written, or the disk has no room.
    """
    out = Path(out)
    _check_precisions(precisions)
    folder = out.absolute().with_name(f".{out.absolute().name}.export")
    put_back(out, folder / _OLD)
    check_out(out, overwrite)
    if isinstance(source, Pipeline):
        source = Source.of(source)
    elif not isinstance(source, Source):
        source = open_model(source)
    precisions = tuple(dict.fromkeys(precisions))
    config = _completed(config or said_config(source, out.name), source)
    config = dataclasses.replace(config, name=name or config.name, license=license or config.license)
    job = _Job(source, config, precisions, recipe or QuantRecipe(), calibration, t5_fp8, on_progress)
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unique = "" if source.identity else f".{os.getpid()}"
        work = Work(folder.with_name(f"{folder.name}{unique}"), job.purpose())
        check_room(source, precisions, work.folder, t5_fp8=t5_fp8)
        job.make(work)
        for precision in precisions:
            Repository.open(work.folder / _NEW, consent=False).verify(precision)
        put_in_place(work.folder / _NEW, out, work.folder / _OLD)
        work.remove()
    except (OSError, shutil.Error) as error:
        message = f"cannot write the repository {out}: {error}"
        if work is not None and source.identity and work.units():
            work.close()
            message += f"; what is done is kept in {work.folder}: make room and run the same command to go on"
        elif work is not None:
            work.remove()
        raise InputError(message) from None
    except InputError:
        if work is not None:
            work.remove()
        raise
    return Repository.open(out, consent=False)


def _check_precisions(precisions: Sequence[str]) -> None:
    if not precisions:
        raise InputError(f"no precision to export; choose from {', '.join(PRECISIONS)}")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"cannot export in {precision!r}; choose from {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class _Job:
    """One export: what to make of what."""

    source: Source
    config: RepositoryConfig
    precisions: tuple[str, ...]
    recipe: QuantRecipe
    calibration: Calibration | None
    t5_fp8: bool
    on_progress: OnProgress

    def purpose(self) -> str:
        """All that decides what is written, so that a stopped export is gone on with only by its like."""
        said = {
            "version": __version__,
            "source": self.source.identity,
            "precisions": self.precisions,
            "recipe": self.recipe.said(),
            "calibration": self.calibration and self.calibration.digest(),
            "t5_fp8": self.t5_fp8,
            "config": dataclasses.asdict(self.config),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def make(self, work: Work) -> None:
        """Write all that is not yet there."""
        new = work.folder / _NEW
        for part in self._parts():
            if work.record(part.folder) is None:
                self.on_progress(0.0, part.folder)
                _write_part(part, self._dtype, new / part.folder)
                work.commit(part.folder)
        if self.t5_fp8:
            self._write_t5_fp8(work)
        scales = write_weights(
            self.source.transformer,
            self.precisions,
            work,
            _NEW,
            partial(self._calibrate, work),
            self.recipe,
            self.on_progress,
        )
        for tokenizer, name in (
            (self.source.tokenizer, "tokenizer"),
            (self.source.tokenizer_2, "tokenizer_2"),
        ):
            shutil.copytree(tokenizer, new / name, dirs_exist_ok=True)
        self.config.save(new)
        keep_terms(self.source, new)
        for precision in self.precisions:
            self.on_progress(1.0, f"transformer.opt/{precision}")
            self._write_transformer(work, precision, scales[precision])

    @property
    def _dtype(self) -> torch.dtype:
        """Of all graphs but the quantized transformers."""
        return next((FLOATS[p] for p in self.precisions if p in FLOATS), torch.bfloat16)

    def _parts(self) -> Iterator[_Part]:
        source = self.source
        yield _Part("clip.opt", clip_graph, source.clip)
        yield _Part("t5.opt", t5_graph, source.t5, external=True)
        yield _Part("vae.opt", decoder_graph, source.autoencoder)
        yield _Part("vae_encoder.opt", encoder_graph, source.autoencoder)

    def _calibrate(self, work: Work) -> Calibration:
        if self.calibration is not None:
            return self.calibration
        transformer = self.source.transformer.config
        if self.config.words is None:
            return synthetic(transformer, self.source.t5.config.length)
        self.on_progress(0.0, "edits to calibrate with")
        bf16 = export_repository(
            dataclasses.replace(self.source, identity=None), work.folder / "recorded", config=self.config
        )
        recorded = record(Editor(bf16))
        shutil.rmtree(bf16.path)
        return recorded

    def _write_t5_fp8(self, work: Work) -> None:
        t5 = self.source.t5
        ids = prompts(self.source.tokenizer_2, t5.config.length, self.config.kinds)
        scales = write_t5(t5, ids, work, _NEW, self.recipe.percentile, self.on_progress)
        data = work.file(f"{_NEW}/{T5_FP8_DATA}")
        _save(
            t5_graph(t5.config, data.tensors(), ir.DataType.BFLOAT16, scales),
            data.path.with_name(_GRAPH_FILE),
        )

    def _write_transformer(self, work: Work, precision: str, scales: Mapping[str, float]) -> None:
        """Write the graph over the data file that is there; last, since it makes the folder look complete."""
        data = work.file(f"{_NEW}/{data_file(precision)}")
        data.sync()
        model = transformer_graph(
            self.source.transformer.config,
            data.tensors(),
            ir.tensor_adapters.from_torch_dtype(DTYPES[precision]),
            self.source.t5.config.length,
            scales if precision in CALIBRATED else None,
        )
        if precision in CALIBRATED:
            origin = Calibration.load(work.folder / CALIBRATION_FILE).origin
            model.metadata_props[_QUANTIZATION_KEY] = json.dumps(
                {"calibration": origin, **self.recipe.said()}
            )
        _save(model, data.path.with_name(_GRAPH_FILE))


def _write_part(part: _Part, dtype: torch.dtype, folder: Path) -> None:
    weights = lazy_tensors(part.network.shapes, part.network.read, dtype)
    model = part.build(part.network.config, weights, ir.tensor_adapters.from_torch_dtype(dtype))
    shutil.rmtree(folder, ignore_errors=True)  # a kill leaves a folder of onnx-ir in it
    folder.mkdir(parents=True)
    _save(model, folder / _GRAPH_FILE, _DATA_FILE if part.external else None)


def _save(model: ir.Model, file: Path, data: str | None = None) -> None:
    """Write a graph, whole or not at all; weights stay in their data file, or all go to one named `data`."""
    with beside(file) as part:
        if data:
            ir.save(model, part, external_data=data, size_threshold_bytes=0)
        else:
            ir.save(model, part)
        onnx.checker.check_model(part, full_check=True)


def _completed(config: RepositoryConfig, source: Source) -> RepositoryConfig:
    """The settings with those numbers that the checkpoint knows."""
    numbers = source.config
    return dataclasses.replace(
        config,
        scaling_factor=numbers.autoencoder.scaling_factor,
        shift_factor=numbers.autoencoder.shift_factor,
        latent_channels=numbers.autoencoder.latent_channels,
        text_length=numbers.t5.length,
        clip_length=numbers.clip.length,
        base_shift=source.base_shift,
        max_shift=source.max_shift,
    )
