"""The rules of a curation: a TOML file, or one of the presets; `extends` names a preset to begin with."""

import difflib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openkontext.errors import InputError
from openkontext.safety.known.pdq import MATCH_DISTANCE
from openkontext.toml_file import checked_table, parse_toml, read_toml

PRESETS = ("pre-training", "post-training")
"""Rules that are shipped: for many pairs of mixed quality, and for few that a model ends its training on."""
MAX_INSTRUCTION = 4000
"""Characters that an instruction of an edit may have."""

Compared = Literal["pair", "picture", "off"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PictureRules(_Table):
    """Size and quality, of both pictures."""

    min_side: Annotated[int, Field(ge=16)] = 64
    """Pixels of the shorter side."""
    max_aspect: Annotated[float, Field(ge=1, le=20)] = 4.0
    """Longer side through shorter side."""
    min_sharpness: Annotated[float, Field(ge=0)] = 0.0
    """See `quality.sharpness`; 0 for none."""
    min_contrast: Annotated[float, Field(ge=0, le=127)] = 0.0
    """See `quality.contrast`; 0 for none."""
    max_blank: Annotated[float, Field(gt=0, le=1)] = 1.0
    """See `quality.blank`; 1 for none."""
    min_change: Annotated[float, Field(ge=0, le=255)] = 0.0
    """Mean difference between before and after, in levels; 0 for none."""


class LicenseRules(_Table):
    """What may be done with a record, as it says itself."""

    field: str = "license"
    """Field of a record that names its license."""
    allow: tuple[str, ...] = ()
    """Licenses that are kept, such as "CC-BY-4.0"; none: all, also where nothing is said."""


class InstructionRules(_Table):
    """The words."""

    min_characters: Annotated[int, Field(ge=1, le=MAX_INSTRUCTION)] = 3
    max_characters: Annotated[int, Field(ge=1, le=MAX_INSTRUCTION)] = 1000
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ()
    """Languages that are kept, by their codes in ISO 639, such as "en"; none: all."""
    clean: bool = True
    """Drop text that was decoded wrongly, or holds control characters."""


class DuplicateRules(_Table):
    """Records that say the same again. Of several, the first is kept."""

    exact: Compared = "pair"
    """pair: both pictures are the same, in whichever order; picture: one is, in either role."""
    near: Compared = "pair"
    """The same for pictures that look alike."""
    distance: Annotated[int, Field(ge=0, le=64)] = MATCH_DISTANCE
    """Bits in which the PDQ hashes of pictures that look alike may differ."""
    same_instruction: bool = True
    """Whether pairs count as the same only where their instructions are, too."""


class LeakageRules(_Table):
    """What a model is judged on must not be trained on."""

    sets: tuple[str, ...] = ()
    """Tables, shards or folders of pictures; relative to the rules' file."""


class SafetyRules(_Table):
    """The filters of an edit. They cannot be switched off."""

    profile: str = "default"
    """Risk profile: strict, default, permissive or a TOML file."""


class BalanceRules(_Table):
    """At most so many records of a group."""

    field: str = ""
    """Field that names a record's group; `instruction` is one, too. Empty for none."""
    most: Annotated[int, Field(ge=1)] = 1000
    """Records of a group that are kept: the first."""


class CurationRules(_Table):
    """All rules."""

    name: str = "rules"
    picture: PictureRules = PictureRules()
    license: LicenseRules = LicenseRules()
    instruction: InstructionRules = InstructionRules()
    duplicates: DuplicateRules = DuplicateRules()
    leakage: LeakageRules = LeakageRules()
    safety: SafetyRules = SafetyRules()
    balance: BalanceRules = BalanceRules()


def load_rules(rules: str | Path) -> CurationRules:
    """Read rules.

    Args:
        rules: name of a preset, or a TOML file.

    Raises:
        InputError: there are no such rules, or a name or value in them is not known.
    """
    chosen = str(rules)
    if chosen in PRESETS:
        return _preset(chosen)
    path = Path(chosen)
    missing = f"rules {chosen!r}: no such file, and none of {', '.join(PRESETS)}"
    read = _parsed(read_toml(path, "rules", missing), path, path.stem)
    leakage = LeakageRules(sets=tuple(str(path.parent / each) for each in read.leakage.sets))
    return read.model_copy(update={"leakage": leakage, "safety": _profile_beside(read.safety, path)})


def _profile_beside(safety: SafetyRules, path: Path) -> SafetyRules:
    beside = path.parent / safety.profile
    return SafetyRules(profile=str(beside)) if beside.is_file() else safety


@cache
def _preset(name: str) -> CurationRules:
    file = resources.files("openkontext.curation").joinpath(f"presets/{name}.toml")
    return _parsed(parse_toml(file.read_text("utf-8"), name, "rules"), name, name)


def _parsed(table: dict[str, Any], where: object, name: str) -> CurationRules:
    base = table.pop("extends", None)
    if base is not None and base not in PRESETS:
        raise InputError(f"{where}: extends = {base!r}; it is one of {', '.join(PRESETS)}")
    _check_names(table, CurationRules, "", where)
    said: dict[str, Any] = {} if base is None else _preset(base).model_dump(exclude={"name"})
    for key, value in table.items():
        old = said.get(key)
        said[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    rules = checked_table(where, CurationRules, {"name": name, **said})
    words = rules.instruction
    if words.min_characters > words.max_characters:
        raise InputError(f"{where}: instruction.min_characters is above instruction.max_characters")
    return rules


def _check_names(table: dict[str, Any], model: type[BaseModel], inside: str, where: object) -> None:
    """Refuse a name that is no rule, with the one that it is nearest to."""
    for name, value in table.items():
        field = model.model_fields.get(name)
        if field is None:
            known = [inside + each for each in model.model_fields] + ["extends"] * (not inside)
            near = difflib.get_close_matches(inside + name, known + _elsewhere(name), 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{where}: {inside}{name} is no rule; {hint}")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
            _check_names(value, kind, f"{name}.", where)


def _elsewhere(name: str) -> list[str]:
    """Rules of this very name in any table."""
    tables = ((key, field.annotation) for key, field in CurationRules.model_fields.items())
    return [
        f"{key}.{name}"
        for key, kind in tables
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields
    ]
