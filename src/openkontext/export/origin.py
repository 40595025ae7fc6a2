"""What an export keeps of where its model comes from: name, license, usage policy, what the Hub asks."""

import re
import shutil
from pathlib import Path

from openkontext.errors import InputError
from openkontext.export.source import Source
from openkontext.model.config import TransformerConfig
from openkontext.repository import SETTINGS, RepositoryConfig
from openkontext.terms import CARD, UNSTATED, is_terms_file

_HEAD = re.compile(r"\A---\r?\n.*?\n---[ \t]*\r?\n", re.DOTALL)
_LICENSE = re.compile(r"^(license_name|license):[ \t]*['\"]?([\w. -]+?)['\"]?[ \t]*$", re.MULTILINE)
_CARD_BYTES = 20_000  # of which a head is the beginning


def said_config(source: Source, name: str) -> RepositoryConfig:
    """The settings that a model comes with, or new ones with its name and license.

    A model of FLUX.1 Kontext [dev]'s own shape that says no license has that model's: whoever gives its
    weights another name has the same weights.

    Args:
        source: the model.
        name: to call it where nothing says one.

    Raises:
        InputError: its settings cannot be read.
    """
    for folder in dict.fromkeys((source.folder or source.tokenizer.parent, source.tokenizer.parent)):
        if (folder / SETTINGS).exists():
            return RepositoryConfig.load(folder)
    license = _license_of_card(source.folder) if source.folder else ""
    if not license and source.transformer.config == TransformerConfig():
        license = RepositoryConfig.license
    return RepositoryConfig(name=source.name or name, license=license or UNSTATED)


def keep_terms(source: Source, folder: Path) -> None:
    """Put a model's license, usage policy and the head of its card into a repository's folder.

    Raises:
        OSError: they cannot be written.
    """
    if source.folder is None:
        return
    for file in sorted(source.folder.iterdir()):
        if is_terms_file(file.name) and file.is_file():
            shutil.copyfile(file, folder / file.name)
    if head := _head(source.folder):
        (folder / CARD).write_text(head, encoding="utf-8")


def _head(folder: Path) -> str:
    """The part of a model card that machines read, with what the Hub asks before it lets anyone in."""
    try:
        text = (folder / CARD).read_text("utf-8", errors="replace")[:_CARD_BYTES]
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{folder / CARD}: cannot be read ({error.strerror})") from None
    return found[0] if (found := _HEAD.match(text)) else ""


def _license_of_card(folder: Path) -> str:
    """The license that a model card names; the name of one of the publisher's own before "other"."""
    found = dict(_LICENSE.findall(_head(folder)))
    return found.get("license_name") or found.get("license") or ""
