"""A release: what is known of a model put beside it, its card written, and all of it signed."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openkontext.errors import InputError
from openkontext.files import write_whole
from openkontext.release import filters, manifest
from openkontext.release.card import CardFacts, body, write_card
from openkontext.release.dossier import Dossier, check_no_keys
from openkontext.release.requirements import Gap, gather, is_license, license_gaps
from openkontext.reports import ReportSubject
from openkontext.repository import DOSSIER, SIGNATURE, Repository
from openkontext.terms import CARD, is_terms_file

_FILTERS = "filters.json"


class NotReadyError(InputError):
    """A model that cannot be released yet.

    Args:
        folder: of the model.
        gaps: what is missing, too old or not good enough.
    """

    def __init__(self, folder: Path, gaps: list[Gap]) -> None:
        pieces = ", ".join(gap.piece for gap in gaps)
        super().__init__(f"{folder}: is not released: {pieces}")
        self.gaps = gaps


@dataclass(frozen=True)
class Released:
    """What a release made."""

    folder: Path
    digests: dict[str, str]
    """Precision -> digest."""
    key: str
    """Fingerprint of the key that signed."""
    count: int
    """Files that are signed."""


def release(
    repository: Repository,
    folder: Path,
    *,
    key: Path | None = None,
    profile: str = "default",
    overwrite: bool = False,
) -> Released:
    """Put a model's dossier, license and card into its repository, and sign all of it.

    The list is signed last: whatever stops a release before leaves a repository without one.

    Args:
        repository: of the model, with every precision that is to be released.
        folder: of the dossier.
        key: PEM file to sign with; None for this installation's own key.
        profile: of the filters that stand around the model.
        overwrite: whether an earlier release or a card of one's own may be replaced.

    Raises:
        NotReadyError: something is missing, too old, of other weights or not good enough.
        InputError: the repository or the dossier cannot be read, or a file would be replaced.
    """
    manifest.require_library()
    path, public = manifest.signing_key(key)
    home, config = repository.path, repository.config
    _check_place(home, folder)
    dossier = Dossier.open(folder)
    check_no_keys(tuple(each for each in sorted(home.rglob("*")) if each.is_file()))
    digests = {precision: repository.digest(precision) for precision in repository.precisions}
    standing = filters.in_force(profile, [ReportSubject(config.name, digest) for digest in digests.values()])
    evidence = gather(dossier, str(home), digests, standing["filters"], datetime.now(UTC))
    terms = [each for each in (*home.iterdir(), *dossier.files) if each.is_file()]
    if gaps := [*evidence.gaps, *license_gaps(config.license, terms)]:
        raise NotReadyError(home, gaps)
    earlier = _earlier_card(home, overwrite)
    print_key = manifest.fingerprint(public)
    license = next(name for name in sorted(each.name for each in terms) if is_license(name))
    card = write_card(CardFacts(config, license, digests, dossier, evidence, standing, print_key, earlier))
    added = {_FILTERS: (json.dumps(standing, indent=2) + "\n").encode(), manifest.PUBLIC_KEY: public}
    with _writing(home):
        _put_dossier(dossier, home, added)
        for each in dossier.files:
            if each.parent == dossier.folder and is_terms_file(each.name):
                write_whole(home / each.name, each.read_bytes())
        write_whole(home / CARD, card.encode())
        count = manifest.sign(home, path)
    return Released(home, digests, print_key, count)


def _earlier_card(home: Path, overwrite: bool) -> str:
    """The card that the repository has.

    Raises:
        InputError: it, or an earlier release, would be replaced.
    """
    path = home / CARD
    card = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    if overwrite:
        return card
    for there, what in (
        ((home / SIGNATURE).exists(), "was released before"),
        (bool(body(card)), f"has a {CARD} of its own, whose text belongs into about.md of the dossier"),
    ):
        if there:
            raise InputError(f"{home}: {what}; --overwrite replaces it")
    return card


def _put_dossier(dossier: Dossier, home: Path, added: dict[str, bytes]) -> None:
    """Put the dossier into the repository, whole, in the place of an earlier one; no list is signed any more.

    Args:
        dossier: that was read; it may lie there already.
        home: folder of the repository.
        added: name -> content of what the release adds to it.
    """
    target = home / DOSSIER
    if dossier.folder.resolve() == target.resolve():
        (home / SIGNATURE).unlink(missing_ok=True)
        for name, content in added.items():
            write_whole(target / name, content)
        return
    with tempfile.TemporaryDirectory(prefix=".openkontext-", dir=home) as place:
        new = Path(place) / "new"
        for each in dossier.files:
            write_whole(new / each.relative_to(dossier.folder), each.read_bytes())
        for name, content in added.items():
            write_whole(new / name, content)
        (home / SIGNATURE).unlink(missing_ok=True)
        if target.exists():
            target.rename(Path(place) / "old")
        new.rename(target)


def _check_place(home: Path, dossier: Path) -> None:
    """Stop where the folders overlap or would publish what is not theirs.

    Raises:
        InputError: the dossier is the repository or holds it, or a file of the repository is a link.
    """
    if home.resolve().is_relative_to(dossier.resolve()):
        raise InputError(f"{dossier}: holds the repository; a dossier is a folder of its own")
    if link := next((each for each in sorted(home.rglob("*")) if each.is_symlink()), None):
        raise InputError(f"{link}: is a link, and only files can be signed; put the file itself there")
    if odd := manifest.no_file(home):
        raise InputError(f"{odd}: is no file, and only files can be signed; take it away")


@contextmanager
def _writing(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{home}: the release cannot be written ({error.strerror}); it is not signed: try again"
        ) from error
