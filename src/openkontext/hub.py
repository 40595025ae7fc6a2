"""Fetch a repository, or its terms, from the Hugging Face Hub."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openkontext.errors import ConsentError, InputError
from openkontext.repository import (
    ALIASES,
    DOSSIER,
    PRECISIONS,
    SETTINGS,
    SIGNATURE,
    TOKENIZERS,
    Repository,
    RepositoryConfig,
    is_hub_name,
    pulled_folder,
)
from openkontext.terms import CARD, Terms, is_terms_file


@dataclass(frozen=True)
class Plan:
    """What a fetch will bring."""

    folders: Mapping[str, int]
    """Folder of the repository -> its bytes."""
    here: int
    """Bytes that an earlier try left."""

    @property
    def total(self) -> int:
        """Bytes of all folders."""
        return sum(self.folders.values())

    @property
    def left(self) -> int:
        """Bytes that are still to be fetched."""
        return max(0, self.total - self.here)


def pull(
    name: str,
    precision: str = PRECISIONS[0],
    destination: Path | None = None,
    *,
    t5_fp8: bool = False,
    on_plan: Callable[[Plan], None] = lambda _plan: None,
) -> Repository:
    """Fetch a repository from the Hugging Face Hub; files that an earlier try finished are not fetched again.

    What is small comes first: terms and tokenizers. So every gate on the way is asked before the graphs, of
    which those of the 12B model have up to 33 GB.

    Args:
        name: OWNER/NAME. Where it brings no tokenizers, those of the same name without "-onnx" are fetched.
        precision: of the transformer.
        destination: folder to put it in; None for the one where `Repository.open` finds it by name.
        t5_fp8: take T5 in FP8, half as large.
        on_plan: told the sizes before the graphs are fetched.

    Raises:
        ConsentError: the repository asks for its terms to be accepted first, or the main one does.
        InputError: there is no such repository or precision, or it cannot be fetched, or the disk is full.
    """
    if not is_hub_name(name):
        raise InputError(f"'{name}' cannot be fetched: give OWNER/NAME of a Hugging Face repository")
    folder = pulled_folder(name) if destination is None else destination
    precision = ALIASES.get(precision, precision)
    files = _files_on_hub(name)
    fetch_terms(name, folder).require()
    here = {p for p in (*PRECISIONS, *ALIASES) if f"transformer.opt/{p}/model.onnx" in files}
    if not here and "model_index.json" in files:
        raise InputError(
            f"{name}: holds a checkpoint, no graphs: get its exports with `openkontext pull {name}-onnx`, "
            f"or make them with `hf download {name} --local-dir FOLDER` and `openkontext export FOLDER OUT`"
        )
    if not (chosen := sorted(p for p in here if ALIASES.get(p, p) == precision)):
        raise InputError(f"{name}: has no {precision} transformer, only {', '.join(sorted(here)) or 'none'}")
    t5 = _t5_folder(name, files, t5_fp8)
    folders = ["clip.opt", t5, f"transformer.opt/{chosen[0]}", "vae.opt", "vae_encoder.opt"]
    own = any(file.startswith(TOKENIZERS) for file in files)
    _download(name if own else _main_name(name), [f"{f}/*" for f in TOKENIZERS], folder)
    plan = _plan(files, folders, folder)
    on_plan(plan)
    _check_room(plan, folder)
    _download(name, [SETTINGS, SIGNATURE, f"{DOSSIER}/*", *(f"{f}/*" for f in folders)], folder)
    repository = Repository.open(folder)
    repository.verify(precision)
    return repository


def fetch_terms(name: str, folder: Path | None = None) -> Terms:
    """Fetch what a repository on the Hugging Face Hub asks of its users, and nothing else of it.

    Args:
        name: OWNER/NAME. Texts that only the main repository has, the same name without "-onnx", count too.
        folder: where they go; None for the one of `pull`.

    Raises:
        ConsentError: the Hub shows them only to those who agreed there.
        InputError: there is no such repository, or it cannot be fetched.
    """
    if not is_hub_name(name):
        raise InputError(f"'{name}' cannot be fetched: give OWNER/NAME of a Hugging Face repository")
    folder = pulled_folder(name) if folder is None else folder
    found: set[str] = set()
    for source in dict.fromkeys((name, _main_name(name))):
        try:
            files = frozenset(_files_on_hub(source))
        except InputError:
            if source == name:
                raise
            continue  # there need be no main repository
        wanted = [SETTINGS, CARD, *filter(is_terms_file, sorted(files))]
        if missing := sorted({file for file in wanted if file in files} - found):
            _download(source, missing, folder)
        found |= files
    return Terms.of_folder(folder, name, RepositoryConfig.load(folder).license)


def find_terms(name: str) -> Terms:
    """The terms of a repository: those on the Hub where it can be reached, else those that lie here.

    Args:
        name: as for `Repository.open`; a repository that is not fetched yet is asked on the Hub.

    Raises:
        ConsentError: as for `fetch_terms`.
        InputError: there is no such repository.
    """
    try:
        return Repository.open(name, consent=False).terms
    except InputError:
        if Path(name).is_dir() or not is_hub_name(name):
            raise
    return fetch_terms(name)


def _main_name(name: str) -> str:
    """The main repository beside that of the exports."""
    return name.removesuffix("-onnx")


def _files_on_hub(name: str) -> dict[str, int]:
    """Path -> bytes of the files of a repository; 0 bytes where the Hub does not say."""
    with _hub_errors(name):
        from huggingface_hub import HfApi

        found = HfApi().model_info(name, files_metadata=True).siblings or ()
        return {file.rfilename: file.size or 0 for file in found}


def _t5_folder(name: str, files: Mapping[str, int], fp8: bool) -> str:
    here = [folder for folder in ("t5.opt", "t5-fp8.opt") if f"{folder}/model.onnx" in files]
    if fp8 and "t5-fp8.opt" not in here:
        raise InputError(f"{name}: has no T5 in fp8; leave that out")
    return "t5-fp8.opt" if fp8 else (here or ["t5.opt"])[0]


def _plan(files: Mapping[str, int], folders: Sequence[str], destination: Path) -> Plan:
    """What is to come, and what of it an earlier try left, half-fetched files included."""
    wanted = {
        folder: {file: size for file, size in files.items() if file.startswith(f"{folder}/")}
        for folder in folders
    }
    here = 0
    for sizes in wanted.values():
        for file, size in sizes.items():
            place = destination / file
            if place.is_file() and place.stat().st_size == size:
                here += size
    parts = destination.glob(".cache/huggingface/download/**/*.incomplete")
    here += sum(part.stat().st_size for part in parts if part.is_file())
    return Plan({folder: sum(sizes.values()) for folder, sizes in wanted.items()}, here)


def _check_room(plan: Plan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < plan.left:
        raise InputError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free, and {plan.left / 1e9:.1f} GB are to be "
            "fetched: make room, or set OPENKONTEXT_HOME to a folder on another disk"
        )


def _download(name: str, patterns: list[str], folder: Path) -> None:
    with _hub_errors(name):
        from huggingface_hub import snapshot_download

        snapshot_download(name, allow_patterns=patterns, local_dir=folder)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the Hub client's errors into ours."""
    try:
        yield
    except ImportError:
        raise InputError("fetching needs huggingface_hub: `pip install huggingface_hub`") from None
    except Exception as error:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        if isinstance(error, GatedRepoError):
            raise ConsentError(
                f"{name}: accept its terms at https://huggingface.co/{name}, then log in with `hf auth login`"
            ) from None
        if isinstance(error, RepositoryNotFoundError):
            raise InputError(
                f"{name}: not on the Hugging Face Hub: check the name, or log in with `hf auth login`"
            ) from None
        raise InputError(
            f"{name}: cannot be fetched ({' '.join(str(error).split())[:200]}): "
            "try again, what has arrived is kept"
        ) from error
