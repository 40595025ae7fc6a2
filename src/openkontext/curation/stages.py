"""The stages that look at one record alone, in their order, each with a name and a version.

`duplicates` and `balance`, which compare records, come after them.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from openkontext.curation import quality, wording
from openkontext.curation.curation_rules import InstructionRules, LicenseRules, PictureRules
from openkontext.curation.opened import OpenPair, OpenPicture
from openkontext.safety.known.index import HashIndex
from openkontext.safety.known.lists import HashList

READ, DECODE, HUNG = "read", "decode", "record"
"""Stages that are no class: the record is read, its pictures are decoded, and its process comes to an end."""
LOOKING_VERSIONS = {READ: "1", DECODE: "1"}


class Drop(NamedTuple):
    """Why a stage dropped a record."""

    reason: str
    """In words that many records share."""
    detail: str = ""
    """In its own."""


class RecordStage(Protocol):
    """Judges one record; whether it is dropped depends on nothing else."""

    @property
    def name(self) -> str:
        """Of the stage."""
        ...

    @property
    def version(self) -> str:
        """Of the stage; another may judge otherwise."""
        ...

    def drop(self, pair: OpenPair) -> Drop | None:
        """Why a pair is dropped, or None."""
        ...


class Quality:
    """Size and quality of both pictures."""

    name, version = "picture", quality.VERSION

    def __init__(self, rules: PictureRules) -> None:
        """Judge by these rules."""
        self._rules = rules

    def drop(self, pair: OpenPair) -> Drop | None:
        """See `RecordStage`."""
        for each in pair:
            if found := self._alone(each):
                return found
        return self._changed(pair)

    def _alone(self, opened: OpenPicture) -> Drop | None:
        rules, pixels, role = self._rules, opened.picture.pixels, opened.role
        width, height = opened.picture.size
        short, long = sorted((width, height))
        if short < rules.min_side:
            return Drop(f"{role} is small", f"{width}x{height} pixels")
        if long > rules.max_aspect * short:
            return Drop(f"{role} is narrow", f"{width}x{height} pixels")
        if rules.min_contrast and (found := quality.contrast(pixels)) < rules.min_contrast:
            return Drop(f"{role} is of one color", f"contrast {found:.1f}")
        if rules.max_blank < 1 and (found := quality.blank(pixels)) > rules.max_blank:
            return Drop(f"{role} is broken", f"{found:.0%} of its rows are blank")
        if rules.min_sharpness and (found := quality.sharpness(pixels)) < rules.min_sharpness:
            return Drop(f"{role} is blurred", f"sharpness {found:.1f}")
        return None

    def _changed(self, pair: OpenPair) -> Drop | None:
        if not self._rules.min_change or pair.before is None:
            return None
        found = quality.change(pair.before.picture.pixels, pair.after.picture.pixels)
        return Drop("nothing is changed", f"change {found:.2f}") if found < self._rules.min_change else None


class License:
    """What a record says of its license."""

    name, version = "license", "1"

    def __init__(self, rules: LicenseRules) -> None:
        """Judge by these rules."""
        self._field = rules.field
        self._allowed = {_folded(each) for each in rules.allow}

    def drop(self, pair: OpenPair) -> Drop | None:
        """See `RecordStage`."""
        if not self._allowed:
            return None
        said = pair.record.others.get(self._field)
        if said is None or said == "":
            return Drop("no license")
        if not isinstance(said, str):
            return Drop("the license is no text")
        return None if _folded(said) in self._allowed else Drop("the license is not allowed", said[:80])


def _folded(license: str) -> str:
    """Of "CC BY 4.0" and "cc-by-4.0" the same."""
    return "-".join(license.casefold().replace("_", "-").replace("-", " ").split())


class Instruction:
    """Length, coding and language of the words."""

    name, version = "instruction", wording.VERSION

    def __init__(self, rules: InstructionRules) -> None:
        """Judge by these rules."""
        self._rules = rules

    def drop(self, pair: OpenPair) -> Drop | None:
        """See `RecordStage`."""
        reason, detail = wording.fault(pair.record.instruction, self._rules)
        return Drop(reason, detail) if reason else None


class Leakage:
    """Whether models are judged on a picture: the same pixels, or one that looks alike, turned too."""

    name, version = "leakage", "1"

    def __init__(self, hashes: Path) -> None:
        """Look there.

        Args:
            hashes: as `leakage.hash_sets` wrote them.
        """
        with np.load(hashes) as found:
            self._sha256 = {bytes(each) for each in found["sha256"]}
            alike = found["pdq"]
        nothing = np.zeros(len(alike), np.uint16)
        self._index = HashIndex([HashList("evaluation sets", "pdq", alike, ("",), nothing)])

    def drop(self, pair: OpenPair) -> Drop | None:
        """See `RecordStage`."""
        for each in pair:
            if each.sha256 in self._sha256 or self._index.match_pdq(each.pdq) is not None:
                return Drop(f"{each.role} is in an evaluation set")
        return None
