"""The terms of the lexicon in the form in which they are looked up, made from words*.toml.

Reading 20,000 terms in many languages takes a tenth of a second, so that the package has them ready in a
file. `python -m openkontext.train.prompt_terms` writes it anew. It begins with a digest of itself and of all
that it was made of. Where that does not fit, as after a change of the terms or damage, the file counts as not
there, and the terms are read.
"""

import hashlib
import json
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from openkontext.safety.prompt.normalize import fold, tokens, transliterate

FILE = "compiled_terms.txt"
"""A line with the digest, then the terms as JSON."""
_FOLDER = resources.files("openkontext.safety.prompt")
_CODE = ("compiled_terms.py", "normalize.py")
"""What decides, with words*.toml, what is in the file."""
_MIN_TYPED = 5
"""Letters from which a word of another script also counts as typed in Latin letters: shorter is English."""
_OTHER_SCRIPTS = ("zh", "ja", "ko", "ar", "hi")
"""Languages whose terms, typed in Latin letters, are too many short words to compare misspellings with."""
_NAMES = ("figure", "mark")
"""Groups of names: too many words are one letter away from one."""
_MIN_MISSPELLED_STEM = 6
"""Letters of the shortest stem that misspellings are compared with."""


@dataclass(frozen=True)
class CompiledTerms:
    """Terms by what they begin with."""

    groups: frozenset[str]
    """Names of all groups."""
    single: Mapping[str, tuple[str, ...]]
    """Words that are terms alone, to their groups."""
    stems: Mapping[str, tuple[str, ...]]
    """The same of stems of words."""
    phrases: Mapping[str, str]
    """First token to phrases, one a line: group and further tokens, a star at the end of a stem."""
    words: frozenset[str]
    """Every token of every term."""
    spelled: frozenset[str]
    """Those that may be misspelled: of Latin and Cyrillic terms, and no short stems."""

    def packed(self) -> dict[str, Any]:
        """What `unpacked` makes the terms of again, as JSON has it."""
        further = self.words - self.single.keys() - self.stems.keys() - self.phrases.keys()
        return {
            "groups": _joined(self.groups),
            "single": _by_groups(self.single),
            "stems": _by_groups(self.stems),
            "phrases": dict(self.phrases),
            "further": _joined(further),
            "unspelled": _joined(self.words - self.spelled),
        }


def unpacked(found: Mapping[str, Any]) -> CompiledTerms:
    """The terms that were `packed`."""
    single, stems = _by_word(found["single"]), _by_word(found["stems"])
    phrases = found["phrases"]
    words = frozenset([*single, *stems, *phrases, *found["further"].split()])
    spelled = words.difference(found["unspelled"].split())
    return CompiledTerms(frozenset(found["groups"].split()), single, stems, phrases, words, spelled)


def compiled(table: Mapping[str, Mapping[str, str]]) -> CompiledTerms:
    """Terms as they are looked up.

    Args:
        table: group to language to terms, parted by commas; a star ends a stem.
    """
    single, stems, phrases = (defaultdict[str, dict[str, None]](dict) for _ in range(3))
    words, spelled = set[str](), set[str]()
    for group, alphabetic, spelling in _spelled_terms(table):
        first, *rest = (part.removesuffix("*") for part in spelling)
        stem = spelling[-1].endswith("*")
        kind = phrases if rest else stems if stem else single
        line = " ".join((group, *spelling[1:]))
        if line in kind[first]:
            continue
        kind[first][line] = None
        words.update((first, *rest))
        if alphabetic:
            short = stem and len((first, *rest)[-1]) < _MIN_MISSPELLED_STEM
            spelled.update((first, *rest)[:-1] if short else (first, *rest))
    return CompiledTerms(
        frozenset(table),
        {word: tuple(groups) for word, groups in single.items()},
        {word: tuple(groups) for word, groups in stems.items()},
        {word: "\n".join(lines) for word, lines in phrases.items()},
        frozenset(words),
        frozenset(spelled),
    )


def file_content() -> bytes:
    """What the file of the package's terms has to hold."""
    packed = compiled(_shipped_table()).packed()
    content = json.dumps(packed, ensure_ascii=False, sort_keys=True, indent=0).encode() + b"\n"
    return _digest(content).encode() + b"\n" + content


def shipped_terms() -> CompiledTerms:
    """The terms that the package ships: those of the file, where it is whole and no older than they are."""
    try:
        digest, content = (_FOLDER / FILE).read_bytes().split(b"\n", 1)
        if digest.decode() == _digest(content):
            return unpacked(json.loads(content))
    except (OSError, ValueError):  # there is none, or no such file
        pass
    return compiled(_shipped_table())


def tables(name: str) -> list[dict[str, Any]]:
    """What the package's TOML files of a name hold: words.toml, words_acts.toml and so on."""
    return [tomllib.loads(content.decode()) for content in _files(name)]


def _shipped_table() -> dict[str, dict[str, str]]:
    """What the package's words*.toml hold, as `compiled` takes it."""
    table: dict[str, dict[str, str]] = defaultdict(dict)
    for file in tables("words"):
        for group, languages in file.items():
            for language, terms in languages.items():
                known = table[group].get(language)
                table[group][language] = terms if known is None else f"{known}, {terms}"
    return table


def _files(name: str) -> list[bytes]:
    files = (f for f in _FOLDER.iterdir() if f.name.startswith(name) and f.name.endswith(".toml"))
    return [file.read_bytes() for file in sorted(files, key=lambda f: f.name)]


def _digest(content: bytes) -> str:
    """Of the terms in the file, and of all that they are made of."""
    digest = hashlib.sha256()
    for each in (content, *_files("words"), *((_FOLDER / name).read_bytes() for name in _CODE)):
        digest.update(hashlib.sha256(each).digest())
    return digest.hexdigest()


def _spelled_terms(
    table: Mapping[str, Mapping[str, str]],
) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """Group, whether a term may be misspelled, and its tokens, for each way to write each term."""
    for group, languages in table.items():
        for language, terms in languages.items():
            alphabetic = language not in _OTHER_SCRIPTS and group not in _NAMES
            folded = fold(" ".join(terms.split()))
            for term in map(fold, terms) if language == "signs" else folded.split(","):
                for spelling in filter(None, _spellings(term.strip())):
                    yield group, alphabetic, spelling


def _spellings(folded: str) -> list[tuple[str, ...]]:
    """A folded term's tokens, a star at the end of a stem; of another script, in Latin letters, too."""
    if folded.isascii():
        return [_starred(folded)]
    found = [_starred(folded)]
    typed = transliterate(folded)
    if len(typed) >= _MIN_TYPED:
        found.append(_starred(typed))
        if "".join(tokens(folded.rstrip("*"))) and not folded[0].isascii() and ord(folded[0]) > 0x2E7F:
            # Chinese is typed syllable by syllable or in one.
            found.append(tuple(tokens(typed)))
    return found


def _starred(folded: str) -> tuple[str, ...]:
    words = tokens(folded)
    if words and folded.endswith("*"):
        words[-1] += "*"
    return tuple(words)


def _joined(words: Iterable[str]) -> str:
    return " ".join(sorted(words))


def _by_groups(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    words = defaultdict[tuple[str, ...], list[str]](list)
    for word, groups in table.items():
        words[groups].append(word)
    return {" ".join(groups): _joined(found) for groups, found in words.items()}


def _by_word(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What `_by_groups` was made from; words of the same groups share one tuple of them."""
    found: dict[str, tuple[str, ...]] = {}
    for groups, words in table.items():
        found.update(dict.fromkeys(words.split(), tuple(groups.split())))
    return found
