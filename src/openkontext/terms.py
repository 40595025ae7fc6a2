"""Terms that bind whoever uses a model or a service: what they are, and that they were accepted.

A model repository carries its license and usage policy as files. Where these are more than an open license,
the repository is neither fetched nor opened before they are accepted: these very texts, by their digest.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openkontext.errors import ConsentError, InputError
from openkontext.files import append_line
from openkontext.places import data_folder

OPEN_LICENSES = frozenset(
    {"0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "isc", "mit", "unlicense"}
)
"""Licenses (SPDX, in small letters) that ask for nothing which must be accepted before use."""

UNSTATED = "not stated"
"""License of a model that says nothing of it, such as one of one's own."""

CARD = "README.md"
"""Model card of a repository; its head says what the Hugging Face Hub asks before it lets anyone in."""

_FILES = re.compile(
    r"(licen[cs]e|(acceptable[-_ ]?|usage[-_ ]?)?(use[-_ ]?)?policy|terms([-_ ]of[-_ ](use|service))?)"
    r"([-_. ].*)?",
    re.IGNORECASE,
)
_VERSION = re.compile(r"\b(?:v|version\s+)(\d+(?:\.\d+)+)\b", re.IGNORECASE)
_RECORDS = "consents.jsonl"


def is_terms_file(name: str) -> bool:
    """Whether a file of a repository, by its path in it, holds terms: LICENSE.md, POLICY.md and such."""
    return "/" not in name and _FILES.fullmatch(name.removesuffix(".md").removesuffix(".txt")) is not None


@dataclass(frozen=True)
class Consent:
    """That terms were accepted."""

    time: str
    """When, in UTC."""
    name: str
    """What they were the terms of."""
    license: str
    version: str
    digest: str
    """SHA-256 of the texts."""


@dataclass(frozen=True)
class Terms:
    """The terms of one thing."""

    name: str
    """What they are the terms of: a repository, or a service."""
    license: str
    """What they are called."""
    texts: tuple[tuple[str, str], ...]
    """Name and text of each part."""
    gated: bool = False
    """Whether who publishes it asks everybody to accept them, whatever the license."""
    stated_version: str = ""
    """Their version, where something else than the text tells it."""

    @classmethod
    def of_folder(cls, folder: Path, name: str, license: str) -> "Terms":
        """The terms that a repository on disk carries.

        Args:
            folder: of the repository.
            name: what the repository is called.
            license: its license, as its settings say.

        Raises:
            InputError: a file cannot be read.
        """
        try:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            files = [file for file in files if is_terms_file(file.name) and file.is_file()]
            texts = [(file.name, file.read_text("utf-8", errors="replace")) for file in files]
        except OSError as error:
            raise InputError(f"{folder}: its terms cannot be read ({error.strerror})") from error
        asked = _asked_on_hub(folder / CARD)
        if asked:
            texts.append((CARD, asked))
        if not texts and license != UNSTATED:
            missing = "Its text is not in this repository; read it where it was published."
            # Its name is in the digest that people have accepted.
            texts = [("licence", f"{license}\n\n{missing}\n")]
        return cls(name, license, tuple(texts), gated=bool(asked))

    @property
    def required(self) -> bool:
        """Whether they must be accepted before use."""
        return self.gated or (bool(self.texts) and self.license.lower() not in OPEN_LICENSES)

    @property
    def version(self) -> str:
        """Version that the first lines of a text name, such as "1.1.1"; else the beginning of the digest."""
        for _, text in self.texts:
            if found := _VERSION.search(text[:500]):
                return self.stated_version or found[1]
        return self.stated_version or self.digest[:12]

    @property
    def digest(self) -> str:
        """SHA-256 over the list that `sha256sum` would print of the texts as files."""
        lines = (f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in self.texts)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def text(self) -> str:
        """All of it, to be read."""
        if len(self.texts) == 1:
            return self.texts[0][1]
        return "\n".join(f"== {name} ==\n\n{text.rstrip()}\n" for name, text in self.texts)

    def consent(self) -> Consent | None:
        """That this user of this machine accepted these very texts; None where they did not."""
        found = (consent for consent in _consents() if consent.digest == self.digest)
        return next(found, None)

    def require(self) -> None:
        """Go on only where nothing must be accepted, or it was.

        Raises:
            ConsentError: it was not; the line says what to do.
        """
        if not self.required or self.consent():
            return
        earlier = [consent for consent in _consents() if consent.name == self.name]
        what = f"{self.name}: its terms ({self.license}, version {self.version}) must be accepted first"
        if earlier:
            what = (
                f"{self.name}: its terms changed since you accepted version {earlier[-1].version}"
                f" on {earlier[-1].time[:10]}; version {self.version} must be accepted"
            )
        raise ConsentError(
            f"{what}: read them with `openkontext terms show {self.name}`, "
            f"then run `openkontext terms accept {self.name}`"
        )

    def accept(self) -> Consent:
        """Note that these texts are accepted, with the time; a second time changes nothing.

        Raises:
            InputError: it cannot be noted.
        """
        if known := self.consent():
            return known
        now = datetime.now(UTC).isoformat(timespec="seconds")
        consent = Consent(now, self.name, self.license, self.version, self.digest)
        path = data_folder() / _RECORDS
        try:
            append_line(path, json.dumps(vars(consent), ensure_ascii=False), private=True)
        except OSError as error:
            raise InputError(f"{path}: the consent cannot be noted there ({error.strerror})") from error
        return consent


def joined(name: str, license: str, version: str, parts: Iterable[Terms]) -> Terms:
    """Several terms as one, to be accepted together.

    Args:
        name: what they are the terms of.
        license: what they are called.
        version: of the whole.
        parts: the terms.
    """
    return Terms(name, license, tuple(text for part in parts for text in part.texts), stated_version=version)


def _consents() -> Iterator[Consent]:
    """What was accepted, the oldest first; a damaged line accepts nothing."""
    try:
        lines = (data_folder() / _RECORDS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
            if "licence" in record:  # as it was spelled
                record.setdefault("license", record["licence"])
            yield Consent(**{key: str(record[key]) for key in Consent.__dataclass_fields__})
        except (ValueError, TypeError, KeyError):
            continue


def _asked_on_hub(card: Path) -> str:
    """What the Hub asks to agree to, by a model card's head (`extra_gated_prompt`); empty for nothing."""
    if not card.is_file() or "extra_gated_prompt" not in card.read_text("utf-8", errors="replace")[:20_000]:
        return ""
    import yaml  # what huggingface_hub reads model cards with

    match = re.match(r"---\r?\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise InputError(f"{card}: its head is no YAML, so what it asks for cannot be read") from error
    return str(head.get("extra_gated_prompt") or "") if isinstance(head, dict) else ""
