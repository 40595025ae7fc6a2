"""The checkpoints of a run, in the order in which they were made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openkontext.errors import InputError
from openkontext.repository import Repository, RepositoryConfig

_SHAPE = ("latent_channels", "text_length", "clip_length", "sizes")
"""Numbers in which all checkpoints of a run agree: else they are asked for other pictures and words."""


@dataclass(frozen=True)
class SeriesModel:
    """One model of the series."""

    name: str
    """As a report shows it."""
    model: str
    """"nano" or a folder."""
    digest: str
    """As `Repository.digest` computes it."""
    config: RepositoryConfig


def open_checkpoints(models: Sequence[str], *, weights: bool) -> tuple[SeriesModel, ...]:
    """Look at all checkpoints before the first is attacked.

    Args:
        models: each "nano", OWNER/NAME or a folder; NAME=FOLDER gives it another name.
        weights: whether attacks need the weights in torch.

    Raises:
        InputError: one is missing or not whole, two have one name or are of different shapes, or the weights
            of one cannot be read back.
    """
    found: list[SeriesModel] = []
    for text in models:
        label, equals, path = text.partition("=")
        if not equals or not label or Path(text).exists():
            label, path = "", text
        repository = Repository.open(path)
        precision = repository.precision(None)
        name = as_text(label or (path if path == "nano" else Path(path).resolve().name))
        found.append(SeriesModel(name, path, repository.digest(precision), repository.config))
        if weights:
            _check_weights(repository, precision)
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two checkpoints are called {name}; name one of them otherwise: NAME=FOLDER")
    for other in found[1:]:
        _check_shape(found[0], other.model, other.config)
    return tuple(found)


def as_text(name: str) -> str:
    """A name as a report shows it, in one line: a folder's may hold line ends, or be no text at all."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "unnamed"


def check_reference(model: str, first: SeriesModel) -> None:
    """Look at a model that checkpoints are compared with, before the first is attacked.

    Args:
        model: "nano" or a folder.
        first: of the checkpoints.

    Raises:
        InputError: it is missing, of another shape, or its weights cannot be read back.
    """
    repository = Repository.open(model)
    _check_shape(first, model, repository.config)
    _check_weights(repository, repository.precision(None))


def _check_shape(first: SeriesModel, model: str, config: RepositoryConfig) -> None:
    for number in _SHAPE:
        if getattr(first.config, number) != getattr(config, number):
            raise InputError(
                f"{model}: is of another shape than {first.model} ({number}); attack it in a run of its own"
            )


def _check_weights(repository: Repository, precision: str) -> None:
    try:
        import torch  # noqa: F401

        from openkontext.export.loading import open_repository
    except ImportError as error:
        from openkontext.errors import how_to_install

        raise InputError(
            f"attacks on weights need {error.name}; {how_to_install('train')}, or take them out of the plan"
        ) from None
    open_repository(repository, precision)  # looks at the graphs, and reads no weight
