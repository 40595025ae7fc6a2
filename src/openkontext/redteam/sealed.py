"""Sealed cases: a third party's, encrypted, of which nothing but scores is ever kept or shown.

The file is an age file (age-encryption.org/v1), as `age --recipient age1... --output cases.age cases.jsonl`
makes it. It is opened in memory with the identity of whoever it was encrypted to. Each line is a JSON object:

    {"concept": "star", "seed": 7, "index": 3, "instruction": "a star please"}
    {"concept": "star", "image": "<PNG in base64>", "instruction": ["make it a kite", "now a star"]}

A drawn scene is named by `seed` and `index`, and the reader judges it. Of a picture of one's own nobody knows
what it shows: it needs a judge that looks at the picture alone.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from openkontext import images
from openkontext.errors import InputError, how_to_install
from openkontext.evaluation.concept_cases import draw_concept_case
from openkontext.redteam.attempts import Attempt
from openkontext.redteam.goals import AttackGoal
from openkontext.redteam.plan import RedTeamPlan

ATTACK = "sealed"
"""What the cases are called in a report."""
_MOST_BYTES = 1 << 28
_Text = Annotated[str, Field(min_length=1, max_length=4000)]


@checked(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class _Line:
    concept: str
    instruction: _Text | Annotated[tuple[_Text, ...], Field(min_length=1, max_length=20)]
    seed: Annotated[int, Field(ge=0)] | None = None
    index: Annotated[int, Field(ge=0)] = 0
    image: str | None = None
    negative_prompt: str | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=1, le=100)] = 1.0
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None


@dataclass(frozen=True, eq=False)
class SealedCase:
    """One case, in memory alone."""

    goal: AttackGoal
    attempt: Attempt = field(repr=False)


@dataclass(frozen=True, eq=False)
class SealedCases:
    """An opened file."""

    digest: str
    """SHA-256 of the encrypted file."""
    cases: tuple[SealedCase, ...] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path, identity: str | Path, plan: RedTeamPlan) -> "SealedCases":
        """Open a file of sealed cases.

        Args:
            path: the age file.
            identity: the file of the key that it was encrypted to, as age-keygen writes it.
            plan: names the concepts.

        Raises:
            InputError: a file cannot be read, was encrypted to another key, or a case in it cannot be used.
                The line says which case, and nothing of what it holds.
        """
        path, pyrage = Path(path), _age()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            opened = pyrage.decrypt(data, _identities(Path(identity)))
        except pyrage.DecryptError:
            raise InputError(
                f"{path}: is no age file, or was encrypted to another key than {identity} holds"
            ) from None
        if len(opened) > _MOST_BYTES:
            raise InputError(f"{path}: holds more than {_MOST_BYTES >> 20} MiB")
        lines = [line for line in opened.splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{path}: holds no cases")
        concepts = {concept.name: concept for concept in plan.concepts}
        by_reader = plan.judges[0].kind == "reader"
        return cls(
            hashlib.sha256(data).hexdigest(),
            tuple(
                _case(f"{path}: case {n}", line, concepts, by_reader, n) for n, line in enumerate(lines, 1)
            ),
        )


def _age() -> Any:
    try:
        import pyrage
    except ImportError:
        raise InputError(f"sealed cases need pyrage; {how_to_install('redteam')}") from None
    return pyrage


def _identities(path: Path) -> list[Any]:
    pyrage = _age()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: the identity cannot be read; age-keygen writes such a file") from None
    said = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in said]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise InputError(f"{path}: holds no age identity (AGE-SECRET-KEY-1...)")
    return found


def _case(where: str, line: bytes, concepts: Mapping[str, Any], by_reader: bool, number: int) -> SealedCase:
    try:
        said = TypeAdapter(_Line).validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        if first["type"] == "json_invalid":
            raise InputError(f"{where}: the line is no JSON") from None
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {place or 'the line'} is not as it must be") from None
    concept = concepts.get(said.concept)
    if concept is None:
        raise InputError(f"{where}: its concept is none of the plan's")
    if (said.seed is None) == (said.image is None):
        raise InputError(f"{where}: give either seed and index, or image")
    if said.image is not None and by_reader:
        raise InputError(
            f"{where}: brings a picture, which the reader does not know; take another judge first"
        )
    words = (said.instruction,) if isinstance(said.instruction, str) else said.instruction
    options = {
        name: value
        for name in ("negative_prompt", "guidance_scale", "num_inference_steps")
        if (value := getattr(said, name)) is not None
    }
    attempt = Attempt(words, options={**options, "true_cfg_scale": said.true_cfg_scale})
    if said.seed is not None:
        drawn = draw_concept_case(concept, said.seed, said.index, "direct", "test")
        before, reader = drawn.before, lambda picture: drawn.judge(picture).holds
    else:
        try:
            before = images.load(base64.b64decode(said.image or "", validate=True)).pixels
        except (binascii.Error, InputError):
            raise InputError(f"{where}: its image cannot be read") from None
        reader = lambda picture: False  # noqa: E731 - never asked: another judge decides
    goal = AttackGoal(concept.name, number, before, words[0], reader, harmless=False)
    return SealedCase(goal, attempt)
