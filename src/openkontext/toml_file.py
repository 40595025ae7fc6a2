"""TOML files that people write: how they are read, and held against what they may say.

Types are strict. `true` or "2" is no number, where pydantic alone would make one of it. A whole number may
stand for a fraction, and a list for a tuple.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from openkontext.errors import InputError

T = TypeVar("T")
_LARGEST = 2**63 - 1
"""Of the whole numbers that TOML promises to hold."""
_KINDS = ("constrained-", "literal[")
"""How pydantic begins what is no key: the kinds of which a value may be one."""
_MOST_SHOWN = 60
"""Characters of a value that a message shows."""


def read_toml(path: Path, what: str, missing: str | None = None) -> dict[str, Any]:
    """A TOML file as a table.

    Args:
        path: of the file.
        what: it is, for messages, such as "plan".
        missing: what to say where there is no such file.

    Raises:
        InputError: it cannot be read, is no TOML, or holds what no setting is.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(missing or f"{path}: there is no such {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot read the {what}: it is no TOML, since it is not UTF-8 ({error.reason})"
        ) from None
    return parse_toml(text, path, what)


def parse_toml(text: str, where: object, what: str) -> dict[str, Any]:
    """A text in TOML as a table.

    Args:
        text: of the file.
        where: it lies, for messages.
        what: it is, for messages.

    Raises:
        InputError: it is no TOML, or holds what no setting is: a date, a number that is not finite or has
            more than 64 bits, a NUL.
    """
    try:
        table = tomllib.loads(text)
        unusable = next(_unusable(table, ""), None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot read the {what}: it is no TOML ({error})") from None
    if unusable is not None:
        raise InputError(f"{where}: {unusable}")
    return table


def checked_table(where: object, kind: type[T], table: Any, inside: str = "") -> T:
    """A table as a dataclass or a pydantic model.

    Args:
        where: the file lies, for messages.
        kind: the dataclass or model.
        table: what the file says, as `read_toml` gives it.
        inside: name of the table in the file; empty for all of it.

    Raises:
        InputError: a key is not known or missing, or a value is of another type or not good.
    """
    try:
        # As JSON: there a list is a tuple, and nothing else is taken for what it is not.
        return TypeAdapter(kind).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    parts = (str(part) for part in first["loc"] if not str(part).startswith(_KINDS))
    place = ".".join((*filter(None, [inside]), *parts))
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = ", ".join(_names(kind)) if len(first["loc"]) == 1 else ""
        raise InputError(f"{where}: {place} is not a setting" + (f"; there are {known}" if known else ""))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "too_short":
        message = f"it must have at least {first['ctx']['min_length']}"
    elif message == first["msg"]:
        message = message.replace("Input should", "it must")
        message = message[:1].lower() + message[1:]
    value = first["input"]
    if not isinstance(value, dict | list) and not first["type"].startswith("missing"):
        shown = repr(value)
        place += f" = {shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + '...'}"
    raise InputError(f"{where}: {place + ': ' if place else ''}{message}")


def _names(kind: Any) -> Iterable[str]:
    """The keys of a dataclass or a pydantic model."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else None
    return kind.model_fields if fields is None else (each.name for each in fields)


def _unusable(value: Any, place: str) -> Iterator[str]:
    """What is wrong with values that no setting can have, whatever it is."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _unusable(key, f"{place}{key}")
            yield from _unusable(each, f"{place}{key}.")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unusable(each, f"{place}{number}.")
    else:
        name = place.removesuffix(".")
        if isinstance(value, str):
            if "\0" in value:
                yield f"{name} holds a NUL, which no name or text has"
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield f"{name} = {value}: it must be a finite number"
        elif not isinstance(value, int):
            yield f"{name} = {value}: no setting is a date or a time; put a text in quotes"
        elif abs(value) > _LARGEST:
            yield f"{name} is a number of more than 64 bits"
