"""A model repository on disk: find it, say what it lacks, tell it from others. `hub.py` fetches one.

The layout is that of `black-forest-labs/FLUX.1-Kontext-dev-onnx`: one folder per graph, and the transformer's
once per precision. Two things may stand beside the graphs: the tokenizers of the main repository, and
`openkontext.json` with the model's numbers where they differ from FLUX.1's.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from openkontext.digests import sha256
from openkontext.errors import InputError
from openkontext.files import CHECKPOINT_SUFFIXES, write_whole
from openkontext.latents import PREFERRED_SIZES
from openkontext.places import cache_folder
from openkontext.terms import UNSTATED, Terms

SETTINGS = "openkontext.json"
"""Name of the file with a repository's `RepositoryConfig`."""

SIGNATURE = "model.sig"
"""Name of the signed list of a released repository's files."""

DOSSIER = "dossier"
"""Folder of a released repository with what is known of the model."""

FLUX_REPOSITORY = "black-forest-labs/FLUX.1-Kontext-dev-onnx"
"""The published exports of the 12B model."""

PRECISIONS = ("bf16", "fp32", "fp16", "int8", "fp8", "fp4")
"""Precisions a repository may hold, the one to prefer first."""

ROLES = ("clip", "t5", "transformer", "vae", "vae_encoder")
"""The graphs of a repository."""

TOKENIZERS = ("tokenizer", "tokenizer_2")
"""Folders of the CLIP and T5 tokenizers."""

ALIASES = {"fp4_svd32": "fp4"}
"""Other names of precisions: both are in use for NVFP4 with SVDQuant of rank 32."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RepositoryConfig:
    """The numbers of a model. FLUX.1 Kontext [dev] is the default; a repository carries those that differ."""

    name: str = FLUX_REPOSITORY
    """What the model is called; OWNER/NAME where it can be fetched from the Hugging Face Hub."""
    license: Annotated[str, Field(validation_alias=AliasChoices("license", "licence"))] = (
        "FLUX.1 [dev] Non-Commercial License"
    )
    """License of the weights; files from before call it `licence`."""
    scaling_factor: PositiveFloat = 0.3611
    """The transformer works on (latent - shift_factor) * scaling_factor."""
    shift_factor: float = 0.1159
    """See scaling_factor."""
    text_length: PositiveInt = 512
    """T5 tokens that every prompt is padded to."""
    clip_length: PositiveInt = 77
    """CLIP tokens that every prompt is padded to."""
    latent_channels: PositiveInt = 16
    """Channels of the latent."""
    sizes: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] = PREFERRED_SIZES
    """Sizes (width, height) in pixels that the model was trained on."""
    min_area: Annotated[float, Field(gt=0, le=1)] = 1 / 16
    """Share of their pixels from which on the model works at a smaller size that is asked for, such as
    256x256 where it was trained on 1024x1024. A still smaller picture is made at one of them and scaled."""
    num_inference_steps: PositiveInt = 28
    """Denoising steps when the caller names none."""
    guidance_scale: Annotated[float, Field(ge=0)] = 2.5
    """Guidance when the caller names none."""
    base_shift: float = 0.5
    """Shift of the schedule (mu) at 256 target tokens."""
    max_shift: float = 1.15
    """Shift of the schedule (mu) at 4096 target tokens."""
    keep_below: Annotated[float, Field(ge=0)] = 0.0
    """Where a latent pixel of the result differs from the input's by less than this, the input's own pixels
    stay: mean over the channels, in deviations. 0 keeps none, and the whole result is what the model made."""
    references: Literal["offset", "index"] | None = None
    """How context images beyond the first are told apart (`latents.context_positions`). None for what such
    models were trained with: "index" where they were taught a list of words, "offset" for any other."""
    words: tuple[str, ...] | None = None
    """Words that the model was taught; None for a model trained on open text."""
    kinds: tuple[str, ...] | None = None
    """Kinds of edit that the model was taught, of `openkontext.data.edits`; None for all."""
    inhibits: tuple[str, ...] | None = None
    """Concepts that the model was made unable to produce, by the names in their files; None for none."""

    @classmethod
    def load(cls, folder: Path) -> "RepositoryConfig":
        """Read the settings of a repository; FLUX.1's where it has none.

        Raises:
            InputError: the file is not JSON, or a setting is unknown or out of its range.
        """
        path = folder / SETTINGS
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None

    @classmethod
    def of_folder(cls, folder: Path) -> "RepositoryConfig":
        """As `load`; of a folder that optimum exported, what its own files say.

        Raises:
            InputError: as `load`.
        """
        if (folder / SETTINGS).exists() or not _is_optimums(folder):
            return cls.load(folder)
        from openkontext.runtime import optimum

        license = cls.license if optimum.is_flux_dev(folder) else UNSTATED
        try:
            numbers = optimum.numbers(folder)
            return TypeAdapter(cls).validate_python(
                {"name": folder.absolute().name, "license": license, **numbers}
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise InputError(f"{folder}: {first['loc'][0]}: {first['msg']}") from None

    @property
    def position_rule(self) -> str:
        """See references."""
        return self.references or ("offset" if self.words is None else "index")

    def save(self, folder: Path) -> None:
        """Write the settings into a repository's folder, whole or not at all."""
        write_whole(folder / SETTINGS, TypeAdapter(RepositoryConfig).dump_json(self, indent=2) + b"\n")


@dataclass(frozen=True)
class Repository:
    """A model repository on disk; `Repository.open` finds one."""

    path: Path
    """Its folder."""
    config: RepositoryConfig
    """The model's numbers."""

    @classmethod
    def open(cls, name_or_path: str | Path, *, consent: bool = True) -> "Repository":
        """Find a repository.

        Args:
            name_or_path: "nano" for the shipped model, OWNER/NAME for one fetched by `pull`, or a folder.
            consent: whether its terms must have been accepted, where they ask for it; only what does not use
                the model may do without.

        Raises:
            InputError: there is none, it holds no transformer, or its settings cannot be read.
            ConsentError: its terms are not accepted yet.
        """
        name = str(name_or_path)
        if is_checkpoint(Path(name)):
            raise InputError(
                f"{name}: is a checkpoint, of which `openkontext export {name} OUT` makes a repository; "
                f"then take OUT. `openkontext edit --model {name}` does both"
            )
        if name == "nano":
            path = shipped_folder()
        elif os.path.isdir(path := Path(name_or_path)):  # noqa: PTH112 - pathlib's raises for odd names
            pass
        elif is_hub_name(name):
            path = pulled_folder(name)
            if not path.is_dir():
                raise InputError(
                    f"{name}: no such folder, and not fetched yet: get it with `openkontext pull {name}`"
                )
        else:
            raise InputError(f"{name}: no such model repository: give 'nano', OWNER/NAME or a folder")
        repository = cls(path, RepositoryConfig.of_folder(path))
        if not repository.precisions:
            raise InputError(
                f"{path}: holds no transformer.opt/PRECISION/model.onnx, so it is no model repository"
                f"{repository._remedy(PRECISIONS[0])}"
            )
        if consent:
            repository.terms.require()
        return repository

    @property
    def terms(self) -> Terms:
        """The terms that it carries."""
        return Terms.of_folder(self.path, _terms_name(self.path, self.config), self.config.license)

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the transformer that are here, the preferred first."""
        return tuple(
            p for p in PRECISIONS if p == self._optimum or any(g.is_file() for g in self._transformers(p))
        )

    @cached_property
    def _optimum(self) -> str | None:
        """Precision of the transformer that optimum exported, where this is a folder of its."""
        if not _is_optimums(self.path):
            return None
        from openkontext.runtime import optimum
        from openkontext.runtime.model_file import read_model

        return optimum.precision_of(read_model(optimum.graph_file(self.path, "transformer")))

    def precision(self, asked: str | None = None) -> str:
        """The precision to use: the asked one, or the repository's first.

        Raises:
            InputError: there is no such precision, or it is not here.
        """
        if asked is None:
            return self.precisions[0]
        precision = ALIASES.get(asked, asked)
        if precision not in PRECISIONS:
            raise InputError(f"unknown precision '{asked}': {self.path} has {', '.join(self.precisions)}")
        if precision not in self.precisions:
            raise InputError(
                f"{self.path}: has no {precision} transformer, only {', '.join(self.precisions)}"
                f"{self._remedy(precision)}"
            )
        return precision

    def graph(self, role: str, precision: str) -> Path:
        """Where a graph is, or should be.

        Args:
            role: one of `ROLES`.
            precision: of the transformer. The others come in one precision; T5 may come in FP8 too, which is
                taken where there is no other.
        """
        if role == "transformer":
            choices = self._transformers(ALIASES.get(precision, precision))
        elif role == "t5":
            choices = [self.path / folder / "model.onnx" for folder in ("t5.opt", "t5-fp8.opt")]
        else:
            choices = [self.path / f"{role}.opt" / "model.onnx"]
        if self._optimum is not None:
            from openkontext.runtime import optimum

            choices.append(optimum.graph_file(self.path, role))
        return next((path for path in choices if path.is_file()), choices[0])

    def verify(self, precision: str) -> None:
        """Check that all of the model is here and of one piece; cheap, since no weight is read.

        Raises:
            InputError: a graph, a data file or a tokenizer is missing (the message says how to get it), a
                data file is cut short, or a graph is not one of its role or of another model than the rest.
        """
        self._verified[precision] = self.files(precision)

    @cached_property
    def _verified(self) -> dict[str, list[Path]]:
        """Precision -> its files, where `verify` found them whole: the digest need not parse them again."""
        return {}

    def files(self, precision: str) -> list[Path]:
        """The files that make the model in one precision: settings, tokenizers, graphs and their data.

        Raises:
            InputError: as `verify`.
        """
        if missing := self._missing(precision):
            names = ", ".join(str(path.relative_to(self.path)) for path in missing)
            raise InputError(f"{self.path}: lacks {names}{self._remedy(precision)}")
        # Late: a command that only looks for repositories need not import ONNX.
        from openkontext.runtime.contract import AgreedSizes, check_contract
        from openkontext.runtime.model_file import data_files, read_model
        from openkontext.runtime.optimum import published_names

        sizes, settings = AgreedSizes(), f"{self.path / SETTINGS} (or FLUX.1's default)"
        sizes.agree("clip_length", self.config.clip_length, settings)
        sizes.agree("text_length", self.config.text_length, settings)
        sizes.agree("latent_channels", self.config.latent_channels, settings)
        sizes.agree("token_width", 4 * self.config.latent_channels, settings)
        files = [path for path in (self.path / SETTINGS,) if path.is_file()]
        for folder in TOKENIZERS:
            files += sorted(path for path in (self.path / folder).iterdir() if path.is_file())
        for role in ROLES:
            graph = self.graph(role, precision)
            model = read_model(graph)
            model = published_names(model, role) or model
            check_contract(model, graph, role, sizes)
            files += [graph, *data_files(model, graph).values()]
        return files

    def digest(self, precision: str) -> str:
        """What tells this model from any other: SHA-256 over the list that `sha256sum` prints of its files.

        The list is sorted by path and its paths are relative to the repository. Hashes of large files are
        remembered until the file's size or time of change differs.

        Raises:
            InputError: as `verify`.
        """
        found = self._verified.get(precision) or self.files(precision)
        files = {path.relative_to(self.path).as_posix(): path for path in found}
        try:
            lines = "".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files))
        except OSError as error:
            raise InputError(f"{error.filename or self.path}: cannot be read: {error.strerror}") from None
        return hashlib.sha256(lines.encode()).hexdigest()

    def _transformers(self, precision: str) -> list[Path]:
        names = [precision, *(alias for alias, name in ALIASES.items() if name == precision)]
        return [self.path / "transformer.opt" / name / "model.onnx" for name in names]

    def _missing(self, precision: str) -> list[Path]:
        graphs = [self.graph(role, precision) for role in ROLES]
        tokenizers = [self.path / folder for folder in TOKENIZERS]
        return [path for path in graphs if not path.is_file()] + [
            path for path in tokenizers if not path.is_dir() or not any(path.iterdir())
        ]

    def _remedy(self, precision: str) -> str:
        """How to get what is missing, to end a message with."""
        if not is_hub_name(self.config.name):
            return ": install or export it again"
        return f": get it with `openkontext pull {self.config.name} --precision {precision}`"


def _terms_name(folder: Path, config: RepositoryConfig) -> str:
    """What to call a repository in a command: its name where that finds it, else its folder."""
    if folder == pulled_folder(config.name):
        return config.name
    return "nano" if folder == shipped_folder() else str(folder)


def _is_optimums(folder: Path) -> bool:
    """Whether a folder is one that optimum exported: told without importing ONNX."""
    return (folder / "transformer" / "model.onnx").is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a model as torch's tools keep it: a single file, or a diffusers pipeline's folder.

    A folder that holds graphs, too, is a repository.
    """
    try:
        if path.is_dir():
            return (path / "model_index.json").is_file() and not any(path.glob("transformer*/**/model.onnx"))
        return path.suffix in CHECKPOINT_SUFFIXES and path.is_file()
    except (OSError, ValueError):  # names that no file can have
        return False


def shipped_folder() -> Path:
    """Where the model lies that ships with this package."""
    return Path(__file__).parent / "nano"


def pulled_folder(name: str) -> Path:
    """Where `pull` puts the repository OWNER/NAME."""
    return cache_folder() / "repositories" / name


def is_hub_name(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
