import shutil
from pathlib import Path

import pytest

from openkontext.safety.prompt import compiled_terms
from openkontext.safety.prompt.compiled_terms import CompiledTerms, compiled, shipped_terms, unpacked

FOLDER = Path(compiled_terms.__file__).parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the package has, which is read in its place."""
    for path in (*FOLDER.glob("words*.toml"), *FOLDER.glob("*.py"), FOLDER / compiled_terms.FILE):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(compiled_terms, "_FOLDER", tmp_path)
    return tmp_path


def test_terms_by_what_they_begin_with() -> None:
    table = {
        "bare": {"en": "naked, Nude*, take off*,\n  take it  off", "zh": "裸体"},
        "wear": {"de": "Kleid, nackt", "en": "naked", "signs": "👙"},
        "figure": {"en": "batman"},
    }
    spelled = ["naked", "take", "it", "off", "kleid", "nackt", "👙", "bikini"]
    expected = CompiledTerms(
        frozenset({"bare", "wear", "figure"}),
        {
            "naked": ("bare", "wear"),
            "kleid": ("wear",),
            "nackt": ("wear",),
            "👙": ("wear",),
            "bikini": ("wear",),
            "batman": ("figure",),
            "luoti": ("bare",),
        },
        {"nude": ("bare",)},
        {"take": "bare off*\nbare it off", "裸": "bare 体"},
        frozenset([*spelled, "nude", "luoti", "裸", "体", "batman"]),
        frozenset(spelled),
    )
    found = compiled(table)
    assert found == expected
    assert unpacked(found.packed()) == expected


def test_the_file_is_what_the_words_make_now() -> None:
    written = (FOLDER / compiled_terms.FILE).read_bytes()
    assert written == compiled_terms.file_content(), "run: python -m openkontext.train.prompt_terms"


def test_the_file_is_read_where_it_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compiled(compiled_terms._shipped_table())
    monkeypatch.setattr(compiled_terms, "compiled", None)
    assert shipped_terms() == expected


@pytest.mark.parametrize("fault", ["absent", "empty", "cut", "another word", "another word and its digest"])
def test_a_damaged_file_changes_nothing(folder: Path, fault: str) -> None:
    expected, file = compiled(compiled_terms._shipped_table()), folder / compiled_terms.FILE
    content = file.read_bytes()
    assert b" topless " in content
    changed = content.replace(b" topless ", b" toplexx ")
    match fault:
        case "absent":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[:-1000])
        case "another word":
            file.write_bytes(changed)
        case _:
            digest = compiled_terms.hashlib.sha256(changed.split(b"\n", 1)[1]).hexdigest()
            file.write_bytes(digest.encode() + b"\n" + changed.split(b"\n", 1)[1])
    assert shipped_terms() == expected


def test_a_file_that_is_older_than_the_words_or_how_they_are_read_counts_not(folder: Path) -> None:
    with (folder / "words.toml").open("a", encoding="utf-8") as file:
        file.write('\n[brandnew]\nen = "wugs"\n')
    assert shipped_terms().single["wugs"] == ("brandnew",)
    shutil.copy(FOLDER / "words.toml", folder)
    assert "wugs" not in shipped_terms().single
    digest, content = (folder / compiled_terms.FILE).read_bytes().split(b"\n", 1)
    assert digest.decode() == compiled_terms._digest(content)
    with (folder / "normalize.py").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    assert digest.decode() != compiled_terms._digest(content)
